"""Gradients that are zero in exact arithmetic. Their records are rounding only, so the check judges their size, not their error."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import norm

Gradients = Mapping[str, Array]


def zero_gradients(
    sides: Sequence[Gradients],
    limit: float,
    known: Collection[str] | None = None,
    of_outputs: Sequence[float] = (),
) -> dict[str, tuple[float, ...]]:
    """Return name -> size on every side, for the gradients of ONE layer that are zero in exact arithmetic.

    A size is a norm relative to the largest gradient of the layer on that side; infinity if it is missing or not finite. `known` are the
    names that follow from a network's structure, such as a bias before a batch norm. If it is None, the gradients that are at most `limit`
    on all sides, and not zero on all, count.

    `of_outputs` are the norms of the gradient of the layer's output by side, which count as a gradient of the layer. The gradients of its
    parameters are sums over it, and all of these sums may be zero: those of a scale and a shift before a convolution and a batch norm.
    """
    largest = [max((norm(array) for array in gradients.values()), default=0.0) for gradients in sides]
    largest = [max(sizes) for sizes in zip(largest, of_outputs or [0.0] * len(sides), strict=True)]
    names = [name for name in sides[0] if all(name in gradients for gradients in sides)] if known is None else known
    found = {}
    for name in names:
        sizes = tuple(_size(gradients.get(name), size) for gradients, size in zip(sides, largest, strict=True))
        if known is not None or (any(sizes) and max(sizes) <= limit):
            found[name] = sizes
    return found


def _size(gradient: Array | None, largest: float) -> float:
    if gradient is None or not np.isfinite(gradient).all():
        return float("inf")
    return norm(gradient) / (largest or 1.0)
