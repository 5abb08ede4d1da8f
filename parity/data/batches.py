"""Batches for training: order, crop, flip and preprocessing, in numpy on uint8, identical for both frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.randomness import stream
from parity.recipe import Augmentation, Preprocessing


class Batches:
    """The training batches of one data set under one seed.

    `images` uint8 [N,C,H,W], `labels` int64 [N]. Batch b of pass e depends on (seed, e, b) only, so iteration can start anywhere.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, batch_size: int, augmentation: Augmentation, seed: int
    ) -> None:
        self.labels, self.batch_size, self.augmentation, self.seed = labels, batch_size, augmentation, seed
        pad = augmentation.crop_padding
        self.size = images.shape[2:]
        self.padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad))) if pad else images
        # [N, C, rows, columns, H, W]: every crop as a view
        self.crops = np.lib.stride_tricks.sliding_window_view(self.padded, self.size, axis=(2, 3))  # type: ignore[call-overload]

    def __len__(self) -> int:
        """Batches in a pass; the last may be smaller."""
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches `start`, `start` + 1, ... of pass `epoch`: (uint8 [n,C,H,W], int64 [n])."""
        random = stream(self.seed, "order", epoch)
        count = len(self.labels)
        order = random.permutation(count)
        places = random.integers(0, 2 * self.augmentation.crop_padding + 1, (2, count))
        flips = random.random(count) < 0.5 if self.augmentation.flip else np.zeros(count, bool)
        for first in range(start * self.batch_size, count, self.batch_size):
            part = slice(first, first + self.batch_size)
            batch = self.crops[order[part], :, places[0, part], places[1, part]]
            batch[flips[part]] = batch[flips[part], ..., ::-1]
            yield batch, self.labels[order[part]]


def dither(images: np.ndarray, seed: int, *place: int) -> np.ndarray:
    """uint8 -> float64: every pixel moved within its own grey level, by up to half of one, as a function of seed and place.

    Areas of one colour (the black of padded crops, clipped lights) make exact ties in max pooling, which each framework's rounding breaks
    in its own way: the gradients of activations then part, though both are right. Dithered pictures have no ties.
    """
    return images + stream(seed, "dither", *place).uniform(-0.5, 0.5, images.shape)


def preprocess(images: np.ndarray, preprocessing: Preprocessing, dtype: str = "float32") -> np.ndarray:
    """uint8 [N,C,H,W] -> `dtype` [N,C,H,W]: (pixel / 255 - mean) / std, by a table of the 256 values of each channel.

    Floats on the scale of 0 to 255 (see `dither`) are taken too, and computed in float64.
    """
    if images.dtype != np.uint8:
        mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
        scaled: np.ndarray = ((images / 255 - mean) / std).astype(dtype)
        return scaled
    levels = np.arange(256, dtype=np.float64) / 255
    tables = [((levels - m) / s).astype(dtype) for m, s in zip(preprocessing.mean, preprocessing.std, strict=True)]
    return np.stack([np.take(table, images[:, c]) for c, table in enumerate(tables)], axis=1)
