"""The one-ULP twin: the same numbers, each moved to a neighbouring float. What it changes is what rounding alone can change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.randomness import stream


def perturb(arrays: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Every element moved by one unit in the last place, up or down at random; zeros stay zero."""
    return {
        name: _perturb(array, np.where(_coins(seed, name, array.shape), np.inf, -np.inf))
        for name, array in arrays.items()
    }


def _coins(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return stream(seed, "one-ULP", name).integers(0, 2, shape, dtype=np.int8).astype(bool)


def _perturb(array: np.ndarray, towards: np.ndarray) -> np.ndarray:
    moved = np.nextafter(array, towards.astype(array.dtype))
    return np.where(array == 0, array, moved)
