"""Runs layers of a Paddle model with the images of a batch split among threads.

On a CPU with several threads, Paddle's kernels use little more than one (docs/performance.md). So each thread takes some of the images
through several layers at once, where each layer computes every image independently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_impl.layers import Dropout, _Conv, _eager_on_cpu
from parity.network import nodes as kinds
from parity.network.nodes import Node, Nodes
from parity.threads import THREADS

_INDEPENDENT = (
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
"""Kinds that compute every image independently of the others: dropout if its mask is an argument, batch norm in inference."""


Step = tuple[nn.Layer, Tensor | None]
"""A layer, and its mask if it is a dropout with one."""


def step(model: nn.Layer, node: Node, masks: Mapping[str, Tensor] | None) -> Step:
    """The layer of `node` in `model`, with its mask."""
    layer = getattr(model, node.name)
    return layer, masks[node.name] if masks and isinstance(layer, Dropout) else None


def split_nodes(
    model: nn.Layer, nodes: Nodes, masks: Mapping[str, Tensor] | None, one_by_one: bool
) -> list[list[Node]]:
    """`nodes` as runs of consecutive nodes whose layers all compute images independently, or all do not; or each `one_by_one`."""
    if one_by_one:
        return [[node] for node in nodes]
    return [list(run) for _, run in groupby(nodes, lambda node: _is_independent(model, node, masks))]


def _is_independent(model: nn.Layer, node: Node, masks: Mapping[str, Tensor] | None) -> bool:
    """Whether the layer of `node` is unchanged, without hooks, and computes every image independently of the others."""
    if not isinstance(node, _INDEPENDENT):
        return False
    layer = getattr(model, node.name)
    if "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_post_hooks:
        return False
    if isinstance(node, kinds.Dropout):
        return bool(masks) or not layer.training
    if isinstance(node, kinds.BatchNorm):
        return not layer.training and not paddle.is_grad_enabled()  # all threads would add to its gradients
    return isinstance(layer, _Conv) if isinstance(node, kinds.Conv) else not layer.parameters()


def part_sizes(model: nn.Layer, run: Sequence[Node], x: Tensor, masks: Mapping[str, Tensor] | None) -> list[int]:
    """The number of the images `x` that each thread takes through `run`; [] if they are not split.

    They are split on CPU if the run holds a convolution: other nodes alone are not worth the copies. Also sets the number of threads of
    Paddle's kernels: one if images are split, else all.
    """
    if not _eager_on_cpu(x):
        return []
    able = min(THREADS.count, x.shape[0]) > 1 and all(_is_independent(model, node, masks) for node in run)
    shared = able and any(isinstance(node, kinds.Conv) for node in run)
    THREADS.give(1 if shared else THREADS.count, paddle.base.core.set_num_threads)
    return THREADS.sizes(x.shape[0]) if shared else []


def compute_in_threads(steps: Sequence[Step], x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The output of the layers of `steps` for `x`, whose images are split among the threads in parts of `sizes`."""
    if paddle.is_grad_enabled():
        weights = [weight for layer, _ in steps for weight in layer.parameters()]
        return _Shared.apply(x, steps, sizes, *weights)

    def one(part: tuple[Tensor, list[Step]]) -> Tensor:
        with paddle.no_grad():  # every thread starts with gradients on
            return compute(*part)

    return paddle.concat(THREADS.map(one, _parts(x, steps, sizes)))


def _cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Consecutive parts of `x` with `sizes` images each. They are views: a split would copy."""
    ends = list(accumulate(sizes))
    return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _parts(x: Tensor, steps: Sequence[Step], sizes: Sequence[int]) -> list[tuple[Tensor, list[Step]]]:
    """For each thread, its images of `x` and `steps` with the masks of these images."""
    layers = [layer for layer, _ in steps]
    masks = [[None] * len(sizes) if mask is None else _cut(mask, sizes) for _, mask in steps]
    return [(part, list(zip(layers, own, strict=True))) for part, *own in zip(_cut(x, sizes), *masks, strict=True)]


class _Shared(PyLayer):
    """Layers that compute images independently, on images split among the threads in parts of `sizes`, forward and backward.

    Each thread builds a graph of its own part. The gradients of the `weights` are added in the order of the parts, so that all runs with
    the same number of threads round equally. The output cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[Step], sizes: Sequence[int], *weights: Tensor) -> Tensor:
        def one(part: tuple[Tensor, list[Step]]) -> tuple[Tensor, list[Tensor], Tensor]:
            images, *own = (tensor.detach() for tensor in (part[0], *weights))
            for copy, tensor in zip((images, *own), (x, *weights), strict=True):
                copy.stop_gradient = tensor.stop_gradient
            with paddle.enable_grad():
                return images, own, compute(images, part[1], iter(own))

        ctx.sizes, ctx.parts = sizes, THREADS.map(one, _parts(x, steps, sizes))
        whole = paddle.concat([out.detach() for _, _, out in ctx.parts])
        for images, _, out in ctx.parts:  # the graph keeps the tensors that it needs, and not these
            images._clear_dataptr()
            out._clear_dataptr()
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        def one(part: tuple[tuple[Tensor, list[Tensor], Tensor], Tensor]) -> list[Tensor | None]:
            (images, own, out), share = part
            paddle.autograd.backward([out], [share])
            return [tensor.grad for tensor in (images, *own)]

        THREADS.give(1, paddle.base.core.set_num_threads)
        shares = _cut(gradient, ctx.sizes)
        inputs, *weights = zip(*THREADS.map(one, list(zip(ctx.parts, shares, strict=True))), strict=True)
        ctx.parts = []
        sums = [None if found[0] is None else sum(found[1:], found[0]) for found in weights]
        return (None if inputs[0] is None else paddle.concat(list(inputs)), *sums)


def compute(x: Tensor, steps: Sequence[Step], weights: Iterator[Tensor] | None = None) -> Tensor:
    """The output of the layers of `steps` for `x`, with `weights` (None: their own)."""
    for layer, mask in steps:
        if weights and isinstance(layer, _Conv):
            x = layer.of(x, *[next(weights) for _ in layer.parameters()])
        else:
            x = layer(x) if mask is None else layer(x, mask)
    return x
