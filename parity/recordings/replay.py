"""`replay`: give a model the weights, inputs and dropout masks of a recording, so that only the code differs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.backend.observed_model import ObservedModel
from parity.backend.protocol import Module, Stepper, Tensor
from parity.backend.registry import NAMES, make_backend
from parity.errors import InputError
from parity.modules.description import arrays_of
from parity.modules.layer_kinds import KINDS, SIDES, read_kinds
from parity.modules.recording import Watch
from parity.pairs import mapping
from parity.pairs.map_files import read_map
from parity.pairs.match_models import ModelDescription, Pairing
from parity.pairs.replaced_functions import dropping
from parity.recordings.recorded_pair import kinds_of_one, modules_of_side
from parity.recordings.recorder import Recorder, framework_of, inner_optimizer
from parity.recordings.recording import DrawRow, RankRecording, StepRecord, read_recording
from parity.short_repr import ShortRepr, few, steps_in_words
from parity.weights.half_precision import HALVES

RESTORED = {"sgd": {"velocity"}, "adam": {"moment1", "moment2", "updates"}}
"""Kind of an optimizer -> the slots that its state has. A replay restores them."""


@dataclass(frozen=True, repr=False)
class ReplayedBatch(ShortRepr):
    """What the model got in one forward pass.

    Attributes:
        inputs: The positional arguments that are tensors, in order.
        named: The keyword arguments that are tensors, and tensors inside of an argument: `0.mask` of the first one.
    """

    inputs: Sequence[Tensor]
    named: Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class ReplayedStep(ShortRepr):
    """A recorded step.

    Attributes:
        number: The number of the step.
        batches: The inputs of each forward pass; several with gradient accumulation.
        kept: What the recorded program kept with `keep`, such as labels.
    """

    number: int
    batches: Sequence[ReplayedBatch]
    kept: Mapping[str, Tensor]

    @property
    def inputs(self) -> Sequence[Tensor]:
        """The positional inputs of the first forward pass."""
        return self.batches[0].inputs if self.batches else ()

    @property
    def named(self) -> Mapping[str, Tensor]:
        """The named inputs of the first forward pass."""
        return self.batches[0].named if self.batches else {}


class Replay:
    """The replay of one recording on a model."""

    def __init__(
        self,
        recording: RankRecording,
        model: Module,
        optimizer: Stepper | None,
        map_file: str | Path | None,
        kinds_file: str | Path | None,
    ) -> None:
        self.recording = recording
        self.optimizer = None if optimizer is None else inner_optimizer(optimizer)
        self.framework = framework_of(model)
        self.backend = make_backend(self.framework)
        self.model = self.backend.without_process_wrapper(model)
        self.observed = ObservedModel(self.backend, self.model, Watch())
        self.observed.close()
        self.device = self.backend.device_of(self.model)
        self.recorder: Recorder | None = None
        self._draws: list[tuple[DrawRow, Array]] = []
        self._has_warned = False
        self._match(map_file, kinds_file)

    def _match(self, map_file: str | Path | None, kinds_file: str | Path | None) -> None:
        described = self.recording.description
        kinds = read_kinds(Path(kinds_file)) if kinds_file else KINDS
        is_of_one = described.framework == self.framework
        self.side = SIDES[1] if is_of_one else self.framework
        self.other = SIDES[0] if is_of_one else described.framework
        kinds = kinds_of_one(self.framework, kinds) if is_of_one else kinds
        own = self.observed.describe()
        modules = {
            self.side: modules_of_side(self.side, self.framework, own),
            self.other: modules_of_side(self.other, described.framework, described.modules),
        }
        models = [ModelDescription.of(side, modules[side], kinds=kinds) for side in SIDES]
        self.pairing: Pairing = mapping.match(models[0], models[1], read_map(Path(map_file)) if map_file else None)
        arrays = arrays_of(own)
        self.shapes = {name: list(row["shape"]) for name, row in arrays.items()}
        self.aliases = {name: row["same_as"] for name, row in arrays.items() if row["same_as"]}
        if self.pairing.single[self.side]:
            raise InputError(
                f"the recording has no values for {few(self.pairing.single[self.side])} of the {NAMES[self.framework]} model: "
                "pass map_file= if they have other names"
            )

    def steps(self) -> Iterator[ReplayedStep]:
        """Yield each recorded step; before it, the model gets the recorded weights of the first one, and of each one after a gap."""
        for number in self.recording.numbers:
            record = self.recording.step(number)
            if record.named("start"):
                self._load(record)
                self._restore(record)
            self._draws = [(draw, record.mask(draw)) for draw in record.description.draws]
            kept = {name: self._tensor(record[f"kept/{name}"]) for name in record.named("kept")}
            if self.recorder:
                self.recorder.number = number
                self.recorder.keep(**kept)
            batches = [self._batch(record, batch) for batch in range(record.description.batches)]
            yield ReplayedStep(number, batches, kept)
            self._check_rate(record)
            if self.recorder and self.recorder.number == number:
                raise InputError(
                    f"step {number} was replayed, but the optimizer did not step: call its step() in the loop; if a loss scaler skipped "
                    "it, give the scaler a smaller scale"
                )

    def warn_of_state(self) -> None:
        """Say in one line that the state of the recorded optimizer is not restored, if it had any."""
        records = {number: self.recording.step(number) for number in self.recording.numbers}
        had = {
            n: one.description.slots for n, one in records.items() if one.description.slots and not self._states(one)
        }
        if had:
            kept = few(list(next(iter(had.values()))))
            warnings.warn(
                f"{self.recording.path.parent}: the optimizer kept {kept} before {steps_in_words(list(had))}; "
                "a replay restores that of SGD, Adam and AdamW only, from a recording with weights, so the updates differ: record from the "
                "start of the training, with every=1",
                stacklevel=4,
            )

    def _states(self, record: StepRecord) -> dict[str, set[str]]:
        """Return the slots of the recorded state of each parameter, by the recording's names; empty if it cannot be restored."""
        kind = record.description.described_optimizer.kind
        slots = RESTORED.get(kind)
        if not slots or not isinstance(self.optimizer, self.backend.OPTIMIZER) or self.observed.own_dtype() in HALVES:
            return {}
        if self.backend.describe_optimizer(self.optimizer, {}).kind != kind:
            return {}
        found: dict[str, set[str]] = {}
        for place in record.named("state"):
            slot, _, name = place.partition("/")
            found.setdefault(name, set()).add(slot)
        return found if all(slots <= held for held in found.values()) else {}

    def _restore(self, record: StepRecord) -> None:
        """Give the optimizer the recorded state of each parameter, in the names and layout of this model."""
        states = self._states(record)
        by_slot: dict[str, dict[str, Array]] = {}
        for name, slots in states.items():
            for slot in slots:
                array = record[f"state/{slot}/{name}"]
                weight, is_count = record[f"start/{name}"], slot == "updates"
                fits = array.size == 1 if is_count else array.shape == weight.shape
                if not (fits and np.isfinite(array).all()):
                    raise InputError(
                        f"{record.path} is damaged: state/{slot}/{name} is no state of {name}; record again"
                    )
                by_slot.setdefault(slot, {})[name] = np.full(weight.shape, array.item()) if is_count else array
        tensors, own = self.observed.tensors(), dict[str, dict[str, Array]]()
        updated = {id(parameter) for parameter in self.backend.parameters_of(self.optimizer)} if states else set()
        for slot, arrays in by_slot.items():
            for name, row in arrays_of(self.recording.description.modules).items():
                if row["same_as"] in arrays:
                    arrays[name] = arrays[row["same_as"]]
            state = mapping.canonical(self.pairing, self.other, arrays)
            for name, array in mapping.spelled(self.pairing, self.side, state, self.shapes).items():
                own.setdefault(self.aliases.get(name, name), {})[slot] = array
        for name, found in own.items():
            if id(tensors[name]) in updated:
                if "updates" in found:
                    found["updates"] = np.array(found["updates"].max(initial=0.0))
                self.backend.restore_optimizer_state(self.optimizer, tensors[name], found)

    def _check_rate(self, record: StepRecord) -> None:
        """Warn once of a rate that is not the recorded one in a step after a gap: a schedule counts the replayed steps only."""
        number, step = record.description.number, self.recording.numbers.index(record.description.number) + 1
        if self.recorder is None or self._has_warned or number == step:
            return
        rates = [
            {float(np.float32(s["rate"])) for s in row.parameters.values() if isinstance(s.get("rate"), float)}
            for row in (record.description.described_optimizer, self.recorder.described)
        ]
        if rates[0] != rates[1]:
            self._has_warned = True
            warnings.warn(
                f"{self.recording.path.parent}: step {number} is the replay's step {step}, and its learning rate is not the recorded one: "
                "set a schedule by the number of the recorded step, step.number",
                stacklevel=3,
            )

    def _batch(self, record: StepRecord, batch: int) -> ReplayedBatch:
        arrays = {place: self._tensor(record[f"input/{batch}/{place}"]) for place in record.named(f"input/{batch}")}
        positional = sorted((place for place in arrays if place.isdecimal()), key=int)
        return ReplayedBatch(
            [arrays[place] for place in positional], {n: t for n, t in arrays.items() if n not in positional}
        )

    def _tensor(self, array: Array) -> Tensor:
        return self.backend.from_numpy(array, self.device)

    def _load(self, record: StepRecord) -> None:
        recorded = {name: record[f"start/{name}"] for name in record.named("start")}
        for name, row in arrays_of(self.recording.description.modules).items():
            if row["same_as"] in recorded:
                recorded[name] = recorded[row["same_as"]]
        state = mapping.canonical(self.pairing, self.other, recorded)
        tensors = self.observed.tensors()
        base = self.observed.state([n for n in mapping.partly_named(self.pairing, self.side) if n in tensors])
        for name, array in mapping.spelled(self.pairing, self.side, state, self.shapes, base).items():
            self.backend.write(tensors[self.aliases.get(name, name)], array)

    def draw(self, size: int, p: float) -> Array:
        """Return the factors of the next recorded dropout of this size and probability."""
        for i, (draw, factors) in enumerate(self._draws):
            if draw["size"] == size and abs(draw["p"] - p) < 1e-6:
                del self._draws[i]
                if self.recorder:
                    self.recorder.note_dropout(factors, p)
                return factors
        raise InputError(
            f"the model drops {size} numbers with p = {p:g}, and the recorded step has no such dropout left: the models have other "
            "dropouts, or the replayed step has more forward passes"
        )


@contextlib.contextmanager
def replay(
    path: str | Path,
    model: Module,
    optimizer: Stepper | None = None,
    *,
    output: str | Path | None = None,
    layers: Sequence[str] | None = None,
    weights: bool = True,
    overwrite: bool = False,
    map_file: str | Path | None = None,
    kinds_file: str | Path | None = None,
) -> Iterator[Iterator[ReplayedStep]]:
    """Run a model on the recorded weights, inputs and dropout masks of another program, and record it.

    Before the first step and after a gap the model gets the recorded weights, in its own names and layout, and an SGD, Adam
    or AdamW gets the recorded state. In each step, dropouts multiply by the recorded masks. What remains different is the
    code: layers, loss, optimizer.

    Args:
        path: The folder of a recording, of either framework, with its weights. A process group replays rank by rank.
        model: A `torch.nn.Module` or `paddle.nn.Layer` in training mode. Its weights are overwritten.
        optimizer: The optimizer of the loop; needed for `output`. A warning says if the recorded state is not restored.
        output: A folder for the recording of the replay, as `parity.record` writes it. By default nothing is recorded.
        layers: As in `parity.record`.
        weights: As in `parity.record`.
        overwrite: As in `parity.record`.
        map_file: A JSON file that says which layers are pairs, where names and order do not.
        kinds_file: A JSON file of further kinds of layers.

    Yields:
        An iterator of steps. A step has `inputs` (a list of tensors), `named` (tensors by argument) and `kept` (by name). With
            gradient accumulation, `batches` has the inputs of each forward pass.

    Raises:
        InputError: The recording is damaged or has no weights, the model cannot be matched with it, or it drops other numbers.

    Examples:
        ```python
        with parity.replay("torch.run", model, optimizer, output="paddle.run") as steps:
            for step in steps:
                loss = criterion(model(*step.inputs), step.kept["labels"])
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
        ```
    """
    if output is not None and Path(output).resolve() == Path(path).resolve():
        raise InputError(f"{output} is the recording that is replayed: choose another folder for output=")
    ranks = read_recording(Path(path))
    rank, count = make_backend(framework_of(model)).find_rank()
    if count != len(ranks):
        raise InputError(f"{path} holds {len(ranks)} ranks, and this program has {count}: start as many processes")
    recording = ranks[rank]
    if not recording.description.weights:
        raise InputError(f"{path} was recorded with weights=False: it has no weights to replay")
    if output is not None and optimizer is None:
        raise InputError("pass the optimizer of the loop, too: a recording ends each step with it")
    found = Replay(recording, model, optimizer, map_file, kinds_file)
    with contextlib.ExitStack() as stack:
        stack.enter_context(dropping(found.framework, found.draw))
        if output is not None:
            every = recording.description.every
            found.recorder = Recorder(
                model, optimizer, Path(output), len(recording.numbers), layers, every, weights, 0, overwrite
            )
            stack.enter_context(found.recorder.recording(dropouts=False))
        found.warn_of_state()
        yield found.steps()
