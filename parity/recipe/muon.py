"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) on tensors of either framework, whose operators are spelled alike.

NumPy arrays work too, with `np.multiply` for `times`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from parity.network.initialisers import float32
from parity.recipe.optimizer import Group

COEFFICIENTS = tuple(float32(number) for number in (3.4445, -4.7750, 2.0315))
"""a, b, c of a Newton-Schulz step: X becomes a X + b (X X^T) X + c (X X^T)^2 X, which moves its singular values roughly to 1.

Each step multiplies the smallest singular values, and their rounding errors, by a.
"""

EPS = float32(1e-7)
"""Added to the norm by which a gradient is divided."""

Times = Callable[[Any, float], Any]
"""A framework's `layers.times`: a tensor times a number, in the tensor's precision."""


def updated(weight: Any, gradient: Any, velocity: Any, group: Group, rate: float, times: Times) -> tuple[Any, Any]:
    """Return a kernel `weight` [filters,...] and its `velocity` after an update by `group` at the learning rate `rate` (see `Group`)."""
    velocity = times(velocity, group.momentum) + gradient
    step = orthogonal(gradient + times(velocity, group.momentum), group.muon, times)
    kept = weight / times(norm(weight), 1 / math.sqrt(len(weight)))
    return kept - times(step, rate * group.rate), velocity


def orthogonal(gradient: Any, steps: int, times: Times) -> Any:
    """Return, approximately, the matrix with orthonormal rows or columns that is nearest to `gradient` as a matrix [filters, ...].

    Its shape is that of `gradient` [filters,...].
    """
    a, b, c = COEFFICIENTS
    matrix = gradient.reshape([len(gradient), -1])
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (norm(x) + EPS)
    for _ in range(steps):
        square = x @ x.T
        x = times(x, a) + (times(square, b) + times(square @ square, c)) @ x
    return (x if wide else x.T).reshape(gradient.shape)


def norm(x: Any) -> Any:
    """Return the L2 norm of all elements."""
    total = (x * x).sum()
    return total.sqrt() if hasattr(total, "sqrt") else math.sqrt(total)
