"""The ports of `exact_models_torch`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

Function = Callable[[Tensor], Tensor]

MASK = np.array([0.3, 0.0, -np.inf, 0.3, -1e300, 0.0, -np.inf])


def functions(scalar: float) -> dict[str, Function]:
    """Functions of images with a scalar, held as they are, or in a partial call."""
    return {
        "elu": functools.partial(F.elu, alpha=scalar),
        "celu": functools.partial(F.celu, alpha=scalar),
        "leaky_relu": functools.partial(F.leaky_relu, negative_slope=scalar),
        "hardtanh": functools.partial(F.hardtanh, min=-scalar, max=0.7),
        "hardsigmoid": F.hardsigmoid,
        "selu": F.selu,
        "dropout": functools.partial(F.dropout, p=scalar),
        "average": functools.partial(F.avg_pool2d, kernel_size=3),
        "in place": lambda x: F.elu_(2 * x, scalar),
        "huber": lambda x: F.smooth_l1_loss(x, 0.3 * x.detach(), delta=scalar, reduction="none"),
        "pad": lambda x: F.pad(x, [1, 2, 0, 1], value=scalar),
        "scale": lambda x: paddle.scale(x, 0.3, scalar),
        "power": lambda x: paddle.pow(F.sigmoid(x), scalar),
        "addmm": lambda x: paddle.addmm(x[0, 0], x[0, 1, :, :6], x[0, 2], 0.3, scalar).unsqueeze([0, 1]),
        "norm": lambda x: x / paddle.norm(x, 30 * scalar, 1, keepdim=True),
        "small norm": lambda x: F.normalize(0.1 * scalar * x, axis=1) * scalar,
        "distance": lambda x: scalar * x * paddle.dist(x, 2 * x, 3),
        "bilinear": lambda x: scalar * F.interpolate(x, [9, 11], mode="bilinear"),
        "corners": lambda x: scalar * F.interpolate(x, [9, 4], mode="bilinear", align_corners=True),
        "by factor": lambda x: scalar * F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        "bicubic": lambda x: scalar * F.interpolate(x, [9, 4], mode="bicubic"),
        "local": nn.LocalResponseNorm(3, 3 * scalar, 0.7, 1.7),
        "masked": lambda x: F.softmax(paddle.maximum(x + constant(MASK, x), least(x)) * scalar),
    }


def constant(array: np.ndarray, x: Tensor) -> Tensor:
    return paddle.to_tensor(array).astype(x.dtype)


def least(x: Tensor) -> Tensor:
    return paddle.full([1], -1e300, "float64").astype(x.dtype)


class Computed(nn.Layer):
    """A function between two layers, which the model holds as an attribute, and in a dict if `in_dict`."""

    def __init__(self, kind: str, scalar: float = 0.1, in_dict: bool = False) -> None:
        super().__init__()
        function = functions(scalar)[kind]
        self.body = nn.Conv2D(3, 4, 3, padding=1)
        self.act, self.acts = (nn.Identity(), {kind: function}) if in_dict else (function, {})
        self.head = nn.Linear(1 if kind == "addmm" else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(x))
        for function in self.acts.values():
            x = function(x)
        return self.head(x.mean((2, 3)))


class BatchByHand(nn.Layer):
    """A batch norm written by hand."""

    def __init__(self, eps: float, momentum: float, times: float) -> None:
        super().__init__()
        self.weight = self.create_parameter([6], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([6], is_bias=True)
        self.register_buffer("_mean", paddle.zeros([6]))
        self.register_buffer("_variance", paddle.ones([6]))
        self.eps, self.momentum, self.times = eps, momentum, times

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self._mean, self._variance
        if self.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
            with paddle.no_grad():
                self._mean.set_value(self._mean * self.momentum + mean * (1 - self.momentum))
                self._variance.set_value(self._variance * self.momentum + variance * (1 - self.momentum))
        return self.times * (x - mean) / paddle.sqrt(variance + self.eps) * self.weight + self.bias


class Batched(nn.Layer):
    """A batch norm of the framework, or one written by hand."""

    def __init__(self, kind: str, eps: float = 0.1, momentum: float = 0.9, times: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        made = {
            "by hand": lambda: BatchByHand(eps, momentum, times),
            "layer": lambda: nn.BatchNorm1D(6, momentum, eps),
            "old layer": lambda: nn.BatchNorm(6, momentum=momentum, epsilon=eps),
            "fixed": lambda: nn.BatchNorm1D(6, momentum, eps, use_global_stats=True),
        }
        self.norm = made[kind]()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)))


class Together(nn.Layer):
    """Several functions of the output of one layer."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2D(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.acts = [functions(0.1)[kind] for kind in kinds]

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(0.3 * sum(function(x).mean((2, 3)) for function in self.acts))


def static_together(kinds: Sequence[str], full_graph: bool = True) -> Together:
    """A static graph with several functions, and a specification of inputs that does not fit those of a comparison."""
    specification = [paddle.static.InputSpec([None, 3, None, None], "float32")] if full_graph else None
    return paddle.jit.to_static(Together(kinds), input_spec=specification, full_graph=full_graph)


def static_computed(kind: str, scalar: float) -> Computed:
    """A static graph with one function."""
    return paddle.jit.to_static(Computed(kind, scalar), full_graph=True)


def static(eps: float) -> Batched:
    """A static graph with a batch norm."""
    return paddle.jit.to_static(Batched("layer", eps), full_graph=True)
