"""Batches for training: order, crop, flip and preprocessing, in NumPy on uint8, the same for both frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.arrays import Array
from parity.data.lazy_images import Pictures, ahead
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.recipe.recipe import Augmentation, Preprocessing


class Batches:
    """The training batches of one data set under one seed.

    `images` are uint8 [N,C,H,W], or `Pictures`; `labels` are int64 [N]. Batch b of epoch e depends only on (seed, e, b), so iteration can
    start anywhere. `InputError` if the images are smaller than the crops.
    """

    def __init__(
        self, images: Array | Pictures, labels: Array, batch_size: int, augmentation: Augmentation, seed: int
    ) -> None:
        self.labels, self.batch_size, self.augmentation, self.seed = labels, batch_size, augmentation, seed
        pad = augmentation.crop_padding
        self.size = (augmentation.crop, augmentation.crop) if augmentation.crop else images.shape[2:]
        self.rooms = [size + 2 * pad - crop + 1 for size, crop in zip(images.shape[2:], self.size, strict=True)]
        if min(self.rooms) < 1 and not augmentation.rescales:
            raise InputError(
                f"images of {images.shape[2]} by {images.shape[3]} are smaller than crops of {self.size[0]}"
            )
        self.pictures: Pictures | None = None
        if augmentation.rescales and isinstance(images, np.ndarray):
            images = Pictures(images, images.shape[1:])
        if isinstance(images, Pictures):
            self.pictures = images
            return
        self.padded = padded(images, pad, augmentation.fill) if pad else images
        # [N, C, rows, columns, H, W]: every crop as a view
        self.crops = np.lib.stride_tricks.sliding_window_view(self.padded, self.size, axis=(2, 3))  # type: ignore[call-overload]

    def __len__(self) -> int:
        """Return the number of batches of an epoch. The last one may be smaller."""
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yield batches `start`, `start` + 1, ... of epoch `epoch`: (uint8 [n,C,H,W], or float32 if they are distorted; int64 [n])."""
        random, how = stream(self.seed, "order", epoch), self.augmentation
        count = len(self.labels)
        order = random.permutation(count)
        places = self._places(random, count)
        flips = self._flips(random, epoch, order)
        brightness = random.uniform(-how.brightness, how.brightness, count)
        contrast = random.uniform(how.contrast_low, how.contrast_high, count)
        parts = [slice(i, i + self.batch_size) for i in range(start * self.batch_size, count, self.batch_size)]
        for part, batch in zip(parts, self._crops(epoch, order, places, parts), strict=True):
            batch[flips[part]] = batch[flips[part], ..., ::-1]
            distorted = distort(batch, brightness[part], contrast[part]) if how.distorts else batch
            yield distorted, self.labels[order[part]]

    def _flips(self, random: np.random.Generator, epoch: int, order: Array) -> Array:
        """Return which images are mirrored, in the order of the epoch [N]."""
        if not self.augmentation.flip:
            return np.zeros(len(order), bool)
        if not self.augmentation.alternate:
            return random.random(len(order)) < 0.5
        first: Array = stream(self.seed, "flip").random(len(order)) < 0.5
        flips: Array = first[order] ^ (epoch % 2 == 1)
        return flips

    def _places(self, random: np.random.Generator, count: int) -> Array:
        """Return where crops start: [row or column, N]."""
        if not self.augmentation.crop:
            return random.integers(0, 2 * self.augmentation.crop_padding + 1, (2, count))
        if self.augmentation.rescales:
            return np.zeros((2, count), int)  # depends on each image's size
        return np.stack([random.integers(0, room, count) for room in self.rooms])

    def _crops(self, epoch: int, order: Array, places: Array, parts: list[slice]) -> Iterator[Array]:
        """Yield the crops of each of the batches `parts`, before they are flipped. Pictures are read, and rescaled with a scale jitter."""
        how, pictures = self.augmentation, self.pictures
        if pictures is None:
            yield from (self.crops[order[part], :, places[0, part], places[1, part]] for part in parts)
            return
        random, count = stream(self.seed, "scale", epoch), len(order)
        scales = random.integers(how.scale_low, how.scale_high + 1, count)
        shares = random.random((2, count))  # of the range in which a crop can start

        def crop(i: int) -> Array:
            if how.rescales:
                (pixels,) = pictures.rescaled(order[i], int(scales[i]))
                rooms = [size - crop + 1 for size, crop in zip(pixels.shape[1:], self.size, strict=True)]
                top, left = (int(share * room) for share, room in zip(shares[:, i], rooms, strict=True))
            else:
                pad, (top, left) = how.crop_padding, places[:, i]
                pixels = padded(pictures.one(order[i]), pad, how.fill)
            return pixels[:, top : top + self.size[0], left : left + self.size[1]]

        yield from map(np.stack, ahead(crop, (range(len(order))[part] for part in parts)))


def padded(images: Array, pad: int, fill: str) -> Array:
    """Pad [...,H,W] to [...,H+2p,W+2p] with black or ("reflect") mirrored pixels. `InputError` if the image is too small to mirror."""
    if fill == "reflect" and pad >= min(images.shape[-2:]):
        raise InputError(f"images of {images.shape[-2]} by {images.shape[-1]} are too small for {pad} mirrored pixels")
    edges = (*[(0, 0)] * (images.ndim - 2), (pad, pad), (pad, pad))
    larger: Array = np.pad(images, edges, "reflect" if fill == "reflect" else "constant")
    return larger


def distort(images: Array, brightness: Array, contrast: Array) -> Array:
    """[N,C,H,W], 0 to 255 -> float32: add `brightness` [N], then multiply the distance to each channel's mean by `contrast` [N]."""
    brighter = images + brightness[:, None, None, None]
    mean = brighter.mean((2, 3), keepdims=True)
    distorted: Array = (brighter - mean) * contrast[:, None, None, None] + mean
    return distorted.astype(np.float32)


def dither(images: Array, seed: int, *place: int) -> Array:
    """uint8 -> float64: move every pixel by up to half a grey level, as a function of `seed` and `place`.

    Areas of one colour (the black of padded crops, clipped lights) make exact max-pool ties. Each framework's rounding breaks a tie in
    its own way; the gradients of activations then differ, although both are right. Dithered pictures have no ties.
    """
    dithered: Array = images + stream(seed, "dither", *place).uniform(-0.5, 0.5, images.shape)
    return dithered


def preprocess(images: Array, preprocessing: Preprocessing, dtype: str = "float32") -> Array:
    """uint8 [N,C,H,W] -> `dtype` [N,C,H,W]: (pixel / 255 - mean) / std, by a table of the 256 values of each channel.

    See `Preprocessing` for standardise, crop and permutation. Floats from 0 to 255 (see `dither`) are computed in float64. `InputError` for
    means or deviations of another number of channels, or images smaller than the crop.
    """
    made = _scaled(_middle(images, preprocessing.crop), preprocessing, dtype)
    if preprocessing.permutation is None:
        return made
    order = stream(preprocessing.permutation, "pixels").permutation(math.prod(made.shape[2:]))
    return made.reshape(*made.shape[:2], -1)[..., order].reshape(made.shape)


def _middle(images: Array, crop: int) -> Array:
    height, width = images.shape[2:]
    if crop > min(height, width):
        raise InputError(f"images of {height} by {width} are smaller than the crop of {crop} by {crop}")
    top, left = ((height - crop) // 2, (width - crop) // 2) if crop else (0, 0)
    return images[:, :, top : top + crop, left : left + crop] if crop else images


def _scaled(images: Array, preprocessing: Preprocessing, dtype: str) -> Array:
    scaled: Array
    if preprocessing.standardise:
        numbers = images.reshape(len(images), -1).astype(np.float64)
        least = 1 / math.sqrt(numbers.shape[1])
        numbers -= numbers.mean(1, keepdims=True)
        scaled = (numbers / np.maximum(np.sqrt((numbers**2).mean(1, keepdims=True)), least)).astype(dtype)
        return scaled.reshape(images.shape)
    mean, std = (_per_channel(values, images.shape[1]) for values in (preprocessing.mean, preprocessing.std))
    if images.dtype != np.uint8:
        m, s = (np.reshape(values, (1, -1, 1, 1)) for values in (mean, std))
        scaled = ((images / 255 - m) / s).astype(dtype)
        return scaled
    levels = np.arange(256, dtype=np.float64) / 255
    tables = [((levels - m) / s).astype(dtype) for m, s in zip(mean, std, strict=True)]
    return np.stack([np.take(table, images[:, c]) for c, table in enumerate(tables)], axis=1)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(set(values)) == 1:
        return values[:1] * channels
    if len(values) != channels:
        raise InputError(f"images have {channels} channels, but the recipe has {len(values)} means and deviations")
    return values
