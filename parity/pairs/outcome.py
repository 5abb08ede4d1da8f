"""The outcome of a comparison of two models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.compare.outcome import Outcome
from parity.compare.verdicts import DIFFERENT, INIT, Stage
from parity.pairs.initialisation import Initialisation
from parity.pairs.match_models import Pairing

MOST = 3
"""So many sentences on initialisation are in the verdict."""


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
        initialisation: What the stage init found, or None if it was not asked for.
        models: The layers of both models side by side: a dict for each pair or single layer.
    """

    factories: Mapping[str, str] = field(kw_only=True)
    lanes: Mapping[str, Mapping[str, str]] = field(kw_only=True)
    pairing: Pairing = field(kw_only=True)
    how: Mapping[str, Any] = field(kw_only=True)
    tree: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    reproducer: str = ""
    initialisation: Initialisation | None = None

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Counts and worst tensor of each stage, by stage name."""
        found = {INIT: self.initialisation.stage} if self.initialisation else {}
        return {**found, **self.verdicts.stages}

    def other_differences(self) -> Collection[str]:
        """Names of layers and arrays that only one model has, and what differs in fresh weights. They make the verdict "different"."""
        alone = [unit.path for units in self.pairing.alone.values() for unit in units]
        fresh = self.initialisation.differences if self.initialisation else []
        return [*alone, *(name for names in self.pairing.single.values() for name in names), *fresh]

    def sentence(self) -> str:
        """Return the verdict in one line, with what the matching of layers left open, and what it lacks without twins."""
        runs = set(self.asked) - {INIT}
        lacking = [] if self.how.get("twins", 1) or not runs else [f"without twins (--twins 0), {self._lacking()}"]
        return "; ".join([self._verdict(), *self.pairing.notes, *lacking])

    def _verdict(self) -> str:
        """Return the verdict with what differs: the first divergence, the settings, the initialisation."""
        fresh = self.initialisation.differences if self.initialisation else []
        if not self.initialisation or not fresh:
            return super().sentence()
        if self.first:
            count = self.initialisation.stage.different
            return f"{super().sentence()}; the initialisation differs, too, in {count} arrays"
        more = [f"{len(fresh) - MOST} more kinds of layers"] if len(fresh) > MOST else []
        return f"{DIFFERENT}: {'; '.join([*fresh[:MOST], *more, *self.differences])}"

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
            "initialisation": self.initialisation and self.initialisation.to_json(),
        }
