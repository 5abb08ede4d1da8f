"""Places where two models compute in a dtype narrower than their own, such as the float32 inside a norm of a float64 model.

Where both models do, the check computes in float64 on both sides: their rounding would hide errors of up to 1e-6. Constants may be
computed at different places: a table of positions once in one model, and in each layer in the other. Where only one model does, that is
a difference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.modules.description import is_below
from parity.modules.layer_kinds import OTHER_SIDE, SIDES
from parity.modules.recording import name_place
from parity.pairs.alignment import Alignment
from parity.pairs.match_models import Pairing
from parity.pairs.model_worker import ModelRun

Place = Mapping[str, Any]
"""A place as `parity.modules.recording.Watch.narrow` records it."""


@dataclass(frozen=True)
class NarrowPlaces:
    """The places by side that both models have, those of constants in other places of both, and those that only one model has."""

    both: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    moved: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    alone: Mapping[str, Sequence[Place]] = field(default_factory=dict)

    def widened(self, side: str, alone: bool = False, compiled: Collection[str] = ()) -> list[str]:
        """The names of the places of a side that both sides have; with `alone`, also of those that only this one has.

        `compiled` are the paths of its compiled layers, see `as_compiled`.
        """
        chosen = [place for places in (self.both, self.moved) for place in places.get(side, ())]
        others = self.alone.get(side, ())
        return as_compiled([*chosen, *others], [], compiled) if alone else as_compiled(chosen, others, compiled)

    def with_constants_moved(self, side: str) -> NarrowPlaces:
        """Count the places of constants that only this side has as moved: the other side computes them when it is made."""
        moved = [place for place in self.alone.get(side, ()) if not place["graded"]]
        rest = [place for place in self.alone.get(side, ()) if place["graded"]]
        return NarrowPlaces(
            self.both,
            {**self.moved, side: [*self.moved.get(side, ()), *moved]},
            {**self.alone, side: rest},
        )


def as_compiled(chosen: Sequence[Place], others: Sequence[Place], compiled: Collection[str]) -> list[str]:
    """Return the names of the `chosen` places, and those that they have while layers run `compiled`.

    A compiled layer is one place, since no layer inside is seen. It counts as chosen if none of the `others` is in it.
    """

    def name(place: Place) -> str:
        ends = (next((one for one in compiled if is_below(place[end], one)), place[end]) for end in ("path", "after"))
        return name_place(*ends)

    kept = {name(place) for place in others}
    return [place["place"] for place in chosen] + [found for found in map(name, chosen) if found not in kept]


def match_places(pairing: Pairing, alignment: Alignment, *runs: Mapping[str, ModelRun]) -> NarrowPlaces:
    """Match the places that the `runs` recorded: two match if the layer that began before them, or the next one, is the same.

    Another place counts as moved if it computes constants only, and the other side also computes constants in its dtype. `runs` that
    compute no gradients show all places as constants.
    """
    partner = {b.unit.path: a.unit.path for a, b in alignment.pairs} | pairing.partner("paddle")
    found = {side: _places([run[side] for run in runs]) for side in SIDES}

    def names(place: Place, side: str) -> set[tuple[str, str]]:
        ends: list[tuple[str, str]] = [(end, place[end]) for end in ("after", "before")]
        return {(end, partner.get(path, path) if side == "paddle" else path) for end, path in ends}

    known = {side: set[tuple[str, str]]().union(*(names(p, side) for p in found[side])) for side in SIDES}
    both: dict[str, list[Place]] = {side: [] for side in SIDES}
    alone: dict[str, list[Place]] = {side: [] for side in SIDES}
    for side in SIDES:
        for place in found[side]:
            (both if names(place, side) & known[OTHER_SIDE[side]] else alone)[side].append(place)
    constants = {side: {place["dtype"] for place in found[side] if place["constant"]} for side in SIDES}
    moved = {
        side: [p for p in alone[side] if not p["graded"] and p["dtype"] in constants[OTHER_SIDE[side]]]
        for side in SIDES
    }
    return NarrowPlaces(both, moved, {side: [p for p in alone[side] if p not in moved[side]] for side in SIDES})


def _places(runs: Sequence[ModelRun]) -> list[Place]:
    return list({place["place"]: place for run in runs for place in run.narrow}.values())


def words(places: Sequence[Place]) -> list[str]:
    """Return each place in words."""
    return list(dict.fromkeys(_words(place) for place in places))


def _words(place: Place) -> str:
    if place["after"] == place["path"]:
        return place["path"] or "the beginning of the model"
    if place["path"]:
        return f"{place['path']} after {place['after']}"
    return f"the model itself after {place['after']}"


def dtypes(places: Sequence[Place]) -> str:
    """Return the dtypes of places in words."""
    return " and ".join(sorted({place["dtype"] for place in places}))
