"""The building blocks of a network, as plain data.

Every node is a frozen dataclass with a `name` and everything a framework would otherwise default. Shapes leave out
the batch: an image is (channels, height, width), a vector is (features,). To add a kind of node: write its class here,
list it in `KINDS`, and spell it in `paddle_impl/layers.py` and `torch_impl/layers.py`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

from parity.errors import InputError, within

Shape = tuple[int, ...]


def float32(value: float) -> float:
    """`value` rounded to float32, as a Python float.

    Paddle's kernels keep some scalar attributes in float32. They are rounded once, here, so that both frameworks compute
    with the same number in every dtype; rounding only one side is worse than none (docs/differences.md).
    """
    with np.errstate(over="ignore"):  # infinity, which whoever asked refuses
        return float(np.float32(value))


@dataclass(frozen=True)
class Init:
    """How a parameter starts: `distribution` is normal, uniform or constant.

    The standard deviation (normal), bound (uniform, symmetric) or value (constant) is `scale`, divided by the square root of
    the fan when `fan` is "in" (inputs of one output unit) rather than "none". It is finite, and negative only as a constant.
    """

    distribution: str
    scale: float
    fan: str = "none"

    def __post_init__(self) -> None:
        if self.distribution not in ("normal", "uniform", "constant") or self.fan not in ("none", "in"):
            raise InputError(
                f"unknown initialiser {self.distribution!r}, {self.fan!r}: normal, uniform or constant; none or in"
            )
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


@dataclass(frozen=True)
class Parameter:
    """One named array of the canonical state: conv weights OIHW, linear weights [out, in], the rest [channels]."""

    name: str
    shape: Shape
    init: Init
    fan_in: int = 1
    trainable: bool = True


@dataclass(frozen=True)
class Node:
    """Base of all nodes: passes its input through and owns nothing."""

    name: str

    def output(self, shape: Shape) -> Shape:
        """Shape of the output for an input of `shape`; `InputError` where the node cannot take it."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """The arrays that this node owns for an input of `shape`."""
        return ()

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-accumulate operations for one image in inference; convolutions and linear layers only."""
        return 0


def _image(node: Node, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise InputError(
            f"{node.name} needs an image (channels, height, width) but gets {shape}: a Flatten stands too early"
        )
    return shape


def _window(node: Node, size: int, kernel: int, stride: int, padding: int, ceil: bool = False) -> int:
    span = size + 2 * padding - kernel
    if span < 0:
        raise InputError(f"{node.name}: a window of {kernel} does not fit an input of {size} padded by {padding}")
    steps = -(-span // stride) if ceil else span // stride
    if ceil and steps * stride >= size + padding:
        raise InputError(f"{node.name}: rounded up, its last window lies in the padding behind an input of {size}")
    return steps + 1


@dataclass(frozen=True)
class Conv(Node):
    """2-D convolution (cross-correlation), zero padded, square kernel. Weight [filters, channels / groups, kernel, kernel]."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1
    bias: bool = True
    init: Init = MSRA
    bias_init: Init = ZEROS

    def output(self, shape: Shape) -> Shape:
        """(filters, height, width) of the feature map."""
        channels, *sizes = _image(self, shape)
        if channels % self.groups or self.filters % self.groups:
            raise InputError(
                f"{self.name}: {self.groups} groups do not divide {channels} channels and {self.filters} filters"
            )
        return (self.filters, *(_window(self, size, self.kernel, self.stride, self.padding) for size in sizes))

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`weight` and, where there is one, `bias`."""
        weight = (self.filters, shape[0] // self.groups, self.kernel, self.kernel)
        return _affine(self, weight)

    def multiply_adds(self, shape: Shape) -> int:
        """kernel area x input channels of a group x output elements."""
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Linear(Node):
    """Fully connected layer on a vector. Weight [units, features]."""

    units: int
    bias: bool = True
    init: Init = FAN_IN_NORMAL
    bias_init: Init = ZEROS

    def output(self, shape: Shape) -> Shape:
        """(units,)."""
        if len(shape) != 1:
            raise InputError(f"{self.name} needs a vector but gets {shape}: put a Flatten before it")
        return (self.units,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`weight` and, where there is one, `bias`."""
        return _affine(self, (self.units, *shape))

    def multiply_adds(self, shape: Shape) -> int:
        """features x units."""
        return math.prod(shape) * self.units


def _affine(node: Conv | Linear, weight: Shape) -> tuple[Parameter, ...]:
    fan_in = math.prod(weight[1:])
    bias = (Parameter(f"{node.name}.bias", weight[:1], node.bias_init, fan_in),) if node.bias else ()
    return (Parameter(f"{node.name}.weight", weight, node.init, fan_in), *bias)


@dataclass(frozen=True)
class BatchNorm(Node):
    """Batch normalisation over batch and space, per channel (Ioffe and Szegedy 2015).

    Training normalises with the biased variance of the batch and moves the running statistics:
    running = decay * running + (1 - decay) * batch. `variance` says which batch variance enters the running one: "biased" (sum / n, the
    article's CPU kernel) or "unbiased" (sum / (n - 1), PyTorch). The running mean starts at 0, the running variance at
    `start_variance` (0 in Paddle v2, 1 elsewhere). All scalars are rounded to float32 (see `float32`).
    """

    decay: float = 0.9
    eps: float = 1e-5
    variance: str = "unbiased"
    start_variance: float = 1.0

    def __post_init__(self) -> None:
        if self.variance not in ("biased", "unbiased"):
            raise InputError(f"{self.name!r}: running variance is 'biased' or 'unbiased', not {self.variance!r}")
        for field, high in (("decay", 1), ("eps", math.inf), ("start_variance", math.inf)):
            value = within(f"{self.name!r}: {field}", float32(getattr(self, field)), 0, high)
            object.__setattr__(self, field, value)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`gamma`, `beta` and the two statistics `mean`, `variance`."""
        start = Init("constant", self.start_variance)
        return (
            Parameter(f"{self.name}.gamma", shape[:1], ONES),
            Parameter(f"{self.name}.beta", shape[:1], ZEROS),
            Parameter(f"{self.name}.mean", shape[:1], ZEROS, trainable=False),
            Parameter(f"{self.name}.variance", shape[:1], start, trainable=False),
        )


@dataclass(frozen=True)
class ReLU(Node):
    """max(x, 0); the gradient at 0 is 0."""


@dataclass(frozen=True)
class MaxPool(Node):
    """Max pooling with a square window; `ceil` rounds the output size up."""

    size: int = 2
    stride: int = 2
    padding: int = 0
    ceil: bool = False

    def output(self, shape: Shape) -> Shape:
        """(channels, height, width) after pooling."""
        channels, *sizes = _image(self, shape)
        if 2 * self.padding > self.size:
            raise InputError(f"{self.name}: padding {self.padding} is more than half of a window of {self.size}")
        return (channels, *(_window(self, s, self.size, self.stride, self.padding, self.ceil) for s in sizes))


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """Average pooling with a square window; padding does not count in the mean."""


@dataclass(frozen=True)
class Dropout(Node):
    """Zeroes each element with probability `rate` in training.

    `kind` is "downscale_in_infer" (Paddle v2: training multiplies by the 0/1 mask, inference by 1 - rate) or
    "upscale_in_train" (training divides the kept elements by 1 - rate, inference does nothing).
    """

    rate: float = 0.5
    kind: str = "upscale_in_train"

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"{self.name!r}: dropout rate {self.rate} is not between 0 and 1")
        if self.kind not in ("downscale_in_infer", "upscale_in_train"):
            raise InputError(
                f"{self.name!r}: dropout kind is downscale_in_infer or upscale_in_train, not {self.kind!r}"
            )

    @property
    def train_scale(self) -> float:
        """What training multiplies the kept elements by, rounded to float32."""
        return float32(1 / (1 - self.rate)) if self.kind == "upscale_in_train" else 1.0

    @property
    def test_scale(self) -> float:
        """What inference multiplies every element by, rounded to float32."""
        return float32(1 - self.rate) if self.kind == "downscale_in_infer" else 1.0


@dataclass(frozen=True)
class Flatten(Node):
    """(channels, height, width) -> (features,), row-major."""

    def output(self, shape: Shape) -> Shape:
        """(features,)."""
        return (math.prod(shape),)


KINDS: dict[str, type[Node]] = {
    kind.__name__: kind for kind in (Conv, Linear, BatchNorm, ReLU, MaxPool, AvgPool, Dropout, Flatten)
}
