"""Nodes of a network as Paddle layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_impl import cpu_functions
from parity.network import nodes
from parity.network.nodes import Shape
from parity.network.windows import Pad


class BatchNorm(nn.BatchNorm2D):
    """`nodes.BatchNorm` for [N,C] and [N,C,H,W], which updates the running statistics by the node's own convention."""

    def __init__(self, node: nodes.BatchNorm, shape: Shape) -> None:
        # DIFFERS: momentum is the weight of the OLD value.
        super().__init__(shape[0], epsilon=node.eps, momentum=node.decay)
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the batch's statistics in training, with the running statistics in inference."""
        if not self.training:
            return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, False, 0.0, self._epsilon)
        mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
        # With momentum 0 the kernel's "running" statistics are the batch's, so its own convention does not matter.
        weight = self.weight
        if self.node.frozen:
            # DIFFERS: if gamma needs no gradient, beta gets none, either. So use a copy of gamma that needs one.
            weight = weight.detach()
            weight.stop_gradient = False
        out = F.batch_norm(x, mean, variance, weight, self.bias, True, 0.0, self._epsilon)
        # DIFFERS: the kernel returns the biased variance on CPU, the unbiased one through cuDNN.
        self._update_statistics(mean, variance, _kernel_variance(x.place.is_gpu_place()), x.size // x.shape[1])
        return out

    def _update_statistics(self, mean: Tensor, variance: Tensor, kind: str, count: int) -> None:
        """Update the running statistics by those of a batch of `count` values a channel. `kind`: is `variance` "biased" or "unbiased"?"""
        with paddle.no_grad():
            if self.node.variance == "biased" and kind == "unbiased":
                variance = times(variance, (count - 1) / count)
            elif self.node.variance == "unbiased" and kind == "biased":
                variance = times(variance, count / (count - 1))
            paddle.assign(times(self._mean, self.node.decay) + times(mean, 1 - self.node.decay), self._mean)
            paddle.assign(times(self._variance, self.node.decay) + times(variance, 1 - self.node.decay), self._variance)


class Dropout(nn.Layer):
    """`nodes.Dropout` of either kind; its mask (0/1, in the input's shape) is an argument or drawn."""

    def __init__(self, node: nodes.Dropout) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mask in training, and scale in training or inference, depending on the kind."""
        if not self.training:
            return times(x, self.node.test_scale) if self.node.test_scale != 1 else x
        if mask is None:
            mask = F.dropout(paddle.ones_like(x), self.node.rate) > 0
        out = cpu_functions.multiply_by_mask(x, mask)
        return times(out, self.node.train_scale) if self.node.train_scale != 1 else out


class LRN(nn.Layer):
    """`nodes.LRN`: x / (k + alpha * sum of squares of the channels around) ** beta, on [N,C,H,W]."""

    def __init__(self, node: nodes.LRN) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: the sums are computed by adding shifted squares."""
        # DIFFERS: LocalResponseNorm divides alpha by the size; here it multiplies the sum.
        node, channels = self.node, x.shape[1]
        squares = F.pad(x * x, [0, 0, node.size // 2, (node.size - 1) // 2, 0, 0, 0, 0])
        total = _channels(squares, 0, channels)
        for first in range(1, node.size):
            total = total + _channels(squares, first, channels)
        return x / (times(total, node.alpha) + node.k) ** node.beta


def _channels(x: Tensor, first: int, count: int) -> Tensor:
    """`count` channels of [N,C,...] from `first` on, taken from a split."""
    # DIFFERS: the gradient of a slice is much slower than that of a split.
    parts = [part for part in (first, count, x.shape[1] - first - count) if part]
    return paddle.split(x, parts, 1)[1 if first else 0]


class Concat(nn.Layer):
    """The end of `nodes.Branches`: [N,C1,...], [N,C2,...], ... -> [N,C1+C2+...,...]."""

    def forward(self, *branches: Tensor) -> Tensor:
        """Concatenate over the channels."""
        return paddle.concat(branches, 1)


class Sum(nn.Layer):
    """The end of `nodes.Add`: arrays of one shape -> their sum, in the order of the branches."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Add one branch after the other."""
        for other in others:
            first = first + other
        return first


class Product(nn.Layer):
    """The end of `nodes.Multiply`: arrays [N,C,H,W], and [N,C] for whole channels -> their product, in the order of the branches."""

    def forward(self, *branches: Tensor) -> Tensor:
        """Multiply one branch after the other."""
        axes = max(branch.dim() for branch in branches)
        first, *others = [branch.unsqueeze([2, 3]) if branch.dim() < axes else branch for branch in branches]
        for other in others:
            first = first * other
        return first


class PadChannels(nn.Layer):
    """`nodes.PadChannels`: [N,C,H,W] -> [N,channels,H,W] with channels of zeros."""

    def __init__(self, node: nodes.PadChannels, shape: Shape) -> None:
        super().__init__()
        self.pad = node.pad(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Add the zeros."""
        return F.pad(x, [0, 0, *self.pad, 0, 0, 0, 0])


class LogSoftmax(nn.Layer):
    """`nodes.LogSoftmax`: [N,K] -> log-probabilities [N,K]."""

    def forward(self, x: Tensor) -> Tensor:
        """The log-probabilities of every row."""
        # DIFFERS: log_softmax returns at least the largest score minus 64.
        return x - paddle.logsumexp(x, 1, keepdim=True)


class GlobalAvgPool(nn.Layer):
    """`nodes.GlobalAvgPool`: [N,C,H,W] -> [N,C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean([2, 3])


class _ReLU(nn.ReLU):
    """Paddle's ReLU with a faster gradient on CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return cpu_functions.relu(x) if cpu_functions.trains(x) else F.relu(x)


class _MaxPool(nn.MaxPool2D):
    """Paddle's MaxPool2D with a faster gradient on CPU."""

    def __init__(self, node: nodes.MaxPool, shape: Shape) -> None:
        super().__init__(node.size, node.stride, _padding(node.pads(shape)), ceil_mode=node.ceil)
        self.even = len(self.padding) == 2 and node.output(shape) == replace(node, ceil=False).output(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.even and cpu_functions.trains(x):
            return cpu_functions.max_pool2d(x, self.ksize, self.stride, self.padding)
        return F.max_pool2d(x, self.ksize, self.stride, self.padding, ceil_mode=self.ceil_mode)


_avg_pool2d = F.avg_pool2d
"""Paddle's own function: a comparison of users' models replaces the public one."""


class _AvgPool(nn.AvgPool2D):
    """Average pooling without its padding, which may be asymmetric, and with a gradient in the precision of its dtype."""

    def __init__(self, node: nodes.AvgPool, shape: Shape) -> None:
        pads = node.pads(shape)
        super().__init__(node.size, node.stride, _padding(pads), ceil_mode=node.ceil, exclusive=True)
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        out = _avg_pool2d(x, self.ksize, self.stride, self.padding, self.ceil_mode, self.exclusive)
        if x.dtype != paddle.float64:
            return out
        # DIFFERS: the kernel's gradient rounds 1 / count to float32 in every dtype; `repair` corrects that.
        sizes = zip(x.shape[2:], out.shape[2:], self.pads, strict=True)
        rows, columns = (self._seen(size, windows, before) for size, windows, (before, _) in sizes)
        count = (rows.unsqueeze(1) * columns).astype(x.dtype)
        repair = 1 / (count * (1 / count).astype("float32").astype(x.dtype))
        return out * repair + (out * (1 - repair)).detach()

    def _seen(self, size: int, windows: int, before: int) -> Tensor:
        """The number of the `size` pixels, without padding, that each window covers along one side."""
        start = paddle.arange(windows) * self.stride - before
        return (start + self.ksize).clip(max=size) - start.clip(min=0)


_FEW_PIXELS = 49
"""At most so many pixels in a convolution's output make products of many images faster (docs/performance.md)."""


class _Conv(nn.Conv2D):
    """Paddle's Conv2D with faster computations on CPU. Elsewhere, the bias is added as [C,1,1], which is faster than as [1,C,1,1]."""

    def __init__(self, node: nodes.Conv, shape: Shape) -> None:
        padding, bias = _padding(node.pads(shape)), None if node.bias else False
        super().__init__(shape[0], node.filters, node.kernel, node.stride, padding, groups=node.groups, bias_attr=bias)
        symmetric = node.groups == 1 and len(padding) == 2
        self.node = node
        self.turns = symmetric and node.stride == 1 < node.kernel > max(padding) and node.filters < 4 * shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x, self.weight, self.bias)

    def of(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The convolution of `x` with `weight` and `bias` instead of the layer's own."""
        out = self._product(x, weight)
        if bias is None:
            return out
        return cpu_functions.add_bias(out, bias) if cpu_functions.trains(out) else out + bias.reshape([-1, 1, 1])

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self._has_few_pixels(x):
            return cpu_functions.convolve_few_pixels(x, weight, self.node.stride, self.node.pads(tuple(x.shape[1:])))
        if self.turns and cpu_functions.trains(x):
            return cpu_functions.convolve_turned(x, weight, self._padding)
        return F.conv2d(x, weight, None, self._stride, self._padding, self._dilation, self._groups)

    def _has_few_pixels(self, x: Tensor) -> bool:
        """Whether `x` has many images, and their output few pixels."""
        if not cpu_functions.has_array(x) or x.shape[0] < 8 or self.node.groups > 1:
            return False
        return math.prod(self.node.output(tuple(x.shape[1:]))[1:]) <= _FEW_PIXELS


def _padding(pads: tuple[Pad, Pad]) -> list[int]:
    """The padding argument of the kernels: [above, left], or [above, below, left, right] for asymmetric padding."""
    (above, below), (left, right) = pads
    return [above, left] if above == below and left == right else [above, below, left, right]


def times(x: Tensor, factor: float) -> Tensor:
    """`x` * `factor` in the precision of `x`."""
    # DIFFERS: Tensor * float goes through a kernel attribute of float32.
    return x * paddle.full([], factor, x.dtype)


@cache
def _kernel_variance(gpu: bool) -> str:
    """Which batch variance the batch norm kernel of the current device writes: "biased" or "unbiased", measured.

    `gpu` only keys the cache.
    """
    mean, variance, ones = paddle.zeros([1]), paddle.zeros([1]), paddle.ones([1])
    F.batch_norm(paddle.to_tensor([[-1.0], [1.0]]), mean, variance, ones, ones, True, 0.0, 1e-5)
    return "biased" if abs(variance.item() - 1) < 0.1 else "unbiased"


def conv(node: nodes.Conv, shape: Shape) -> nn.Layer:
    """2-D convolution."""
    return _Conv(node, shape)


def linear(node: nodes.Linear, shape: Shape) -> nn.Layer:
    """Fully connected layer."""
    return nn.Linear(shape[0], node.units, bias_attr=None if node.bias else False)


def batch_norm(node: nodes.BatchNorm, shape: Shape) -> nn.Layer:
    """Batch norm."""
    return BatchNorm(node, shape)


def lrn(node: nodes.LRN, shape: Shape) -> nn.Layer:
    """Local response normalisation."""
    return LRN(node)


def relu(node: nodes.ReLU, shape: Shape) -> nn.Layer:
    """ReLU."""
    return _ReLU()


def gelu(node: nodes.GELU, shape: Shape) -> nn.Layer:
    """GELU, the exact one."""
    return nn.GELU()


def silu(node: nodes.SiLU, shape: Shape) -> nn.Layer:
    """SiLU."""
    return nn.Silu()


def sigmoid(node: nodes.Sigmoid, shape: Shape) -> nn.Layer:
    """The logistic function."""
    return nn.Sigmoid()


def tanh(node: nodes.Tanh, shape: Shape) -> nn.Layer:
    """Hyperbolic tangent."""
    return nn.Tanh()


def log_softmax(node: nodes.LogSoftmax, shape: Shape) -> nn.Layer:
    """Log-softmax."""
    return LogSoftmax()


def max_pool(node: nodes.MaxPool, shape: Shape) -> nn.Layer:
    """Max pooling."""
    return _MaxPool(node, shape)


def avg_pool(node: nodes.AvgPool, shape: Shape) -> nn.Layer:
    """Average pooling."""
    return _AvgPool(node, shape)


def global_avg_pool(node: nodes.GlobalAvgPool, shape: Shape) -> nn.Layer:
    """The mean of every map."""
    return GlobalAvgPool()


def pad_channels(node: nodes.PadChannels, shape: Shape) -> nn.Layer:
    """Channels of zeros."""
    return PadChannels(node, shape)


def dropout(node: nodes.Dropout, shape: Shape) -> nn.Layer:
    """Dropout."""
    return Dropout(node)


def flatten(node: nodes.Flatten, shape: Shape) -> nn.Layer:
    """Flatten."""
    return nn.Flatten()


def branches(node: nodes.Branches, shape: Shape) -> nn.Layer:
    """The concatenation of branches."""
    return Concat()


def add(node: nodes.Add, shape: Shape) -> nn.Layer:
    """The sum of branches."""
    return Sum()


def multiply(node: nodes.Multiply, shape: Shape) -> nn.Layer:
    """The product of branches."""
    return Product()


LAYERS: dict[type[nodes.Node], Callable[..., nn.Layer]] = {
    nodes.Conv: conv,
    nodes.Linear: linear,
    nodes.BatchNorm: batch_norm,
    nodes.LRN: lrn,
    nodes.ReLU: relu,
    nodes.GELU: gelu,
    nodes.SiLU: silu,
    nodes.Sigmoid: sigmoid,
    nodes.Tanh: tanh,
    nodes.LogSoftmax: log_softmax,
    nodes.MaxPool: max_pool,
    nodes.AvgPool: avg_pool,
    nodes.GlobalAvgPool: global_avg_pool,
    nodes.PadChannels: pad_channels,
    nodes.Dropout: dropout,
    nodes.Flatten: flatten,
    nodes.Branches: branches,
    nodes.Add: add,
    nodes.Multiply: multiply,
}
"""Kind of node -> the function that makes its layer."""
