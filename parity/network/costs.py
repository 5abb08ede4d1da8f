"""The cost of a network, layer by layer, computed from its shapes without a framework, weights or images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from parity.errors import InputError
from parity.network.graph import Layer
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    LRN,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    LogSoftmax,
    MaxPool,
    Multiply,
    Node,
    ReLU,
    Shape,
    Sigmoid,
    SiLU,
    Tanh,
)

FLOAT, MASK = 4, 1
"""Bytes of one element of an activation (float32), and of a dropout mask."""

READ_INPUT = (Conv, Linear, BatchNorm, LRN, GELU, SiLU, MaxPool, Multiply)
"""The nodes whose backward pass reads their inputs; a max pool searches it for the maxima again. An average pool reads nothing."""

READ_OUTPUT = (ReLU, Sigmoid, Tanh, LogSoftmax)
"""The nodes whose backward pass reads their output."""

FOLLOWING = tuple(
    kind.__name__ for kind in (BatchNorm, LRN, ReLU, GELU, SiLU, Sigmoid, Tanh, LogSoftmax, Dropout, Flatten)
)
"""The kinds of layers that do not change the size of a map: a picture shows them together with the layer before them."""


@dataclass(frozen=True)
class Cost:
    """The cost of one layer for one image.

    `output` is the shape of its output, `parameters` the number of its trainable scalars, `statistics` that of its running statistics.
    `multiply_adds` counts the forward pass of convolutions and linear layers. `activation_bytes` is the size of its output in float32, as
    if no layer shared memory. `kept_bytes` is what training keeps of it for the backward pass. That is its output if a gradient is
    computed from it (see `kept`), and the mask of a dropout, one byte for each element.

    One element of the output depends on a square of the image. `receptive_field` is the side of that square in pixels, the largest over
    all paths from the image. Padding counts, so it may be larger than the image. `stride` is the distance, in pixels, between the squares
    of two neighbouring elements. A vector depends on the whole map from which it was flattened, like the output of a convolution of that
    size.

    `kind` is the node's class, with window and stride if it has them; `sources` and `head` are as in `parity.network.graph.Layer`.
    """

    layer: str
    kind: str
    sources: tuple[str, ...]
    head: str
    output: Shape
    parameters: int
    statistics: int
    multiply_adds: int
    activation_bytes: int
    kept_bytes: int
    receptive_field: int
    stride: int


SUMMED = ("parameters", "statistics", "multiply_adds", "activation_bytes", "kept_bytes")
"""The fields of a `Cost` that are summed over the layers."""


def costs(network: Network, training: bool = False) -> list[Cost]:
    """The cost of every layer of `network` in order: the layers of inference, and with `training` those of auxiliary heads, too."""
    counted = network if training else network.inference
    read, seen = kept(counted), {"": (1, 1)}
    found = []
    for name, layer in counted.layers.items():
        seen[name] = _seen(layer, [seen[source] for source in layer.sources])
        size, arrays = math.prod(layer.output), layer.node.parameters(layer.input)
        owned = {wanted: sum(math.prod(p.shape) for p in arrays if p.trainable == wanted) for wanted in (True, False)}
        found.append(
            Cost(
                layer=name,
                kind=_kind(layer.node),
                sources=layer.sources,
                head=layer.head,
                output=layer.output,
                parameters=owned[True],
                statistics=owned[False],
                multiply_adds=layer.node.multiply_adds(layer.input),
                activation_bytes=FLOAT * size,
                kept_bytes=FLOAT * size * (name in read) + MASK * size * isinstance(layer.node, Dropout),
                receptive_field=seen[name][0],
                stride=seen[name][1],
            )
        )
    return found


def totals(found: Sequence[Cost]) -> dict[str, int | None]:
    """The number of `layers`, the sums of the fields `SUMMED`, and the `receptive_field` of the last map (None where there is no map)."""
    fields = [cost.receptive_field for cost in found if len(cost.output) == 3 and not cost.head]
    sums = {field: sum(getattr(cost, field) for cost in found) for field in SUMMED}
    return {"layers": len(found), **sums, "receptive_field": fields[-1] if fields else None}


def kept(network: Network) -> frozenset[str]:
    """The layers whose outputs the backward pass reads ("" for the image). The loss reads the class scores.

    Without recomputation, every implementation must keep at least these. Frameworks keep more, such as indices of maxima and statistics of
    a batch. A flattened map counts as the map itself.
    """
    layers = network.layers

    def owner(name: str) -> str:
        while name and isinstance(layers[name].node, Flatten):
            (name,) = layers[name].sources
        return name

    read = {network.output, *network.heads}
    for name, layer in layers.items():
        if type(layer.node) in READ_INPUT:  # not isinstance: AvgPool is a subclass of MaxPool, and reads nothing
            read.update(layer.sources)
        elif type(layer.node) in READ_OUTPUT:
            read.add(name)
    return frozenset(map(owner, read))


def _seen(layer: Layer, before: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The receptive field and stride of a layer whose sources have those in `before`."""
    field, stride = (max(column) for column in zip(*before, strict=True))
    window, step = _window(layer.node)
    if isinstance(layer.node, Flatten | GlobalAvgPool):
        window = max(layer.input[1:], default=1)
    return field + (window - 1) * stride, stride * step


def _window(node: Node) -> tuple[int, int]:
    """The side and stride of the window of a node; (1, 1) if it has none."""
    if isinstance(node, Conv):
        return node.kernel, node.stride
    return (node.size, node.stride) if isinstance(node, MaxPool) else (1, 1)


def _kind(node: Node) -> str:
    window, step = _window(node)
    sized = isinstance(node, Conv | MaxPool)
    return f"{type(node).__name__} {window}x{window}/{step}" if sized else type(node).__name__


def condensed(found: Sequence[Cost]) -> list[Cost]:
    """The costs of the layers that change the shape, each including those of the layers after it that do not (`FOLLOWING`)."""
    rows: dict[str, Cost] = {}
    home: dict[str, str] = {}
    for cost in found:
        before = rows.get(home.get(cost.sources[0], ""))
        if before and cost.kind in FOLLOWING and cost.head == before.head:
            sums = {field: getattr(before, field) + getattr(cost, field) for field in SUMMED}
            home[cost.layer], rows[before.layer] = before.layer, replace(before, **sums)
        else:
            home[cost.layer], rows[cost.layer] = cost.layer, cost
    return list(rows.values())


def resized(network: Network, size: int) -> tuple[Network, list[str]]:
    """The same network, under the same name, on images of `size` by `size`, and a line about every layer that changes.

    Convolutions stay as they are. Pools change as in `Network.shrink`. A linear layer on a flattened map takes the features of the new map,
    so its weights have another shape. `InputError` if a layer does not fit.
    """
    try:
        made = replace(network.shrink(1, size), name=network.name)
    except InputError as error:
        raise InputError(
            f"{network.name} cannot take images of {size} by {size} ({error}): choose another size"
        ) from None
    changes = []
    for name, layer in made.layers.items():
        old = network.layers[name]
        if isinstance(layer.node, MaxPool) and layer.node != old.node:
            changes.append(f"{name} is {_kind(layer.node)} instead of {_kind(old.node)}")
        if isinstance(layer.node, Linear) and layer.input != old.input:
            changes.append(
                f"{name} takes {layer.input[0]:,} features instead of {old.input[0]:,}: "
                f"weights of the network at {'x'.join(map(str, network.input_shape[1:]))} do not fit it"
            )
    return made, changes


KERNELS = (3, 5, 7, 9, 11)


def kernel_table() -> list[dict[str, Any]]:
    """The fourth article's table: a convolution with 96 filters, stride 4 and padding 1 on an image of 3x224x224, by kernel size.

    `weights` is the count without biases, `parameters` the count with them. The article counts a multiplication and an addition as two:
    `operations` is twice `multiply_adds`. It gives four figures for five kernels; that of 7x7, 85,377,600, is missing there.
    """
    image: Shape = (3, 224, 224)
    rows: list[dict[str, Any]] = []
    for kernel in KERNELS:
        conv = Conv("conv", 96, kernel, stride=4, padding=1)
        weight, bias = (math.prod(p.shape) for p in conv.parameters(image))
        products = conv.multiply_adds(image)
        sizes = {"kernel": kernel, "output": conv.output(image), "weights": weight, "parameters": weight + bias}
        rows.append(sizes | {"multiply_adds": products, "operations": 2 * products})
    return rows
