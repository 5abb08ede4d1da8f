"""The result of one comparison."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.compare.relative_error import NothingCompared
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, Divergence, Stage, Verdicts, layer_rows
from parity.short_repr import ShortRepr, counted


def _names_layer(sentence: str, layer: str) -> bool:
    """Whether a sentence names a layer."""
    return re.search(rf"(^| ){re.escape(layer)}(,| |$)", sentence) is not None


@dataclass(repr=False)
class Outcome(ShortRepr):
    """The result of a comparison.

    Attributes:
        sides: The names of the reference and of the candidate.
        dtype: The dtype of the comparison: "float64", "float32", "bfloat16" or "float16".
        asked: The stages that were asked for.
        verdicts: The stages, the first divergence, and the worst tensors by layer and phase.
        trajectory: A dict for each step: step, learning rate, relative error of all weights together, its tolerance
            (`bound`), the distance of the farthest one-ULP twin, how far the weights moved, and the loss of each side.
        isolated: A dict for each layer that was run by itself, or None.
        differences: Sentences on settings that differ between the sides.
        explained: Sentences on differences that the comparison removed, and on what it left out.
        zero_gradients: Parameters whose gradient is zero in exact arithmetic.
        hidden: Layers with an inner tensor that differs, though everything that decides is equal.
        unreached: Layers whose outputs have a gradient of exactly zero on both sides, so that no backward pass is proved there.
        absent: Stages that cannot have a tensor.
        seconds: Wall time, in seconds.
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
    hidden: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    absent: Collection[str] = ()
    seconds: float = 0.0

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Counts and worst tensor of each stage, by stage name."""
        return self.verdicts.stages

    @property
    def first(self) -> Divergence | None:
        """The first divergence, or None."""
        return self.verdicts.first

    @property
    def verdict(self) -> str:
        """The verdict over all stages: "equal", "chaotic but equal" or "different"."""
        if self.first or self.other_differences():
            return DIFFERENT
        return CHAOTIC if any(stage.chaotic for stage in self.stages.values()) else EQUAL

    def other_differences(self) -> Collection[str]:
        """Names of layers and arrays that only one side has. They make the verdict "different"."""
        return ()

    def sentence(self) -> str:
        """Return the verdict in one line, with the place of the first divergence or the number of tensors."""
        if self.first:
            return "; ".join([f"{DIFFERENT} at {self.first.sentence()}", *self._largest()])
        if self.verdict == DIFFERENT:
            return f"{DIFFERENT}: {'; '.join(self.differences)}"
        steps = max([row["step"] for row in self.trajectory], default=0)
        count = sum(stage.compared for stage in self.stages.values())
        return f"{self.verdict}: {count} tensors" + (f", {counted(steps, 'step')}" if steps else "")

    def differences_at(self, layer: str) -> str:
        """Return the settings that differ at `layer`, in one line. Empty if there are none, or without a layer."""
        return "; ".join(text for text in self.differences if layer and _names_layer(text, layer))

    def _largest(self) -> Iterator[str]:
        """Yield a sentence on the largest error, if it is elsewhere and much larger than that of the first divergence."""
        largest = self.verdicts.largest
        if largest:
            because = self.differences_at(largest.layer) or largest.cause
            place = f"the largest error is {largest.error:.2e}, at {largest.phase}/{largest.tensor}"
            yield f"{place} ({because})" if because else place

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Return the summary of each stage that was asked for, by stage name.

        Raises:
            NothingCompared: A stage saw no tensor, and the sides did not diverge.
        """
        missing = [name for name in self.asked if name not in self.stages and name not in self.absent]
        if missing and not self.first:
            raise NothingCompared(f"stage {missing[0]} compared nothing")
        return {name: self.stages[name].summary() for name in self.asked if name in self.stages}

    def layers(self, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return, for each layer, the worst tensor in each phase: its relative error and its tolerance.

        The phases are those of step 1. All later steps are the phase "trajectory".
        """
        found = self.verdicts.layers
        rows = {layer: found[layer] for layer in order or found if layer in found}
        return layer_rows(rows, self.verdicts.partners)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as dicts, lists, numbers and texts, for `json.dumps`."""
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
