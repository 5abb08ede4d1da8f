"""Both models as trees, with the first divergence marked; and their layers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.backend.registry import NAMES
from parity.compare.verdicts import Divergence
from parity.modules.description import Unit, below
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_models import ModelDescription, Pairing

AROUND = 3
"""Layers shown before and after the place within one parent; the rest is counted."""


def draw(
    models: Mapping[str, ModelDescription],
    pairing: Pairing,
    place: Divergence,
    functions: Mapping[str, str] | None = None,
) -> str:
    """Draw two trees, one below the other; layers far from the place are only counted.

    `functions` are names by side. They are marked behind the layer of the place, because it is a gradient that they return.
    """
    found = []
    of_gradient = place.phase == "backward" and ":output" in place.tensor
    for side, path in zip(SIDES, (place.layer, place.candidate_layer), strict=True):
        function = functions[side] if functions else ""
        words = ", in the gradient of its output" if of_gradient and not functions else ""
        mark = _Mark(path.partition("#")[0], f"    <-- first divergence{words}", function)
        found += [NAMES[side], *_tree(models[side], mark, pairing.partner(side))]
    return "\n".join(found)


@dataclass(frozen=True)
class _Mark:
    """What is marked: a layer, or a `function` that is called behind it; and the `text` of the mark."""

    layer: str
    text: str
    function: str


def side_by_side(models: Mapping[str, ModelDescription], partner: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each pair of layers, and for each other layer: side -> path and kind, or None.

    The rows are in the order of registration of the reference. A layer of the candidate alone comes before the next one with a partner.
    `partner`: path of the reference -> path of the candidate.
    """
    reference, candidate = ([unit for unit in models[side].units if unit.path] for side in SIDES)
    taken = {partner[unit.path] for unit in reference if unit.path in partner}
    place = {unit.path: at for at, unit in enumerate(candidate)}
    alone = [(at, unit) for at, unit in enumerate(candidate) if unit.path not in taken]
    rows: list[tuple[Unit | None, Unit | None]] = []
    for unit in reference:
        at = place.get(partner.get(unit.path, ""))
        while at is not None and alone and alone[0][0] < at:
            rows.append((None, alone.pop(0)[1]))
        rows.append((unit, None if at is None else candidate[at]))
    rows += [(None, unit) for _, unit in alone]
    return [
        {side: unit and {"path": unit.path, "kind": unit.kind} for side, unit in zip(SIDES, row, strict=True)}
        for row in rows
    ]


def _tree(model: ModelDescription, marked: _Mark, partner: Mapping[str, str]) -> list[str]:
    kinds = {unit.path: unit.kind for unit in model.units}
    return _below("", [path for path in kinds if path], marked, kinds, partner, "  ")


def _below(
    parent: str, paths: Sequence[str], marked: _Mark, kinds: Mapping[str, str], partner: Mapping[str, str], indent: str
) -> list[str]:
    """Return the lines below `parent`, expanded on the path to the marked layer."""
    groups: dict[str, list[str]] = {}
    start = len(parent) + 1 if parent else 0
    for path in paths:
        groups.setdefault(path[start:].split(".")[0], []).append(path)
    names = list(groups)
    here = next((i for i, n in enumerate(names) if marked.layer in groups[n]), None)
    first, last = (0, len(names)) if here is None else (max(0, here - AROUND), here + AROUND + 1)
    lines = [f"{indent}... {first} before"] if first else []
    for i, name in enumerate(names):
        if not first <= i < last:
            continue
        full = below(parent, name)
        inside = [path for path in groups[name] if path != full]
        mark = marked.text if full == marked.layer and not marked.function else ""
        other = f" = {partner[full]}" if partner.get(full, full) != full else ""
        kind = f" {kinds[full]}" if full in kinds else f" ({len(inside)} layers)" if i != here else ""
        lines.append(f"{indent}{name}{kind}{other}{mark}")
        if i == here and inside:
            lines += _below(full, inside, marked, kinds, partner, indent + "  ")
        if full == marked.layer and marked.function:
            lines.append(f"{indent}{marked.function} (function){marked.text}")
    return lines + ([f"{indent}... {len(names) - last} more"] if last < len(names) else [])
