"""The one-ULP twin: the same numbers, each moved to a neighbouring float. It shows what rounding alone can change."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.weights.half_precision import widen

BFLOAT16_ULP = 2**16
"""A unit in the last place of a bfloat16 number, in those of the float32 number that holds it."""


def move_one_ulp(arrays: Mapping[str, Array], seed: int, dtype: str = "") -> dict[str, Array]:
    """Move every element by one unit in the last place, up or down at random; zeros, infinities and NaN stay as they are.

    The unit is that of the array's dtype, or of `dtype` if that is bfloat16 or float16: float32 arrays then hold such numbers.
    """
    ulps = BFLOAT16_ULP if dtype == "bfloat16" else 1
    moved = {}
    for name, array in arrays.items():
        stored = array.astype(np.float16) if dtype == "float16" else array
        moved[name] = widen(_moved(stored, _coins(seed, name, array.shape) == (array > 0), ulps))
    return moved


def summed(state: Mapping[str, Array], seed: int, share: float) -> dict[str, Array]:
    """Return the weights `state` moved as in a twin whose sums are rounded too: the rounding of each layer's sums counts `share` times.

    Adding n products one after the other rounds n times, each time by half a unit of the partial sum. If the products have random signs,
    this comes to 0.41 n half units of a product: the effect of moving all n by sqrt(n) / 4 units at random. If they have one sign, it comes
    to 0.33 n**1.5: the effect of moving all of them the same way by as much. These are the random walks of Higham and Mary 2019, SIAM J.
    Sci. Comput. 41(5), for evenly spread rounding errors. So weights [units, inputs, ...] move by this many units in the last place times
    `share`, at random, and once more up or down by output unit. All other arrays, and weights of short sums, move by one unit, as in
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
    """Move `array` away from zero where `larger`, elsewhere towards zero."""
    # As integers, floats of one sign are ordered by size. This is faster than np.nextafter.
    whole = np.min_scalar_type(
        -1 - 2 * ulps
    )  # the smallest integers that hold the steps: a model may have 100 million weights
    steps = larger.astype(whole) * whole.type(2 * ulps) - whole.type(ulps)
    steps = steps * (np.isfinite(array) & (np.abs(array) >= ulps * np.finfo(array.dtype).smallest_subnormal))
    moved: Array = (array.view(f"i{array.itemsize}") + steps).view(array.dtype)
    return moved
