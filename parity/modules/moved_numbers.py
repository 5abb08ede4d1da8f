"""Rounding that no twin shows: what a loss computes moves by one unit in the last place."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array

SHORTER = {"float64": np.float32, "float32": np.float16}
"""Dtype -> one that holds its numbers of few digits."""


class MovedNumbers:
    """Moves each number of an array by one unit in the last place, up or down at random.

    A number of few digits stays as it is, such as 0, 1 and 1 minus a label: it is most likely exact.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, numbers: Array) -> Array:
        """Return the moved numbers of an array of float64 or float32; any other array as it is."""
        shorter = SHORTER.get(numbers.dtype.name)
        if shorter is None:
            return numbers
        up = self._random.integers(0, 2, numbers.shape, bool)
        with np.errstate(over="ignore", invalid="ignore"):
            stays = ~np.isfinite(numbers) | (numbers.astype(shorter) == numbers)
            moved = np.nextafter(numbers, np.where(up, np.inf, -np.inf).astype(numbers.dtype))
        return np.where(stays, numbers, moved)
