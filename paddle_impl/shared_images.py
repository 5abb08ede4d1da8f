"""Runs layers of a Paddle model with the images of a batch split among threads.

On a CPU with several threads, Paddle's kernels use little more than one (docs/performance.md). So each thread takes some of the images
through several layers at once. Most layers compute every image independently of the others. At a batch norm in training, the threads
exchange the sums of their images, and normalise with the statistics of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, TypeVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_impl import cpu_functions
from paddle_impl.cpu_functions import array, constants, scale_channels, sum_channels
from paddle_impl.layers import BatchNorm, Dropout, _Conv
from parity.arrays import Array
from parity.network import nodes as kinds
from parity.network.nodes import Node, Nodes
from parity.threads import THREADS, Exchange

_Result = TypeVar("_Result")

_SPLITTABLE = (
    kinds.Conv,
    kinds.ReLU,
    kinds.GELU,
    kinds.SiLU,
    kinds.Sigmoid,
    kinds.Tanh,
    kinds.LRN,
    kinds.MaxPool,
    kinds.PadChannels,
    kinds.Dropout,
    kinds.BatchNorm,
)
"""Kinds that can take the images of a batch in parts: dropout if its mask is an argument."""

_LEAST_TRAINING, _LEAST_INFERENCE = 125_000, 50_000
"""So many values must a layer yield for each thread, on average: Python runs on one thread at a time (docs/performance.md)."""


Step = tuple[nn.Layer, Tensor | None]
"""A layer, and its mask if it is a dropout with one."""


def step(model: nn.Layer, node: Node, masks: Mapping[str, Tensor] | None) -> Step:
    """The layer of `node` in `model`, with its mask."""
    layer = getattr(model, node.name)
    return layer, masks[node.name] if masks and isinstance(layer, Dropout) else None


def split_nodes(model: nn.Layer, nodes: Nodes, masks: Mapping[str, Tensor] | None) -> list[list[Node]]:
    """`nodes` as runs of consecutive nodes whose layers can all take images in parts, or all cannot."""
    return [list(run) for _, run in groupby(nodes, lambda node: _is_splittable(model, node, masks))]


def _is_splittable(model: nn.Layer, node: Node, masks: Mapping[str, Tensor] | None) -> bool:
    """Whether the layer of `node` is unchanged, without hooks, and can take the images of a batch in parts."""
    if not isinstance(node, _SPLITTABLE):
        return False
    layer = getattr(model, node.name)
    if "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_post_hooks:
        return False
    if isinstance(node, kinds.Dropout):
        return bool(masks) or not layer.training
    if isinstance(node, kinds.BatchNorm):
        if layer.training:
            return _learns(layer) and cpu_functions.has_array(layer.weight)
        return not paddle.is_grad_enabled()  # all threads would add to its gradients
    return isinstance(layer, _Conv) if isinstance(node, kinds.Conv) else not layer.parameters()


def _learns(layer: nn.Layer) -> bool:
    """Whether `layer` is a batch norm that normalises with the statistics of the batch."""
    return isinstance(layer, BatchNorm) and layer.training


def part_sizes(model: nn.Layer, run: Sequence[Node], x: Tensor, masks: Mapping[str, Tensor] | None) -> list[int]:
    """The number of the images `x` that each thread takes through a `run` of `split_nodes`; [] if they are not split.

    They are split on CPU if the run gains by it and holds enough for more than one thread. Also sets the number of threads of Paddle's
    kernels: one if images are split, else all.
    """
    if not cpu_functions.is_eager_on_cpu(x):
        return []
    able = min(THREADS.count, x.shape[0]) > 1 and _is_splittable(model, run[0], masks)  # as are all of its run
    threads = _worthwhile_threads(model, run, x.shape[0]) if able and gains(model, run) else 1
    THREADS.give(1 if threads > 1 else THREADS.count, paddle.base.core.set_num_threads)
    return THREADS.sizes(x.shape[0], threads) if threads > 1 else []


def gains(model: nn.Layer, nodes: Sequence[Node]) -> bool:
    """Whether `nodes` hold a convolution, or a batch norm in training: other nodes alone are not worth the copies."""
    return any(isinstance(node, kinds.Conv) or _learns(getattr(model, node.name)) for node in nodes)


def _worthwhile_threads(model: nn.Layer, run: Sequence[Node], images: int) -> int:
    """How many threads gain more from taking `images` through `run` than they lose by waiting for each other."""
    layers = model.network.layers
    values = images * sum(math.prod(layers[node.name].output) for node in run) / len(run)
    return int(values // (_LEAST_TRAINING if paddle.is_grad_enabled() else _LEAST_INFERENCE))


def compute(x: Tensor, step: Step) -> Tensor:
    """The output of the layer of `step` for `x`."""
    layer, mask = step
    return layer(x) if mask is None else layer(x, mask)


def compute_in_threads(steps: Sequence[Step], x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The output of the layers of `steps` for `x`, whose images are split among the threads in parts of `sizes`."""
    weights = [weight for layer, _ in steps for weight in _weights(layer)]
    if paddle.is_grad_enabled():
        return _Shared.apply(x, steps, sizes, *weights)

    def compute_part(part: _Part) -> Tensor:
        with paddle.no_grad():  # every thread starts with gradients on
            return part.compute(part.images, weights)

    return paddle.concat(_map(compute_part, _parts(x, steps, sizes)))


def _weights(layer: nn.Layer) -> list[Tensor]:
    """The parameters of a layer that can take images in parts."""
    if not isinstance(layer, _Conv | BatchNorm):
        return []
    return [weight for weight in (layer.weight, layer.bias) if weight is not None]


@dataclass(frozen=True)
class _Part:
    """The images of the thread `index`, and the layers that they go through, with the masks of these images."""

    index: int
    images: Tensor
    steps: list[Step]
    exchange: Exchange

    def compute(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The output of the layers for the images `x`, with `weights` instead of the layers' own."""
        rest = iter(weights)
        for step in self.steps:
            layer = step[0]
            own = [next(rest) for _ in _weights(layer)]
            if isinstance(layer, _Conv):
                x = layer.of(x, *own)
            else:
                x = _SharedBatchNorm.apply(x, *own, layer, self) if _learns(layer) else compute(x, step)
        return x

    def share(self, value: _Result) -> list[_Result]:
        """Give `value` to the other threads. The values of all threads, in the order of their images."""
        return self.exchange.give(self.index, value)


def _parts(x: Tensor, steps: Sequence[Step], sizes: Sequence[int]) -> list[_Part]:
    """For each thread, its images of `x` and `steps` with the masks of these images."""
    layers, exchange = [layer for layer, _ in steps], Exchange(len(sizes))
    masks = [[None] * len(sizes) if mask is None else _cut(mask, sizes) for _, mask in steps]
    cut = zip(_cut(x, sizes), *masks, strict=True)
    return [_Part(i, part, list(zip(layers, own, strict=True)), exchange) for i, (part, *own) in enumerate(cut)]


def _cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Consecutive parts of `x` with `sizes` images each. They are views: a split would copy."""
    ends = list(accumulate(sizes))
    return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _map(act: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
    """Call `act` on every part, each on a thread. After an error in one part, the others do not wait for it."""

    def guarded(part: _Part) -> _Result:
        with part.exchange.end_together():
            return act(part)

    return THREADS.map(guarded, parts)


class _Shared(PyLayer):
    """Layers that take images in parts, on images split among the threads in parts of `sizes`, forward and backward.

    Each thread builds a graph of its own part. The gradients of the `weights` are added in the order of the parts, so that all runs with
    the same number of threads round equally. The output cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[Step], sizes: Sequence[int], *weights: Tensor) -> Tensor:
        def compute_part(part: _Part) -> tuple[Tensor, list[Tensor], Tensor]:
            images, *own = (tensor.detach() for tensor in (part.images, *weights))
            for copy, tensor in zip((images, *own), (x, *weights), strict=True):
                copy.stop_gradient = tensor.stop_gradient
            with paddle.enable_grad():
                return images, own, part.compute(images, own)

        ctx.sizes, ctx.parts = sizes, _parts(x, steps, sizes)
        ctx.graphs = _map(compute_part, ctx.parts)
        whole = paddle.concat([out.detach() for _, _, out in ctx.graphs])
        for images, _, out in ctx.graphs:  # the graph keeps the tensors that it needs, and not these
            images._clear_dataptr()
            out._clear_dataptr()
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shares = _cut(gradient, ctx.sizes)

        def differentiate(part: _Part) -> list[Tensor | None]:
            images, own, out = ctx.graphs[part.index]
            paddle.autograd.backward([out], [shares[part.index]])
            return [tensor.grad for tensor in (images, *own)]

        THREADS.give(1, paddle.base.core.set_num_threads)
        inputs, *weights = zip(*_map(differentiate, ctx.parts), strict=True)
        ctx.parts = ctx.graphs = []
        sums = THREADS.map(_add, weights)
        return (None if inputs[0] is None else paddle.concat(list(inputs)), *sums)


def _add(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the parts' gradients of a weight, or None if it has none."""
    first, *others = gradients
    if first is not None:
        with paddle.no_grad():
            for other in others:
                first.add_(other)
    return first


class _SharedBatchNorm(PyLayer):
    """The batch norm of one thread's images `x` [N,C] or [N,C,H,W] with the statistics of the images of all threads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, layer: BatchNorm, part: _Part) -> Tensor:
        count, batch_mean, variance = _combine(part.share(_statistics(x)))
        mean = paddle.to_tensor(batch_mean)
        if part.index == 0:
            layer._update_statistics(mean, paddle.to_tensor(variance), "biased", count)
        inverse = 1 / np.sqrt(variance + variance.dtype.type(layer._epsilon))
        ctx.x, ctx.part, ctx.learns = x.detach(), part, not gamma.stop_gradient
        ctx.count, ctx.mean, ctx.inverse, ctx.scale = count, mean, paddle.to_tensor(inverse), array(gamma) * inverse
        return scale_channels(x, mean, paddle.to_tensor(ctx.scale), beta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        zeros, gradient = constants(0.0, gradient.shape[1], gradient.dtype), gradient.contiguous()
        normalised, ctx.x = scale_channels(ctx.x, ctx.mean, ctx.inverse, zeros), None
        gamma, beta = sum_channels(gradient, normalised), sum_channels(gradient)
        of_gamma, of_beta = (sum(own) * (1 / ctx.count) for own in zip(*ctx.part.share((gamma, beta)), strict=True))
        # (gradient - its mean - normalised * the mean of their product) * scale
        scales = [paddle.to_tensor(own) for own in (of_beta, ctx.scale, of_gamma * ctx.scale)]
        out = scale_channels(gradient, scales[0], scales[1], zeros)
        out.subtract_(scale_channels(normalised, zeros, scales[2], zeros))
        return out, paddle.to_tensor(gamma) if ctx.learns else None, paddle.to_tensor(beta)


def _statistics(x: Tensor) -> tuple[int, Array, Array]:
    """The number of values of a channel of `x` [N,C] or [N,C,H,W], their mean and biased variance."""
    count, channels = x.size // x.shape[1], [x.shape[1]]
    if count == 1:
        # DIFFERS: the kernel leaves the statistics of a single value unset.
        mean = array(x.contiguous()).reshape(channels)
        return count, mean, np.zeros_like(mean)
    mean, variance = (paddle.zeros(channels, x.dtype) for _ in range(2))
    zeros, ones = (constants(value, channels[0], x.dtype) for value in (0.0, 1.0))
    F.batch_norm(x.detach(), mean, variance, ones, zeros, True, 0.0)
    return count, array(mean), array(variance)


def _combine(statistics: Sequence[tuple[int, Array, Array]]) -> tuple[int, Array, Array]:
    """The number of values of a channel, their mean and biased variance, from those of each part (Chan, Golub and LeVeque 1979)."""
    count = sum(n for n, _, _ in statistics)
    mean = np.sum([own * (n / count) for n, own, _ in statistics], axis=0)
    variance = np.sum([(own + (part - mean) ** 2) * (n / count) for n, part, own in statistics], axis=0)
    return count, mean, variance
