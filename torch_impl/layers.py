"""Nodes of a network as PyTorch modules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.network import nodes
from parity.network.nodes import Shape
from parity.network.windows import Pad

_batch_norm = F.batch_norm
"""PyTorch's own function: a comparison of users' models replaces the public one."""


class BatchNorm(nn.BatchNorm2d):
    """`nodes.BatchNorm` for [N,C] and [N,C,H,W], which updates the running statistics by the node's own convention."""

    def __init__(self, node: nodes.BatchNorm, shape: Shape) -> None:
        # DIFFERS: momentum is the weight of the NEW value.
        super().__init__(shape[0], eps=node.eps, momentum=1 - node.decay)
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the batch's statistics in training, with the running statistics in inference."""
        if not self.training:
            return _batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With momentum 1 the kernel's "running" statistics are the batch's, so its own convention does not matter.
        out = _batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            # DIFFERS: the kernel returns the unbiased variance.
            if self.node.variance == "biased":
                variance = times(variance, (count - 1) / count)
            self.running_mean.copy_(times(self.running_mean, self.node.decay) + times(mean, 1 - self.node.decay))
            self.running_var.copy_(times(self.running_var, self.node.decay) + times(variance, 1 - self.node.decay))
        return out


class Dropout(nn.Module):
    """`nodes.Dropout` of either kind; its mask (0/1, in the input's shape) is an argument or drawn."""

    def __init__(self, node: nodes.Dropout) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mask in training, and scale in training or inference, depending on the kind."""
        if not self.training:
            return times(x, self.node.test_scale) if self.node.test_scale != 1 else x
        if mask is None:
            mask = F.dropout(torch.ones_like(x), self.node.rate) > 0
        out = x * mask.to(x.dtype)
        return times(out, self.node.train_scale) if self.node.train_scale != 1 else out


class LRN(nn.Module):
    """`nodes.LRN`: x / (k + alpha * sum of squares of the channels around) ** beta, on [N,C,H,W]."""

    def __init__(self, node: nodes.LRN) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: the sums are computed by adding shifted squares."""
        # DIFFERS: LocalResponseNorm divides alpha by the size; here it multiplies the sum.
        node, channels = self.node, x.shape[1]
        squares = F.pad(x * x, (0, 0, 0, 0, node.size // 2, (node.size - 1) // 2))
        total = squares[:, :channels]
        for first in range(1, node.size):
            total = total + squares[:, first : first + channels]
        return x / (times(total, node.alpha) + node.k) ** node.beta


class Concat(nn.Module):
    """The end of `nodes.Branches`: [N,C1,...], [N,C2,...], ... -> [N,C1+C2+...,...]."""

    def forward(self, *branches: Tensor) -> Tensor:
        """Concatenate over the channels."""
        return torch.cat(branches, 1)


class Sum(nn.Module):
    """The end of `nodes.Add`: arrays of one shape -> their sum, in the order of the branches."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Add one branch after the other."""
        for other in others:
            first = first + other
        return first


class Product(nn.Module):
    """The end of `nodes.Multiply`: arrays [N,C,H,W], and [N,C] for whole channels -> their product, in the order of the branches."""

    def forward(self, *branches: Tensor) -> Tensor:
        """Multiply one branch after the other."""
        axes = max(branch.dim() for branch in branches)
        first, *others = (branch[..., None, None] if branch.dim() < axes else branch for branch in branches)
        for other in others:
            first = first * other
        return first


class PadChannels(nn.Module):
    """`nodes.PadChannels`: [N,C,H,W] -> [N,channels,H,W] with channels of zeros."""

    def __init__(self, node: nodes.PadChannels, shape: Shape) -> None:
        super().__init__()
        self.pad = node.pad(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Add the zeros."""
        return F.pad(x, (0, 0, 0, 0, *self.pad))


class LogSoftmax(nn.Module):
    """`nodes.LogSoftmax`: [N,K] -> log-probabilities [N,K]."""

    def forward(self, x: Tensor) -> Tensor:
        """The log-probabilities of every row."""
        return F.log_softmax(x, 1)


class GlobalAvgPool(nn.Module):
    """`nodes.GlobalAvgPool`: [N,C,H,W] -> [N,C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean((2, 3))


class _MaxPool(nn.MaxPool2d):
    """Max pooling with padding that may be asymmetric."""

    def __init__(self, node: nodes.MaxPool, shape: Shape) -> None:
        edges, padding = _edges(node.pads(shape))
        super().__init__(node.size, node.stride, padding, ceil_mode=node.ceil)
        self.edges = edges

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.edges, value=-math.inf) if self.edges else x)


class _AvgPool(nn.AvgPool2d):
    """Average pooling without its padding, which may be asymmetric."""

    def __init__(self, node: nodes.AvgPool, shape: Shape) -> None:
        edges, padding = _edges(node.pads(shape))
        super().__init__(node.size, node.stride, padding, ceil_mode=node.ceil, count_include_pad=False)
        self.edges = edges

    def forward(self, x: Tensor) -> Tensor:
        if not self.edges:
            return super().forward(x)
        sums, counts = (
            F.avg_pool2d(F.pad(y, self.edges), self.kernel_size, self.stride, divisor_override=1)
            for y in (x, torch.ones_like(x[:1, :1]))
        )
        return sums / counts


class _Conv(nn.Conv2d):
    """Convolution with padding that may be asymmetric."""

    def __init__(self, node: nodes.Conv, shape: Shape) -> None:
        edges, padding = _edges(node.pads(shape))
        super().__init__(shape[0], node.filters, node.kernel, node.stride, padding, groups=node.groups, bias=node.bias)
        self.edges = edges

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.edges) if self.edges else x)


def _edges(pads: tuple[Pad, Pad]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The padding before the kernel, (left, right, above, below) or (), and the kernel's own padding."""
    # DIFFERS: kernels pad by the same amount on both sides.
    (above, below), (left, right) = pads
    return ((), (above, left)) if above == below and left == right else ((left, right, above, below), (0, 0))


def times(x: Tensor, factor: float) -> Tensor:
    """`x` * `factor` in the precision of `x`."""
    return x * factor


def conv(node: nodes.Conv, shape: Shape) -> nn.Module:
    """2-D convolution."""
    return _Conv(node, shape)


def linear(node: nodes.Linear, shape: Shape) -> nn.Module:
    """Fully connected layer."""
    return nn.Linear(shape[0], node.units, bias=node.bias)


def batch_norm(node: nodes.BatchNorm, shape: Shape) -> nn.Module:
    """Batch norm."""
    return BatchNorm(node, shape)


def lrn(node: nodes.LRN, shape: Shape) -> nn.Module:
    """Local response normalisation."""
    return LRN(node)


def relu(node: nodes.ReLU, shape: Shape) -> nn.Module:
    """ReLU."""
    return nn.ReLU()


def gelu(node: nodes.GELU, shape: Shape) -> nn.Module:
    """GELU, the exact one."""
    return nn.GELU()


def silu(node: nodes.SiLU, shape: Shape) -> nn.Module:
    """SiLU."""
    return nn.SiLU()


def sigmoid(node: nodes.Sigmoid, shape: Shape) -> nn.Module:
    """The logistic function."""
    return nn.Sigmoid()


def tanh(node: nodes.Tanh, shape: Shape) -> nn.Module:
    """Hyperbolic tangent."""
    return nn.Tanh()


def log_softmax(node: nodes.LogSoftmax, shape: Shape) -> nn.Module:
    """Log-softmax."""
    return LogSoftmax()


def max_pool(node: nodes.MaxPool, shape: Shape) -> nn.Module:
    """Max pooling."""
    return _MaxPool(node, shape)


def avg_pool(node: nodes.AvgPool, shape: Shape) -> nn.Module:
    """Average pooling."""
    return _AvgPool(node, shape)


def global_avg_pool(node: nodes.GlobalAvgPool, shape: Shape) -> nn.Module:
    """The mean of every map."""
    return GlobalAvgPool()


def pad_channels(node: nodes.PadChannels, shape: Shape) -> nn.Module:
    """Channels of zeros."""
    return PadChannels(node, shape)


def dropout(node: nodes.Dropout, shape: Shape) -> nn.Module:
    """Dropout."""
    return Dropout(node)


def flatten(node: nodes.Flatten, shape: Shape) -> nn.Module:
    """Flatten."""
    return nn.Flatten()


def branches(node: nodes.Branches, shape: Shape) -> nn.Module:
    """The concatenation of branches."""
    return Concat()


def add(node: nodes.Add, shape: Shape) -> nn.Module:
    """The sum of branches."""
    return Sum()


def multiply(node: nodes.Multiply, shape: Shape) -> nn.Module:
    """The product of branches."""
    return Product()


LAYERS: dict[type[nodes.Node], Callable[..., nn.Module]] = {
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
"""Kind of node -> the function that makes its module."""
