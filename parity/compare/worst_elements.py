"""The elements in which a tensor differs most between the two sides, for reports of the first divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import BLOCK

MOST = 8
"""How many elements are kept."""


@dataclass(frozen=True)
class Element:
    """One element of a tensor: its index, and its values on the reference and on the candidate.

    `difference` is the candidate's value minus the reference's, in float64. It is NaN where one of them is NaN.
    """

    index: tuple[int, ...]
    reference: float
    candidate: float
    difference: float


@dataclass(frozen=True)
class WorstElements:
    """The shape of a tensor on both sides (None where a side lacks it), and its worst elements if the shapes are equal."""

    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    elements: tuple[Element, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return lists and dicts."""
        shapes = [shape and list(shape) for shape in self.shapes]
        return {"shapes": shapes, "elements": [vars(one) | {"index": list(one.index)} for one in self.elements]}


def worst_elements(reference: Array | None, candidate: Array | None) -> WorstElements:
    """Return the `MOST` elements that differ most, the largest difference first. NaN and infinity come before all others.

    Equal elements are left out. Arrays of integers and booleans work; complex ones have no elements.
    """
    shapes = tuple(None if array is None else array.shape for array in (reference, candidate))
    if reference is None or candidate is None or reference.shape != candidate.shape:
        return WorstElements((shapes[0], shapes[1]))
    if np.iscomplexobj(reference) or np.iscomplexobj(candidate):
        return WorstElements((shapes[0], shapes[1]))
    a, b = reference.ravel(), candidate.ravel()
    found: list[tuple[float, int]] = []
    for start in range(0, a.size, BLOCK):
        here = slice(start, start + BLOCK)
        x, y = a[here].astype(np.float64), b[here].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            size = np.abs(y - x)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        size = np.where(same, 0.0, np.where(np.isnan(size), np.inf, size))
        largest = np.argpartition(-size, min(MOST, size.size) - 1)[:MOST]
        found += [(float(size[at]), start + int(at)) for at in largest if size[at]]
    found.sort(key=lambda one: (-one[0], one[1]))
    return WorstElements((shapes[0], shapes[1]), tuple(_element(a, b, at, reference.shape) for _, at in found[:MOST]))


def _element(a: Array, b: Array, at: int, shape: tuple[int, ...]) -> Element:
    x, y = float(a[at]), float(b[at])
    return Element(tuple(int(i) for i in np.unravel_index(at, shape)), x, y, y - x)
