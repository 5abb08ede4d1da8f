"""Helpers for tests of bad input: the line of an error, a new run, a pickle that runs code, a full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Experiment, changed
from parity.training.run_folder import Position, RunFolder
from parity.weights.canonical_state import initialise, slot_names

NETWORK = articles.get_network("vgg16_bn_drop@0.03125")
EXPERIMENT = Experiment(NETWORK, changed(presets.get_recipe("article"), epochs=2, batch_size=8), "shapes10", 3, 20, 10)

Refused = Callable[..., str]
Output: TypeAlias = "pytest.CaptureFixture[str]"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` -> the bytes of a file, None for everything else."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def the_error(lines: list[str]) -> str:
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "not installed" not in lines[0], "the framework was asked for before the input was checked"
    return lines[0].removeprefix("error: ")


def refusal(main: Callable[[list[str]], int], arguments: Iterable[object], folder: Path, output: Output) -> str:
    """Run a command that must refuse its arguments, print one line and change nothing in `folder`. Return the line after `error: `."""
    before = contents(folder)
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as ended:
        code = int(ended.code or 0)
    stdout, stderr = output.readouterr()
    assert (code, stdout) == (2, "")
    assert contents(folder) == before
    return the_error(stderr.splitlines())


class Payload:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


BATCH_LINE: dict[str, object] = {
    "event": "batch", "epoch": 0, "batch": 0, "update": 1, "cost": 2.5, "error": 0.9, "mean_cost": 2.5, "mean_error": 0.9,
    "rate": 0.1, "samples": 8, "passes": 0.5, "seconds": 1.5,
}  # fmt: skip
"""The line of metrics.jsonl after the first batch."""

PASS_LINE: dict[str, object] = {
    "event": "pass", "epoch": 0, "update": 3, "samples": 20, "passes": 1, "cost": 2.0, "error": 0.8, "test_cost": 2.1,
    "test_error": 0.5, "test_accuracy": 0.5, "rate": 0.1, "seconds": 1.5, "test_seconds": 0.1, "stream": "0" * 64,
}  # fmt: skip
"""The line after the first epoch."""


def pass_lines(*accuracies: object) -> bytes:
    """Return the lines of epochs with these test accuracies."""
    lines = [PASS_LINE | {"epoch": i, "test_accuracy": accuracy} for i, accuracy in enumerate(accuracies)]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def saved_run(folder: Path, experiment: Experiment = EXPERIMENT) -> RunFolder:
    """Make a new run: a position at the start, fresh weights, slots of zeros."""
    run = RunFolder.create(folder, experiment, {})
    state = initialise(experiment.network, 0)
    state |= {
        slot: state[name] * 0
        for slot, name in slot_names(experiment.network, experiment.recipe.optimizer.slots).items()
    }
    run.save(state, Position())
    run.save_best(state, 0.5)
    run.metrics_file.write_bytes(b"")
    return run


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Stop files of this process from growing beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
