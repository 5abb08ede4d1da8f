"""The arithmetic of windows (of convolutions and pools) along one side of a map, of padding, and of windows over channels."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array
from parity.errors import InputError

Padding = int | str
"""A number of elements on every side, or `SAME`."""

Pad = tuple[int, int]
"""Elements of padding (before, after)."""

SAME = "same"
"""TensorFlow's SAME: size / stride windows, rounded up; an odd amount of padding has one element more at the end."""


def around(name: str, size: int, window: int, stride: int, padding: Padding) -> Pad:
    """The padding of a map of `size`: `padding` elements on either side, or those of `SAME`. `InputError` for any other word."""
    if isinstance(padding, int):
        return padding, padding
    if padding != SAME:
        raise InputError(f"{name}: padding must be a number or {SAME!r}, not {padding!r}")
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def count(name: str, size: int, window: int, stride: int, pad: Pad, ceil: bool = False) -> int:
    """The number of windows; with `ceil` the last may extend beyond the end. `InputError`, naming the node, if none fits."""
    span = size + sum(pad) - window
    if span < 0:
        padded = f"{max(pad)}" if pad[0] == pad[1] else f"{pad[0]} and {pad[1]}"
        raise InputError(f"{name}: a window of {window} does not fit an input of {size} padded by {padded}")
    steps = -(-span // stride) if ceil else span // stride
    if ceil and steps * stride >= size + pad[0]:
        raise InputError(f"{name}: with rounding up, its last window would be in the padding after an input of {size}")
    return steps + 1


def window_reach(size: int, channels: int) -> Pad:
    """The most channels that a window of `size` around one of `channels` holds (before, after) that channel."""
    return min(size // 2, channels - 1), min((size - 1) // 2, channels - 1)


def over_channels(x: Array, size: int) -> Array:
    """The sums of [N,C,...] over windows of `size` channels around each; an even `size` has one channel more before than after."""
    channels = x.shape[1]
    padded = np.pad(x, ((0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)))
    total: Array = np.sum([padded[:, first : first + channels] for first in range(size)], axis=0)
    return total
