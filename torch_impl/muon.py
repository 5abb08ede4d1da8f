"""Muon in PyTorch, as `parity.recipe.Group` has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.optimizer import COEFFICIENTS, EPS, Optimizer
from torch_impl import checkpoint
from torch_impl.layers import times
from torch_impl.model import Model


def update(model: Model, optimizer: torch.optim.Optimizer, settings: Optimizer, rate: float) -> None:
    """Updates the parameters that `settings` has Muon for, at `rate`; their velocities are among the slots of `optimizer`."""
    groups = settings.by_muon(model.network)
    if not groups:
        return
    parameters, held = checkpoint.tensors(model), checkpoint.slots(model, optimizer, settings)
    with torch.no_grad():
        for name, group in groups.items():
            weight, velocity = parameters[name], held[f"optimizer.velocity.{name}"][1]
            gradient = weight.grad
            velocity.copy_(times(velocity, group.momentum) + gradient)
            step = orthogonal(gradient + times(velocity, group.momentum), group.muon)
            kept = weight / times(norm(weight), 1 / math.sqrt(len(weight)))
            weight.copy_(kept - times(step, rate * group.rate))


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
