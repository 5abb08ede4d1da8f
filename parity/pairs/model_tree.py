"""Both models as trees, with the first divergence marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity.backend.registry import NAMES
from parity.compare.verdicts import Divergence
from parity.modules.description import below
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_models import ModelDescription, Pairing

AROUND = 3
"""Layers shown before and after the place within one parent; the rest is counted."""


def draw(models: Mapping[str, ModelDescription], pairing: Pairing, place: Divergence) -> str:
    """Draw two trees, one below the other; layers far from the place are only counted."""
    found = []
    for side, path in zip(SIDES, (place.layer, place.candidate_layer), strict=True):
        found += [NAMES[side], *_tree(models[side], path.partition("#")[0], pairing.partner(side))]
    return "\n".join(found)


def _tree(model: ModelDescription, marked: str, partner: Mapping[str, str]) -> list[str]:
    kinds = {unit.path: unit.kind for unit in model.units}
    return _below("", [path for path in kinds if path], marked, kinds, partner, "  ")


def _below(
    parent: str, paths: Sequence[str], marked: str, kinds: Mapping[str, str], partner: Mapping[str, str], indent: str
) -> list[str]:
    """Return the lines below `parent`, expanded on the path to the marked layer."""
    groups: dict[str, list[str]] = {}
    start = len(parent) + 1 if parent else 0
    for path in paths:
        groups.setdefault(path[start:].split(".")[0], []).append(path)
    names = list(groups)
    here = next((i for i, n in enumerate(names) if marked in groups[n]), None)
    first, last = (0, len(names)) if here is None else (max(0, here - AROUND), here + AROUND + 1)
    lines = [f"{indent}... {first} before"] if first else []
    for i, name in enumerate(names):
        if not first <= i < last:
            continue
        full = below(parent, name)
        inside = [path for path in groups[name] if path != full]
        mark = "    <-- first divergence" if full == marked else ""
        other = f" = {partner[full]}" if partner.get(full, full) != full else ""
        kind = f" {kinds[full]}" if full in kinds else f" ({len(inside)} layers)" if i != here else ""
        lines.append(f"{indent}{name}{kind}{other}{mark}")
        if i == here and inside:
            lines += _below(full, inside, marked, kinds, partner, indent + "  ")
    return lines + ([f"{indent}... {len(names) - last} more"] if last < len(names) else [])
