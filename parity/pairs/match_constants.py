"""Constants that only one model stores: floats in no kind's table that training does not change, such as the mask of an attention.

The other model may compute them in forward, or keep them in an attribute. They are no weights: nothing is copied to them, and their
absence is no difference. Where it matters, the outputs differ.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping

from parity.modules.description import Unit, below
from parity.modules.layer_kinds import KINDS, OTHER_SIDE, SIDES, name_in
from parity.pairs.match_arrays import loose_shape, shapes_of
from parity.pairs.match_models import ModelDescription


def find_constants(
    models: Mapping[str, ModelDescription], named: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """Return by side the own names of the constants whose shape the other model holds less often.

    `named` are by side the own names of arrays that a map names: they stay. Those whose name the other model has, too, stay first.
    """
    found: dict[str, list[str]] = {}
    counts = {
        side: Counter(shape for unit in models[side].units for shape, _ in _arrays(unit, unit.arrays)) for side in SIDES
    }
    for side in SIDES:
        there = OTHER_SIDE[side]
        theirs = {name.rpartition(".")[2] for unit in models[there].units for _, name in _arrays(unit, unit.arrays)}
        more = counts[side] - counts[there]
        own = [
            (shape, name)
            for unit in models[side].units
            for shape, name in _constants(models[side], unit)
            if name not in named[side]
        ]
        own.sort(key=lambda row: row[1].rpartition(".")[2] in theirs)
        found[side] = []
        for shape, name in own:
            if more[shape] > 0:
                more[shape] -= 1
                found[side].append(name)
    return found


def names_of_constants(model: ModelDescription) -> list[str]:
    """Return the own names of all constants of a model."""
    return [name for unit in model.units for _, name in _constants(model, unit)]


def without_constants(model: ModelDescription, names: Collection[str]) -> ModelDescription:
    """Return a model without the named arrays."""
    units = [_without(unit, set(names)) for unit in model.units] if names else model.units
    return dataclasses.replace(model, units=units)


def _without(unit: Unit, names: Collection[str]) -> Unit:
    kept = [name for name, spelling in unit.spellings.items() if below(unit.holder, name_in(spelling)) not in names]
    if len(kept) == len(unit.spellings):
        return unit
    return dataclasses.replace(
        unit,
        arrays={name: unit.arrays[name] for name in kept},
        spellings={name: unit.spellings[name] for name in kept},
    )


def _arrays(unit: Unit, names: Collection[str]) -> list[tuple[tuple[int, ...], str]]:
    """Return the shape and the own name of those of the arrays `names` that the unit itself holds."""
    return [
        (loose_shape(shape), below(unit.holder, name_in(unit.spellings[name])))
        for name, shape in shapes_of(unit).items()
        if name in names and unit.arrays[name].same_as is None
    ]


def _constants(model: ModelDescription, unit: Unit) -> list[tuple[tuple[int, ...], str]]:
    kind = KINDS.get(unit.kind)
    if (kind is None and unit.kind not in model.own) or (kind is not None and "*" in kind.arrays):
        return []  # all its arrays are in a table
    listed = set(kind.arrays) if kind else set()
    return _arrays(unit, [name for name in unit.spellings if name not in listed and not unit.arrays[name].trained])
