"""Padding that one model does before a layer, and the other one inside of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import NAMES
from parity.compare.relative_error import distance
from parity.modules.description import Unit
from parity.modules.layer_kinds import SIDES

PADDING = ("padding", "padding_mode")
"""The settings of a layer that say how it pads its input."""

MODES: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""Name of a mode in both frameworks -> numpy's."""

MATCH = 1e-9
"""Largest relative L2 error at which an input counts as the padded one of the other side."""

MOST_SHIFTS = 64
"""At most this many uneven ways to pad are tried."""


def padding_of(a: Unit, b: Unit, x: Array, y: Array) -> str | None:
    """Say how two layers of one kind get other padding for the inputs `x` and `y`, if one model pads before its layer.

    "" if both pad alike, or nobody knows. None if no model pads before its layer as much as the other one pads inside of it.
    """
    one, two = _around(a, x), _around(b, y)
    if a.kind != b.kind or one is None or two is None or one == two or x.ndim != y.ndim:
        return None
    if _sizes(x, one) != _sizes(y, two):
        return None
    before = int(x.size < y.size)  # the side that pads before its layer
    small, large = ((y, x), (x, y))[before]
    inside = str((b, a)[before].settings.get("padding_mode", "zeros"))
    pads = [(inner - outer) * (-1) ** before for outer, inner in zip(one, two, strict=True)]
    if not a.kind.startswith("Conv") or min(pads) < 0 or x.shape[:2] != y.shape[:2]:
        return ""
    found = _way(small, large, pads)
    if found in ("", inside):
        return ""
    names = NAMES[SIDES[before]], NAMES[SIDES[1 - before]]
    return f"padding of {a.kind}: {names[0]} pads by {found} before {a.path}, and {names[1]} by {inside} inside of it"


def _sizes(array: Array, around: Sequence[int]) -> list[int]:
    """Return the sizes of the axes of an input with the padding of the layer."""
    return [size + 2 * more for size, more in zip(array.shape[2:], around, strict=True)]


def _around(unit: Unit, array: Array) -> list[int] | None:
    """Return by axis how much a layer pads at each end of its input."""
    padding, axes = unit.settings.get("padding"), array.ndim - 2
    if isinstance(padding, int):
        return [padding] * axes
    sizes = list(padding) if isinstance(padding, list | tuple) else []
    return sizes if len(sizes) == axes and all(isinstance(size, int) for size in sizes) else None


def _way(small: Array, large: Array, pads: Sequence[int]) -> str:
    """Say how the array `small` is padded to become `large`, where `pads` are the even pads by axis; "" if not known."""
    even = [(pad, pad) for pad in pads]
    for name, mode in MODES.items():
        possible = mode == "constant" or all(pad < size for pad, size in zip(pads, small.shape[2:], strict=True))
        if possible and distance(np.pad(small, [(0, 0), (0, 0), *even], mode), large) <= MATCH:
            return name
    shifts = itertools.product(*(range(2 * pad + 1) for pad in pads))
    for shift in itertools.chain([tuple(pads)], itertools.islice(shifts, MOST_SHIFTS)):
        ends = [(start, 2 * pad - start) for start, pad in zip(shift, pads, strict=True)]
        value = float(large[(0, 0, *(0 if start else -1 for start in shift))])
        if distance(np.pad(small, [(0, 0), (0, 0), *ends], constant_values=value), large) <= MATCH:
            rows = ", ".join(f"{one} and {two}" for one, two in ends)
            uneven = "" if ends == even else f" ({rows} at the ends of its axes)"
            return f"{'zeros' if not value else f'the value {value:g}'}{uneven}"
    whole = (slice(None), slice(None))
    middle = [slice(pad, size - pad) for pad, size in zip(pads, large.shape[2:], strict=True)]
    return "other numbers" if distance(small, large[(*whole, *middle)]) <= MATCH else ""
