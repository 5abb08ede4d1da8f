"""The source of tensors for two recordings. See `parity.compare.source`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.compare.causes import Cause
from parity.compare.relative_error import distance, norm
from parity.compare.source import Isolated, Kink, Rounded, Source, Step, Tensor
from parity.compare.tolerances import (
    ADAM_SLOPE,
    HALF_ULP,
    ONE_STEP,
    ROUNDING,
    TWIN,
    ZERO_GRADIENT,
    in_units_of,
    recorded_tolerance,
)
from parity.compare.verdicts import place_of
from parity.compare.zero_gradients import zero_gradients
from parity.modules.layer_kinds import SIDES
from parity.pairs import alignment, causes
from parity.pairs.alignment import Compared
from parity.pairs.causes import PairEvidence
from parity.pairs.causes_of_programs import LossEvidence, find_loss_cause
from parity.pairs.model_server import ModelRun
from parity.pairs.model_source import find_kinks, find_ties
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import CLIPPING, Clip
from parity.recordings import conditions
from parity.recordings.recorded_pair import RecordedPair
from parity.recordings.recording import RankRecording
from parity.short_repr import few

CHANGES = 8.0
"""Roundings of a weight that its change in one step may have: of the update itself, and of both weights of the difference."""

BY_HAND, UNREACHED = "by hand", "unreached"
"""What a program does whose optimizer does not clip as the other one does: the same by its own code, or nothing that shows."""

SPACING = {"float64": 2.0**-53} | HALF_ULP
"""The largest relative error of rounding one number, by dtype."""

REPLAY = "record one side with parity.replay of the other, which gives both the same"


class RecordingSource(Source):
    """The steps that both recordings of a `pair` have. `twins` are recordings of the reference's program with weights moved by one ULP."""

    def __init__(self, pair: RecordedPair, twins: Sequence[RankRecording]) -> None:
        self.pair, self.dtype = pair, pair.dtype
        framework = pair.sides[SIDES[0]].description.framework
        self.sides = (
            (f"{framework} (reference)", f"{framework} (candidate)") if pair.is_of_one else (SIDES[0], SIDES[1])
        )
        # In float64, rounding does not grow within the few steps of a recording.
        self.recorded_twins = list(twins) if self.dtype != "float64" else []
        self.twins = [f"twin {number}" for number in range(1, 1 + len(self.recorded_twins))]
        self.steps, self.trains = len(pair.numbers), True
        self.optimizer = _likeliest(pair)
        self.explained: list[str] = []
        self.not_alike: dict[str, list[str]] = {}
        """What the first step had from elsewhere and was not equal. Then nothing that was computed is compared."""
        self.zero: dict[str, float] = {}
        self.amplified: dict[str, float] = {}
        self.left_out: dict[str, list[str]] = {}
        """Why changes are not compared -> of which weights."""
        self.clips_alone: dict[int, str] = {}
        """Step in which only one optimizer clips -> `BY_HAND`, `UNREACHED`, or "" where the other program does not clip."""
        self.optimizer_differences = conditions.about_optimizers(pair)
        self.states = conditions.about_states(pair)
        one, two = (side.description.settings.get("running variance") for side in pair.sides.values())
        self.variance_differs = one != two
        self.rounds_scalars = any(side.description.framework == "paddle" for side in pair.sides.values())
        self.rounds_scalars = self.rounds_scalars and not pair.is_of_one

    @property
    def by_tensor(self) -> bool:
        """Recordings have no float64 result of the same step."""
        return True

    def calm_tolerance(self, phase: str, step: int) -> float:
        """Return the tolerance of a tensor without chaos."""
        return recorded_tolerance(self.dtype, step, phase, len(self.pair.pairing.pairs), self.rounds_scalars)

    @property
    def absent(self) -> Collection[str]:
        """Stages that the recordings cannot have."""
        if self.not_alike:
            return ("backward", "update", "trajectory")
        return () if len(self.pair.numbers) > 1 else ("trajectory",)

    @property
    def incomplete(self) -> bool:
        """Whether a matched layer has an array on one side only."""
        return any(self.pair.pairing.single.values())

    @property
    def zero_gradients(self) -> Sequence[str]:
        """The gradients seen so far that are zero in exact arithmetic."""
        return list(self.zero)

    def step(self, number: int, whole: str | None) -> RecordedStep:
        """Return the recorded step `number`, which counts recorded ones."""
        return RecordedStep(self, self.pair.numbers[number - 1])

    def rounded_step(self, seed: int | None) -> Iterable[Rounded]:
        """Yield nothing: there is no float64 result."""
        return ()

    def kinks(self, steps: int) -> Iterator[tuple[Mapping[str, float], Sequence[Kink]]]:
        """Yield the losses and the outputs of layers with a kink of the first `steps` recorded steps."""
        for number in self.pair.numbers[:steps]:
            step = RecordedStep(self, number)
            step.read()
            one, two = (step.runs[side] for side in SIDES)
            found = find_kinks(self.pair.align(step.runs), one, two, step.twin_runs, step.gradients[SIDES[0]])
            yield step.losses, found

    def isolated(self) -> Iterator[Isolated]:
        """Yield nothing: a recorded layer cannot run again."""
        return iter(())


class RecordedStep(Step):
    """One step of both recordings."""

    def __init__(self, source: RecordingSource, number: int) -> None:
        self.source, self.pair, self.number = source, source.pair, number
        self.records = (self.pair.record(SIDES[0], number), self.pair.record(SIDES[1], number))
        self.twins = [twin for twin in source.recorded_twins if number in twin.numbers]
        self.twin_records = [twin.step(number) for twin in self.twins]
        losses = [record.description.losses for record in self.records]
        self.losses = {side: float(np.mean(found)) for side, found in zip(source.sides, losses, strict=True) if found}
        self.rate = float(_rate(self.pair, number))
        self.runs: dict[str, ModelRun] = {}
        self.twin_runs: list[ModelRun] = []
        self.gradients: dict[str, Mapping[str, Array]] = {}
        self._compared: Compared | None = None
        self._rounded_changes: dict[str, float] = {}
        self._state: dict[str, Array] = {}

    @property
    def is_first(self) -> bool:
        """Whether it is the first step of both recordings."""
        return self.number == self.pair.numbers[0]

    def read(self) -> None:
        """Read which layers were called. Their arrays are read when they are compared."""
        for side, record in zip(SIDES, self.records, strict=True):
            self.runs[side], self.gradients[side] = self.pair.run(side, record)
        twins = [self.pair.run(SIDES[0], record) for record in self.twin_records]
        self.twin_runs = [run for run, _ in twins]
        self._twin_gradients = [gradients for _, gradients in twins]

    def tensors(self) -> Iterator[Tensor]:
        """Yield what the step had from elsewhere, and then everything in the order of computation."""
        self.read()
        self.aligned = self.pair.align(self.runs)
        yield from self._given()
        if self.source.not_alike:
            self.source.explained.append(
                f"what was computed is not compared, since the first step began differently: {REPLAY}"
            )
            return
        drifting = self._drifting()
        for compared in self._computed():
            if drifting and self._drifts(compared, drifting):
                continue
            self._compared = compared
            phase, _, name = compared.name.partition("/")
            yield Tensor(
                compared.name,
                compared.torch,
                compared.paddle,
                compared.twins,
                self._layers(compared),
                zero=self.source.zero.get(name) if phase == "gradient" else None,
                inner=compared.calls is not None,
                shapes=compared.shapes,
                fitted=compared.fitted,
            )

    def _drifting(self) -> set[str]:
        """Return the names of tensors that shift because Adam moved weights by rounding.

        The weights are those whose gradient is zero in exact arithmetic. The tensors are the outputs of their layers, and the running means
        of the batch norms that follow, which subtract the shift.
        """
        if self.is_first or self.source.optimizer.kind != "adam":
            return set()
        layers = {self.pair.pairing.owners[name][0] for name in self.source.zero}
        calls = self.runs[SIDES[0]].calls
        keys = {key for call in calls if call["path"] in layers for key in call["outputs"]}
        means = {f"{call['path']}.mean" for call in calls if keys & set(call["inputs"])}
        return keys | {f"update/{name}" for name in means}

    @staticmethod
    def _drifts(compared: Compared, drifting: Collection[str]) -> bool:
        if not compared.calls:
            return compared.name in drifting
        what, _, number = compared.name.rpartition(":")[2].partition("put")
        keys = getattr(compared.calls[0], f"{what}puts")
        return compared.name.startswith("forward/") and keys[int(number or 0)] in drifting

    def _layers(self, compared: Compared) -> tuple[str, str]:
        if compared.calls:
            return compared.calls[0].name, compared.calls[1].name
        return self.pair.pairing.owners.get(compared.name.partition("/")[2], ("", ""))

    def _given(self) -> Iterator[Tensor]:
        """Yield inputs, start weights and masks; note which of the first step are not alike."""
        tolerance = ONE_STEP[self.source.dtype]
        for name, a, b in conditions.inputs(self.pair, self.records):
            yield self._of_the_start(Tensor(f"input/{name}", a, b), tolerance)
        for chunk in self.pair.pairing.chunks():
            one, two = self._fetch("start", chunk)
            twins = self._fetch_twins("start", chunk)
            for name in [name for name in one if name in two]:
                found = Tensor(f"start/{name}", one[name], two[name], layers=self.pair.pairing.owners[name])
                own = tuple(twin[name] for twin in twins if name in twin)
                yield self._of_the_start(replace(found, twins=own if not self.is_first else ()), tolerance)
        for name, layers, a, b in conditions.masks(self.pair, self.records, self.runs, self.aligned):
            yield self._of_the_start(Tensor(f"input/{name}", a, b, layers=layers, copied=True), 0.0)

    def _of_the_start(self, tensor: Tensor, tolerance: float) -> Tensor:
        assert tensor.reference is not None and tensor.candidate is not None
        if self.is_first and not conditions.is_alike(tensor.reference, tensor.candidate, tolerance):
            phase, _, name = tensor.name.partition("/")
            mask = name.removeprefix("mask of ")
            kind = "initial weights" if phase == "start" else "inputs" if mask == name else "dropout masks"
            self.source.not_alike.setdefault(kind, []).append(mask)
        return tensor

    def _computed(self) -> Iterator[Compared]:
        one, two = (self.runs[side] for side in SIDES)
        yield from alignment.forward(self.aligned, "forward", one, two, self.twin_runs)
        losses = [np.array(record.description.losses, np.float64) for record in (*self.records, *self.twin_records)]
        if len(losses[0]) or len(losses[1]):
            yield Compared("loss/loss", None, losses[0], losses[1], tuple(losses[2:]))
        starts = [self.pair.output_gradients(side, record) for side, record in zip(SIDES, self.records, strict=True)]
        starts = [{name: found[name] for name in found if all(name in one for one in starts)} for found in starts]
        moved = [self.pair.output_gradients(SIDES[0], record) for record in self.twin_records]
        yield from alignment.outputs("backward", starts[0], starts[1], moved)
        back = [_as_record(self.gradients[side]) for side in SIDES]
        yield from alignment.backward(self.aligned, back[0], back[1], list(map(_as_record, self._twin_gradients)))
        yield from self._weight_gradients()
        yield from self._updates()

    def _fetch(self, prefix: str, chunk: Sequence[str]) -> tuple[Record, Record]:
        one, two = (self.pair.fetch(s, r, prefix, chunk) for s, r in zip(SIDES, self.records, strict=True))
        return one, two

    def _fetch_twins(self, prefix: str, chunk: Sequence[str]) -> list[Record]:
        return [self.pair.fetch(SIDES[0], record, prefix, chunk) for record in self.twin_records]

    def _weight_gradients(self) -> Iterator[Compared]:
        outputs = alignment.output_gradients(
            self.aligned, _as_record(self.gradients["torch"]), _as_record(self.gradients["paddle"])
        )
        nothing, clip = np.zeros(0), self._clip_of_one_side()
        for chunk in reversed(self.pair.pairing.chunks()):
            one, two = self._fetch("gradient", chunk)
            if clip:
                place, limited = clip
                one, two = (
                    {n: limited(x) for n, x in found.items()} if i == place else found
                    for i, found in enumerate((one, two))
                )
            twins = self._fetch_twins("gradient", chunk)
            of_outputs = outputs.get(self.pair.pairing.owners[chunk[0]][0], ())
            limit = ZERO_GRADIENT[self.source.dtype]
            if self.is_first:
                found = zero_gradients([one, two], limit, of_outputs=of_outputs)
            else:
                known = [name for name in chunk if name in self.source.zero]
                found = zero_gradients([one, two], limit, known, of_outputs=of_outputs)
            self.source.zero |= {name: max(sizes) for name, sizes in found.items()}
            for name in reversed(chunk):
                if name in one or name in two:
                    moved = tuple(twin[name] for twin in twins if name in twin)
                    yield Compared(f"gradient/{name}", None, one.get(name, nothing), two.get(name, nothing), moved)

    def _clip_of_one_side(self) -> tuple[int, Callable[[Array], Array]] | None:
        """Return the side whose optimizer clips, and how, if the other program has clipped by itself before its gradients were recorded."""
        clips = [optimizer.clip for optimizer in self.pair.optimizers(self.number)]
        place = 0 if clips[0] else 1
        clip = clips[place]
        if clip is None or clips[1 - place] or not clip.limit or clip.groups or not self.pair.has_weights:
            return None
        if clip.kind not in ("value", "norm", "global norm"):
            return None
        chunks = self.pair.pairing.chunks()
        size = math.hypot(*(norm(x) for chunk in chunks for x in self._fetch("gradient", chunk)[place].values()))
        limited, errors, is_reached = partial(clip_array, clip, size), [0.0, 0.0], False
        for chunk in chunks:
            found = self._fetch("gradient", chunk)
            mine, theirs = found[place], found[1 - place]
            for name in mine.keys() & theirs.keys():
                x, y = mine[name].astype(np.float64), theirs[name].astype(np.float64)
                clipped = limited(x)
                is_reached |= not np.array_equal(clipped, x)
                pairs = zip(errors, (x, clipped), strict=True)
                errors = [math.hypot(e, float(np.linalg.norm(z - y))) for e, z in pairs]
        tolerance = self.source.calm_tolerance("gradient", self.number) * size
        is_by_hand = is_reached and errors[1] <= tolerance < errors[0]
        self.source.clips_alone[self.number] = BY_HAND if is_by_hand else "" if is_reached else UNREACHED
        return (place, limited) if is_by_hand else None

    def _updates(self) -> Iterator[Compared]:
        """Yield by how much the step changed each weight: that shows what a small step does to a large weight."""
        for chunk in self.pair.pairing.chunks():
            one, two = self._fetch("update", chunk)
            twins = self._fetch_twins("update", chunk)
            rounded = chunk if self.source.optimizer.kind == "adam" else [n for n in chunk if n in self.source.zero]
            gradients = self._fetch("gradient", rounded)
            before = [self._before(side, self.pair.sides[side], chunk) for side in SIDES]
            earlier = [self._before(SIDES[0], twin, chunk) for twin in self.twins]
            for name in [name for name in one if name in two]:
                if name in self.source.zero and self.source.optimizer.kind == "adam":
                    self._leave_out(
                        name, "whose gradient is zero in exact arithmetic: Adam divides rounding by rounding"
                    )
                    continue
                if not (self.pair.has_weights and name in before[0] and name in before[1]):
                    moved = tuple(twin[name] for twin in twins if name in twin)
                    yield Compared(f"update/{name}", None, one[name], two[name], moved)
                    continue
                changes = [
                    after[name].astype(np.float64) - old[name] for after, old in zip((one, two), before, strict=True)
                ]
                moved = tuple(
                    t[name].astype(np.float64) - e[name]
                    for t, e in zip(twins, earlier, strict=True)
                    if name in t and name in e
                )
                size = norm(changes[0])
                noise = CHANGES * SPACING[self.source.dtype] * norm(before[0][name])
                noise += self._amplify(name, gradients[0].get(name), gradients[1].get(name))
                self._rounded_changes[f"update/{name}"] = noise / size if size else 1.0
                self._state[name] = before[0][name]
                if name.endswith(".variance") and self.source.variance_differs:
                    made = self._in_one_convention(name, [one, two], before)
                    if made is None:
                        self._leave_out(
                            name, "which the frameworks compute by n and by n-1, since no single n was recorded"
                        )
                        continue
                    # A model may have a norm of its own, with the other framework's convention.
                    if distance(*made) < distance(*changes):
                        changes, moved = made, ()
                if not changes[0].any() and not changes[1].any():
                    changes = [one[name], two[name]]  # such as weights that are not trained
                    moved = ()
                yield Compared(f"update/{name}", None, changes[0], changes[1], moved)

    def _amplify(self, name: str, one: Array | None, two: Array | None) -> float:
        """Return what the optimizer makes of two gradients that are equal up to rounding, as a norm, in any step so far.

        Adam divides: its first step is rate * g / (|g| + eps), and averages over steps do not differ by more. With momentum, a gradient
        that is zero in exact arithmetic adds up.
        """
        optimizer, amplified = self.source.optimizer, self.source.amplified
        if one is not None and two is not None and one.shape == two.shape:
            x, y = (array.astype(np.float64) for array in (one, two))
            if optimizer.kind == "adam":
                x, y = x / (np.abs(x) + optimizer.eps), y / (np.abs(y) + optimizer.eps)
            own = self.rate * norm(x - y) / (1 - min(optimizer.momentum, 0.99))
            amplified[name] = max(amplified.get(name, 0.0), own)
        return ADAM_SLOPE * amplified.get(name, 0.0)

    def _leave_out(self, name: str, why: str) -> None:
        """Note that a weight's change is not compared."""
        source, names = self.source, self.source.left_out.setdefault(why, [])
        if name in names:
            return
        source.explained = [text for text in source.explained if not text.endswith(why)]
        names.append(name)
        source.explained.append(f"not compared: changes of {few(names)}, {why}")

    def _before(self, side: str, recording: RankRecording, chunk: Sequence[str]) -> Record:
        """Return the weights of a recording by the `side`'s program before the step: recorded in it, or after the step before."""
        if found := self.pair.fetch(side, recording.step(self.number), "start", chunk):
            return found
        if self.number - 1 not in recording.numbers:
            return {}
        return self.pair.fetch(side, recording.step(self.number - 1), "update", chunk)

    def _in_one_convention(
        self, name: str, after: Sequence[Mapping[str, Array]], before: Sequence[Mapping[str, Array]]
    ) -> list[Array] | None:
        """Return the biased batch variances that entered a running variance on both sides; None if the batch's size is not known."""
        path = self.pair.pairing.owners[name][0]
        found = []
        for i, side in enumerate(SIDES):
            unit = next(pair[i] for pair in self.pair.pairing.pairs if pair[0].path == path)
            calls = [call for call in self.runs[side].calls if call["path"] == unit.path and call["inputs"]]
            decay = unit.settings.get("momentum_of_the_old")
            if len(calls) != 1 or not isinstance(decay, float):
                return None
            x = self.runs[side].arrays[calls[0]["inputs"][0]]
            count = x.size // x.shape[1] if x.ndim > 1 else 0
            if count < 2:
                return None
            entered = (after[i][name].astype(np.float64) - decay * before[i][name]) / (1 - decay)
            unbiased = self.pair.sides[side].description.settings.get("running variance") == "unbiased"
            found.append(entered * ((count - 1) / count if unbiased else 1.0))
        return found

    def magnification(self, name: str) -> float:
        """Return the factor for a change that is small beside its weight: it has the weight's rounding."""
        if name not in self._rounded_changes:
            return 1.0
        calm = self.source.calm_tolerance("update", self.number)
        return 1.0 + self._rounded_changes[name] / calm

    def ties(self, tensor: Tensor) -> Array | None:
        """Return where rounding decided a maximum, in the gradient of the input of a max pool."""
        if self._compared is None:
            return None
        limit = (
            min(ONE_STEP["float32"], in_units_of(self.source.dtype, ROUNDING))
            if self.source.dtype != "float64"
            else ROUNDING
        )
        return find_ties(tensor.name, self._compared, lambda _: self.aligned, self.runs, limit)

    def crossed_share(self, tensor: Tensor) -> float:
        """Return the part of the gradient in elements that a ReLU passes on one side only, in the layers behind the tensor's.

        The zeros that a ReLU makes show it, in its output or in the input of the layer behind it. Where the gradient there was not
        recorded, it counts as evenly spread.
        """
        places = {call["path"]: number for number, call in reversed(list(enumerate(self.runs[SIDES[0]].calls)))}
        path = tensor.layers[0].partition("#")[0]
        calls = self._compared.calls if self._compared else None
        first = calls[0].number if calls else places.get(path, 0)
        behind = [(layer, count, share) for number, layer, count, share in self._crossings if number >= first]
        for layer, count, _ in behind:
            passes = "1 element passes" if count == 1 else f"{count} elements pass"
            sentence = f"step {self.number}: ReLU kinks at {layer}: rounding decides whether {passes}"
            if sentence not in self.source.explained:
                self.source.explained.append(sentence)
        return math.hypot(*(share for _, _, share in behind)) if behind else 0.0

    @cached_property
    def _crossings(self) -> list[tuple[int, str, int, float]]:
        """Where rounding decides what a ReLU passes: the number of the call, the place, the number of elements, their share."""
        found = []
        for a, b in self.aligned.pairs:
            for what in ("inputs", "outputs"):
                for one, two in zip(getattr(a, what), getattr(b, what), strict=False):
                    x, y = self.runs[SIDES[0]].arrays[one], self.runs[SIDES[1]].arrays[two]
                    if x.dtype.kind != "f" or x.shape != y.shape:
                        continue
                    crossed = (x == 0) != (y == 0)
                    apart = np.abs(x - y)
                    if not crossed.any() or apart[crossed].max() > TWIN * apart[~crossed].max(initial=0.0):
                        continue
                    gradient = self.gradients[SIDES[0]].get(f"backward/{one}") if what == "outputs" else None
                    count = int(crossed.sum())
                    share = math.sqrt(count / max(1, int((x != 0).sum())))
                    if gradient is not None and gradient.shape == x.shape:
                        share = norm(gradient[crossed]) / (norm(gradient) or 1.0)
                    found.append((a.number, f"the {what[:-1]} of {a.name}", count, share))
        return found

    def likely_cause(self, tensor: Tensor) -> Cause | None:
        """Return what was recorded that explains a difference."""
        phase, name = place_of(tensor.name)
        if phase == "start" and not self.is_first:
            return Cause("what happened in the steps that were not recorded differs", generic=True)
        if phase == "start":
            return Cause("the recordings start from other weights", generic=True)
        return self._of_an_input(name) if phase == "input" else self._of_computed(phase, name)

    def _of_computed(self, phase: str, name: str) -> Cause | None:
        said = self.source.optimizer_differences[self.number]
        if self.source.clips_alone.get(self.number) == BY_HAND:
            said = [text for text in said if CLIPPING not in text]
        if phase == "update" and self.number in self.source.states and not said:
            return Cause(f"state of the optimizer before step {self.number}: {self.source.states[self.number]}")
        if phase in ("update", "statistics") and said:
            concerning = [text for text in said if name in text] or said
            return Cause("; ".join(concerning))
        if phase == "loss" or (phase == "backward" and name.startswith("(output)")):
            return self._of_the_loss()
        if phase == "gradient" and (text := self._of_kept_gradients(name)):
            return Cause(self.pair.in_words(text))
        if self._compared is None:
            return None
        evidence = PairEvidence(self.pair.pairing, self._state, self.runs, dtype=self.source.dtype)
        found = causes.find_cause(evidence, phase, name, self._compared)
        return replace(found, sentence=self.pair.in_words(found.sentence)) if found and found.sentence else found

    def _of_kept_gradients(self, name: str) -> str | None:
        """Say if a side added its gradient to that of the step before, which it had not removed, or had only clipped."""
        before = self.number - 1
        if before not in self.pair.numbers or not self.pair.has_weights:
            return None
        now = self._fetch("gradient", [name])
        then = [self.pair.fetch(side, self.pair.record(side, before), "gradient", [name]) for side in SIDES]
        for kept, other in ((0, 1), (1, 0)):
            if not all(name in found for found in (*now, then[kept])):
                continue
            old, rest = then[kept][name].astype(np.float64), now[kept][name].astype(np.float64) - now[other][name]
            share = float(np.vdot(old, rest)) / (float(np.vdot(old, old)) or 1.0)
            made = now[other][name] + share * old
            tolerance = self.source.calm_tolerance("gradient", self.number)
            if 0 < share < 1 + tolerance and distance(now[kept][name], made) <= tolerance:
                times = "" if abs(share - 1) <= tolerance else f"{share:.3g} times "
                steps = f"that of step {self.number} plus {times}that of step {before}"
                return f"{NAMES[SIDES[kept]]}'s gradient is {steps}: it is not removed after a step"
        return None

    def _of_an_input(self, name: str) -> Cause:
        if name.startswith("mask of "):
            return Cause("the dropouts drew other numbers", generic=True)
        if any(name in record.named("kept") for record in self.records):
            return Cause("both programs kept other numbers under this name, such as other labels", generic=True)
        return Cause("the models got other inputs: other data, another order, or other preprocessing", generic=True)

    def _of_the_loss(self) -> Cause | None:
        """Return why the losses differ: what the gradients of the outputs show, or else by which factor."""
        gradients = {s: self.pair.output_gradients(s, record) for s, record in zip(SIDES, self.records, strict=True)}
        one = self.records[0]
        inputs = [f"input/{batch}" for batch in range(one.description.batches)]
        targets = [one[f"{prefix}/{place}"] for prefix in ("kept", *inputs) for place in one.named(prefix)]
        losses = {s: math.fsum(r.description.losses) for s, r in zip(SIDES, self.records, strict=True)}
        rounding = self.source.calm_tolerance("loss", self.number)
        evidence = LossEvidence(losses, self.runs[SIDES[0]].outputs, gradients, targets, rounding)
        found = find_loss_cause(evidence)
        text = found.sentence if found else self._factor_of_the_loss()
        return Cause(self.pair.in_words(text)) if text else None

    def _factor_of_the_loss(self) -> str | None:
        """Say by which factor the losses differ, although the models returned the same."""
        one, two = (np.array(record.description.losses, np.float64) for record in self.records)
        if one.size != two.size:
            return f"PyTorch runs {one.size} backward passes in this step, Paddle {two.size}"
        if not one.any() or not two.any():
            return None
        ratio = float(np.vdot(one, two) / np.vdot(one, one))
        if distance(two, one * ratio) > 1e-4 or not np.isfinite(ratio):
            return None
        sizes: dict[str, float] = {}
        for record in self.records:
            for what, prefix in (("label", "kept"), ("output", "output/0")):
                for place in record.named(prefix):
                    shape = record[f"{prefix}/{place}"].shape
                    sizes |= {"the batch size": shape[0]} if shape else {}
                    sizes |= {f"the number of values of the {what} {place}".rstrip(): float(np.prod(shape))}
        sizes["the number of forward passes"] = float(max(r.description.batches for r in self.records))
        for larger, smaller, factor in (("Paddle", "PyTorch", ratio), ("PyTorch", "Paddle", 1 / ratio)):
            for what, size in sizes.items():
                if size > 1 and abs(factor / size - 1) < 1e-4:
                    return f"the loss of {larger} is {size:g} times that of {smaller}, and {size:g} is {what}: one sums, the other averages"
        return f"the loss of Paddle is {ratio:.6g} times that of PyTorch, from the same outputs"


def clip_array(clip: Clip, size: float, array: Array) -> Array:
    """Return a gradient as a clip leaves it; `size` is the norm of all gradients."""
    assert clip.limit
    if clip.kind == "value":
        return np.clip(array, -clip.limit, clip.limit)
    whole = size if clip.kind == "global norm" else norm(array)
    return array * array.dtype.type(clip.limit / whole) if whole > clip.limit else array


def _as_record(gradients: Mapping[str, Array]) -> Record:
    return cast(Record, gradients)


def _rate(pair: RecordedPair, number: int) -> float:
    parameters = pair.optimizers(number)[0].parameters
    rates = [settings.get("rate") for settings in parameters.values()]
    return next((float(rate) for rate in rates if isinstance(rate, int | float)), 0.0)


def _likeliest(pair: RecordedPair) -> Optimizer:
    """Return the reference's optimizer as far as the rules for rounding need it."""
    found = pair.optimizers(pair.numbers[0])[0]
    settings: Mapping[str, Any] = next(iter(found.parameters.values()), {})
    if found.kind == "adam":
        beta1, beta2, eps = settings.get("beta1", 0.9), settings.get("beta2", 0.999), settings.get("eps", 1e-8)
        return Optimizer("adam", _rate(pair, pair.numbers[0]), beta1=beta1, beta2=beta2, eps=eps)
    momentum = settings.get("momentum", 0.0)
    usable = isinstance(momentum, int | float) and 0 <= momentum <= 1
    return Optimizer("momentum", _rate(pair, pair.numbers[0]), momentum=momentum if usable else 0.0)
