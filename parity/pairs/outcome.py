"""What a check of a pair found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, Stage, Worst, layer_rows
from parity.pairs.mapping import Pairing
from parity.short_repr import ShortRepr

PAIR_STAGES = {
    "eval": ("eval",),
    "forward": ("forward", "loss"),
    "backward": ("backward", "gradient"),
    "update": ("update",),
    "trajectory": (),
}
"""Stage -> the phases of the first step that it holds; every later step belongs to the trajectory. `eval` is inference before it."""


@dataclass(frozen=True)
class Place:
    """Where two models part first: step, phase, the layer on both sides ("" where it is none), tensor, error, bound, and why."""

    step: int
    phase: str
    torch: str
    paddle: str
    tensor: str
    error: float
    bound: float
    cause: str | None = None

    def sentence(self) -> str:
        """For people."""
        layer = f", layer {self.torch}" + (f" (Paddle: {self.paddle})" if self.paddle not in ("", self.torch) else "")
        why = f"; cause: {self.cause}" if self.cause else ""
        where = f"step {self.step}, {self.phase}{layer if self.torch else ''}, tensor {self.tensor}"
        return f"{where}: error {self.error:.2e}, bound {self.bound:.2e}{why}"


@dataclass(repr=False)
class PairOutcome(ShortRepr):
    """The verdict on one pair.

    `first` is where they part (None: nowhere). `differences` are sentences on what the two models' settings say differently, whether or
    not it shows in a number; `explained` are sentences on what was neutralised for the check. `trajectory` holds a row a step: step, error
    of all weights together, that of the farthest twin, how far they have moved from the start, losses. `layers` holds, by
    PyTorch's layer and phase, the tensor of the first step that came nearest to its bound. `how` is how it was run, and `tree` shows both
    models with the place marked.
    """

    factories: Mapping[str, str]
    lanes: Mapping[str, Mapping[str, str]]
    pairing: Pairing
    dtype: str
    asked: tuple[str, ...]
    how: Mapping[str, Any] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    first: Place | None = None
    differences: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    isolated: list[dict[str, Any]] | None = None
    layers: Worst = field(default_factory=dict)
    zero_gradients: list[str] = field(default_factory=list)
    tree: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """equal, chaotic but equal, or different. Auxiliary layers of one side only are a difference."""
        if self.first or any(self.pairing.alone.values()) or any(self.pairing.single.values()):
            return DIFFERENT
        return CHAOTIC if any(stage.chaotic for stage in self.stages.values()) else EQUAL

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.verdict != DIFFERENT:
            steps = max([row["step"] for row in self.trajectory], default=0)
            count = sum(stage.compared for stage in self.stages.values())
            return f"{self.verdict}: {count} tensors" + (f", {steps} steps" if steps else "")
        if self.first:
            return f"different at {self.first.sentence()}"
        return f"different: {'; '.join(self.differences)}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = {name: self.stages[name].summary() for name in PAIR_STAGES if name in self.stages}
        return {
            "network": " and ".join(self.factories.values()),
            "torch": self.factories["torch"],
            "paddle": self.factories["paddle"],
            "lanes": {side: dict(versions) for side, versions in self.lanes.items()},
            "dtype": self.dtype,
            **self.how,
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "first_divergence": self.first
            and vars(self.first) | {"layer": self.first.torch, "sentence": self.first.sentence()},
            "differences": self.differences,
            "explained": self.explained,
            "stages": found,
            "not_run": [name for name in self.asked if name not in found],
            "mapping": {
                "how": self.pairing.how,
                "layers": len(self.pairing.pairs),
                "alone": {side: [unit.path for unit in units] for side, units in self.pairing.alone.items()},
                "single": self.pairing.single,
            },
            "layers": layer_rows(self.layers),
            "tree": self.tree,
            "zero_gradients": self.zero_gradients,
            "trajectory": self.trajectory,
            "isolated": self.isolated,
            "seconds": round(self.seconds, 2),
        }
