"""The outcome of a comparison of two models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.compare.outcome import Outcome
from parity.pairs.match_models import Pairing


@dataclass(repr=False)
class PairOutcome(Outcome):
    """The result of a comparison of two models: an `Outcome` with what only a pair has.

    Attributes:
        factories: What was compared, as a text, by side.
        lanes: Versions of the framework, Python and numpy, by side.
        pairing: Which layers and arrays were matched, and which have no partner.
        how: How the models were run: inputs, loss, optimizer, steps, seed, twins.
        reproducer: Which files repeat the first call that differs, or why there is none, in one sentence. Empty if none was
            asked for.
        tree: Both models as trees with the first divergence marked. Empty if there is none.
        models: The layers of both models side by side: a dict for each pair or single layer.
    """

    factories: Mapping[str, str] = field(kw_only=True)
    lanes: Mapping[str, Mapping[str, str]] = field(kw_only=True)
    pairing: Pairing = field(kw_only=True)
    how: Mapping[str, Any] = field(kw_only=True)
    tree: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    reproducer: str = ""

    def other_differences(self) -> Collection[str]:
        """Names of layers and arrays that only one model has. They make the verdict "different"."""
        alone = [unit.path for units in self.pairing.alone.values() for unit in units]
        return [*alone, *(name for names in self.pairing.single.values() for name in names)]

    def sentence(self) -> str:
        """Return the verdict in one line, with what the matching of layers left open, and what it lacks without twins."""
        lacking = [] if self.how.get("twins", 1) else [f"without twins (--twins 0), {self._lacking()}"]
        return "; ".join([super().sentence(), *self.pairing.notes, *lacking])

    def _lacking(self) -> str:
        """Return what a comparison without one-ULP twins cannot say."""
        if self.first:
            return "rounding that the models multiply counts as a difference"
        if self.dtype != "float64":
            return f"{self.dtype} training is not compared beyond its first step"
        weights = "all weights together are not compared, and " if self.trajectory else ""
        return f"{weights}nothing measures how rounding grows"

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as dicts, lists, numbers and texts, for `json.dumps`."""
        mapping = {
            "how": self.pairing.how,
            "tried": self.pairing.tried,
            "confirmed": self.pairing.confirmed,
            "notes": self.pairing.notes,
            "layers": len(self.pairing.pairs),
            "alone": {side: [unit.path for unit in units] for side, units in self.pairing.alone.items()},
            "single": self.pairing.single,
        }
        return {
            "network": " and ".join(self.factories.values()),
            "torch": self.factories["torch"],
            "paddle": self.factories["paddle"],
            "lanes": {side: dict(versions) for side, versions in self.lanes.items()},
            **self.how,
            **super().to_json(),
            "mapping": mapping,
            "tree": self.tree,
            "models": self.models,
            "reproducer": self.reproducer,
        }
