"""Names in state dicts: those of our own models, and those of torchvision's and paddle.vision's VGG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import Flatten
from parity.weights.canonical_state import State, check

SPELLED = {"gamma": "weight", "beta": "bias"}
"""Canonical array name of a batch norm -> the name in state dicts; a framework's `read_file` gives all other arrays canonical names."""

RESERVED = "__metadata__"
"""The name that no array may have in the safetensors format, which messages between processes use, too."""

MOST_SHARED = 4
"""The arrays of a file may be so many times as large as the file: tied weights share their numbers."""


def layer_spellings(network: Network) -> tuple[dict[str, str], ...]:
    """The names that a state dict may use for each layer: one mapping per convention.

    The first convention is the layer's own name. The second is its number in `features` or, behind the Flatten, in `classifier`, as in
    torchvision.models.vgg.VGG and paddle.vision.models.VGG. Their adaptive average pool has no number.
    """
    nodes = list(network.layers)
    end = next((i for i, layer in enumerate(network.layers.values()) if isinstance(layer.node, Flatten)), len(nodes))
    features = {name: f"features.{i}" for i, name in enumerate(nodes[:end])}
    classifier = {name: f"classifier.{i}" for i, name in enumerate(nodes[end + 1 :])}
    return {name: name for name in nodes}, features | classifier


def check_content(content: Mapping[Any, Any], size: int) -> None:
    """Raise `InputError` if an array of a state dict's file of `size` bytes has a reserved name, or if all are far larger than the file."""
    if RESERVED in content:
        raise InputError(f"an array in it is called {RESERVED}, which safetensors reserves: rename it")
    if sum(getattr(value, "nbytes", 0) for value in content.values()) > MOST_SHARED * size:
        raise InputError("its arrays share their numbers, and together they are far larger than the file")


def to_canonical(content: Mapping[str, Any], size: int, names: Mapping[str, str], transposed: bool) -> State:
    """The arrays in a state dict's file of `size` bytes, with running statistics as `mean` and `variance`, linear weights [out, in].

    `names` are the framework's names for batch norm arrays; `transposed` says whether it keeps linear weights [in, out]. `InputError`
    unless `content` holds only named floating-point arrays, which together are no larger than the file.
    """
    statistics = {names[key]: key for key in ("mean", "variance")}
    found: State = {}
    for name, array in content.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise InputError(f"its entry {name} is not a floating-point array: save only a model's state_dict()")
        layer, dot, spelled = str(name).rpartition(".")
        key = layer + dot + statistics.get(spelled, spelled)
        if key in found:
            raise InputError(f"{key} is in it twice")
        found[key] = array.T if array.ndim == 2 and transposed else array
    if sum(array.nbytes for array in found.values()) > size:
        raise InputError("its arrays share their numbers, and together they are larger than the file")
    return {name: np.asarray(array, order="C") for name, array in found.items()}


def fit(network: Network, arrays: Mapping[str, Array]) -> State:
    """The canonical state of the `arrays` of a state dict; `InputError` unless their names and shapes are those of `network`."""
    spellings = [{_spelled(name, layer): name for name in network.parameters} for layer in layer_spellings(network)]
    known = max(spellings, key=lambda spelling: len(spelling.keys() & arrays.keys()))
    if missing := [name for name in known if name not in arrays]:
        raise InputError(f"{missing[0]} is missing ({len(missing)} in all): it is not of network {network.name}")
    if extra := [name for name in arrays if name not in known]:
        raise InputError(f"{extra[0]} is not a parameter of network {network.name} ({len(extra)} such arrays in all)")
    state = {name: arrays[spelled] for spelled, name in known.items()}
    check(network, state)
    return state


def _spelled(name: str, layer: Mapping[str, str]) -> str:
    owner, _, array = name.partition(".")
    return f"{layer[owner]}.{SPELLED.get(array, array)}"
