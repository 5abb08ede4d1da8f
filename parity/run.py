"""A run folder: config.json, metrics.jsonl, checkpoints, curves.png. Whole at every moment, whatever kills the process."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity import weights
from parity.errors import InputError
from parity.network import Network, from_fields, parse_json
from parity.recipe import Experiment
from parity.weights import State


@dataclass
class Position:
    """Where a run stands. Together with the state of a side it determines everything that follows.

    `epoch` passes are complete and `batch` batches of the next; `cost`, `wrong` and `seen` sum over that begun pass; `stream` is the
    hash of all batches of it so far; `lines` counts the lines of metrics.jsonl up to here.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    samples: int = 0
    rate: float = 0.0
    cost: float = 0.0
    wrong: int = 0
    seen: int = 0
    stream: str = ""
    lines: int = 0
    best: float = -1.0
    seconds: float = 0.0
    step_seconds: float = 0.0
    feed_seconds: float = 0.0
    mask_seconds: float = 0.0


class Run:
    """The folder of one run of `experiment`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.metrics_file = folder / "metrics.jsonl"
        self.watchers: list[Callable[[dict[str, Any]], None]] = []

    @staticmethod
    def create(folder: Path, experiment: Experiment, context: dict[str, Any]) -> Run:
        """A new run; `context` (framework, versions, machine, command) goes to config.json. `InputError` if the folder is taken."""
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(
                    f"{folder} exists and is not empty: continue it with --resume, or choose another --out"
                )
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}") from None
        config = {"experiment": json.loads(experiment.to_json())} | context
        weights.write_atomically(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        return Run(folder, experiment)

    @staticmethod
    def open(folder: Path) -> Run:
        """The run in `folder`, as its config.json describes it; `InputError` where there is none."""
        try:
            text = (folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{folder} is not a run folder: it has no readable config.json") from None
        experiment = parse_json(text, f"{folder}/config.json").get("experiment")
        return Run(folder, Experiment.from_json(json.dumps(experiment)))

    def save(self, state: State, position: Position) -> None:
        """Writes the last checkpoint atomically."""
        metadata = {"position": json.dumps(dataclasses.asdict(position)), "experiment": self.experiment.to_json()}
        weights.save(self.last, self.experiment.network, state, metadata)

    def save_best(self, state: State, accuracy: float) -> None:
        """Writes the weights (no optimizer slots) that tested best so far."""
        kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
        metadata = {"experiment": self.experiment.to_json(), "test_accuracy": repr(accuracy)}
        weights.save(self.best, self.experiment.network, kept, metadata)

    def restore(self) -> tuple[State | None, Position]:
        """State and position of the last checkpoint, metrics.jsonl cut back to it; (None, start) if there is none yet."""
        state, position = None, Position()
        if self.last.exists():
            network, state, metadata = weights.load(self.last)
            self._same(network)
            weights.check(network, state, self.experiment.recipe.optimizer.slots)
            fields = parse_json(metadata.get("position", "null"), f"{self.last}: position")
            position = from_fields(Position, fields, f"{self.last}: position")
        if self.metrics_file.exists():
            lines = self.metrics_file.read_bytes().splitlines(keepends=True)
            weights.write_atomically(self.metrics_file, b"".join(lines[: position.lines]))
        return state, position

    def _same(self, network: Network) -> None:
        if network != self.experiment.network:
            raise InputError(
                f"{self.last} holds network {network.name}, the run is of {self.experiment.network.name}: it is another run's checkpoint"
            )

    def log(self, position: Position, **values: Any) -> None:
        """Appends one line to metrics.jsonl, on disk when this returns."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        position.lines += 1
        for watch in self.watchers:
            watch(values)

    def metrics(self, event: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one kind: "batch" or "pass"."""
        if not self.metrics_file.exists():
            return []
        lines = (json.loads(line) for line in self.metrics_file.read_text().splitlines())
        return [line for line in lines if line["event"] == event]


def read_checkpoint(path: Path) -> tuple[Experiment | None, Network, State]:
    """Weights of a run folder (its last checkpoint) or of a safetensors file; the experiment where the file names one."""
    network, state, metadata = weights.load(path / "last.safetensors" if path.is_dir() else path)
    kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
    weights.check(network, kept)
    experiment = Experiment.from_json(metadata["experiment"]) if "experiment" in metadata else None
    return experiment, network, kept
