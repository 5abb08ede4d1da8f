"""Counter-based random streams: every random number is a function of (seed, purpose, place), not of the numbers before it.

So a resumed run gets the same numbers as an uninterrupted one, and both frameworks get the same numbers.
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
    """Return a generator for (seed, place...): Philox 4x64 (Salmon et al. 2011), keyed by their hash."""
    return np.random.Generator(_philox(seed, *place))


def _philox(seed: int, *place: str | int) -> np.random.Philox:
    digest = hashlib.blake2b(json.dumps([seed, *place]).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, np.uint64))


def mask(seed: int, update: int, layer: str, rows: range, shape: Shape, rate: float) -> Array:
    """Return the dropout mask of `layer` at `update` for the samples `rows` of the batch: bool [len(rows), *shape].

    An element is kept with probability 1 - `rate`, rounded to 1/65536. The mask of a sample depends only on its index in the global batch,
    so several processes can draw their own rows.
    """
    blocks = -(-math.prod(shape) // _DRAWS_PER_BLOCK)
    bits = _philox(seed, "dropout", update, layer)
    bits.advance(rows.start * blocks)
    draws = bits.random_raw(len(rows) * blocks * 4).view(np.uint16)
    kept = draws.reshape(len(rows), blocks * _DRAWS_PER_BLOCK)[:, : math.prod(shape)] >= round(rate * 65536)
    return kept.reshape(len(rows), *shape)


def masks(seed: int, update: int, rows: range, dropouts: Mapping[str, tuple[Shape, float]]) -> dict[str, Array]:
    """Return `mask` for every layer of `Network.dropouts`, by name."""
    return {layer: mask(seed, update, layer, rows, shape, rate) for layer, (shape, rate) in dropouts.items()}
