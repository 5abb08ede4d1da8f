"""What a step recorded: arrays by PHASE/LAYER, or by PHASE/PARAMETER."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.network.network import Network


def input_of(
    network: Network, layer: str, record: Mapping[str, Array], phase: str, images: Array | None = None
) -> Array | None:
    """What `layer` took in, of what a step recorded in `phase` (forward or eval); None where that is missing.

    The network's input is `images`, `input/images` of the record where they are None.
    """
    outside = record.get("input/images") if images is None else images
    sources = network.layers[layer].sources
    parts = [part for name in sources if (part := record.get(f"{phase}/{name}") if name else outside) is not None]
    if len(parts) < len(sources):
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
