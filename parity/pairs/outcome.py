"""What a comparison of two models found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.compare.outcome import Outcome
from parity.pairs.mapping import Pairing


@dataclass(repr=False)
class PairOutcome(Outcome):
    """`factories` and `lanes` (versions) say what was compared by side, `pairing` how layers were matched, `how` how the models were run.

    `tree` shows both models with the first divergence marked.
    """

    factories: Mapping[str, str] = field(kw_only=True)
    lanes: Mapping[str, Mapping[str, str]] = field(kw_only=True)
    pairing: Pairing = field(kw_only=True)
    how: Mapping[str, Any] = field(kw_only=True)
    tree: str = ""

    def other_differences(self) -> Collection[str]:
        """Layers and arrays of one side only."""
        alone = [unit.path for units in self.pairing.alone.values() for unit in units]
        return [*alone, *(name for names in self.pairing.single.values() for name in names)]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        mapping = {
            "how": self.pairing.how,
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
        }
