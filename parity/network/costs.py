"""What a network costs, layer by layer: arithmetic on its shapes, without a framework, weights or images."""

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
    Node,
    ReLU,
    Shape,
    Tanh,
)

FLOAT, MASK = 4, 1
"""Bytes of an activation (float32), and of an element of a dropout's mask."""

READ_INPUT = (Conv, Linear, BatchNorm, LRN, GELU, MaxPool)
"""What computes its gradient from its input: a maximum is found again in it. An average needs nothing."""

READ_OUTPUT = (ReLU, Tanh, LogSoftmax)
"""What computes its gradient from its output."""

FOLLOWING = tuple(kind.__name__ for kind in (BatchNorm, LRN, ReLU, GELU, Tanh, LogSoftmax, Dropout, Flatten))
"""The kinds of layers that leave a map's size as it is: a picture counts them with the layer before."""


@dataclass(frozen=True)
class Cost:
    """What one layer costs for one image.

    `output` is its shape, `parameters` and `statistics` are its trainable scalars and running statistics, `multiply_adds` those of its
    forward pass (convolutions and linear layers). `activation_bytes` are those of its output in float32, as if every layer wrote to memory
    of its own. `kept_bytes` are what training keeps of it for the backward pass: its output where a gradient is computed from it (see
    `kept`), and the mask of a dropout, one byte an element.

    `receptive_field` is the side, in pixels of the image, of the square that one element of the output depends on, the largest over all
    paths from the image to it; padding counts, so it may be larger than the image. `stride` is the distance, in pixels, of the squares of
    two neighbours. A vector depends on all of the map that it was flattened from, as if it were computed by a convolution of that size.

    `kind` is the node's, with window and stride where it has them; `sources` and `head` are as in `parity.network.graph.Layer`.
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
"""The fields of a `Cost` whose sum over the layers is the network's."""


def costs(network: Network, training: bool = False) -> list[Cost]:
    """Every layer of `network` in order: those of inference, with `training` those of its auxiliary heads too."""
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
    """The layers whose outputs the backward pass reads, each once ("" for the image); the loss reads the class scores.

    The least that any implementation must keep, but for what it computes anew: frameworks keep more (indices of maxima, statistics of a
    batch). A flattened map is the map itself.
    """
    layers = network.layers

    def owner(name: str) -> str:
        while name and isinstance(layers[name].node, Flatten):
            (name,) = layers[name].sources
        return name

    read = {network.output, *network.heads}
    for name, layer in layers.items():
        if type(layer.node) in READ_INPUT:  # an AvgPool is a MaxPool too, and reads nothing
            read.update(layer.sources)
        elif type(layer.node) in READ_OUTPUT:
            read.add(name)
    return frozenset(map(owner, read))


def _seen(layer: Layer, before: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Receptive field and stride of a layer behind layers that have those `before`."""
    field, stride = (max(column) for column in zip(*before, strict=True))
    window, step = _window(layer.node)
    if isinstance(layer.node, Flatten | GlobalAvgPool):
        window = max(layer.input[1:], default=1)
    return field + (window - 1) * stride, stride * step


def _window(node: Node) -> tuple[int, int]:
    """Side and stride of what a node lays over its map."""
    if isinstance(node, Conv):
        return node.kernel, node.stride
    return (node.size, node.stride) if isinstance(node, MaxPool) else (1, 1)


def _kind(node: Node) -> str:
    window, step = _window(node)
    sized = isinstance(node, Conv | MaxPool)
    return f"{type(node).__name__} {window}x{window}/{step}" if sized else type(node).__name__


def condensed(found: Sequence[Cost]) -> list[Cost]:
    """The layers that compute maps and vectors, each with the costs of those behind it that only change the numbers (`FOLLOWING`)."""
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
    """The same network, under its own name, on images of `size` by `size`, and a line for every layer that is another there.

    Convolutions stay as they are. Pools change as in `Network.shrink`, and a linear layer on a flattened map takes as many features as the
    map then has, so that it has other weights. `InputError` where a layer does not fit.
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
    """The fourth article's table: one convolution of 96 filters, stride 4 and padding 1 on an image of 3x224x224, by its kernel's size.

    `weights` are those without biases, `parameters` with them. The article counts multiplications and additions singly: `operations` are
    twice the `multiply_adds`. It gives four figures for the five kernels; that of 7x7, 85,377,600, is missing there.
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
