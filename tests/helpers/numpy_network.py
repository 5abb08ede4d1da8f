"""Computes a network in numpy from the definitions of its nodes, with gradients by complex steps: slow, but exact to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    LRN,
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Joined,
    Linear,
    LogSoftmax,
    MaxPool,
    Multiply,
    Node,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    walk,
)
from parity.weights.canonical_state import State

Array = np.ndarray
STEP = 1e-30


def slopes(function: Callable[[Array], Any], array: Array) -> Array:
    """The gradient of a scalar `function` of `array`: Im f(x + ih) / h. It needs no subtraction, so no digits cancel."""
    found = np.empty(array.shape)
    for place in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[place] += STEP * 1j
        found[place] = function(moved).imag / STEP
    return found


def outputs(
    network: Network,
    state: State,
    images: Array,
    masks: Mapping[str, Array] | None = None,
    replaced: tuple[str, Array] | None = None,
    known: Mapping[str, Array] | None = None,
    changed: str = "",
) -> dict[str, Array]:
    """Every layer's output: in training if there are `masks` of the dropouts (which may be empty), in inference if they are None.

    `replaced` holds an array instead of one layer's output, which is then not computed unless the layer joins branches.
    `known` holds the outputs before a change at the layer `changed`. Layers that come before it are taken from there.
    """
    found: dict[str, Array] = {}
    is_changed = known is None

    def through(nodes: tuple[Node, ...], x: Array) -> Array:
        nonlocal is_changed
        for node in nodes:
            is_changed = is_changed or node.name == changed
            if isinstance(node, Auxiliary):
                if masks is not None:
                    through(node.nodes, x)
                continue
            given = replaced[1] if replaced and replaced[0] == node.name else None
            if isinstance(node, Joined):  # heads inside it are computed in any case
                x = JOINS[type(node)]([through(branch, x) for branch in node.branches])
            elif given is None and not is_changed:
                x = known[node.name]
            elif given is None:
                own = {n.partition(".")[2]: array for n, array in state.items() if n.partition(".")[0] == node.name}
                x = NODES[type(node)](node, x, own, None if masks is None else masks.get(node.name, True))
            found[node.name] = x = x if given is None else given
        return x

    through(network.nodes, images)
    return found


def total_loss(network: Network, found: Mapping[str, Array], labels: Array, divisor: int) -> Any:
    """The loss of the class scores in `found`, plus that of every auxiliary head times its weight."""
    heads = [node for node in walk(network.nodes) if isinstance(node, Auxiliary)]
    weighted = [float(np.float32(node.weight)) * loss(found[node.nodes[-1].name], labels, divisor) for node in heads]
    return sum(weighted, loss(found[network.nodes[-1].name], labels, divisor))


def loss(logits: Array, labels: Array, divisor: int) -> Any:
    """Summed cross-entropy / `divisor`."""
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).sum() / divisor


def batch_statistics(x: Array, kind: str) -> tuple[Array, Array]:
    """Mean and "biased" or "unbiased" variance per channel."""
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    mean = rows.mean(axis=0)
    return mean, ((rows - mean) ** 2).sum(axis=0) / (len(rows) - (kind == "unbiased"))


def _edges(padding: int | str, size: int, window: int, stride: int) -> tuple[int, int]:
    """The padding before and after. "same" has size / stride windows, rounded up; an odd pixel of padding is at the end."""
    if padding == "same":
        reach = (len(range(0, size, stride)) - 1) * stride + window
        missing = max(reach - size, 0)
        return missing // 2, missing - missing // 2
    return int(padding), int(padding)


def _conv(node: Conv, x: Array, own: State, training: Any) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), *(_edges(node.padding, size, node.kernel, node.stride) for size in x.shape[2:])))
    height, width = ((size - node.kernel) // node.stride + 1 for size in x.shape[2:])
    y = np.empty((len(x), node.filters, height, width), np.result_type(x, own["weight"]))
    inputs, filters = x.shape[1] // node.groups, node.filters // node.groups
    for i, j in np.ndindex(height, width):
        top, left = i * node.stride, j * node.stride
        patch = x[:, :, top : top + node.kernel, left : left + node.kernel]
        for group in range(node.groups):
            outs = slice(group * filters, (group + 1) * filters)
            seen = patch[:, group * inputs : (group + 1) * inputs].reshape(len(x), -1)
            y[:, outs, i, j] = seen @ own["weight"][outs].reshape(filters, -1).T
    return y + own["bias"][:, None, None] if node.bias else y


def _linear(node: Linear, x: Array, own: State, training: Any) -> Array:
    y = np.einsum("ni,oi->no", x, own["weight"])
    return y + own["bias"] if node.bias else y


def _batch_norm(node: BatchNorm, x: Array, own: State, training: Any) -> Array:
    mean, variance = (own["mean"], own["variance"]) if training is None else batch_statistics(x, "biased")
    whole = (slice(None), *[None] * (x.ndim - 2))
    return (x - mean[whole]) / np.sqrt(variance[whole] + node.eps) * own["gamma"][whole] + own["beta"][whole]


def _relu(node: ReLU, x: Array, own: State, training: Any) -> Array:
    return np.where(x.real > 0, x, 0)


def _erf(x: Array) -> Array:
    """The error function of real numbers, or of numbers whose imaginary part is a complex step."""
    found = np.vectorize(math.erf)(x.real)
    return found + 1j * x.imag * 2 / math.sqrt(math.pi) * np.exp(-(x.real**2)) if np.iscomplexobj(x) else found


def _windows(node: MaxPool, size: int) -> Iterator[slice]:
    """The pixels of each window along one side of the map, without padding."""
    before, behind = _edges(node.padding, size, node.size, node.stride)
    steps = (size + before + behind - node.size) / node.stride
    for i in range((math.ceil if node.ceil else math.floor)(steps) + 1):
        start = i * node.stride - before
        yield slice(max(start, 0), start + node.size)


def _pool(node: MaxPool, x: Array, choose: Callable[[Array], Array]) -> Array:
    rows, columns = (list(_windows(node, size)) for size in x.shape[2:])
    return np.stack([np.stack([choose(x[:, :, r, c]) for c in columns], axis=-1) for r in rows], axis=-2)


def _first_largest(patch: Array) -> Array:
    flat = patch.reshape(*patch.shape[:2], -1)
    return np.take_along_axis(flat, flat.real.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def _lrn(node: LRN, x: Array, own: State, training: Any) -> Array:
    """The paper's formula, channel by channel: j from max(0, i - n/2) to min(N - 1, i + n/2)."""
    y = np.empty_like(x)
    k, alpha, beta = (float(np.float32(value)) for value in (node.k, node.alpha, node.beta))
    for i in range(x.shape[1]):
        around = x[:, max(0, i - node.size // 2) : i + (node.size - 1) // 2 + 1]
        y[:, i] = x[:, i] / (k + alpha * (around**2).sum(axis=1)) ** beta
    return y


def _pad_channels(node: PadChannels, x: Array, own: State, training: Any) -> Array:
    zeros = node.channels - x.shape[1]
    before = {"after": 0, "before": zeros, "around": zeros // 2}[node.side]
    y = np.zeros((len(x), node.channels, *x.shape[2:]), x.dtype)
    y[:, before : before + x.shape[1]] = x
    return y


def _product(parts: list[Array]) -> Array:
    axes = max(part.ndim for part in parts)
    return math.prod(part if part.ndim == axes else part[:, :, None, None] for part in parts)


JOINS: dict[type[Node], Callable[[list[Array]], Any]] = {
    Branches: lambda parts: np.concatenate(parts, axis=1),
    Add: sum,
    Multiply: _product,
}
"""Kind of node that joins branches -> the function of the branches' outputs."""


def _dropout(node: Dropout, x: Array, own: State, mask: Any) -> Array:
    upscale, kept = node.kind == "upscale_in_train", np.float32(1 - node.rate)
    if mask is None:
        return x if upscale else x * float(kept)
    return x * mask * (float(np.float32(1 / (1 - node.rate))) if upscale else 1)


NODES: dict[type[Node], Callable[..., Array]] = {
    Conv: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    LRN: _lrn,
    ReLU: _relu,
    GELU: lambda node, x, own, training: x * (1 + _erf(x / math.sqrt(2))) / 2,
    SiLU: lambda node, x, own, training: x / (1 + np.exp(-x)),
    Sigmoid: lambda node, x, own, training: 1 / (1 + np.exp(-x)),
    Tanh: lambda node, x, own, training: np.tanh(x),
    LogSoftmax: lambda node, x, own, training: x - np.log(np.exp(x).sum(axis=1, keepdims=True)),
    MaxPool: lambda node, x, own, training: _pool(node, x, _first_largest),
    AvgPool: lambda node, x, own, training: _pool(node, x, lambda patch: patch.mean(axis=(2, 3))),
    PadChannels: _pad_channels,
    Dropout: _dropout,
    GlobalAvgPool: lambda node, x, own, training: x.mean(axis=(2, 3)),
    Flatten: lambda node, x, own, training: x.reshape(len(x), -1),
}
"""Kind of node -> the function (node, input, its arrays, mask) -> output. The mask is a dropout's, True in training, None in inference."""
