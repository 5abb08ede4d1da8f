"""What one comparison found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare.relative_error import NothingCompared
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, Divergence, Stage, Verdicts, layer_rows
from parity.short_repr import ShortRepr


@dataclass(repr=False)
class Outcome(ShortRepr):
    """What was compared (`sides`, `dtype`, the stages `asked` for), and what was found.

    `trajectory` holds a row a step: step, rate, error of all weights together, the tolerance that was applied to it (bound), the distance
    of the farthest twin, how far the weights have moved from the start, and the losses by side. `differences` are sentences on what the
    two sides' settings say differently, `explained` on what was neutralised or left out, and `isolated` has a row a layer. `absent` are
    stages that cannot have a tensor.
    """

    sides: tuple[str, str]
    dtype: str
    asked: tuple[str, ...]
    verdicts: Verdicts = field(default_factory=Verdicts)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    isolated: list[dict[str, Any]] | None = None
    differences: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    zero_gradients: list[str] = field(default_factory=list)
    absent: Collection[str] = ()
    seconds: float = 0.0

    @property
    def stages(self) -> Mapping[str, Stage]:
        """What was compared, by stage."""
        return self.verdicts.stages

    @property
    def first(self) -> Divergence | None:
        """The first divergence; None where there is none."""
        return self.verdicts.first

    @property
    def verdict(self) -> str:
        """Of all stages together."""
        if self.first or self.other_differences():
            return DIFFERENT
        return CHAOTIC if any(stage.chaotic for stage in self.stages.values()) else EQUAL

    def other_differences(self) -> Collection[str]:
        """What makes two sides different although no tensor is."""
        return ()

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.first:
            return f"{DIFFERENT} at {self.first.sentence()}"
        if self.verdict == DIFFERENT:
            return f"{DIFFERENT}: {'; '.join(self.differences)}"
        steps = max([row["step"] for row in self.trajectory], default=0)
        count = sum(stage.compared for stage in self.stages.values())
        return f"{self.verdict}: {count} tensors" + (f", {steps} steps" if steps else "")

    def summaries(self) -> dict[str, dict[str, Any]]:
        """The stages that were asked for, for the report. `NothingCompared` where one saw no tensor though the sides never diverged."""
        missing = [name for name in self.asked if name not in self.stages and name not in self.absent]
        if missing and not self.first:
            raise NothingCompared(f"stage {missing[0]} compared nothing")
        return {name: self.stages[name].summary() for name in self.asked if name in self.stages}

    def layers(self, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """By layer, in `order`, the largest error of step 1 in every phase and its tolerance."""
        found = self.verdicts.layers
        return layer_rows({layer: found[layer] for layer in order or found if layer in found})

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        summaries = self.summaries()
        return {
            "dtype": self.dtype,
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "first_divergence": self.first and self.first.to_json(),
            "differences": self.differences,
            "explained": self.explained,
            "stages": summaries,
            "not_run": [name for name in self.asked if name not in summaries],
            "layers": self.layers(),
            "zero_gradients": self.zero_gradients,
            "trajectory": self.trajectory,
            "isolated": self.isolated,
            "seconds": round(self.seconds, 2),
        }
