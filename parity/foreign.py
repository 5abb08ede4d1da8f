"""Names in state dicts: those of our own models, and those of torchvision's and paddle.vision's VGG."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.errors import InputError
from parity.network import Network
from parity.nodes import Flatten
from parity.weights import State, check

SPELLED = {"gamma": "weight", "beta": "bias"}
"""Canonical array name of a batch norm -> that of state dicts; other arrays have canonical names when a side has read them."""


def layers(network: Network) -> tuple[dict[str, str], ...]:
    """What a state dict may call each layer: by its own name, or by its place in `features` and, behind the Flatten, `classifier`.

    The latter is the way of torchvision.models.vgg.VGG and paddle.vision.models.VGG, whose adaptive average pool has no place.
    """
    nodes = [node.name for node in network.nodes]
    end = next((i for i, node in enumerate(network.nodes) if isinstance(node, Flatten)), len(nodes))
    features = {name: f"features.{i}" for i, name in enumerate(nodes[:end])}
    classifier = {name: f"classifier.{i}" for i, name in enumerate(nodes[end + 1 :])}
    return {name: name for name in nodes}, features | classifier


def fit(network: Network, arrays: Mapping[str, np.ndarray]) -> State:
    """The canonical state of the `arrays` of a state dict; `InputError` unless their names and shapes are exactly those of `network`."""
    spellings = [{_spelled(name, layer): name for name in network.parameters} for layer in layers(network)]
    known = max(spellings, key=lambda spelling: len(spelling.keys() & arrays.keys()))
    if missing := [name for name in known if name not in arrays]:
        raise InputError(f"{missing[0]} is missing ({len(missing)} in all): it is not of network {network.name}")
    if extra := [name for name in arrays if name not in known]:
        raise InputError(f"{extra[0]} is no parameter of network {network.name} ({len(extra)} such in all)")
    state = {name: arrays[spelled] for spelled, name in known.items()}
    check(network, state)
    return state


def _spelled(name: str, layer: Mapping[str, str]) -> str:
    owner, _, array = name.partition(".")
    return f"{layer[owner]}.{SPELLED.get(array, array)}"
