"""Calls `export_onnx.py`, `predict.py` and the training script in one process of a framework, with a fault planted in each call.

As a script it reads a JSON list of [fault, command, arguments], runs each in the working directory, and prints how they ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from onnx import ModelProto

from helpers.paths import environment_with_helpers
from helpers.refusals import files_end_at
from helpers.scripts import script_main
from helpers.watch import watch
from parity.backend import model_state
from parity.backend.registry import implementation, make_backend
from parity.backend.trainer import Trainer
from parity.cli import train
from parity.onnx import graph_writer

COMMANDS = {"export": script_main("export_onnx"), "predict": script_main("predict"), "train": train.main}


@dataclass(frozen=True)
class Ended:
    """The exit of one call, and the new names that it left in the working directory (removed unless the exit code is 0)."""

    code: int
    stdout: str
    stderr: str
    left: list[str]


def calls(framework: str, folder: Path, wanted: list[tuple[str, str, list[str]]]) -> list[Ended]:
    """Run all calls in one process of `framework`, in `folder`."""
    return watched_calls(framework, folder, wanted)[0]


def watched_calls(
    framework: str, folder: Path, wanted: list[tuple[str, str, list[str]]]
) -> tuple[list[Ended], list[str]]:
    """Run all calls as `calls` does; also return every connection and installation of the process, which no command may do."""
    command = [sys.executable, "-m", "helpers.export_calls", framework]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment_with_helpers(),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends, forbidden = json.loads(done.stdout.splitlines()[-1])
    return [Ended(**ended) for ended in ends], forbidden


def _fails(*_: Any) -> None:
    raise RuntimeError("\nno such operator\nhere")


def _is_interrupted(*_: Any) -> None:
    try:
        raise KeyboardInterrupt("deep\nin the library")
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


def _exporter_that(does: Callable[..., Any]) -> Callable[[str], list[AbstractContextManager[Any]]]:
    def places(framework: str) -> list[AbstractContextManager[Any]]:
        exporter = implementation(framework, "export")
        return [mock.patch.object(exporter, name, does) for name in ("to_onnx", "to_static")]

    return places


def _exports_other_weights(framework: str) -> list[AbstractContextManager[Any]]:
    exporter, backend = implementation(framework, "export"), make_backend(framework)
    to_onnx = exporter.to_onnx
    return [mock.patch.object(exporter, "to_onnx", lambda given: to_onnx(model_state.build(backend, given.network, 1)))]


def _computes_otherwise(framework: str) -> list[AbstractContextManager[Any]]:
    right = Trainer.predict
    return [mock.patch.object(Trainer, "predict", lambda side, images: right(side, images) * np.float32(1.01))]


def _writes_without_epsilon(framework: str) -> list[AbstractContextManager[Any]]:
    right = graph_writer.write

    def write(*arguments: Any, **named: Any) -> ModelProto:
        made = right(*arguments, **named)
        for node in made.graph.node:
            if node.op_type == "BatchNormalization":
                del node.attribute[:]
        return made

    return [mock.patch.object(graph_writer, "write", write)]


FAULTS: dict[str, Callable[[str], list[AbstractContextManager[Any]]]] = {
    "": lambda framework: [],
    "its exporter fails": _exporter_that(_fails),
    "its exporter is interrupted": _exporter_that(_is_interrupted),
    "it exports other weights": _exports_other_weights,
    "it computes otherwise": _computes_otherwise,
    "its writer loses an epsilon": _writes_without_epsilon,
    "its disk is full": lambda framework: [files_end_at(4_000)],
}


def _run(framework: str, fault: str, command: str, arguments: list[str]) -> Ended:
    before, stdout, stderr = set(Path().iterdir()), io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        for place in (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            *FAULTS[fault](framework),
        ):
            stack.enter_context(place)
        try:
            code = COMMANDS[command]([*arguments, "--framework", framework])
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            code = -1
            traceback.print_exc()
    left = sorted(set(Path().iterdir()) - before)
    for path in left if code else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Ended(code, stdout.getvalue(), stderr.getvalue(), [str(path) for path in left])


if __name__ == "__main__":
    forbidden = watch()
    runtime: ModuleType = implementation(sys.argv[1], "runtime", 1)
    ends = [dataclasses.asdict(_run(sys.argv[1], *call)) for call in json.load(sys.stdin)]
    print(json.dumps([ends, forbidden]))
