"""A network as a Paddle layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_impl.layers import LAYERS, Dropout, _Conv, _eager_on_cpu
from parity.network import nodes as kinds
from parity.network.network import Network
from parity.network.nodes import Auxiliary, Branches, Node, Nodes
from parity.threads import THREADS
from parity.weights.canonical_state import State, check, initialise, transposed

NAMES = {"gamma": "weight", "beta": "bias", "mean": "_mean", "variance": "_variance"}
"""Canonical array name of a batch norm -> Paddle's; other layers use the canonical names."""

TRANSPOSED: tuple[type[nn.Layer], ...] = (nn.Linear,)  # DIFFERS: Linear weight is [in, out]
"""Layers whose weight is stored transposed."""


class Model(nn.Layer):
    """`network` as a layer: one sublayer a layer, under the layer's name. [N,C,H,W] -> logits [N,classes]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.layers.items():
            self.add_sublayer(name, LAYERS[type(layer.node)](layer.node, layer.input))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Logits of the images `x`.

        `masks` gives the dropout masks by layer (drawn by Paddle otherwise); `watch(layer, output)` sees every layer's output.
        Auxiliary heads run in training, and only where somebody watches.
        """
        return self._through(self.network.nodes, x, masks, watch)

    def _through(
        self, nodes: Nodes, x: Tensor, masks: Mapping[str, Tensor] | None, watch: Callable[[str, Tensor], None] | None
    ) -> Tensor:
        for run in self._runs(nodes, masks, one_by_one=watch is not None):
            sizes = THREADS.sizes(x.shape[0]) if self._shares(run, x, masks) else []
            if sizes:
                x = _side_by_side([self._step(node, masks) for node in run], x, sizes)
            for node in run:
                if isinstance(node, Auxiliary):
                    if watch and self.training:
                        self._through(node.nodes, x, masks, watch)
                    continue
                if isinstance(node, Branches):
                    branches = [self._through(branch, x, masks, watch) for branch in node.branches]
                    x = getattr(self, node.name)(*branches)
                elif not sizes:
                    x = _computed(x, [self._step(node, masks)])
                if watch:
                    watch(node.name, x)
        return x

    def _step(self, node: Node, masks: Mapping[str, Tensor] | None) -> _Step:
        layer = getattr(self, node.name)
        return layer, masks[node.name] if masks and isinstance(layer, Dropout) else None

    def _runs(self, nodes: Nodes, masks: Mapping[str, Tensor] | None, one_by_one: bool) -> list[list[Node]]:
        """`nodes`, together where they see every image by itself, or else do not, one after the other; or each `one_by_one`."""
        if one_by_one:
            return [[node] for node in nodes]
        return [list(run) for _, run in groupby(nodes, lambda node: self._sees_one(node, masks))]

    def _sees_one(self, node: Node, masks: Mapping[str, Tensor] | None) -> bool:
        """Whether the layer of `node` is as we made it, and makes the same of an image whatever the others are."""
        if not isinstance(node, _SEE_ONE):
            return False
        layer = getattr(self, node.name)
        if "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_post_hooks:
            return False
        if isinstance(node, kinds.Dropout):
            return bool(masks) or not layer.training
        if isinstance(node, kinds.BatchNorm):
            return not layer.training and not paddle.is_grad_enabled()  # to its gradients all threads would add
        return isinstance(layer, _Conv) if isinstance(node, kinds.Conv) else not layer.parameters()

    def _shares(self, run: Sequence[Node], x: Tensor, masks: Mapping[str, Tensor] | None) -> bool:
        """Whether the images of `x` are shared out to the threads for `run`; its kernels get as many threads as that leaves them.

        They are, on CPU, where the run holds a convolution, whose kernels keep one thread busy; alone, other nodes are not worth copies.
        """
        if not _eager_on_cpu(x):
            return False
        able = min(THREADS.count, x.shape[0]) > 1 and all(self._sees_one(node, masks) for node in run)
        shared = able and any(isinstance(node, kinds.Conv) for node in run)
        THREADS.give(1 if shared else THREADS.count, paddle.base.core.set_num_threads)
        return shared


_SEE_ONE = (kinds.Conv, kinds.ReLU, kinds.GELU, kinds.Tanh, kinds.LRN, kinds.MaxPool, kinds.Dropout, kinds.BatchNorm)
"""Kinds that make the same of an image whatever the others are; dropout where its mask is given, batch norm in inference."""


_Step = tuple[nn.Layer, Tensor | None]
"""A layer, and its mask if it is a dropout that has one."""


def _side_by_side(steps: Sequence[_Step], x: Tensor, sizes: Sequence[int]) -> Tensor:
    """`x` through the layers of `steps`, its images shared out to the threads in parts of `sizes`."""
    if paddle.is_grad_enabled():
        weights = [weight for layer, _ in steps for weight in layer.parameters()]
        return _Shared.apply(x, steps, sizes, *weights)

    def one(part: tuple[Tensor, list[_Step]]) -> Tensor:
        with paddle.no_grad():  # every thread starts with gradients on
            return _computed(*part)

    return paddle.concat(THREADS.map(one, _parts(x, steps, sizes)))


def _cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Consecutive parts of `x`, of so many images each: views, where a split would copy."""
    ends = list(accumulate(sizes))
    return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _parts(x: Tensor, steps: Sequence[_Step], sizes: Sequence[int]) -> list[tuple[Tensor, list[_Step]]]:
    """For each thread its images of `x`, and `steps` with their masks."""
    layers = [layer for layer, _ in steps]
    masks = [[None] * len(sizes) if mask is None else _cut(mask, sizes) for _, mask in steps]
    return [(part, list(zip(layers, own, strict=True))) for part, *own in zip(_cut(x, sizes), *masks, strict=True)]


class _Shared(PyLayer):
    """Layers that see every image by itself, on images shared out to the threads in parts of `sizes`, forward and backward.

    Each thread builds a graph of its own part; the gradients of the `weights` are added in the order of the parts, so that every run
    with as many threads rounds alike. What comes out cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[_Step], sizes: Sequence[int], *weights: Tensor) -> Tensor:
        def one(part: tuple[Tensor, list[_Step]]) -> tuple[Tensor, list[Tensor], Tensor]:
            given, *own = (tensor.detach() for tensor in (part[0], *weights))
            for copy, tensor in zip((given, *own), (x, *weights), strict=True):
                copy.stop_gradient = tensor.stop_gradient
            with paddle.enable_grad():
                return given, own, _computed(given, part[1], iter(own))

        ctx.sizes, ctx.parts = sizes, THREADS.map(one, _parts(x, steps, sizes))
        whole = paddle.concat([out.detach() for _, _, out in ctx.parts])
        for given, _, out in ctx.parts:  # which are the ends of a graph that has kept what it needs
            given._clear_dataptr()
            out._clear_dataptr()
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        def one(part: tuple[tuple[Tensor, list[Tensor], Tensor], Tensor]) -> list[Tensor | None]:
            (given, own, out), share = part
            paddle.autograd.backward([out], [share])
            return [tensor.grad for tensor in (given, *own)]

        THREADS.give(1, paddle.base.core.set_num_threads)
        shares = _cut(gradient, ctx.sizes)
        inputs, *weights = zip(*THREADS.map(one, list(zip(ctx.parts, shares, strict=True))), strict=True)
        ctx.parts = []
        sums = [None if found[0] is None else sum(found[1:], found[0]) for found in weights]
        return (None if inputs[0] is None else paddle.concat(list(inputs)), *sums)


def _computed(x: Tensor, steps: Sequence[_Step], weights: Iterator[Tensor] | None = None) -> Tensor:
    """`x` through the layers of `steps`, with `weights` in place of their own where they are given."""
    for layer, mask in steps:
        if weights and isinstance(layer, _Conv):
            x = layer.of(x, *[next(weights) for _ in layer.parameters()])
        else:
            x = layer(x) if mask is None else layer(x, mask)
    return x


def build(network: Network, state: State | int = 0, dtype: str = "float32") -> Model:
    """The layer of `network` with the weights of a canonical `state`, or fresh ones from a seed.

    `dtype` is float32 or float64. `InputError` if the state does not fit.
    """
    state = initialise(network, state) if isinstance(state, int) else state
    check(network, state)
    model = Model(network).to(dtype=dtype)
    for name, tensor in tensors(model).items():
        tensor.stop_gradient = not network.parameters[name].trainable
    set_weights(model, state)
    return model


def tensors(model: Model) -> dict[str, Tensor]:
    """The model's parameters and statistics by canonical name, in the network's order."""
    found = {}
    for name in model.network.parameters:
        layer, _, array = name.partition(".")
        found[name] = getattr(getattr(model, layer), NAMES.get(array, array))
    return found


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy of `tensor`, as it is."""
    # DIFFERS: the framework's own way copies.
    return tensor.detach().cpu().numpy()


def export_array(model: Model, name: str, tensor: Tensor) -> np.ndarray:
    """A copy in canonical layout of `tensor`, which is shaped like the parameter `name`."""
    array = to_numpy(tensor)
    return transposed(array) if _is_transposed(model, name) else array


def import_array(model: Model, name: str, tensor: Tensor, array: np.ndarray) -> None:
    """Overwrites `tensor`, which is shaped like the parameter `name`, with a canonical `array`."""
    array = transposed(array) if _is_transposed(model, name) else np.ascontiguousarray(array)
    with paddle.no_grad():
        paddle.assign(paddle.to_tensor(array, tensor.dtype), tensor)


def _is_transposed(model: Model, name: str) -> bool:
    layer, _, array = name.partition(".")
    return array == "weight" and isinstance(getattr(model, layer), TRANSPOSED)


def get_weights(model: Model) -> State:
    """Parameters and statistics as canonical arrays."""
    return {name: export_array(model, name, tensor) for name, tensor in tensors(model).items()}


def set_weights(model: Model, state: State) -> None:
    """Overwrites parameters and statistics; `InputError` unless `state` holds exactly them."""
    check(model.network, state)
    for name, tensor in tensors(model).items():
        import_array(model, name, tensor, state[name])
