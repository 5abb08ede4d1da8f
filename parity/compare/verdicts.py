"""Verdicts of a comparison: every tensor of every step belongs to one stage; a stage is equal, chaotic but equal, or different."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parity.compare.causes import Cause
from parity.compare.relative_error import Difference, NothingCompared
from parity.compare.worst_elements import WorstElements

UNWATCHED = {"eval": "eval (unwatched)", "update": "update (unwatched)"}
"""Phase -> phase of the unwatched run: as training runs it, layers together on several threads. The watched run goes layer by layer."""

STAGES = {
    "eval": ("fresh", "start", "input", "eval", UNWATCHED["eval"]),
    "forward": ("fresh", "start", "input", "forward", "loss"),
    "backward": ("backward", "gradient"),
    "update": ("clipped", "state", "update", UNWATCHED["update"]),
    "trajectory": (),
    "onnx": ("onnx",),
}
"""Stage -> its phases of step 1. `eval` is inference before training, `onnx` inference after it.

Every later step belongs to the trajectory.
"""

TRAINING = tuple(stage for stage in STAGES if stage != "onnx")
"""The stages without `onnx`."""

INIT = "init"
"""The stage of fresh weights. Only models of a user have it, and it has no phases: no model runs (`parity.compare.fresh_weights`)."""

OF_OPTIMIZERS = ("clipped", "state")
"""The phases that only the optimizers of a user's training have."""

PHASES = tuple(dict.fromkeys(phase for stage in TRAINING for phase in STAGES[stage]))
"""The phases that a step records, in order.

`fresh` are the weights that a side builds from the seed, `start` is the state before step 1, `eval` is inference before the update.
`clipped` are the gradients as a user's optimizer uses them, and `state` is what it keeps for each parameter.
"""

MODEL = "(model)"
"""The row of a report for tensors that belong to no layer."""

EQUAL, CHAOTIC, DIFFERENT = "equal", "chaotic but equal", "different"
"""The verdicts. Chaotic: the sides diverge as fast as one side diverges from its own one-ULP twin, not faster."""


def stage_of(step: int, phase: str, asked: Collection[str]) -> str | None:
    """Return the stage, among those `asked` for, of a tensor recorded in `phase` of `step`; None if it is in no such stage."""
    if step > 1:
        return "trajectory" if "trajectory" in asked else None
    return next((stage for stage, phases in STAGES.items() if phase in phases and stage in asked), None)


def place_of(name: str) -> tuple[str, str]:
    """Return phase and tensor of PHASE/TENSOR for people: an update of a running mean or variance has the phase `statistics`."""
    phase, _, tensor = name.partition("/")
    is_statistic = phase == "update" and tensor.rpartition(".")[2] in ("mean", "variance")
    return ("statistics" if is_statistic else phase), tensor


@dataclass(frozen=True)
class Divergence:
    """The first divergence: the first tensor, in the order of computation, that exceeds its tolerance.

    Attributes:
        step: The training step, from 1.
        phase: What was computed, such as "forward", "gradient" or "update".
        layer: The layer of the reference. Empty for the model itself.
        candidate_layer: The layer of the candidate.
        tensor: The name of the tensor.
        error: Its relative L2 error.
        bound: Its tolerance.
        cause: The likely cause in one sentence, or None.
        wrong: The side that is wrong, or empty where that is not known.
        generic: Whether the cause only describes the difference, and names no mistake.
        worst: The shapes of the tensor, and the elements that differ most.
        calls: The function calls that differ, in one sentence, where the cause does not name them already; or None.
    """

    step: int
    phase: str
    layer: str
    candidate_layer: str
    tensor: str
    error: float
    bound: float
    cause: str | None = None
    wrong: str = ""
    generic: bool = False
    worst: WorstElements = field(default_factory=WorstElements)
    calls: str | None = None

    def where(self) -> str:
        """Return step, place, relative error and tolerance in one line."""
        other = f" (candidate: {self.candidate_layer})" if self.candidate_layer not in ("", self.layer) else ""
        layer = f", layer {self.layer}{other}" if self.layer else ""
        place = f"step {self.step}, {self.phase}{layer}, tensor {self.tensor}"
        return f"{place}: error {self.error:.2e}, tolerance {self.bound:.2e}"

    def sentence(self) -> str:
        """Return step, place, relative error, tolerance, likely cause and calls in one line."""
        return (
            self.where()
            + (f"; likely cause: {self.cause}" if self.cause else "")
            + (f"; {self.calls}" if self.calls else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the sentences as a dict; the shapes and elements of `worst` are fields."""
        fields = {name: value for name, value in vars(self).items() if name != "worst"}
        return fields | self.worst.to_json() | {"where": self.where(), "sentence": self.sentence()}


@dataclass
class Stage:
    """The tensors of one stage.

    Attributes:
        name: The name of the stage.
        compared: How many tensors were compared.
        different: How many exceed their tolerance.
        chaotic: Whether the distance of a one-ULP twin was needed as tolerance.
        worst: The tensor with the largest ratio of error to tolerance.
    """

    name: str
    compared: int = 0
    different: int = 0
    chaotic: bool = False
    worst: Difference | None = None

    def add(self, difference: Difference) -> None:
        """Count one tensor."""
        self.compared += 1
        self.different += not difference.equal
        if self.worst is None or difference.used > self.worst.used:
            self.worst = difference

    def excuse(self) -> None:
        """Count what was different as chaotic."""
        self.different, self.chaotic = 0, True

    def summary(self) -> dict[str, Any]:
        """Return the verdict, the counts and the worst tensor as a dict.

        Raises:
            NothingCompared: The stage saw no tensor.
        """
        if self.worst is None:
            raise NothingCompared(f"stage {self.name} compared nothing")
        return {
            "verdict": DIFFERENT if self.different else CHAOTIC if self.chaotic else EQUAL,
            "compared": self.compared,
            "different": self.different,
            "max_error": self.worst.error,
            "bound": self.worst.bound,
            "smallest_bound_that_passes": self.worst.error,
            "worst": self.worst.name,
        }


MUCH_LARGER = 1000
"""An error that exceeds the one of the first divergence by this factor has probably another cause."""

LARGER = 10
"""Errors that differ by less than this factor are of one size: later ones are probably inherited from the first one."""

Worst = dict[str, dict[str, Difference]]
"""Layer -> phase -> the tensor that used most of its tolerance, or exceeded it most. All later steps are the phase `trajectory`."""


def keep_worst(layers: Worst, layer: str, phase: str, difference: Difference) -> None:
    """Keep one tensor of `layer` if it is the worst of `phase`."""
    worst = layers.setdefault(layer, {})
    if phase not in worst or difference.used > worst[phase].used:
        worst[phase] = difference


def layer_rows(layers: Worst, partners: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return, for the report, the errors and tolerances of each layer by phase. `partners`: layer -> layer of the candidate."""
    return [
        {
            "layer": layer,
            "candidate_layer": partners[layer],
            "errors": {phase: difference.error for phase, difference in worst.items()},
            "bounds": {phase: difference.bound for phase, difference in worst.items()},
        }
        for layer, worst in layers.items()
    ]


def search_cause(cause: Callable[[], Cause | None]) -> Cause:
    """Return what `cause` finds. If the search fails, the difference still counts."""
    try:
        return cause() or Cause(None)
    except Exception as error:
        return Cause(f"unknown: the search for the cause failed ({type(error).__name__}: {error})", generic=True)


@dataclass
class Verdicts:
    """The stages of one comparison, the first divergence, and the worst tensor by layer and phase.

    `largest` is a later tensor whose error is much larger than that of the first divergence. Among errors of one size, it is the first.
    `partners`: layer -> the candidate's.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    first: Divergence | None = None
    largest: Divergence | None = None
    layers: Worst = field(default_factory=dict)
    partners: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        stage: str,
        step: int,
        difference: Difference,
        layers: tuple[str, str],
        cause: Callable[[], Cause | None] = lambda: None,
        chaotic: bool = False,
        worst: Callable[[], WorstElements] = WorstElements,
    ) -> None:
        """Count one tensor of `layers` in `stage`; the first mismatch gets a `cause` and its `worst` elements.

        `chaotic`: it is equal only by the twin's error.
        """
        counted = self.stages.setdefault(stage, Stage(stage))
        counted.add(difference)
        counted.chaotic |= chaotic
        if not difference.equal:
            phase, tensor = place_of(difference.name)
            place = Divergence(step, phase, *layers, tensor, difference.error, difference.bound)
            if self.first is None:
                found = search_cause(cause)
                self.first = replace(
                    place, cause=found.sentence, wrong=found.wrong, generic=found.generic, worst=worst()
                )
            elif math.isfinite(place.error) and place.error > self._much_larger():
                self.largest = place
        phase = difference.name.partition("/")[0] if step == 1 else "trajectory"
        keep_worst(self.layers, layers[0] or MODEL, phase, difference)
        self.partners.setdefault(layers[0] or MODEL, layers[1] or MODEL)

    def _much_larger(self) -> float:
        """Return the error above which a tensor becomes `largest`."""
        assert self.first
        return LARGER * self.largest.error if self.largest else MUCH_LARGER * self.first.error
