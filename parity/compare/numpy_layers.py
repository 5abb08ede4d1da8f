"""Compute layers in numpy float64, as the network's definition says: the judge if the two frameworks differ.

The formulas are those of `parity.network.nodes`. No framework takes part. Arrays are [N,C] or [N,C,H,W]; a convolution's weight is
[filters, channels / groups, kernel, kernel], a linear layer's [units, features], all others are [channels].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce

import numpy as np

from parity.arrays import Array
from parity.network.graph import Layer
from parity.network.nodes import (
    GELU,
    LRN,
    Add,
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
)
from parity.network.windows import Pad, count, over_channels

ELEMENTS_AT_ONCE = 2**20
"""Input elements (8 MiB) that a convolution takes at once, for a batch of any size; at least one image."""

STEP = 1e-7
"""The largest change of an element in a central difference, relative to the elements' size.

About 6e-6, the cube root of float64's epsilon, suits a smooth function best. The smaller step crosses fewer ReLU kinks.
"""


def layer_output(
    layer: Layer,
    inputs: Sequence[Array],
    arrays: Mapping[str, Array],
    training: bool,
    mask: Array | None = None,
) -> Array:
    """Compute the output of `layer`, float64 [N, *layer.output].

    `inputs` are the outputs of `layer.sources`, in their order. `arrays` are the layer's parameters and statistics by short name, such as
    "weight". `mask` is what a dropout keeps in training: 0 and 1 in the shape of its input. `ValueError` if an array is missing or has
    another shape than the network says.
    """
    node, parts = layer.node, [array.astype(np.float64) for array in inputs]
    x = _join(node, parts) if isinstance(node, Joined) else parts[0]
    own = {parameter.name.rpartition(".")[2]: parameter.shape for parameter in node.parameters(layer.input)}
    _require_shape(f"{node.name}: input", x, (len(x), *layer.input))
    for name, shape in own.items():
        _require_shape(f"{node.name}.{name}", arrays.get(name), shape)
    if training and isinstance(node, Dropout):
        _require_shape(f"{node.name}: mask", mask, x.shape)
    output: Array = LAYERS[type(node)](node, x, {name: arrays[name].astype(np.float64) for name in own}, training, mask)
    return output


def _join(node: Joined, inputs: Sequence[Array]) -> Array:
    """Join the `inputs` [N,C] or [N,C,H,W] of `node`; `ValueError` if their shapes do not fit."""
    if isinstance(node, Branches):
        return np.concatenate(inputs, axis=1)
    return reduce(np.add, inputs) if isinstance(node, Add) else multiply(inputs)


def multiply(inputs: Sequence[Array]) -> Array:
    """Multiply arrays [N,C,H,W], and [N,C] that scale whole channels."""
    return reduce(np.multiply, with_equal_axes(inputs))


def with_equal_axes(inputs: Sequence[Array]) -> list[Array]:
    """Reshape arrays [N,C] among arrays [N,C,H,W] to [N,C,1,1], so that they broadcast over whole channels."""
    axes = max(array.ndim for array in inputs)
    return [array.reshape(*array.shape, *[1] * (axes - array.ndim)) for array in inputs]


def _require_shape(name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    if array is None or array.shape != shape:
        found = "is missing" if array is None else f"has shape {list(array.shape)}"
        raise ValueError(f"{name} {found}, expected shape {list(shape)}")


def per_channel(array: Array, like: Array) -> Array:
    """Reshape `array` [C] so that it broadcasts over the channels of `like` [N,C,...]."""
    return array.reshape(1, -1, *[1] * (like.ndim - 2))


def convolve(node: Conv, x: Array, weight: Array, pads: Sequence[Pad]) -> Array:
    """Convolve `x` [N,C,H,W], padded by `pads` (above, below) and (left, right), with `weight`; add no bias.

    For every place of the kernel one matrix product over the channels, of a few images at a time.
    """
    at_once = max(1, ELEMENTS_AT_ONCE // math.prod(x.shape[1:]))
    parts = [_convolve(node, x[first : first + at_once], weight, pads) for first in range(0, len(x), at_once)]
    return np.concatenate(parts)


def _convolve(node: Conv, x: Array, weight: Array, pads: Sequence[Pad]) -> Array:
    grouped = weight.reshape(node.groups, -1, *weight.shape[1:])  # [groups, filters / groups, channels / groups, ...]
    total = 0.0
    for i, j, part in _window_places(node, x.swapaxes(0, 1), node.kernel, pads, 0.0):
        total = total + np.ascontiguousarray(grouped[..., i, j]) @ part.reshape(node.groups, grouped.shape[2], -1)
    return np.reshape(total, (node.filters, len(x), *part.shape[2:])).swapaxes(0, 1)


def kernel_gradient(node: Conv, x: Array, gradient: Array) -> Array:
    """Compute the gradient of the weight of a convolution from its input `x` [N,C,H,W] and the `gradient` of its output [N,F,h,w]."""
    back = np.ascontiguousarray(gradient.swapaxes(0, 1)).reshape(node.groups, node.filters // node.groups, -1)
    made = np.empty((node.filters, x.shape[1] // node.groups, node.kernel, node.kernel))
    for i, j, part in _window_places(node, x.swapaxes(0, 1), node.kernel, node.pads(x.shape[1:]), 0.0):
        columns = part.reshape(node.groups, made.shape[1], -1).swapaxes(1, 2)
        made[:, :, i, j] = (back @ columns).reshape(node.filters, -1)
    return made


def max_pool(node: MaxPool, x: Array, pads: Sequence[Pad]) -> Array:
    """Take the maximum of every window of `x` [N,C,H,W]; padding is never the maximum."""
    return reduce(np.maximum, (part for _, _, part in _window_places(node, x, node.size, pads, -math.inf)))


def average_pool(node: MaxPool, x: Array, pads: Sequence[Pad]) -> Array:
    """Take the mean of every window of `x` [N,C,H,W]; padding does not count."""
    total, seen = (
        reduce(np.add, (part for _, _, part in _window_places(node, y, node.size, pads, 0.0)))
        for y in (x, np.ones((1, 1, *x.shape[2:])))
    )
    mean: Array = total / seen
    return mean


def _window_places(
    node: Conv | MaxPool, x: Array, size: int, pads: Sequence[Pad], fill: float
) -> Iterator[tuple[int, int, Array]]:
    """For every place (i, j) within a window of `size`: the elements that all windows have there, in the shape of the output.

    Windows beyond the end of the map, which `ceil` allows, see `fill` there as in the padding.
    """
    ceil = isinstance(node, MaxPool) and node.ceil
    sides = zip(x.shape[2:], pads, strict=True)
    rows, columns = (count(node.name, length, size, node.stride, pad, ceil) for length, pad in sides)
    edges = [(before, behind + ceil * node.stride) for before, behind in pads]
    padded = np.pad(x, ((0, 0), (0, 0), *edges), constant_values=fill)
    for i, j in np.ndindex(size, size):
        yield i, j, padded[:, :, i :: node.stride, j :: node.stride][:, :, :rows, :columns]


def batch_statistics(x: Array, variance: str) -> tuple[Array, Array]:
    """Compute the mean and the "biased" or "unbiased" variance, [C] each, of every channel of `x` [N,C] or [N,C,H,W].

    `ValueError` for the unbiased variance of a single value.
    """
    axes, values = (0, *range(2, x.ndim)), x.size // x.shape[1]
    divisor = values - (variance == "unbiased")
    if not divisor:
        raise ValueError(f"{values} values per channel have no {variance} variance")
    mean = x.mean(axes)
    return mean, ((x - per_channel(mean, x)) ** 2).sum(axes) / divisor


def moved_statistics(node: BatchNorm, x: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """Compute the running `mean` and `variance`, [C] each, after a training step on the input `x` of `node`.

    running = decay * running + (1 - decay) * batch. A frozen batch norm moves them too: only its gamma stays.
    """
    batch_mean, batch_variance = batch_statistics(x, node.variance)
    moved_mean: Array = node.decay * mean + (1 - node.decay) * batch_mean
    moved_variance: Array = node.decay * variance + (1 - node.decay) * batch_variance
    return moved_mean, moved_variance


def cross_entropy(scores: Array, labels: Array, smoothing: float) -> float:
    """Compute the cross-entropy of class `scores` [N,K] and `labels` [N], summed over the images.

    All classes share the part `smoothing` of each label equally.
    """
    top = scores.max(1)
    wanted = (1 - smoothing) * scores[np.arange(len(labels)), labels] + smoothing * scores.mean(1)
    return float((top + np.log(np.exp(scores - top[:, None]).sum(1)) - wanted).sum())


def costs_of_images(scores: Array, labels: Array) -> Array:
    """Compute the cross-entropy of class `scores` [N,K] and `labels` [N] for every image: [N]."""
    top = scores.max(1)
    costs: Array = top + np.log(np.exp(scores - top[:, None]).sum(1)) - scores[np.arange(len(labels)), labels]
    return costs


def slope(function: Callable[[Array], float], x: Array, direction: Array) -> float:
    """Compute the derivative of `function` at `x` along `direction`, of one shape, by central differences in float64.

    The largest change of an element of `x` is `STEP` times the root mean square of `x`, or `STEP` if `x` is zero. For a smooth function the
    error is at most about 1e-7 of the product of the lengths of gradient and `direction`. ReLU kinks and max-pool ties matter only if
    the step crosses them. To decide between the gradients a and b of one x, compare <a, d> and <b, d> with the slope along d = a - b.
    """
    x, direction = x.astype(np.float64), direction.astype(np.float64)
    largest = float(np.abs(direction).max(initial=0.0))
    if not largest:
        return 0.0
    size = math.sqrt(float(np.mean(x**2))) or 1.0
    step = STEP * size / largest
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def _conv(node: Conv, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    output = convolve(node, x, arrays["weight"], node.pads(x.shape[1:]))
    return output + per_channel(arrays["bias"], output) if node.bias else output


def _linear(node: Linear, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    output: Array = x @ arrays["weight"].T
    return output + arrays["bias"] if node.bias else output


def _batch_norm(node: BatchNorm, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    mean, variance = batch_statistics(x, "biased") if training else (arrays["mean"], arrays["variance"])
    scale = arrays["gamma"] / np.sqrt(variance + node.eps)
    output: Array = per_channel(scale, x) * (x - per_channel(mean, x)) + per_channel(arrays["beta"], x)
    return output


def _lrn(node: LRN, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    output: Array = x / (node.k + node.alpha * over_channels(x * x, node.size)) ** node.beta
    return output


def gelu(x: Array) -> Array:
    """Compute the exact GELU."""
    # 1 + erf(z) = erfc(-z), which keeps its digits where erf is near -1.
    output: Array = x * np.frompyfunc(math.erfc, 1, 1)(x / -math.sqrt(2)).astype(np.float64) / 2
    return output


def sigmoid(x: Array) -> Array:
    """Compute the logistic function."""
    small = np.exp(-np.abs(x))  # it never overflows
    found: Array = np.where(x < 0, small, 1) / (1 + small)
    return found


def hard_sigmoid(x: Array, slope: float) -> Array:
    """Compute the straight line through (0, 0.5) with the `slope`, cut off at 0 and 1."""
    return np.clip(slope * x + 0.5, 0.0, 1.0)


def _pad_channels(
    node: PadChannels, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None
) -> Array:
    return np.pad(x, ((0, 0), node.pad(x.shape[1:]), (0, 0), (0, 0)))


def _log_softmax(node: LogSoftmax, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    below = x - x.max(1, keepdims=True)
    output: Array = below - np.log(np.exp(below).sum(1, keepdims=True))
    return output


def _dropout(node: Dropout, x: Array, arrays: Mapping[str, Array], training: bool, mask: Array | None) -> Array:
    output: Array = x * mask * node.train_scale if training else x * node.test_scale
    return output


LAYERS: dict[type[Node], Callable[..., Array]] = {
    Conv: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    LRN: _lrn,
    ReLU: lambda node, x, *_: np.maximum(x, 0),
    GELU: lambda node, x, *_: gelu(x),
    SiLU: lambda node, x, *_: x * sigmoid(x),
    Sigmoid: lambda node, x, *_: sigmoid(x),
    Tanh: lambda node, x, *_: np.tanh(x),
    LogSoftmax: _log_softmax,
    MaxPool: lambda node, x, *_: max_pool(node, x, node.pads(x.shape[1:])),
    AvgPool: lambda node, x, *_: average_pool(node, x, node.pads(x.shape[1:])),
    GlobalAvgPool: lambda node, x, *_: x.mean((2, 3)),
    Dropout: _dropout,
    Flatten: lambda node, x, *_: x.reshape(len(x), -1),
    PadChannels: _pad_channels,
    **dict.fromkeys((Branches, Add, Multiply), lambda node, x, *_: x),
}
"""How each kind of node is computed: (node, input, arrays, training, mask) -> output. The input of a `Joined` node is joined already."""
