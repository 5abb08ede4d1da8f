"""The graph of a network: a flat list of layers with their inputs, in the order of computation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import InputError
from parity.network.nodes import Auxiliary, Joined, Node, Nodes, Shape


@dataclass(frozen=True)
class Layer:
    """A node at its place in the graph.

    `sources` are the layers whose outputs it takes ("" for the network's input). A `Joined` node has several different ones, the ends of
    its branches; that of an empty branch is the layer before the node. `input` and `output` are the shapes; the `input` of a `Joined` node
    is its output. `head` names the `Auxiliary` node to which the layer belongs, "" on the main path. An `Auxiliary` node itself computes
    nothing and is no layer.
    """

    node: Node
    sources: tuple[str, ...]
    input: Shape
    output: Shape
    head: str = ""


def build_graph(nodes: Nodes, shape: Shape, source: str = "", head: str = "") -> list[Layer]:
    """The layers of `nodes` after the layer `source`, whose output has `shape`; each layer comes after its sources.

    `InputError` for a head within a head, and for a `Joined` node with two branches without a layer.
    """
    layers: list[Layer] = []
    for node in nodes:
        if isinstance(node, Auxiliary):
            if head:
                raise InputError(f"{node.name}: an auxiliary head cannot be inside another ({head})")
            node.output(shape)
            layers += build_graph(node.nodes, shape, source, node.name)
            continue
        before, sources = shape, [source]
        shape = node.output(shape)
        if isinstance(node, Joined):
            inner = [build_graph(branch, before, source, head) for branch in node.branches]
            layers += [layer for branch in inner for layer in branch]
            sources, before = [_end(branch, head) or source for branch in inner], shape
            if len(set(sources)) < len(sources):
                raise InputError(f"{node.name}: only one of its branches can be without a layer")
        layers.append(Layer(node, tuple(sources), before, shape, head))
        source = node.name
    return layers


def _end(layers: list[Layer], head: str) -> str:
    """The last layer of a branch; "" if it has none."""
    ends = [layer.node.name for layer in layers if layer.head == head]
    return ends[-1] if ends else ""


def needing_input_gradients(layers: Mapping[str, Layer]) -> frozenset[str]:
    """The layers whose inputs need gradients in training: a layer with trainable parameters comes before them."""
    trained = {"": False}
    for name, layer in layers.items():
        own = any(parameter.trainable for parameter in layer.node.parameters(layer.input))
        trained[name] = own or any(trained[source] for source in layer.sources)
    return frozenset(name for name, layer in layers.items() if any(trained[source] for source in layer.sources))


def consumers(layers: Mapping[str, Layer]) -> dict[str, list[str]]:
    """Layer -> the layers that take its output."""
    found: dict[str, list[str]] = {name: [] for name in layers}
    for name, layer in layers.items():
        for source in filter(None, layer.sources):
            found[source].append(name)
    return found
