"""From recorded steps to verdicts: every tensor of every step belongs to one stage, and a stage is equal or different."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.compare.lockstep import Step, in_order, layer_of
from parity.compare.pool_ties import find_pool_ties
from parity.compare.relative_error import (
    Difference,
    NothingCompared,
    compare,
    norm,
    norm_of_difference,
    relative_l2,
    split_zero_gradients,
)
from parity.compare.tolerances import ZERO_GRADIENT_BOUND
from parity.network.network import Network

STAGES = {
    "forward": ("start", "input", "eval", "forward", "loss"),
    "backward": ("backward", "gradient"),
    "update": ("update",),
    "trajectory": (),
    "onnx": ("onnx",),
}
"""Stage -> the phases of step 1 that it holds. Every later step belongs to the trajectory; `onnx` is inference after training."""

TRAINING = ("forward", "backward", "update", "trajectory")
"""The stages of training, without `onnx`."""

EQUAL, CHAOTIC, DIFFERENT = "equal", "chaotic but equal", "different"
"""The verdicts. Chaotic: the sides part as fast as one side parts from its own one-ULP twin, not faster."""


def stage_of(step: int, phase: str) -> str:
    """The stage of a tensor recorded in `phase` of `step`."""
    return "trajectory" if step > 1 else next(stage for stage, phases in STAGES.items() if phase in phases)


@dataclass(frozen=True)
class Divergence:
    """Where two sides part first: in which step and phase, at which layer, in which tensor, by how much, and why if that is known."""

    step: int
    phase: str
    layer: str
    tensor: str
    error: float
    bound: float
    cause: str | None = None

    @staticmethod
    def of(step: int, difference: Difference, cause: str | None = None) -> Divergence:
        """The divergence at one tensor of one step."""
        phase, _, tensor = difference.name.partition("/")
        if phase == "update" and tensor.endswith((".mean", ".variance")):
            phase = "statistics"
        return Divergence(step, phase, layer_of(tensor), tensor, difference.error, difference.bound, cause)

    def sentence(self) -> str:
        """For people."""
        where = f"step {self.step}, {self.phase}, layer {self.layer}, tensor {self.tensor}"
        likely = f"; likely cause: {self.cause}" if self.cause else ""
        return f"{where}: error {self.error:.2e}, bound {self.bound:.2e}{likely}"


@dataclass
class Stage:
    """What was compared in one stage; `worst` is the tensor that came nearest to its bound, or went farthest past it."""

    name: str
    compared: int = 0
    different: int = 0
    chaotic: bool = False
    worst: Difference | None = None

    def add(self, difference: Difference) -> None:
        """Counts one tensor."""
        self.compared += 1
        self.different += not difference.equal
        if self.worst is None or difference.used > self.worst.used:
            self.worst = difference

    def excuse(self) -> None:
        """Takes what was different for chaos."""
        self.different, self.chaotic = 0, True

    def summary(self) -> dict[str, Any]:
        """For the report; `NothingCompared` if the stage saw no tensor."""
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


Worst = dict[str, dict[str, Difference]]
"""Layer -> phase -> the tensor that came nearest to its bound, or went farthest past it."""


def keep_worst(layers: Worst, layer: str, difference: Difference) -> None:
    """Notes one tensor of `layer`."""
    worst, phase = layers.setdefault(layer, {}), difference.name.partition("/")[0]
    if phase not in worst or difference.used > worst[phase].used:
        worst[phase] = difference


def layer_rows(layers: Worst) -> list[dict[str, Any]]:
    """For the report: a layer's errors and bounds by phase."""
    return [
        {
            "layer": layer,
            "errors": {phase: difference.error for phase, difference in worst.items()},
            "bounds": {phase: difference.bound for phase, difference in worst.items()},
        }
        for layer, worst in layers.items()
    ]


@dataclass
class Verdicts:
    """The stages of one comparison, the first divergence, and the largest error of every layer and phase at step 1.

    `explained` are sentences on what was left out of a tensor.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    first: Divergence | None = None
    layers: Worst = field(default_factory=dict)
    explained: list[str] = field(default_factory=list)

    def add(
        self,
        step: int,
        difference: Difference,
        cause: Callable[[Difference], str | None] | None = None,
        chaotic: bool = False,
    ) -> None:
        """Counts one tensor; the first that is not equal gets a `cause`. `chaotic`: only the twin's distance excuses it."""
        phase, _, tensor = difference.name.partition("/")
        name = stage_of(step, phase)
        stage = self.stages.setdefault(name, Stage(name))
        stage.add(difference)
        stage.chaotic |= chaotic
        if difference.chosen:
            which = "a number is" if difference.chosen == 1 else f"{difference.chosen} numbers are"
            self.explained.append(
                f"in step {step} rounding decided at {tensor} whether {which} the largest in front of a pool"
            )
        if self.first is None and not difference.equal:
            self.first = Divergence.of(step, difference, cause(difference) if cause else None)
        if step == 1:
            keep_worst(self.layers, layer_of(tensor), difference)


def differences(
    network: Network, names: Sequence[str], step: Step, bound: Callable[[str], float]
) -> Iterator[Difference]:
    """Every tensor of one step on two sides, in the order of computation; a tensor that one side lacks differs by infinity.

    Where rounding chose another largest element of a pool's window on either side, the gradient in front of the pool is compared without
    these elements; all tensors behind it, in the order of computation, are compared whole.
    """
    (first, sizes), (second, other_sizes) = (split_zero_gradients(network, step.records[name]) for name in names)
    common = [name for name in first if name in second and first[name].shape == second[name].shape]
    found = {d.name: d for d in compare({n: first[n] for n in common}, {n: second[n] for n in common}, bound)}
    for name, size in (sizes | other_sizes).items():
        found[name] = Difference(name, max(size, sizes.get(name, size)), ZERO_GRADIENT_BOUND)
    for name in in_order(network, list({**first, **second, **found})):
        difference = found.get(name) or Difference(name, float("inf"), bound(name))
        yield difference if difference.equal else _without_chosen(network, difference, first, second)


def _without_chosen(
    network: Network, difference: Difference, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> Difference:
    """`difference` without the elements that a pool takes for its largest on one side only, if it is of a gradient in front of a pool.

    As it is where the rest is zero on both sides: then nothing would be left to compare.
    """
    phase, _, layer = difference.name.partition("/")
    if phase != "backward" or layer not in network.layers or not math.isfinite(difference.error):
        return difference
    chosen = find_pool_ties(network, layer, first, second)
    if chosen is None or chosen.shape != first[difference.name].shape:
        return difference
    a, b = (np.where(chosen, 0.0, record[difference.name]) for record in (first, second))
    if not a.any() and not b.any():
        return difference
    return replace(difference, error=relative_l2(a, b), chosen=int(chosen.sum()))


def weight_distance(
    trainable: list[str], reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> float:
    """Relative L2 distance of all trainable parameters after an update, taken as one vector; infinity where `other` lacks one."""
    pairs = [(reference[f"update/{name}"], other.get(f"update/{name}")) for name in trainable]
    if any(b is None or a.shape != b.shape for a, b in pairs):
        return math.inf
    return math.hypot(*(norm_of_difference(a, b) for a, b in pairs if b is not None)) / math.hypot(
        *(norm(a) for a, _ in pairs)
    )
