"""Counter-based random streams: every draw is a function of (seed, purpose, place), never of what was drawn before.

So a resumed run continues with the numbers it would have had, and both frameworks see the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.network.nodes import Shape

_DRAWS_PER_BLOCK = 16  # one Philox counter yields four uint64, that is sixteen uint16


def stream(seed: int, *place: str | int) -> np.random.Generator:
    """A generator of its own for (seed, place...): Philox 4x64 (Salmon et al. 2011) keyed by a hash of them."""
    return np.random.Generator(_philox(seed, *place))


def _philox(seed: int, *place: str | int) -> np.random.Philox:
    digest = hashlib.blake2b(json.dumps([seed, *place]).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, np.uint64))


def mask(seed: int, update: int, layer: str, rows: range, shape: Shape, rate: float) -> Array:
    """The 0/1 dropout mask of `layer` at `update` for the samples `rows` of the batch: bool [len(rows), *shape].

    An element is kept with probability 1 - `rate` (to 1/65536). A sample's mask depends on its index in the global batch
    only, so that several processes can each draw their own rows.
    """
    blocks = -(-math.prod(shape) // _DRAWS_PER_BLOCK)
    bits = _philox(seed, "dropout", update, layer)
    bits.advance(rows.start * blocks)
    draws = bits.random_raw(len(rows) * blocks * 4).view(np.uint16)
    kept = draws.reshape(len(rows), blocks * _DRAWS_PER_BLOCK)[:, : math.prod(shape)] >= round(rate * 65536)
    return kept.reshape(len(rows), *shape)


def masks(seed: int, update: int, rows: range, dropouts: Mapping[str, tuple[Shape, float]]) -> dict[str, Array]:
    """`mask` for every layer of `Network.dropouts`, by name."""
    return {layer: mask(seed, update, layer, rows, shape, rate) for layer, (shape, rate) in dropouts.items()}
