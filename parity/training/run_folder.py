"""A run folder: config.json, metrics.jsonl, checkpoints, curves.png. Whole at every moment, whatever kills the process."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from parity.errors import InputError
from parity.files import atomic
from parity.files.digest import name_unverified
from parity.files.strict_json import from_fields, parse_json
from parity.network.network import Network
from parity.recipe.recipe import Experiment
from parity.training.metrics import parse_line
from parity.training.run_lock import RunLock, lock_run
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import State


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


_UNFINISHED = re.compile(
    r"\.(config\.json|metrics\.jsonl|curves\.png|(last|best)\.safetensors|params_pass_\d+\.tar)\.[0-9a-f]+"
    + re.escape(atomic.TEMPORARY)
)
"""The temporary names of a run's own files."""


class RunFolder:
    """The folder of one run of `experiment`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.metrics_file = folder / "metrics.jsonl"
        self.watchers: list[Callable[[dict[str, Any]], None]] = []
        self.keeps_passes = False
        self._claim: RunLock | None = None

    @staticmethod
    def create(folder: Path, experiment: Experiment, context: dict[str, Any]) -> RunFolder:
        """Make a new run; `context` (framework, versions, machine, command) goes to config.json.

        `InputError` if the folder is taken. Of several processes that start with one folder at once, one makes the run.
        """
        check_free(folder)
        config = {"experiment": json.loads(experiment.to_json())} | context
        run = RunFolder(folder, experiment)
        run._claim = _publish(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
        return run

    @staticmethod
    def create_new(parent: Path, name: str, experiment: Experiment, context: dict[str, Any]) -> RunFolder:
        """Make a new run in `parent`, in a folder `name`, or `name-2`, `name-3`, ... where that is there already."""
        folder, number = parent / name, 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while not _make_folder(folder):
                number += 1
                folder = parent / f"{name}-{number}"
        except OSError as error:
            raise InputError(f"cannot write {parent} ({error.strerror}): choose a folder with --output") from None
        return RunFolder.create(folder, experiment, context)

    @staticmethod
    def open(folder: Path) -> RunFolder:
        """The run in `folder`, as its config.json describes it; `InputError` where there is none."""
        try:
            text = (folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"{folder} is not a run folder: it has no readable config.json; give the folder that a run was written to"
            ) from None
        with about(folder / "config.json", "mend it, or start a new run"):
            experiment = parse_json(text, "run").get("experiment")
            return RunFolder(folder, Experiment.from_json(json.dumps(experiment)))

    def save(self, state: State, position: Position) -> None:
        """Writes the last checkpoint atomically."""
        metadata = {"position": json.dumps(dataclasses.asdict(position)), "experiment": self.experiment.to_json()}
        canonical_state.save(self.last, self.experiment.network, state, metadata)

    def save_best(self, state: State, accuracy: float) -> None:
        """Writes the weights (no optimizer slots) that tested best so far."""
        kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
        metadata = {"experiment": self.experiment.to_json(), "test_accuracy": repr(accuracy)}
        canonical_state.save(self.best, self.experiment.network, kept, metadata)

    def save_pass(self, state: State, epoch: int) -> None:
        """Where `keeps_passes` is set, writes the weights after pass `epoch` as Paddle v2's `params_pass_N.tar`, as the article does."""
        if self.keeps_passes:
            kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
            data = v2_tar.encode(self.experiment.network, kept)
            atomic.write_atomically(self.folder / f"params_pass_{epoch}.tar", data)

    def restore(self, images: int) -> tuple[State | None, Position]:
        """State and position of the last checkpoint, metrics.jsonl cut back to it; (None, start) if training has not begun.

        `images` is the number of training images. `InputError`, with nothing changed, where checkpoint, config.json and
        metrics.jsonl are not of one run, a line that is kept is damaged, or another process trains the run.
        """
        self._claim = lock_run(self.folder / "config.json")
        state, position = None, Position()
        if os.path.lexists(self.last):
            state, position = self._load(images)
        elif begun := [path.name for path in (self.metrics_file, self.best) if _holds_data(path)]:
            raise InputError(
                f"{self.folder} has {begun[0]}, but no {self.last.name} to continue from: "
                "put the run's own checkpoint back, or start a new run"
            )
        lines = self._lines(position)
        for path in self.folder.iterdir():
            if _UNFINISHED.fullmatch(path.name) and path.is_file():  # a process was killed while it wrote
                path.unlink(missing_ok=True)
        atomic.write_atomically(self.metrics_file, b"".join(lines))
        return state, position

    def _load(self, images: int) -> tuple[State, Position]:
        with about(self.last, "put the run's own checkpoint back, or start a new run"):
            network, state, metadata = canonical_state.load(self.last)
            if network != self.experiment.network:
                raise InputError(f"holds network {network.name}, the run is of {self.experiment.network.name}")
            if Experiment.from_json(metadata.get("experiment", "null")) != self.experiment:
                raise InputError("it is of a run with another recipe, seed or data than config.json says")
            canonical_state.check(network, state, self.experiment.recipe.optimizer.slots)
            fields = parse_json(metadata.get("position", "null"), "position")
            position = from_fields(Position, fields, "position")
            if not position.fits(self.experiment, images):
                raise InputError(f"its position is none that config.json and {images} training images lead to")
        name_unverified(self.last, metadata)
        return state, position

    def _lines(self, position: Position) -> list[bytes]:
        """Return the lines of metrics.jsonl up to `position`, every one checked."""
        lines = self._read()[: max(position.lines, 0)]
        events = [line["event"] for line in self._parse(lines)]
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
        """Return the lines of metrics.jsonl of one kind: "batch" or "pass". `InputError` naming the first line that is damaged."""
        return [line for line in self._parse(self._read()) if line["event"] == event]

    def _read(self) -> list[bytes]:
        """Return the lines of metrics.jsonl as they are; none where there is no file."""
        try:
            return self.metrics_file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"cannot read {self.metrics_file}: {error.strerror}") from None

    def _parse(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Read lines of metrics.jsonl, every number checked; `InputError` naming the file and the first line that is damaged.

        A last line without an end is none yet: a process was killed while it wrote.
        """
        found, passes = [], 0
        with about(self.metrics_file, "put the whole file back, or start a new run"):
            for number, text in enumerate(lines, start=1):
                if not text.endswith(b"\n"):
                    break
                line = parse_line(text.decode(errors="replace"), f"line {number}")
                if line["epoch"] != passes:
                    raise InputError(
                        f"line {number}: epoch = {short(line['epoch'])}, but {passes} passes end before it"
                    )
                passes += line["event"] == "pass"
                found.append(line)
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
        return float(passes[position.epoch - 1]["test_accuracy"])


class Follower(RunFolder):
    """The run as a process knows it that does not lead (see `parity.process_group`): it writes nothing."""

    def save(self, state: State, position: Position) -> None:
        """Nothing."""

    def save_best(self, state: State, accuracy: float) -> None:
        """Nothing."""

    def save_pass(self, state: State, epoch: int) -> None:
        """Nothing."""

    def log(self, position: Position, **values: Any) -> None:
        """Nothing."""


def _make_folder(path: Path) -> bool:
    """Make the folder `path`; False where there is something of that name. `OSError` where it cannot be made."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _holds_data(path: Path) -> bool:
    """Whether there is a file `path` that is not empty."""
    return path.exists() and path.stat().st_size > 0


def _publish(config: Path, data: bytes) -> RunLock:
    """Write the config.json of a new run, whole or not at all, and lock it; `InputError` if somebody else has written one.

    The lock is taken before the file has its name, so no other process can resume the run in between.
    """
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        scratch = atomic.temporary_name(config)
        try:
            atomic.write_new(scratch, data)
            lock = lock_run(scratch)
            _name(scratch, config)
        finally:
            scratch.unlink(missing_ok=True)
    except FileExistsError:
        raise InputError(f"{config.parent} is being written by another process: choose another --output") from None
    except OSError as error:
        raise InputError(f"cannot write {config.parent} ({error.strerror}): choose another --output") from None
    return lock


def _name(scratch: Path, config: Path) -> None:
    """Give the file `scratch` the name `config`; `FileExistsError` where that is taken, which a rename would replace."""
    try:
        os.link(scratch, config)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        config.touch(exist_ok=False)
        scratch.replace(config)


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
        network, state, metadata = canonical_state.load(file)
        kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
        canonical_state.check(network, kept)
        experiment = Experiment.from_json(metadata["experiment"]) if "experiment" in metadata else None
    name_unverified(file, metadata)
    return experiment, network, kept, metadata


def check_free(folder: Path) -> None:
    """`InputError` unless `folder` is empty or does not exist, and can be written, as far as can be told before."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not empty: continue it with --resume, or choose another --output")
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}): choose another --output") from None
    check_writable(folder, "--output")


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
