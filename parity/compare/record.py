"""Read the record of a step: arrays by PHASE/LAYER or PHASE/PARAMETER."""

from __future__ import annotations

from collections.abc import Mapping

from parity.arrays import Array
from parity.network.network import Network


def inputs_of(
    network: Network, layer: str, record: Mapping[str, Array], phase: str, images: Array | None = None
) -> list[Array] | None:
    """Return the inputs of `layer`, one for each of its sources, in `phase` (forward or eval) of a step's record; None if one is missing.

    The network's input is `images`; if they are None, `input/images` of the record.
    """
    outside = record.get("input/images") if images is None else images
    sources = network.layers[layer].sources
    parts = [part for name in sources if (part := record.get(f"{phase}/{name}") if name else outside) is not None]
    return None if len(parts) < len(sources) else parts


def input_of(
    network: Network, layer: str, record: Mapping[str, Array], phase: str, images: Array | None = None
) -> Array | None:
    """Return the only input of `layer`, see `inputs_of`; None if the layer has several inputs."""
    inputs = inputs_of(network, layer, record, phase, images)
    return inputs[0] if inputs and len(inputs) == 1 else None
