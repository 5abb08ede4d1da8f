"""A run folder: config.json, metrics.jsonl, checkpoints, curves.png. Whole at every moment, whatever kills the process."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from parity import v2_tar, weights
from parity.claim import Claim, claim
from parity.errors import InputError
from parity.fields import from_fields, parse_json
from parity.network import Network
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

    def fits(self, experiment: Experiment, images: int) -> bool:
        """Whether a run of `experiment` on `images` training images can stand here."""
        recipe, batches = experiment.recipe, experiment.batches(images)
        seen = min(self.batch * recipe.batch_size, images)
        last = batches if self.epoch < recipe.epochs else 0
        amounts = (self.rate, self.cost, self.seconds, self.step_seconds, self.feed_seconds, self.mask_seconds)
        return (
            0 <= self.epoch <= recipe.epochs
            and 0 <= self.batch <= last
            and self.update == self.epoch * batches + self.batch
            and self.samples == self.epoch * images + seen
            and self.seen == seen >= self.wrong >= 0
            and all(0 <= amount < math.inf for amount in amounts)
            and (self.seconds > 0 or not self.update)
            and -1 <= self.best <= 1
        )


class Run:
    """The folder of one run of `experiment`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.metrics_file = folder / "metrics.jsonl"
        self.watchers: list[Callable[[dict[str, Any]], None]] = []
        self.keeps_passes = False
        self._claim: Claim | None = None

    @staticmethod
    def create(folder: Path, experiment: Experiment, context: dict[str, Any]) -> Run:
        """A new run; `context` (framework, versions, machine, command) goes to config.json. `InputError` if the folder is taken."""
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder} ({error.strerror}): choose another --out") from None
        config = {"experiment": json.loads(experiment.to_json())} | context
        weights.write_atomically(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        run = Run(folder, experiment)
        run._claim = claim(folder / "config.json")
        return run

    @staticmethod
    def open(folder: Path) -> Run:
        """The run in `folder`, as its config.json describes it; `InputError` where there is none."""
        try:
            text = (folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"{folder} is not a run folder: it has no readable config.json; give the folder that a run was written to"
            ) from None
        with about(folder / "config.json", "mend it, or start a new run"):
            experiment = parse_json(text, "run").get("experiment")
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

    def save_pass(self, state: State, epoch: int) -> None:
        """Where `keeps_passes` is set, writes the weights after pass `epoch` as Paddle v2's `params_pass_N.tar`, as the article does."""
        if self.keeps_passes:
            kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
            data = v2_tar.encode(self.experiment.network, kept)
            weights.write_atomically(self.folder / f"params_pass_{epoch}.tar", data)

    def restore(self, images: int) -> tuple[State | None, Position]:
        """State and position of the last checkpoint, metrics.jsonl cut back to it; (None, start) if there is none yet.

        `images` is the number of training images. `InputError`, with nothing changed, where checkpoint, config.json and
        metrics.jsonl are not of one run, or another process trains it.
        """
        self._claim = claim(self.folder / "config.json")
        state, position = None, Position()
        if self.last.exists():
            state, position = self._load(images)
        lines = self._lines(position)
        for kind in ("safetensors", "tar"):
            for rest in self.folder.glob(f".*.{kind}.*"):  # of a process that was killed while it wrote
                rest.unlink(missing_ok=True)
        weights.write_atomically(self.metrics_file, b"".join(lines))
        return state, position

    def _load(self, images: int) -> tuple[State, Position]:
        with about(self.last, "put the run's own checkpoint back, or remove the file to start the run afresh"):
            network, state, metadata = weights.load(self.last)
            if network != self.experiment.network:
                raise InputError(f"holds network {network.name}, the run is of {self.experiment.network.name}")
            if Experiment.from_json(metadata.get("experiment", "null")) != self.experiment:
                raise InputError("it is of a run with another recipe, seed or data than config.json says")
            weights.check(network, state, self.experiment.recipe.optimizer.slots)
            fields = parse_json(metadata.get("position", "null"), "position")
            position = from_fields(Position, fields, "position")
            if not position.fits(self.experiment, images):
                raise InputError(f"its position is none that config.json and {images} training images lead to")
        return state, position

    def _lines(self, position: Position) -> list[bytes]:
        """The lines of metrics.jsonl up to `position`."""
        try:
            lines = self.metrics_file.read_bytes().splitlines(keepends=True)[: max(position.lines, 0)]
            events = [json.loads(line)["event"] for line in lines if line.endswith(b"\n")]
        except FileNotFoundError:
            lines, events = [], []
        except OSError as error:
            raise InputError(f"cannot read {self.metrics_file}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            events = []
        if len(events) != position.lines or events.count("pass") != position.epoch:
            raise InputError(
                f"{self.metrics_file} lacks lines of the {position.lines} that were there at {self.last.name}: "
                "put the whole file back, or start a new run"
            )
        return lines

    def log(self, position: Position, **values: Any) -> None:
        """Appends one line to metrics.jsonl, on disk when this returns."""
        try:
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(values) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {self.metrics_file}: {error.strerror}") from None
        position.lines += 1
        for watch in self.watchers:
            watch(values)

    def metrics(self, event: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one kind: "batch" or "pass". `InputError` naming the first line that is damaged.

        A last line without an end is none yet: a process was killed while it wrote.
        """
        try:
            lines = self.metrics_file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"cannot read {self.metrics_file}: {error.strerror}") from None
        found = []
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                with about(self.metrics_file, "put the whole file back"):
                    found.append(parse_json(line.decode(errors="replace"), f"line {number}, metrics"))
        return [line for line in found if line.get("event") == event]

    def passes(self) -> list[dict[str, Any]]:
        """The lines of passes; `InputError` naming the file where accuracy, costs, seconds or samples of one are no numbers."""
        found = self.metrics("pass")
        with about(self.metrics_file, "put the whole file back"):
            for line in found:
                proportion(line.get("test_accuracy"))
                for key in ("cost", "test_cost", "seconds", "samples"):
                    value = line.get(key)
                    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                        raise InputError(f"{key} = {short(value)} is not a number from 0 on")
        return found

    def accuracy(self, metadata: Mapping[str, str]) -> float | None:
        """Test accuracy, 0 to 1, of the checkpoint that `metadata` comes from; None where it stands within a pass."""
        if "position" not in metadata:
            return None
        with about(self.last, "take another copy"):
            position = from_fields(Position, parse_json(metadata["position"], "position"), "position")
        passes = self.metrics("pass")
        if position.batch or not 1 <= position.epoch <= len(passes):
            return None
        with about(self.metrics_file, "put the whole file back"):
            return proportion(passes[position.epoch - 1].get("test_accuracy"))


class Follower(Run):
    """The run as a process knows it that does not lead (see `parity.world`): it writes nothing."""

    def save(self, state: State, position: Position) -> None:
        """Nothing."""

    def save_best(self, state: State, accuracy: float) -> None:
        """Nothing."""

    def save_pass(self, state: State, epoch: int) -> None:
        """Nothing."""

    def log(self, position: Position, **values: Any) -> None:
        """Nothing."""


def proportion(value: Any) -> float:
    """A test accuracy as a number; `InputError` unless it is one from 0 to 1, or the text of one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= 1:
        raise InputError(f"test_accuracy = {short(value)} is not a number from 0 to 1")
    return found


def read_checkpoint(path: Path) -> tuple[Experiment | None, Network, State, dict[str, str]]:
    """Experiment (None where the file names none), network, weights and metadata of a run's last checkpoint or a safetensors file."""
    file = path / "last.safetensors" if os.path.isdir(path) else path  # noqa: PTH112 - never raises
    if file != path and not file.exists():
        raise InputError(f"{path} holds no {file.name}: give the folder of a run that has one, or a .safetensors file")
    with about(file, "take another copy"):
        network, state, metadata = weights.load(file)
        kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
        weights.check(network, kept)
        experiment = Experiment.from_json(metadata["experiment"]) if "experiment" in metadata else None
    return experiment, network, kept, metadata


def check_free(folder: Path) -> None:
    """`InputError` unless `folder` is empty or does not exist, and can be written, as far as can be told before."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not empty: continue it with --resume, or choose another --out")
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}): choose another --out") from None
    check_writable(folder, "--out")


def check_writable(folder: Path, flag: str) -> None:
    """`InputError` naming the `flag` unless there is or can be a folder `folder` to write into, as far as can be told before."""
    try:
        places = (folder, *folder.absolute().parents)
        nearest = next(place for place in places if place.exists() or place.is_symlink())
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}): choose another {flag}") from None


@contextmanager
def about(path: Path, way_out: str) -> Iterator[None]:
    """Adds the file and a way out to every `InputError` from within that does not name it already."""
    try:
        yield
    except (InputError, RecursionError) as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}; {way_out}") from None
