"""The heat map of a report: a row for each layer, a column for each stage, and how far each error is from its tolerance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parity.compare.verdicts import MODEL, PHASES, STAGES, stage_of
from parity.report.text import above, limit, real, shown

LEVELS = {
    "at most 0.01": 1e-2,
    "up to 1": 1.0,
    "up to 1e3": 1e3,
    "up to 1e6": 1e6,
    "above 1e6": math.inf,
    "inf or NaN": math.nan,
}
"""Names of the colours -> the largest error over tolerance that each stands for. 1 is the tolerance."""

ORDER = (*PHASES, "trajectory", "onnx")


class Cell(NamedTuple):
    """The worst error of one layer in one stage, its colour (an index of `LEVELS`; None without a tolerance), and every phase in words."""

    error: Any
    above: bool
    level: int | None
    title: str
    guilty: bool


@dataclass(frozen=True)
class Row:
    """One layer: its name, the candidate's name if it is another, and a cell for each column, None where the layer has no tensor.

    `guilty`: the first divergence is here.
    """

    layer: str
    candidate_layer: str
    cells: list[Cell | None]
    guilty: bool


@dataclass(frozen=True)
class HeatMap:
    """The stages with an error, and the layers in the order of computation."""

    columns: list[str]
    rows: list[Row]


def heat_map(result: Mapping[str, Any]) -> HeatMap:
    """Return the heat map of a result. It marks the row and the cell of the first divergence, also where rounding explains it."""
    layers, asked = result["layers"], result["stages"]
    names = phases(layers)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_column(name, asked), []).append(name)
    columns = [*(stage for stage in STAGES if stage in groups), *(name for name in groups if name not in STAGES)]
    place = guilty_place(result)
    rows = []
    for layer in layers:
        here = place is not None and layer["layer"] == place[0]
        cells = [_cell(layer, groups[column], place == (layer["layer"], column)) for column in columns]
        other = layer.get("candidate_layer", layer["layer"])
        rows.append(Row(layer["layer"], "" if other == layer["layer"] else other, cells, here))
    return HeatMap(columns, rows)


def guilty_place(result: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the row and the column of the first divergence, or None if there is none."""
    first = result.get("first_divergence")
    if not first:
        return None
    phase = "update" if first["phase"] == "statistics" else first["phase"]
    return first["layer"] or MODEL, _column(phase if first["step"] == 1 else "trajectory", result["stages"])


def phases(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the phases that any layer has, in the order of computation."""
    found = {name: None for layer in layers for name in layer["errors"]}
    return [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]


def worst_phase(layer: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the phase, among `names`, in which a layer used most of its tolerance; None if it has none of them."""
    found = [name for name in names if name in layer["errors"]]
    return max(found, key=lambda name: used(layer["errors"][name], layer["bounds"].get(name)), default=None)


def _column(phase: str, asked: Collection[str]) -> str:
    return phase if phase in STAGES else stage_of(1, phase, asked) or stage_of(1, phase, STAGES) or phase


def _cell(layer: Mapping[str, Any], names: Sequence[str], guilty: bool) -> Cell | None:
    worst = worst_phase(layer, names)
    if worst is None:
        return None
    errors, bounds = layer["errors"], layer["bounds"]
    parts = [f"{n}: error {shown(errors[n])}, tolerance {limit(bounds.get(n))}" for n in names if n in errors]
    error, bound = errors[worst], bounds.get(worst)
    return Cell(error, above(error, bound), _level(error, bound), f"{layer['layer']}, {'; '.join(parts)}", guilty)


def used(error: Any, bound: Any) -> float:
    """Return error over tolerance; infinity for NaN, and -1 without a tolerance."""
    if bound is None:
        return -1.0
    number, most = real(error), real(bound)
    if not math.isfinite(number):
        return math.inf
    return number / most if most else (math.inf if number else 0.0)


def _level(error: Any, bound: Any) -> int | None:
    if bound is None:
        return None
    if not math.isfinite(real(error)):
        return len(LEVELS) - 1
    share = used(error, bound)
    return next(level for level, most in enumerate(LEVELS.values()) if share <= most)
