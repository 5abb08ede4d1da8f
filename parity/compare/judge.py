"""Compare every tensor of the steps of a source with its tolerance from `parity.compare.tolerances`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.cancellation import Inherited
from parity.compare.causes import Cause, failure_cause
from parity.compare.outcome import Outcome
from parity.compare.program import parameter_of
from parity.compare.relative_error import Difference, distance, norm, norm_of_difference, relative_l2
from parity.compare.source import Source, Step, Tensor
from parity.compare.tolerances import (
    CALM,
    LARGEST,
    ONE_STEP_NOISE,
    ZERO_GRADIENT,
    adam_amplification,
    calm_tolerance,
    chaotic_tolerance,
    farther_than_twin,
    in_units_of,
    kink_tolerance,
    noise_of_tensor,
    tensor_tolerance,
    weights_tolerance,
)
from parity.compare.verdicts import UNWATCHED, search_cause, stage_of
from parity.compare.worst_elements import WorstElements, worst_elements
from parity.short_repr import few

HARMLESS = "inner tensors differ, and no output, gradient or update does"
"""The sentence on inner tensors that differ and do not decide the verdict."""


@dataclass
class Distances:
    """Distances, as norms, of all trained weights of the candidate, of each twin and of the start from those of the reference."""

    size: float = 0.0
    error: float = 0.0
    moved: float = 0.0
    twins: dict[int, float] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        """Add one weight."""
        reference, candidate = tensor.reference, tensor.candidate
        if reference is None or candidate is None or candidate.shape != reference.shape:
            self.error = math.inf
            return
        assert tensor.start is not None
        self.size = math.hypot(self.size, norm(reference))
        self.error = math.hypot(self.error, norm_of_difference(reference, candidate))
        self.moved = math.hypot(self.moved, norm_of_difference(reference, tensor.start))
        for number, twin in enumerate(tensor.twins):
            self.twins[number] = math.hypot(self.twins.get(number, 0.0), norm_of_difference(reference, twin))

    def relative(self, distance: float) -> float:
        """Return `distance` relative to the reference's weights."""
        return distance / (self.size or 1.0)


@dataclass(frozen=True)
class Held:
    """An inner tensor that differs, until a tensor that decides shows whether that matters; `fitted` is its difference in one shape."""

    stage: str
    step: int
    difference: Difference
    tensor: Tensor
    cause: Cause | None
    fitted: Difference | None
    worst: WorstElements

    @property
    def place(self) -> str:
        """The tensor for people, with both shapes or its error."""
        name, (a, b) = self.tensor.name.partition("/")[2], (self.tensor.reference, self.tensor.candidate)
        if a is None or b is None:
            return f"{name} (on one side only)"
        if a.shape == b.shape:
            return f"{name} (error {self.difference.error:.1e})"
        return _shapes_of(name, (a.shape, b.shape))


class Judge:
    """Judges the steps of one source, adds to `outcome`, and keeps scalars only.

    `whole` is the twin that must record every tensor from the next step on: one that was asked for, or the one whose weights are farthest
    from the reference's. None until a twin has diverged chaotically.
    """

    def __init__(self, source: Source, outcome: Outcome, whole: str | None = None) -> None:
        self.source, self.outcome = source, outcome
        self.whole = whole
        self._repeated = whole is not None
        self.diverged: list[tuple[Difference, float | None]] = []
        """The differences of the last step; with each, how far a trained weight had moved from its start (None for other tensors)."""
        self.excused = False
        """Whether a tensor is equal only because of the rule for max-pool ties: from here on, the sides' weights differ."""
        self._ties: dict[str, float] = {}
        """By layer, the part of its gradient that max-pool ties send to other elements in this step."""
        self._inherited = Inherited(source.optimizer)
        self._cancelled: set[str] = set()
        """The parameters whose gradients had cancelling terms in a step so far."""
        self._amplified: dict[str, float] = {}
        self._carried, self._moved = 0.0, 0.0
        self._noise: dict[str, float] = {}
        self._noise_before: dict[str, float] = {}
        self._phase_noise: Mapping[str, float] = {}
        self._farther = 1.0
        self._held: list[Held] = []
        self._reshaped: list[str] = []
        self._reached: dict[str, bool] = {}
        """Layer -> whether a gradient of one of its outputs in the first step is not exactly zero."""
        self._calm_bounds: dict[str, float] = {}
        """The tolerances of inference and update in the first step, by name; without twins unless one records every tensor."""

    def step(self, step: Step) -> None:
        """Judge one step: every tensor in float64; in other dtypes, all weights together."""
        row = self.outcome.trajectory[-1] if self.outcome.trajectory else {"error": None, "twin": None}
        self._farther = farther_than_twin(row["error"], row["twin"])
        self.diverged, self._noise_before, self._noise, self._ties = [], self._noise, {}, {}
        self._phase_noise = step.phase_noise(self._cancelled)
        distances = Distances()
        amplification = 0.0
        for tensor in step.tensors():
            if self.source.by_tensor:
                self._tensor(step, tensor)
            if tensor.start is not None:
                distances.add(tensor)
                amplification = math.hypot(amplification, self._amplified.get(tensor.name, 0.0))
            del tensor  # its arrays may be views of a whole run, and the next tensor may need another run
        self._drop_held()
        self.outcome.unreached = [layer for layer, reached in self._reached.items() if not reached]
        if step.failed and not self.outcome.first:  # a side raised an error after everything that was compared
            stage = stage_of(step.number, "update", self.outcome.asked) or self.outcome.asked[0]
            failure = Difference("update/step", math.inf, 0.0)
            cause = partial(failure_cause, step.failed, self.source.sides)
            self.outcome.verdicts.add(stage, step.number, failure, ("", ""), cause)
        if self.source.trains:
            self._carried = max(self._carried, distances.relative(amplification))
            self._weights(step, distances)

    def _tensor(self, step: Step, tensor: Tensor) -> None:
        """Judge one tensor, and keep what its rounding means for later tensors."""
        if tensor.side:
            self._on_one_side(step, tensor)
            return
        if step.number == 1 and tensor.phase == "backward" and tensor.layers[0] and ":output" in tensor.name:
            gradients = [x for x in (tensor.reference, tensor.candidate) if x is not None]
            known = self._reached.get(tensor.layers[0], False)
            self._reached[tensor.layers[0]] = known or any(bool(x.any()) for x in gradients)
        calm, twin = self._calm(step, tensor, step.magnification(tensor.name)), self._error_of_twin(step, tensor)
        noise = self._farther * self._noise_of(step, tensor, twin)
        stage = stage_of(step.number, tensor.phase, self.outcome.asked)
        if stage is None:
            return
        error = distance(tensor.reference, tensor.candidate) if tensor.zero is None else tensor.zero
        # In chaos a tensor beyond its calm tolerance is nothing unusual.
        if error > (chaotic_tolerance(calm, noise) if self.whole else calm):
            calm = max(calm, self._cancelled_tolerance(step, tensor, error))
        difference = self._without_ties(step, tensor, Difference(tensor.name, error, chaotic_tolerance(calm, noise)))
        difference = self._behind_ties(step, tensor, difference)
        if step.number == 1 and self.whole and error <= calm:
            self._farther = max(self._farther, farther_than_twin(error, twin))
        if step.number == 1 and tensor.phase in UNWATCHED:
            self._calm_bounds[tensor.name] = chaotic_tolerance(calm, noise) if self.whole else calm
        chaotic = step.number > 1 and calm < difference.error <= difference.bound
        if tensor.inner and not difference.equal and not self.source.incomplete:
            self._hold(step, stage, tensor, difference)
            return
        if not difference.equal:
            self._count_held(stage)
        elif tensor.shapes:
            self._reshaped.append(_shapes_of(tensor.name.partition("/")[2], tensor.shapes))
        else:
            self._settle(stage, tensor)
        cause, worst = partial(step.likely_cause, tensor), partial(worst_elements, tensor.reference, tensor.candidate)
        self.outcome.verdicts.add(stage, step.number, difference, tensor.layers, cause, chaotic, worst)
        if not difference.equal:
            trained = tensor.start is not None and tensor.reference is not None
            self.diverged.append((difference, distance(tensor.reference, tensor.start) if trained else None))

    def _hold(self, step: Step, stage: str, tensor: Tensor, difference: Difference) -> None:
        """Keep an inner tensor that differs. Its cause is searched now, since later the step has other tensors."""
        first = not self.outcome.first and all(h.fitted and h.fitted.equal for h in self._held if h.stage == stage)
        fitted = replace(difference, error=distance(*tensor.fitted)) if tensor.fitted else None
        cause = search_cause(lambda: step.likely_cause(tensor)) if first else None
        worst = worst_elements(tensor.reference, tensor.candidate) if first else WorstElements()
        kept = replace(tensor, reference=_shape_of(tensor.reference), candidate=_shape_of(tensor.candidate))
        kept = replace(kept, twins=(), fitted=None, start=None)
        self._held.append(Held(stage, step.number, difference, kept, cause, fitted, worst))

    def _settle(self, stage: str, tensor: Tensor) -> None:
        """Count the inner tensors of two shapes that are equal in one shape, and that a later, equal tensor of one shape follows."""
        a, b = tensor.reference, tensor.candidate
        if self._held and a is not None and b is not None and a.shape == b.shape and a.size > 1:
            self._count_fitted(stage)

    def _count_fitted(self, stage: str) -> None:
        for held in [held for held in self._held if held.stage == stage and held.fitted and held.fitted.equal]:
            assert held.fitted
            self._held.remove(held)
            self._reshaped.append(held.place)
            self.outcome.verdicts.add(stage, held.step, held.fitted, held.tensor.layers)

    def _count_held(self, stage: str) -> None:
        """Count the inner tensors that differ before a tensor that decides and differs."""
        differ = [held for held in self._held if held.stage == stage]
        calls = [held.tensor.layers for held in differ if not held.fitted]
        for held in differ:
            if held.fitted and held.fitted.equal and held.tensor.layers in calls:
                continue  # the layer's own output shows the difference
            self._held.remove(held)
            known, worst = partial(_known, held), partial(_known_worst, held)
            difference = held.fitted if held.fitted and not held.fitted.equal else held.difference
            self.outcome.verdicts.add(held.stage, held.step, difference, held.tensor.layers, known, worst=worst)
            self.diverged.append((difference, None))

    def _drop_held(self) -> None:
        """At the end of a step, name the inner tensors that differ although everything that decides is equal."""
        for stage in {held.stage for held in self._held}:
            self._count_fitted(stage)
        for words, places in (
            ("tensors of two shapes, compared in one shape", self._reshaped),
            (HARMLESS, [held.place for held in self._held]),
        ):
            text = list_places(words, places)
            if places and text not in self.outcome.explained:
                self.outcome.explained.append(text)
        self.outcome.hidden += [held.tensor.layers[0] for held in self._held]
        self._held.clear()
        self._reshaped.clear()

    def _on_one_side(self, step: Step, tensor: Tensor) -> None:
        """Judge a tensor of the unwatched run, or a loaded one, of one side.

        The unwatched run may differ from the watched one as the sides may differ from each other.
        """
        watched = next((watched for watched, phase in UNWATCHED.items() if phase == tensor.phase), "")
        bound = 0.0 if tensor.copied else self._calm_bounds.get(f"{watched}/{tensor.name.partition('/')[2]}")
        stage = stage_of(step.number, tensor.phase, self.outcome.asked)
        if stage is None or bound is None:
            return
        difference = Difference(tensor.name, distance(tensor.reference, tensor.candidate), bound)
        if watched == "update" and not difference.equal:
            # A gradient whose terms cancel is rounding, and its update too: nobody recorded the gradient itself here.
            gradient = f"gradient/{parameter_of(tensor.name.partition('/')[2])}"
            if math.isfinite(difference.error) and step.cancellation(gradient) > 1:
                return
        cause, worst = partial(step.likely_cause, tensor), partial(worst_elements, tensor.reference, tensor.candidate)
        self.outcome.verdicts.add(stage, step.number, difference, tensor.layers, cause, worst=worst)
        if not difference.equal:
            self.diverged.append((difference, None))

    def _calm(self, step: Step, tensor: Tensor, magnification: float) -> float:
        """Return the tolerance without chaos."""
        if tensor.copied or tensor.zero is not None:
            return 0.0 if tensor.copied else ZERO_GRADIENT[self.source.dtype]
        self._observe_gradient(step, tensor, magnification > 1)
        amplified = inherited = 0.0
        if tensor.phase == "update" and tensor.reference is not None:
            parameter = tensor.name.removeprefix("update/")
            if parameter in self._cancelled:
                self._inherited.move(parameter, step.update_difference(parameter))
            size = norm(tensor.reference) or 1.0
            amplified = self._amplified.get(tensor.name, 0.0) / size if step.number == 1 else 0.0
            inherited = self._inherited.held(tensor.name) / size
        one = self.source.calm_tolerance(tensor.phase, step.number) * (
            2 if ".moment2." in tensor.name else 1
        )  # of squares of gradients
        return tensor_tolerance(one, magnification, amplified, inherited)

    def _observe_gradient(self, step: Step, tensor: Tensor, magnified: bool) -> None:
        """Keep what the rounding of a gradient means for the update of its parameter."""
        a, b = tensor.reference, tensor.candidate
        if tensor.phase != "gradient":
            return
        parameter = tensor.name.removeprefix("gradient/")
        self._inherited.forget(parameter, step.factor)
        if a is None or b is None or a.shape != b.shape:
            return
        if magnified or parameter in self._cancelled:
            self._inherited.add(parameter, a, b)
        if self.source.optimizer.kind == "adam" and step.number == 1:
            self._amplified[f"update/{parameter}"] = adam_amplification(self.source.optimizer, step.rate, a, b)

    def _cancelled_tolerance(self, step: Step, tensor: Tensor, error: float) -> float:
        """Return the tolerance of a tensor whose terms cancel, 0 if they do not. Called only for a tensor above its usual tolerance."""
        cancellation = step.cancellation(tensor.name) if math.isfinite(error) and not tensor.copied else 1.0
        if cancellation <= 1:
            return 0.0
        if tensor.zero is not None:
            return ZERO_GRADIENT[self.source.dtype] * cancellation
        magnification = step.magnification(tensor.name)
        parameter = tensor.name.removeprefix("gradient/")
        if tensor.phase == "gradient" and parameter not in self._cancelled:
            self._cancelled.add(parameter)
            if magnification <= 1 and tensor.reference is not None and tensor.candidate is not None:
                self._inherited.add(parameter, tensor.reference, tensor.candidate)
        return tensor_tolerance(
            self.source.calm_tolerance(tensor.phase, step.number),
            min(LARGEST, magnification * cancellation),
            0.0,
            0.0,
        )

    def _error_of_twin(self, step: Step, tensor: Tensor) -> float:
        """Return the error of the farthest twin in a tensor."""
        a = tensor.reference
        if tensor.zero is not None or tensor.copied or a is None:
            return 0.0
        errors = [relative_l2(a, twin) for twin in tensor.twins if twin.shape == a.shape]
        farthest = max((error for error in errors if math.isfinite(error)), default=0.0)
        return min(farthest, in_units_of(self.source.dtype, ONE_STEP_NOISE)) if step.number == 1 else farthest

    def _noise_of(self, step: Step, tensor: Tensor, own: float) -> float:
        """Return the rounding error of a tensor by the twins, of which `own` is that in the tensor itself.

        A tensor whose terms cancel says nothing about others.
        """
        if tensor.zero is not None or tensor.copied:
            return 0.0
        so_far = self._noise.get(tensor.phase, 0.0)
        if parameter_of(tensor.name.partition("/")[2]) not in self._cancelled:
            self._noise[tensor.phase] = max(so_far, own)
        before = max(self._noise_before.get(tensor.phase, 0.0), self._phase_noise.get(tensor.phase, 0.0))
        return noise_of_tensor(own, so_far, before, step.number, self.source.dtype)

    def _without_ties(self, step: Step, tensor: Tensor, difference: Difference) -> Difference:
        """Return `difference` without the max-pool ties of a gradient.

        It is unchanged if the other elements are zero on both sides: then nothing would be left to compare.
        """
        a, b = tensor.reference, tensor.candidate
        if difference.equal or not math.isfinite(difference.error) or a is None or b is None:
            return difference
        ties = None if self.outcome.first else step.ties(tensor)  # if the sides differ already, it was not rounding
        if ties is None or ties.shape != a.shape:
            return difference
        a, b = (np.where(ties, 0.0, array) for array in (a, b))
        if not a.any() and not b.any():
            return difference
        count = int(ties.sum())
        which = (
            "1 element is the maximum of its window" if count == 1 else f"{count} elements are maxima of their windows"
        )
        place = tensor.layers[0] or tensor.name.partition("/")[2]
        self.outcome.explained.append(f"step {step.number}: max-pool ties in {place}: rounding decides whether {which}")
        rest = replace(difference, error=relative_l2(a, b))
        if rest.equal and tensor.reference is not None and tensor.candidate is not None:
            size = norm(tensor.reference) or 1.0
            self._ties[tensor.layers[0]] = norm_of_difference(tensor.reference, tensor.candidate) / size
        return rest

    def _behind_ties(self, step: Step, tensor: Tensor, difference: Difference) -> Difference:
        """Return `difference` with the tolerance of a tensor whose gradient comes through max-pool ties or kinks."""
        if difference.equal or self.outcome.first or tensor.zero is not None or tensor.copied:
            return difference
        if tensor.phase not in ("backward", "gradient", "update"):
            return difference
        shares = [share for layer, share in self._ties.items() if step.comes_through(tensor.layers[0], layer)]
        shares += [share] if (share := step.crossed_share(tensor)) else []
        if not shares:
            return difference
        trained = tensor.start is not None and tensor.reference is not None
        moved = distance(tensor.reference, tensor.start) if trained else 1.0
        allowed = replace(difference, bound=kink_tolerance(difference.bound, math.hypot(*shares), moved))
        self.excused |= allowed.equal
        return allowed

    def _weights(self, step: Step, distances: Distances) -> None:
        """Add the row of a step to the trajectory, and judge all weights together if there is a twin."""
        observed = distances.size > 0 or math.isinf(distances.error)
        row: dict[str, Any] = {"step": step.number, "rate": step.rate, "error": None, "twin": None, "moved": None}
        row |= {"bound": calm_tolerance(self.source.dtype, step.number), "loss": dict(step.losses)}
        self.outcome.trajectory.append(row)
        if not observed:
            return
        twin = distances.relative(max(distances.twins.values())) if distances.twins else None
        twin = min(twin, ONE_STEP_NOISE) if twin and step.number == 1 and self.source.dtype == "float64" else twin
        error, moved = distances.relative(distances.error), distances.relative(distances.moved)
        kept = math.hypot(*(self._inherited.held(f"update/{parameter}") for parameter in self._cancelled))
        kept = self._carried + distances.relative(kept)
        self._moved = max(self._moved, moved)
        # A network that multiplies rounding also multiplies what another order of addition adds to it.
        noise = twin * self._farther if twin and twin > CALM and self._repeated else twin
        bound = weights_tolerance(self.source.dtype, step.number, noise, kept, self._moved)
        row |= {"error": error, "twin": twin, "moved": moved, "bound": bound}
        stage = stage_of(step.number, "update", self.outcome.asked)
        if twin is None or stage is None:
            return
        if error > bound and self._ties:
            bound = kink_tolerance(bound, math.hypot(*self._ties.values()), self._moved)
        difference = Difference("update/weights", error, bound)
        chaotic = error > calm_tolerance(self.source.dtype, step.number)
        self.outcome.verdicts.add(stage, step.number, difference, ("", ""), self._cause_of_weights, chaotic)
        if not difference.equal:
            self.diverged.append((difference, moved))
        if twin > CALM and self.source.dtype == "float64":
            number = max(distances.twins, key=lambda number: distances.twins[number])
            self.whole = self.source.twins[number]

    def _cause_of_weights(self) -> Cause | None:
        if self.source.dtype == "float64":
            return None
        return Cause("the sides diverge faster than one of them diverges from its one-ULP twin", generic=True)


def list_places(words: str, places: Iterable[str]) -> str:
    """Return a sentence that names the first places."""
    return f"{words}: {few(list(dict.fromkeys(places)))}"


def _shapes_of(name: str, shapes: tuple[Sequence[int], Sequence[int]]) -> str:
    if shapes[0] == shapes[1]:
        return f"{name} ({list(shapes[0])}, axes in two orders)"
    return f"{name} ({list(shapes[0])} and {list(shapes[1])})"


def _known(held: Held) -> Cause | None:
    return held.cause


def _known_worst(held: Held) -> WorstElements:
    return held.worst


def _shape_of(array: Array | None) -> Array | None:
    """Return an array of the same shape that takes no memory."""
    return None if array is None else np.broadcast_to(np.float64(0), array.shape)
