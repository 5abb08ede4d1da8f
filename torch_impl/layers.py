"""Nodes of a network as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity import nodes
from parity.nodes import Shape


class BatchNorm(nn.BatchNorm2d):
    """`nodes.BatchNorm` for [N,C] and [N,C,H,W]: moves the running statistics by the node's own convention."""

    def __init__(self, node: nodes.BatchNorm, shape: Shape) -> None:
        # DIFFERS: momentum is the weight of the NEW value.
        super().__init__(shape[0], eps=node.eps, momentum=1 - node.decay)
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """Normalises by the batch in training, by the running statistics in inference."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With momentum 1 the "running" statistics are the batch's own: the kernel's convention stays out of ours.
        out = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            # DIFFERS: the kernel yields the unbiased variance.
            if self.node.variance == "biased":
                variance = times(variance, (count - 1) / count)
            self.running_mean.copy_(times(self.running_mean, self.node.decay) + times(mean, 1 - self.node.decay))
            self.running_var.copy_(times(self.running_var, self.node.decay) + times(variance, 1 - self.node.decay))
        return out


class Dropout(nn.Module):
    """`nodes.Dropout`, either kind, with a mask given (0/1, the input's shape) or drawn."""

    def __init__(self, node: nodes.Dropout) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Masks in training, scales as the kind asks."""
        if not self.training:
            return times(x, self.node.test_scale) if self.node.test_scale != 1 else x
        if mask is None:
            mask = torch.rand_like(x) >= self.node.rate
        out = x * mask.to(x.dtype)
        return times(out, self.node.train_scale) if self.node.train_scale != 1 else out


def times(x: Tensor, factor: float) -> Tensor:
    """`x` * `factor` in the precision of `x`."""
    return x * factor


def conv(node: nodes.Conv, shape: Shape) -> nn.Module:
    """2-D convolution."""
    return nn.Conv2d(shape[0], node.filters, node.kernel, node.stride, node.padding, groups=node.groups, bias=node.bias)


def linear(node: nodes.Linear, shape: Shape) -> nn.Module:
    """Fully connected layer."""
    return nn.Linear(shape[0], node.units, bias=node.bias)


def batch_norm(node: nodes.BatchNorm, shape: Shape) -> nn.Module:
    """Batch norm."""
    return BatchNorm(node, shape)


def relu(node: nodes.ReLU, shape: Shape) -> nn.Module:
    """ReLU."""
    return nn.ReLU()


def max_pool(node: nodes.MaxPool, shape: Shape) -> nn.Module:
    """Max pooling."""
    return nn.MaxPool2d(node.size, node.stride, node.padding, ceil_mode=node.ceil)


def avg_pool(node: nodes.AvgPool, shape: Shape) -> nn.Module:
    """Average pooling."""
    return nn.AvgPool2d(node.size, node.stride, node.padding, ceil_mode=node.ceil, count_include_pad=False)


def dropout(node: nodes.Dropout, shape: Shape) -> nn.Module:
    """Dropout."""
    return Dropout(node)


def flatten(node: nodes.Flatten, shape: Shape) -> nn.Module:
    """Flatten."""
    return nn.Flatten()


LAYERS: dict[type[nodes.Node], Callable[..., nn.Module]] = {
    nodes.Conv: conv,
    nodes.Linear: linear,
    nodes.BatchNorm: batch_norm,
    nodes.ReLU: relu,
    nodes.MaxPool: max_pool,
    nodes.AvgPool: avg_pool,
    nodes.Dropout: dropout,
    nodes.Flatten: flatten,
}
"""How each kind of node is spelled."""
