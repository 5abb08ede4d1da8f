"""A run folder: config.json, metrics.jsonl, checkpoints, curves.png.

Its files are complete at every moment, also when the process is killed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from parity.errors import InputError
from parity.files import atomic
from parity.files.digest import name_unverified
from parity.files.strict_json import from_fields, parse_json
from parity.network.network import Network
from parity.recipe.precision import FLOAT32, Arithmetic
from parity.recipe.recipe import Experiment
from parity.training.metrics import parse_line
from parity.training.run_lock import RunLock, lock_run
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import State


@dataclass
class Position:
    """How far a run has got. Together with weights and optimizer slots it determines all that follows.

    `epoch` epochs are complete, and `batch` batches of the next one. `cost`, `wrong` and `seen` are sums over that next epoch so far:
    cross-entropy, misclassified images, images. `stream` is the hash of its batches so far. `lines` counts the lines of metrics.jsonl.
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
        """Return whether a run of `experiment` on `images` training images can have this position."""
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
    """The folder of one run of `experiment` in `arithmetic`."""

    def __init__(self, folder: Path, experiment: Experiment, arithmetic: Arithmetic = FLOAT32) -> None:
        self.folder, self.experiment, self.arithmetic = folder, experiment, arithmetic
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self.metrics_file = folder / "metrics.jsonl"
        self.watchers: list[Callable[[dict[str, Any]], None]] = []
        self.saves_v2_tar = False
        self._locks: list[RunLock] = []

    @staticmethod
    def create(
        folder: Path, experiment: Experiment, context: dict[str, Any], arithmetic: Arithmetic = FLOAT32
    ) -> RunFolder:
        """Make a new run. `context` (framework, versions, machine, command) is written to config.json.

        `InputError` if the folder is taken. If several processes start with one folder at the same time, one of them makes the run.
        """
        check_free(folder)
        config = {"experiment": json.loads(experiment.to_json())} | context | dataclasses.asdict(arithmetic)
        run = RunFolder(folder, experiment, arithmetic)
        run._locks = [_publish(folder / "config.json", _config_bytes(config))]
        return run

    @staticmethod
    def create_new(
        parent: Path, name: str, experiment: Experiment, context: dict[str, Any], arithmetic: Arithmetic = FLOAT32
    ) -> RunFolder:
        """Make a new run in the folder `name` in `parent`; if that exists, in `name-2`, `name-3` and so on."""
        folder, number = parent / name, 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while not _make_folder(folder):
                number += 1
                folder = parent / f"{name}-{number}"
        except OSError as error:
            raise InputError(f"cannot write {parent} ({error.strerror}): choose a folder with --output") from None
        return RunFolder.create(folder, experiment, context, arithmetic)

    @staticmethod
    def open(folder: Path) -> RunFolder:
        """Return the run in `folder`, as its config.json describes it. `InputError` if there is none."""
        try:
            text = (folder / "config.json").read_text()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"{folder} is not a run folder: it has no readable config.json; give the folder that a run was written to"
            ) from None
        with about(folder / "config.json", "mend it, or start a new run"):
            config = parse_json(text, "run")
            experiment = Experiment.from_json(json.dumps(config.get("experiment")))
            known = {field.name: config[field.name] for field in dataclasses.fields(Arithmetic) if field.name in config}
            return RunFolder(folder, experiment, Arithmetic(**known))

    def lengthen(self, epochs: int) -> None:
        """Write `epochs`, the new number of epochs, into config.json, atomically. The run must be locked (`restore`).

        `InputError` as in `Recipe.lengthened`. The last checkpoint keeps the old number until the next one is written; `restore` takes it.
        """
        self.experiment = self.experiment.lengthened(epochs)
        config = Path(os.path.realpath(self.folder / "config.json"))
        scratch = atomic.temporary_name(config)
        try:
            text = parse_json(config.read_text(), "run") | {"experiment": json.loads(self.experiment.to_json())}
            atomic.write_new(scratch, _config_bytes(text), stat.S_IMODE(config.stat().st_mode))
            # The lock of the old file is kept: another process may have opened it and not tried its lock yet.
            self._locks.append(lock_run(scratch))
            scratch.replace(config)
        except OSError as error:
            raise InputError(f"cannot write {config}: {error.strerror}") from None
        finally:
            scratch.unlink(missing_ok=True)

    def save(self, state: State, position: Position) -> None:
        """Write the last checkpoint atomically."""
        metadata = {"position": json.dumps(dataclasses.asdict(position)), "experiment": self.experiment.to_json()}
        canonical_state.save(self.last, self.experiment.network, state, metadata)

    def save_best(self, state: State, accuracy: float) -> None:
        """Write the weights with the best test accuracy so far, without optimizer slots."""
        kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
        metadata = {"experiment": self.experiment.to_json(), "test_accuracy": repr(accuracy)}
        canonical_state.save(self.best, self.experiment.network, kept, metadata)

    def save_v2_tar(self, state: State, epoch: int) -> None:
        """Write the weights after an epoch, as the article does, to Paddle v2's `params_pass_N.tar`, if `saves_v2_tar` is set.

        N is `epoch`, counted from 0.
        """
        if self.saves_v2_tar:
            kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
            data = v2_tar.encode(self.experiment.network, kept)
            atomic.write_atomically(self.folder / f"params_pass_{epoch}.tar", data)

    def restore(self, images: int) -> tuple[State | None, Position]:
        """Return state and position of the last checkpoint, or None and the start if training has not begun.

        metrics.jsonl is cut back to the checkpoint. `images` is the number of training images. `InputError`, with nothing changed, if
        checkpoint, config.json and metrics.jsonl belong to different runs, a line that is kept is damaged, or another process trains
        the run.
        """
        self._locks = [lock_run(self.folder / "config.json")]
        state, position = None, Position()
        if os.path.lexists(self.last):
            state, position = self._load(images)
        elif begun := [path.name for path in (self.metrics_file, self.best) if _holds_data(path)]:
            raise InputError(
                f"{self.folder} has {begun[0]}, but no {self.last.name} to resume from: "
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
                raise InputError(f"it holds network {network.name}, but the run trains {self.experiment.network.name}")
            stored = Experiment.from_json(metadata.get("experiment", "null"))
            with suppress(InputError):  # the run was lengthened, and stopped before its next checkpoint
                stored = stored.lengthened(self.experiment.recipe.epochs)
            if stored != self.experiment:
                raise InputError("it belongs to a run with another recipe, seed or data set than config.json says")
            canonical_state.check(network, state, self.experiment.recipe.optimizer.slots)
            fields = parse_json(metadata.get("position", "null"), "position")
            position = from_fields(Position, fields, "position")
            if not position.fits(self.experiment, images):
                raise InputError(f"its position is impossible with config.json and {images} training images")
        name_unverified(self.last, metadata)
        return state, position

    def _lines(self, position: Position) -> list[bytes]:
        """Return the lines of metrics.jsonl up to `position`, and check each of them."""
        lines = self._read()[: max(position.lines, 0)]
        events = [line["event"] for line in self._parse(lines)]
        if len(events) != position.lines or events.count("pass") != position.epoch:
            raise InputError(
                f"{self.metrics_file} lacks some of the {position.lines} lines that it had when {self.last.name} was written: "
                "put the whole file back, or start a new run"
            )
        return lines

    def log(self, position: Position, **values: Any) -> None:
        """Append one line to metrics.jsonl. It is on disk when this returns."""
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
        """Return the lines of metrics.jsonl of one event, "batch" or "pass" (the end of an epoch). `InputError` names a damaged line."""
        return [line for line in self._parse(self._read()) if line["event"] == event]

    def _read(self) -> list[bytes]:
        """Return the lines of metrics.jsonl as they are; none if there is no file."""
        try:
            return self.metrics_file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"cannot read {self.metrics_file}: {error.strerror}") from None

    def _parse(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Read lines of metrics.jsonl, and check every number. `InputError` names the file and the first damaged line.

        A last line without an end is left out: a process was killed while it wrote.
        """
        found, epochs = [], 0
        with about(self.metrics_file, "put the whole file back, or start a new run"):
            for number, text in enumerate(lines, start=1):
                if not text.endswith(b"\n"):
                    break
                line = parse_line(text.decode(errors="replace"), f"line {number}")
                if line["epoch"] != epochs:
                    raise InputError(
                        f"line {number}: epoch = {short(line['epoch'])}, but {epochs} epochs end before it"
                    )
                epochs += line["event"] == "pass"
                found.append(line)
        return found

    def accuracy(self, metadata: Mapping[str, str]) -> float | None:
        """Return the test accuracy, 0 to 1, of the checkpoint with these `metadata`; None if it was written within an epoch."""
        if "position" not in metadata:
            return None
        with about(self.last, "take another copy"):
            position = from_fields(Position, parse_json(metadata["position"], "position"), "position")
        epochs = self.metrics("pass")
        if position.batch or not 1 <= position.epoch <= len(epochs):
            return None
        return float(epochs[position.epoch - 1]["test_accuracy"])


class Follower(RunFolder):
    """The run in a process of another rank than 0 (see `parity.process_group`): it writes nothing."""

    def save(self, state: State, position: Position) -> None:
        """Nothing."""

    def save_best(self, state: State, accuracy: float) -> None:
        """Nothing."""

    def save_v2_tar(self, state: State, epoch: int) -> None:
        """Nothing."""

    def log(self, position: Position, **values: Any) -> None:
        """Nothing."""


def _make_folder(path: Path) -> bool:
    """Make the folder `path`. Return False if something has that name; `OSError` if it cannot be made."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _holds_data(path: Path) -> bool:
    """Return whether there is a file `path` that is not empty."""
    return path.exists() and path.stat().st_size > 0


def _config_bytes(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=1) + "\n").encode()


def _publish(config: Path, data: bytes) -> RunLock:
    """Write the config.json of a new run atomically, and lock it. `InputError` if another process has written one.

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
    """Give the file `scratch` the name `config`. `FileExistsError` if that exists: a rename would replace it."""
    try:
        os.link(scratch, config)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        config.touch(exist_ok=False)
        scratch.replace(config)


def proportion(value: Any) -> float:
    """Return a test accuracy as a number. `InputError` unless it is a number from 0 to 1, or the text of one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= 1:
        raise InputError(f"test_accuracy = {short(value)} is not a number from 0 to 1")
    return found


def read_checkpoint(path: Path) -> tuple[Experiment | None, Network, State, dict[str, str]]:
    """Return experiment (None if the file names none), network, weights and metadata of a run's last checkpoint or a safetensors file."""
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
    """Raise `InputError` unless `folder` is empty or does not exist, and seems writable."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder} exists and is not empty: continue the run with --resume, or choose another --output"
            )
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}): choose another --output") from None
    check_writable(folder, "--output")


def check_writable(folder: Path, flag: str) -> None:
    """Raise `InputError`, which names the `flag`, unless `folder` exists or can be made, and seems writable."""
    try:
        places = (folder, *folder.absolute().parents)
        nearest = next(place for place in places if place.exists() or place.is_symlink())
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error}): choose another {flag}") from None


@contextmanager
def about(path: Path, way_out: str, unless: str | None = None) -> Iterator[None]:
    """Add the file and `way_out`, what the user can do, to every `InputError` inside that does not name the file.

    A message that contains `unless` says itself what to do.
    """
    try:
        yield
    except (InputError, RecursionError) as error:
        text = str(error)
        more = "" if not way_out or (unless is not None and unless in text) else f"; {way_out}"
        raise InputError(text if str(path) in text else f"{path}: {text}{more}") from None
