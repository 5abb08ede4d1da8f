"""shapes10: ten classes of generated 32x32 colour pictures, the same on every machine; needs no download.

A picture shows one shape with a random place, size, angle and colour, on a background of a random colour with a gradient of light, three
dots and noise. Colours, place and size do not depend on the class. So a linear classifier learns little, but a small convolutional network
learns the classes in minutes.

The code uses only operations whose results are exact by IEEE 754 or in integers (+ - * / sqrt, comparisons). It does not use sine, power or
`Generator`, whose last bit or algorithm may differ between libraries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.data.dataset import Dataset
from parity.standard_streams import Say

SIZE = 32
TRAIN, TEST = 10_000, 2_000
SHA256 = "b0734ab0f43d7388c1355370c21c45ba8ec557c4a0d68d0badf7d37c72a1e7f8"
"""SHA-256 of the bytes of train images, train labels, test images and test labels, in this order, all uint8."""

_KEYS = {"train": 0x73686170_65733130, "test": 0x73686170_65733131}
_DOTS = 3
_DRAWS = 5 + _DOTS  # 64-bit draws for what a picture shows
_NOISE_DRAWS = 3 * SIZE * SIZE // 8  # a byte a value
_CHUNK = 100  # pictures at a time, so that the planes stay in the processor's cache

Plane = NDArray[np.float32]
"""A number for each pixel, float32 [n, SIZE, SIZE]; sizes and places are [n, 1, 1]. The unit is a pixel."""


def load(data_dir: Path | None, say: Say) -> Dataset:
    """Generate shapes10: train uint8 [10000, 3, 32, 32] and test [2000, 3, 32, 32], with balanced, shuffled classes.

    `data_dir` is not used.
    """
    if data_dir is not None:
        say(f"shapes10 is generated: {data_dir} is not used")
    train_images, train_labels = _generate("train", TRAIN)
    test_images, test_labels = _generate("test", TEST)
    found = hashlib.sha256()
    for array in (train_images, train_labels, test_images, test_labels):
        found.update(array.data)
    if found.hexdigest() != SHA256:
        raise RuntimeError(
            f"shapes10 has another SHA-256 on this machine ({found.hexdigest()}): please report this bug"
        )
    train, test = train_labels.astype(np.int64), test_labels.astype(np.int64)
    return Dataset("shapes10", CLASSES, train_images, train, test_images, test, "our generator")


def _generate(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return `count` images uint8 [count, 3, SIZE, SIZE] and labels uint8 [count]."""
    raw = np.random.Philox(key=_KEYS[split]).random_raw(count * (1 + _DRAWS + _NOISE_DRAWS)).astype("<u8")
    order, draws, noise = np.split(raw, [count, count * (1 + _DRAWS)])
    draws = draws.reshape(count, _DRAWS)
    noise = noise.view(np.uint8).reshape(count, 3, SIZE, SIZE)
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    share = count // len(CLASSES)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part] = _draw(_COVERS[start // share], draws[part], noise[part])
    shuffled = np.argsort(order, kind="stable")
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.uint8), share)
    return images[shuffled], labels[shuffled]


def _draw(
    shape: Callable[[Plane, Plane, Plane], Plane], draws: NDArray[np.uint64], noise: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return pictures uint8 [n, 3, SIZE, SIZE] of one class: background, slope, dots, shape, noise."""
    angle, place, colour, contrast, slope, *dots = draws.T
    picture = np.empty((len(draws), 3, SIZE, SIZE), np.int16)
    back = _colour(colour, 0)
    picture[:] = back
    picture += _slope(slope)[:, None]
    for dot in dots:
        _paint(picture, _dot(dot), _colour(dot, 5))
    # In every channel, shape and background differ by 72 to 184 of 256 levels (modulo 256), so the shape is always visible.
    shift = 72 + (_colour(contrast, 0) * 7 >> 4)
    radius = 7.5 + 5 * _unit(place, 0)
    y, x = _turn(*_centred(place, radius), angle)
    _paint(picture, shape(x, y, radius), (back + shift) & 255)
    picture += (noise >> 3).astype(np.int16) - 16
    return np.clip(picture, 0, 255).astype(np.uint8)


def _byte(draw: NDArray[np.uint64], which: int) -> NDArray[np.uint64]:
    return (draw >> np.uint64(8 * which)) & np.uint64(255)


def _unit(draw: NDArray[np.uint64], which: int) -> Plane:
    """Return 16 bits of each draw, the `which`-th of four, as a number from 0 up to 1: [n, 1, 1]."""
    bits = (draw >> np.uint64(16 * which)) & np.uint64(0xFFFF)
    return (bits.astype(np.float32) / np.float32(65536))[:, None, None]


def _colour(draw: NDArray[np.uint64], first: int) -> NDArray[np.int16]:
    """Return three bytes of each draw from `first` on: int16 [n, 3, 1, 1]."""
    return np.stack([_byte(draw, first + channel) for channel in range(3)], axis=1).astype(np.int16)[:, :, None, None]


def _grid() -> tuple[Plane, Plane]:
    steps = np.arange(SIZE, dtype=np.float32)
    return steps[None, :, None], steps[None, None, :]


def _centred(draw: NDArray[np.uint64], radius: Plane) -> tuple[Plane, Plane]:
    """Return y and x relative to a random centre, around which a circle of `radius` fits into the picture."""
    y, x = _grid()
    room = (SIZE - 1) - 2 * radius
    return y - (radius + room * _unit(draw, 1)), x - (radius + room * _unit(draw, 2))


def _turn(y: Plane, x: Plane, draw: NDArray[np.uint64]) -> tuple[Plane, Plane]:
    """Rotate by a random angle: within a half circle, where sine and cosine are rational in `t`, or opposite, at random."""
    t = 2 * _unit(draw, 0) - 1
    side = np.where(_unit(draw, 1) < 0.5, np.float32(-1), np.float32(1))
    cosine, sine = side * (1 - t * t) / (1 + t * t), side * (2 * t) / (1 + t * t)
    return cosine * y - sine * x, sine * y + cosine * x


def _slope(draw: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Return a gradient of light across the picture: int16 [n, SIZE, SIZE], from -32 to 32."""
    steps = np.arange(SIZE, dtype=np.int16) - SIZE // 2
    rise, run = ((_byte(draw, which) >> np.uint64(3)).astype(np.int16)[:, None, None] - 16 for which in (0, 1))
    return (rise * steps[None, :, None] + run * steps[None, None, :]) >> 4


def _dot(draw: NDArray[np.uint64]) -> Plane:
    """Return the inside of a small disc at a random place."""
    y, x = _grid()
    y, x = y - SIZE * _unit(draw, 0), x - SIZE * _unit(draw, 1)
    radius = 0.75 + (_byte(draw, 4).astype(np.float32) / np.float32(170))[:, None, None]
    inside: Plane = radius - np.sqrt(x * x + y * y)
    return inside


def _paint(picture: NDArray[np.int16], inside: Plane, colour: NDArray[np.int16]) -> None:
    """Lay `colour` over `picture` where `inside`, the distance from the edge inwards, is positive; edges are smooth."""
    cover = (np.clip(inside + 0.5, 0, 1) * 64).astype(np.int16)[:, None]  # of 64, so that 255 * cover fits int16
    picture += (colour - picture) * cover >> 6


# The shapes. Each takes x, y and the radius of the circle around it, and returns the distance of each pixel from the edge, positive
# inside.


def _disc(x: Plane, y: Plane, r: Plane) -> Plane:
    inside: Plane = 0.85 * r - np.sqrt(x * x + y * y)
    return inside


def _ring(x: Plane, y: Plane, r: Plane) -> Plane:
    inside: Plane = 0.2 * r - np.abs(np.sqrt(x * x + y * y) - 0.75 * r)
    return inside


def _square(x: Plane, y: Plane, r: Plane) -> Plane:
    inside: Plane = 0.7 * r - np.maximum(np.abs(x), np.abs(y))
    return inside


def _frame(x: Plane, y: Plane, r: Plane) -> Plane:
    inside: Plane = 0.15 * r - np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.55 * r)
    return inside


def _triangle(x: Plane, y: Plane, r: Plane) -> Plane:
    slanted = 0.8660254 * np.abs(x) - 0.5 * y  # two edges at once, by symmetry
    inside: Plane = 0.5 * r - np.maximum(slanted, y)
    return inside


def _star(x: Plane, y: Plane, r: Plane) -> Plane:
    """Return a pentagram: a point is inside if it is beyond at most one of its five lines."""
    first = second = np.full_like(x, -2 * SIZE)
    for across, along in ((0.0, -1.0), (0.9510565, -0.309017), (0.5877853, 0.809017)):
        for side in (-1, 1) if across else (1,):
            beyond = side * across * x + along * y
            second = np.maximum(second, np.minimum(first, beyond))
            first = np.maximum(first, beyond)
    return 0.315 * r - second


def _cross(x: Plane, y: Plane, r: Plane) -> Plane:
    longer, shorter = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    inside: Plane = np.minimum(0.95 * r - longer, 0.22 * r - shorter)
    return inside


def _crescent(x: Plane, y: Plane, r: Plane) -> Plane:
    bite = x - 0.45 * r
    inside: Plane = np.minimum(0.95 * r - np.sqrt(x * x + y * y), np.sqrt(bite * bite + y * y) - 0.75 * r)
    return inside


def _arrow(x: Plane, y: Plane, r: Plane) -> Plane:
    head = np.minimum(y + 0.1 * r, 0.9 * r - y - np.abs(x)) * 0.7071068
    shaft = np.minimum(0.2 * r - np.abs(x), np.minimum(y + 0.95 * r, 0.3 * r - y))
    return np.maximum(head, shaft)


def _bars(x: Plane, y: Plane, r: Plane) -> Plane:
    inside: Plane = np.minimum(0.2 * r - np.abs(np.abs(x) - 0.45 * r), 0.8 * r - np.abs(y))
    return inside


_COVERS = (_disc, _ring, _square, _frame, _triangle, _star, _cross, _crescent, _arrow, _bars)
CLASSES = ("disc", "ring", "square", "frame", "triangle", "star", "cross", "crescent", "arrow", "bars")
