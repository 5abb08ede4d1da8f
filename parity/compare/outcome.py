"""The result of one comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare.relative_error import NothingCompared
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, Divergence, Stage, Verdicts, layer_rows
from parity.short_repr import ShortRepr


@dataclass(repr=False)
class Outcome(ShortRepr):
    """What was compared (`sides`, `dtype`, the stages `asked` for), and the result.

    `trajectory` has one row for each step, with step, learning rate and the losses by side. It has the error of all weights together, its
    tolerance (`bound`), the error of the farthest twin, and how far the weights have moved from the start. `differences` are sentences on settings that
    differ. `explained` are sentences on what was changed or left out. `isolated` has one row for each layer. `absent` are stages that
    cannot have a tensor.
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
        """The stages that were compared, by name."""
        return self.verdicts.stages

    @property
    def first(self) -> Divergence | None:
        """The first divergence; None if there is none."""
        return self.verdicts.first

    @property
    def verdict(self) -> str:
        """The verdict over all stages."""
        if self.first or self.other_differences():
            return DIFFERENT
        return CHAOTIC if any(stage.chaotic for stage in self.stages.values()) else EQUAL

    def other_differences(self) -> Collection[str]:
        """Return what makes the sides different although every tensor is equal."""
        return ()

    def sentence(self) -> str:
        """Return the verdict in one line."""
        if self.first:
            return f"{DIFFERENT} at {self.first.sentence()}"
        if self.verdict == DIFFERENT:
            return f"{DIFFERENT}: {'; '.join(self.differences)}"
        steps = max([row["step"] for row in self.trajectory], default=0)
        count = sum(stage.compared for stage in self.stages.values())
        return f"{self.verdict}: {count} tensors" + (f", {steps} steps" if steps else "")

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Return the requested stages for the report. `NothingCompared` if one had no tensor although the sides never diverged."""
        missing = [name for name in self.asked if name not in self.stages and name not in self.absent]
        if missing and not self.first:
            raise NothingCompared(f"stage {missing[0]} compared nothing")
        return {name: self.stages[name].summary() for name in self.asked if name in self.stages}

    def layers(self, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return, by layer in `order`, the largest error of step 1 in every phase and its tolerance."""
        found = self.verdicts.layers
        return layer_rows({layer: found[layer] for layer in order or found if layer in found})

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
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
