"""How the nodes of a network hang together: every layer with what it takes in, flat, in an order in which they can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import InputError
from parity.network.nodes import Auxiliary, Branches, Node, Nodes, Shape


@dataclass(frozen=True)
class Layer:
    """A node in its place.

    `sources` are the layers whose outputs it takes in ("" for the network's input), side by side over the channels where there are
    several, as a `Branches` node has the ends of its branches; `input` and `output` are the shapes. `head` names the `Auxiliary` node that
    the layer belongs to, "" on the main path. An `Auxiliary` node itself computes nothing and is no layer.
    """

    node: Node
    sources: tuple[str, ...]
    input: Shape
    output: Shape
    head: str = ""


def build_graph(nodes: Nodes, shape: Shape, source: str = "", head: str = "") -> list[Layer]:
    """The layers of `nodes` behind the layer `source`, which yields `shape`: each behind all that it takes in.

    `InputError` for a head within a head, and for a sequence in which no layer stands.
    """
    layers: list[Layer] = []
    for node in nodes:
        if isinstance(node, Auxiliary):
            if head:
                raise InputError(f"{node.name}: an auxiliary head cannot stand within another ({head})")
            node.output(shape)
            layers += build_graph(node.nodes, shape, source, node.name)
            continue
        before, sources = shape, [source]
        shape = node.output(shape)
        if isinstance(node, Branches):
            inner = [build_graph(branch, before, source, head) for branch in node.branches]
            layers += [layer for branch in inner for layer in branch]
            sources, before = [_end(branch, head, node.name) for branch in inner], shape
        layers.append(Layer(node, tuple(sources), before, shape, head))
        source = node.name
    return layers


def _end(layers: list[Layer], head: str, name: str) -> str:
    """The last layer of a sequence."""
    ends = [layer.node.name for layer in layers if layer.head == head]
    if not ends:
        raise InputError(f"{name}: every branch needs a layer")
    return ends[-1]


def consumers(layers: Mapping[str, Layer]) -> dict[str, list[str]]:
    """By layer, the layers that take its output in."""
    found: dict[str, list[str]] = {name: [] for name in layers}
    for name, layer in layers.items():
        for source in filter(None, layer.sources):
            found[source].append(name)
    return found
