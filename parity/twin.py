"""The one-ULP twin: the same numbers, each moved to a neighbouring float. What it changes is what rounding alone can change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.randomness import stream


def perturb(arrays: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Every element moved by one unit in the last place, up or down at random; zeros, and what is not finite, stay as they are."""
    return {name: _perturb(array, _coins(seed, name, array.shape)) for name, array in arrays.items()}


def _coins(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return stream(seed, "one-ULP", name).integers(0, 2, shape, dtype=np.int8).astype(bool)


def _perturb(array: np.ndarray, up: np.ndarray) -> np.ndarray:
    # Read as integers, floats of one sign stand in the order of their size: four times as fast as np.nextafter.
    steps = (up == (array > 0)).astype(np.int8) * np.int8(2) - np.int8(1)
    steps *= np.isfinite(array) & (array != 0)
    moved: np.ndarray = (array.view(f"i{array.itemsize}") + steps).view(array.dtype)
    return moved
