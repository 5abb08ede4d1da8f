"""Models whose functions have scalars that float32 does not hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]

MASK = np.array([0.3, 0.0, -np.inf, 0.3, -1e300, 0.0, -np.inf])


def functions(scalar: float) -> dict[str, Function]:
    """Functions of images with a scalar, held as they are, or in a partial call."""
    return {
        "elu": functools.partial(F.elu, alpha=scalar),
        "celu": functools.partial(F.celu, alpha=scalar),
        "leaky_relu": functools.partial(F.leaky_relu, negative_slope=scalar),
        "hardtanh": functools.partial(F.hardtanh, min_val=-scalar, max_val=0.7),
        "hardsigmoid": F.hardsigmoid,
        "selu": F.selu,
        "dropout": functools.partial(F.dropout, p=scalar),
        "average": functools.partial(F.avg_pool2d, kernel_size=3),
        "in place": lambda x: F.elu(2 * x, scalar),
        "huber": lambda x: F.huber_loss(x, 0.3 * x.detach(), delta=scalar, reduction="none"),
        "pad": lambda x: F.pad(x, [1, 2, 0, 1], value=scalar),
        "scale": lambda x: 0.3 * x + scalar,
        "power": lambda x: torch.sigmoid(x) ** scalar,
        "addmm": lambda x: torch.addmm(x[0, 0], x[0, 1, :, :6], x[0, 2], beta=0.3, alpha=scalar)[None, None],
        "norm": lambda x: x / torch.linalg.vector_norm(x, 30 * scalar, 1, keepdim=True),
        "small norm": lambda x: F.normalize(0.1 * scalar * x, dim=1) * scalar,
        "distance": lambda x: scalar * x * torch.dist(x, 2 * x, 3),
        "bilinear": lambda x: scalar * F.interpolate(x, (9, 11), mode="bilinear"),
        "corners": lambda x: scalar * F.interpolate(x, (9, 4), mode="bilinear", align_corners=True),
        "by factor": lambda x: scalar * F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        "bicubic": lambda x: scalar * F.interpolate(x, (9, 4), mode="bicubic"),
        "local": nn.LocalResponseNorm(3, 3 * scalar, 0.7, 1.7),
        "masked": lambda x: torch.softmax(torch.maximum(x + torch.from_numpy(MASK).to(x), least(x)) * scalar, -1),
    }


def least(x: Tensor) -> Tensor:
    return torch.full([1], -1e300, dtype=torch.float64).to(x)


class Computed(nn.Module):
    """A function between two layers, which the model holds as an attribute, and in a dict if `in_dict`."""

    def __init__(self, kind: str, scalar: float = 0.1, in_dict: bool = False) -> None:
        super().__init__()
        function = functions(scalar)[kind]
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.act, self.acts = (nn.Identity(), {kind: function}) if in_dict else (function, {})
        self.head = nn.Linear(1 if kind == "addmm" else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(x))
        for function in self.acts.values():
            x = function(x)
        return self.head(x.mean((2, 3)))


class Together(nn.Module):
    """Several functions of the output of one layer."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.acts = [functions(0.1)[kind] for kind in kinds]

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(0.3 * sum(function(x).mean((2, 3)) for function in self.acts))


class BatchByHand(nn.Module):
    """A batch norm written by hand."""

    def __init__(self, eps: float, momentum: float, times: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))
        self.eps, self.momentum, self.times = eps, momentum, times

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
        return self.times * (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class Batched(nn.Module):
    """A batch norm of the framework, or one written by hand."""

    def __init__(self, by_hand: bool, eps: float = 0.1, momentum: float = 0.1, times: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.norm = BatchByHand(eps, momentum, times) if by_hand else nn.BatchNorm1d(6, eps, momentum)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)))
