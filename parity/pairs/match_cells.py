"""Recurrent layers where the other model has cells that it calls in a loop: each layer and direction is matched as a cell.

The weights of both are stored under the same names, but for a suffix such as `_l0`. Their calls are not matched: a cell gets one time
step, and a recurrent layer all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from parity.modules.description import Unit
from parity.modules.layer_kinds import OTHER_SIDE, SIDES
from parity.pairs.match_models import ModelDescription

KINDS_OF_CELLS = {"LSTM": "LSTMCell", "GRU": "GRUCell", "RNN": "RNNCell"}
"""Kind of a recurrent layer -> kind of its cells."""

NAME = re.compile(r"((?:weight|bias)_(?:ih|hh))_(l\d+(?:_reverse)?)")
"""How a recurrent layer names the arrays of its cells."""


def with_cells(models: Mapping[str, ModelDescription]) -> dict[str, ModelDescription]:
    """Return the models with recurrent layers as cells, as far as one model has more of them and the other more of these cells."""
    owners = {side: models[side].owners(models[OTHER_SIDE[side]]) for side in SIDES}
    counts = {side: Counter(unit.signature for unit in owners[side]) for side in SIDES}
    chosen = set()
    for side, other in OTHER_SIDE.items():
        more, wanted = counts[side] - counts[other], counts[other] - counts[side]
        for unit in owners[side]:
            cells = open_recurrent(unit) if unit.signature in more else []
            if cells and not Counter(cell.signature for cell in cells) - wanted:
                chosen.add(unit.signature)
    return {
        side: dataclasses.replace(model, units=[part for unit in model.units for part in _chosen(unit, chosen)])
        for side, model in models.items()
    }


def _chosen(unit: Unit, signatures: set[tuple[Any, ...]]) -> list[Unit]:
    return (open_recurrent(unit) if unit.signature in signatures else []) or [unit]


def open_recurrent(unit: Unit) -> list[Unit]:
    """Return the cells of a recurrent layer, one for each layer and direction; none for another layer, or further arrays."""
    if unit.kind not in KINDS_OF_CELLS:
        return []
    named = {name: match for name in unit.arrays if (match := NAME.fullmatch(name))}
    if len(named) < len(unit.arrays):
        return []
    labels = list(dict.fromkeys(match[2] for match in named.values()))
    found = []
    for label in labels:
        own = {match[1]: name for name, match in named.items() if match[2] == label}
        found.append(
            dataclasses.replace(
                unit,
                path=f"{unit.path}[{label}]" if len(labels) > 1 else unit.path,
                layer=unit.path,
                kind=KINDS_OF_CELLS[unit.kind],
                arrays={name: unit.arrays[whole] for name, whole in own.items()},
                spellings={name: unit.spellings[whole] for name, whole in own.items()},
                settings={},
            )
        )
    return found
