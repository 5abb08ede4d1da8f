"""How windows (of a convolution, of a pool) lie along one side of a map, the padding around it, and windows over channels."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array
from parity.errors import InputError

Padding = int | str
"""A number of elements on every side, or `SAME`."""

Pad = tuple[int, int]
"""Elements of padding (before, behind)."""

SAME = "same"
"""TensorFlow's SAME: size / stride windows, rounded up; where the padding for them is odd, the odd one stands behind."""


def around(name: str, size: int, window: int, stride: int, padding: Padding) -> Pad:
    """The padding of a map of `size`: `padding` on either side, or as `SAME` asks. `InputError`, naming the node, for another word."""
    if isinstance(padding, int):
        return padding, padding
    if padding != SAME:
        raise InputError(f"{name}: padding is a number or {SAME!r}, not {padding!r}")
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def count(name: str, size: int, window: int, stride: int, pad: Pad, ceil: bool = False) -> int:
    """The number of windows; with `ceil` the last may reach beyond the end. `InputError`, naming the node, where none fits."""
    span = size + sum(pad) - window
    if span < 0:
        padded = f"{max(pad)}" if pad[0] == pad[1] else f"{pad[0]} and {pad[1]}"
        raise InputError(f"{name}: a window of {window} does not fit an input of {size} padded by {padded}")
    steps = -(-span // stride) if ceil else span // stride
    if ceil and steps * stride >= size + pad[0]:
        raise InputError(f"{name}: rounded up, its last window lies in the padding behind an input of {size}")
    return steps + 1


def reach(size: int, channels: int) -> Pad:
    """How many of the other `channels` a window of `size` channels holds at most (before, behind) the one that it is around."""
    return min(size // 2, channels - 1), min((size - 1) // 2, channels - 1)


def over_channels(x: Array, size: int) -> Array:
    """Of [N,C,...], the sums over `size` channels around each, of an even number one more before than behind."""
    channels = x.shape[1]
    padded = np.pad(x, ((0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)))
    total: Array = np.sum([padded[:, first : first + channels] for first in range(size)], axis=0)
    return total
