"""From recorded steps to verdicts: every tensor of every step goes to one stage, and a stage is equal or different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.compare import ZERO_GRADIENT_BOUND, Difference, NothingCompared, compare, split_zero_gradients
from parity.lockstep import Plan, Step, in_order
from parity.recipe import Optimizer

STAGES = {
    "forward": ("eval", "forward", "loss"),
    "backward": ("backward", "gradient"),
    "update": ("update",),
}
"""Stage of the first step -> the phases it holds. Every later step belongs to the stage `trajectory`."""

ONE_STEP = 1e-12
"""Bound in float64 on one step (relative L2); step n may stand at n times it, which is 1e-10 at step 100."""


@dataclass(frozen=True)
class Divergence:
    """Where two sides part first: in which step and phase, at which layer, in which tensor."""

    step: int
    phase: str
    layer: str
    tensor: str
    error: float
    bound: float

    @staticmethod
    def of(step: int, difference: Difference) -> Divergence:
        """The divergence at one tensor of one step."""
        phase, _, rest = difference.name.partition("/")
        tensor = rest.split(".", 2)[2] if rest.startswith("optimizer.") else rest
        if phase == "update" and rest.endswith((".mean", ".variance")):
            phase = "statistics"
        return Divergence(step, phase, tensor.split(".")[0], rest, difference.error, difference.bound)

    def sentence(self) -> str:
        """For people."""
        return (
            f"step {self.step}, {self.phase}, layer {self.layer}, tensor {self.tensor}: "
            f"error {self.error:.2e}, bound {self.bound:.2e}"
        )


@dataclass
class Stage:
    """What was compared in one stage. `smallest_bound` is what the bound would have had to be, relative to what it was."""

    name: str
    compared: int = 0
    worst: Difference | None = None
    smallest_bound: float = 0.0
    different: int = 0

    def add(self, difference: Difference) -> None:
        """Counts one tensor."""
        self.compared += 1
        self.different += not difference.equal
        used = difference.error / difference.bound if difference.bound else float(difference.error > 0)
        if self.worst is None or not used <= self.smallest_bound:
            self.worst, self.smallest_bound = difference, used

    def summary(self) -> dict[str, Any]:
        """For the report; `NothingCompared` if the stage saw no tensor."""
        if self.worst is None:
            raise NothingCompared(f"stage {self.name} compared nothing")
        return {
            "verdict": "different" if self.different else "equal",
            "compared": self.compared,
            "different": self.different,
            "max_error": self.worst.error,
            "bound": self.worst.bound,
            "smallest_bound_that_passes": self.worst.error,
            "worst": self.worst.name,
        }


@dataclass
class Verdicts:
    """The stages of one comparison, the first divergence, and the errors of every step."""

    plan: Plan
    stages: dict[str, Stage] = field(default_factory=dict)
    first: Divergence | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    layers: dict[str, float] = field(default_factory=dict)

    def add(self, step: Step, reference: str, other: str) -> None:
        """Compares one step's records of two sides, in the order of computation."""
        network = self.plan.experiment.network
        pairs: list[Mapping[str, np.ndarray]] = []
        for side in (reference, other):
            record, sizes = split_zero_gradients(network, step.records[side])
            pairs.append(record)
            for name, size in sizes.items():
                self._count(step, Difference(f"{name} on {side}", size, ZERO_GRADIENT_BOUND))
        first, second = pairs
        settings = self.plan.experiment.recipe.optimizer

        def bound(name: str) -> float:
            return ONE_STEP * step.number + adam_amplification(settings, step, first, second, name)

        found = {difference.name: difference for difference in compare(first, second, bound)}
        for name in in_order(network, list(found)):
            self._count(step, found[name])
        worst = {phase: max((d.error for n, d in found.items() if n.startswith(phase + "/")), default=0.0) for phase in self.plan.phases}
        self.history.append({"step": float(step.number)} | worst)
        if step.number == 1:
            self.layers = {name: difference.error for name, difference in found.items()}

    def _count(self, step: Step, difference: Difference) -> None:
        phase = difference.name.partition("/")[0]
        name = next(s for s, phases in STAGES.items() if phase in phases) if step.number == 1 else "trajectory"
        self.stages.setdefault(name, Stage(name)).add(difference)
        if self.first is None and not difference.equal:
            self.first = Divergence.of(step.number, difference)


def adam_amplification(
    settings: Optimizer, step: Step, reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], name: str
) -> float:
    """What Adam's first step may make of the gradients' own rounding, relative to the updated parameter `update/NAME`.

    The step is rate * g / (|g| + eps), of slope rate * eps / (|g| + eps)^2: a gradient within 1e-8 of zero has its rounding
    multiplied by up to rate / eps = 1e5 (docs/differences.md). 0 for other optimizers, arrays and steps.
    """
    gradient = name.replace("update/", "gradient/")
    if settings.kind != "adam" or step.number != 1 or gradient == name or gradient not in reference:
        return 0.0
    a, b = reference[gradient], other[gradient]
    slope = step.rate * settings.eps / (np.abs(a) + settings.eps) ** 2
    return 2 * float(np.linalg.norm(slope * (b - a)) / np.linalg.norm(reference[name]))
