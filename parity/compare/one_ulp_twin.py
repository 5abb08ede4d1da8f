"""The one-ULP twin: the same numbers, each moved to a neighbouring float. What it changes is what rounding alone can change."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream


def move_one_ulp(arrays: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Every element moved by one unit in the last place, up or down at random; zeros, and what is not finite, stay as they are."""
    return {name: _moved(array, _coins(seed, name, array.shape) == (array > 0)) for name, array in arrays.items()}


def summed(state: Mapping[str, Array], seed: int, share: float) -> dict[str, Array]:
    """The weights `state` as a twin whose sums are rounded too: what each layer adds up one after the other counts `share` times.

    Adding n products rounds n times, each time by half a unit of what the sum is by then. Where the products have either sign at random
    that comes to 0.41 n of a product's half unit, which moving all n of them by sqrt(n) / 4 units at random is; where they have one sign,
    to 0.33 n**1.5, which moving all of them the same way by as much is (the random walks of Higham and Mary 2019, SIAM J. Sci. Comput.
    41(5), with errors of rounding that are spread evenly). So weights [units, inputs, ...] are moved by this many units in the last place
    times `share`, at random, and again larger or smaller by unit; all other arrays, and weights of short sums, by one, as in
    `move_one_ulp`.
    """
    moved = {}
    for name, array in state.items():
        products = math.prod(array.shape[1:])
        ulps = max(1, round(share * math.sqrt(products) / 4))
        moved[name] = _moved(array, _coins(seed, name, array.shape) == (array > 0), ulps)
        if ulps > 1:
            units = _coins(seed, f"{name}, by unit", (len(array), *[1] * (array.ndim - 1)))
            moved[name] = _moved(moved[name], units, ulps)
    return moved


def _coins(seed: int, name: str, shape: tuple[int, ...]) -> Array:
    return stream(seed, "one-ULP", name).integers(0, 2, shape, dtype=np.int8).astype(bool)


def _moved(array: Array, larger: Array, ulps: int = 1) -> Array:
    """`array` moved away from zero where `larger`, elsewhere towards it."""
    # Read as integers, floats of one sign stand in the order of their size: four times as fast as np.nextafter.
    steps = larger.astype(np.int16) * np.int16(2 * ulps) - np.int16(ulps)
    steps = steps * (np.isfinite(array) & (np.abs(array) >= ulps * np.finfo(array.dtype).smallest_subnormal))
    moved: Array = (array.view(f"i{array.itemsize}") + steps).view(array.dtype)
    return moved
