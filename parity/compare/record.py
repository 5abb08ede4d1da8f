"""Read the record of a step: arrays by PHASE/LAYER or PHASE/PARAMETER."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.network.network import Network


def input_of(
    network: Network, layer: str, record: Mapping[str, Array], phase: str, images: Array | None = None
) -> Array | None:
    """Return the input of `layer` in `phase` (forward or eval) of a step's record; None if it is missing.

    The network's input is `images`; if they are None, `input/images` of the record.
    """
    outside = record.get("input/images") if images is None else images
    sources = network.layers[layer].sources
    parts = [part for name in sources if (part := record.get(f"{phase}/{name}") if name else outside) is not None]
    if len(parts) < len(sources):
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
