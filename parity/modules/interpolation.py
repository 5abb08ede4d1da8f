"""The weights by which resizing an image adds pixels, in float64."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array

_A = -0.75
"""The parameter of cubic convolution, as both frameworks choose it. "Cubic convolution interpolation" (Keys 1981)."""


def axis_weights(mode: str, size: int, out: int, scale: float, align_corners: bool, align_mode: int) -> Array:
    """Return the float64 matrix [out, size] that resizes one axis, as Paddle defines it.

    `mode` is "bicubic", or another word for linear. A `scale` of 0 stands for out / size. `align_mode` 1 takes the first corners of
    pixels instead of their centres.
    """
    places = np.arange(out, dtype=np.float64)
    if align_corners:
        sources = places * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        ratio = (1 / scale if scale else size / out) if out > 1 else 0.0
        by_centre = mode == "bicubic" or align_mode == 0
        sources = (places + 0.5) * ratio - 0.5 if by_centre else places * ratio
    if mode != "bicubic":
        sources = sources.clip(0)
    first = np.floor(sources).astype(int)
    part = sources - first
    taps = _cubic(part) if mode == "bicubic" else {0: 1 - part, 1: part}
    weights = np.zeros((out, size))
    for shift, weight in taps.items():
        np.add.at(weights, (np.arange(out), (first + shift).clip(0, size - 1)), weight)
    return weights


def _cubic(part: Array) -> dict[int, Array]:
    """Return the weights of the four pixels around a place that is `part` of a pixel behind the second one."""

    def near(x: Array) -> Array:
        return ((_A + 2) * x - (_A + 3)) * x * x + 1

    def far(x: Array) -> Array:
        return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A

    return {-1: far(part + 1), 0: near(part), 1: near(1 - part), 2: far(2 - part)}
