"""Muon in Paddle, as `parity.recipe.Group` has it."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor

from paddle_impl import checkpoint
from paddle_impl.layers import times
from paddle_impl.model import Model
from parity.optimizer import COEFFICIENTS, EPS, Optimizer


def update(model: Model, optimizer: paddle.optimizer.Optimizer, settings: Optimizer, rate: float) -> None:
    """Updates the parameters that `settings` has Muon for, at `rate`; their velocities are among the slots of `optimizer`."""
    groups = settings.by_muon(model.network)
    if not groups:
        return
    parameters, held = checkpoint.tensors(model), checkpoint.slots(model, optimizer, settings)
    with paddle.no_grad():
        for name, group in groups.items():
            weight, velocity = parameters[name], held[f"optimizer.velocity.{name}"][1]
            gradient = weight.grad
            paddle.assign(times(velocity, group.momentum) + gradient, velocity)
            step = orthogonal(gradient + times(velocity, group.momentum), group.muon)
            kept = weight / times(norm(weight), 1 / math.sqrt(len(weight)))
            paddle.assign(kept - times(step, rate * group.rate), weight)


def orthogonal(gradient: Tensor, steps: int) -> Tensor:
    """What is nearest to `gradient` [filters,...], as a matrix [filters, ...], among those of orthonormal rows or columns, roughly."""
    a, b, c = COEFFICIENTS
    matrix = gradient.reshape([len(gradient), -1])
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (norm(x) + EPS)
    for _ in range(steps):
        square = x @ x.T
        x = times(x, a) + (times(square, b) + times(square @ square, c)) @ x
    return (x if wide else x.T).reshape(gradient.shape)


def norm(x: Tensor) -> Tensor:
    """The root of the sum of squares of all elements."""
    return (x * x).sum().sqrt()
