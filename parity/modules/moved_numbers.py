"""Rounding that no twin shows: what a loss computes moves by one unit in the last place."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array


class MovedNumbers:
    """Moves each float64 number of an array by one unit in the last place, up or down at random.

    A number that float32 holds exactly stays as it is, such as 0, 1 and 1 minus a label: it is most likely exact.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, numbers: Array) -> Array:
        """Return the moved numbers; those of another dtype as they are."""
        if numbers.dtype != np.float64:
            return numbers
        up = self._random.integers(0, 2, numbers.shape, bool)
        with np.errstate(over="ignore", invalid="ignore"):
            stays = ~np.isfinite(numbers) | (numbers.astype(np.float32) == numbers)
            moved = np.nextafter(numbers, np.where(up, np.inf, -np.inf))
        return np.where(stays, numbers, moved)
