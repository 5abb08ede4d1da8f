"""Initialisers of parameters, as plain data. `parity.weights.canonical_state.initialise` draws the numbers."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

from parity.errors import InputError, within


def float32(value: float) -> float:
    """`value` rounded to float32, as a Python float.

    Paddle's kernels keep some scalar attributes in float32. This function rounds them once for both frameworks, so that both compute with
    the same number in every dtype. Rounding only one side is worse than rounding none (docs/differences.md).
    """
    with np.errstate(over="ignore"):  # the caller refuses infinity
        return float(np.float32(value))


DISTRIBUTIONS = ("normal", "truncated", "uniform", "constant", "whitening")
FANS = ("none", "in", "both")


@dataclass(frozen=True)
class Init:
    """The initialiser of a parameter, whose `distribution` is normal, truncated, uniform, constant or whitening.

    `scale` is the standard deviation (normal; truncated: before numbers beyond two deviations are redrawn), the symmetric bound (uniform)
    or the value (constant). It is finite, and only a constant may be negative. It is divided by the square root of the fan: "in" is the
    inputs of one output unit, "both" inputs plus outputs, "none" divides by nothing. Whitening needs 2x2 kernels of 3 channels and at most
    24 filters; they are `parity.weights.whitening.FILTERS` times the scale. With `dirac`, the first filters start as the identity plus a
    small random part. Filter i then copies channel i through the middle of its kernel.
    """

    distribution: str
    scale: float
    fan: str = "none"
    dirac: bool = False

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS or self.fan not in FANS:
            known = f"{', '.join(DISTRIBUTIONS)}; {', '.join(FANS)}"
            raise InputError(f"unknown initialiser {self.distribution!r}, {self.fan!r}: {known}")
        low = -sys.float_info.max if self.distribution == "constant" else 0
        object.__setattr__(self, "scale", within("initialiser scale", self.scale, low, math.inf))


ZEROS = Init("constant", 0.0)
ONES = Init("constant", 1.0)
MSRA = Init("normal", math.sqrt(2.0), "in")
"""N(0, sqrt(2 / fan_in)): He et al. 2015, and the v2 default of `img_conv`."""
FAN_IN_NORMAL = Init("normal", 1.0, "in")
"""N(0, 1 / sqrt(fan_in)): the v2 default of `fc`."""
FAN_IN_UNIFORM = Init("uniform", 1.0, "in")
"""U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): PyTorch's default for weights and biases of Conv2d and Linear."""
XAVIER = Init("uniform", math.sqrt(6.0), "both")
"""U(-b, b), b = sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, and TensorFlow's `xavier_initializer`."""
