"""How the input goes wrong: order, augmentation, preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from parity.compare.check import Check
from parity.compare.step_inputs import Pixels
from parity.recipe.recipe import Augmentation, Preprocessing
from parity.selftest import changes as c
from parity.selftest.fault import Fault


def _unshuffled(check: Check, number: int) -> Iterator[Pixels]:
    data, size = check.dataset, check.recipe.batch_size
    for first in range(0, len(data.train_labels), size):
        yield data.train_images[first : first + size].astype(float), data.train_labels[first : first + size]


def _input(name: str, area: str, sentence: str, change: c.Change, cause: str = "", later: bool = False) -> Fault:
    return Fault(name, area, sentence, change, "trajectory" if later else "eval", "input", "images", cause)


DATA = (
    _input("not_shuffled", "data", "the order is the file's", c.epochs(_unshuffled)),
    _input("another_order", "data", "the order is drawn from another seed",
        c.epochs(lambda check, e: c.epoch(check, e, seed=9))),
    _input("same_order_every_pass", "data", "every pass has the order of the first",
        c.epochs(lambda check, e: c.epoch(check, 0)), later=True),
    _input("short_batch_dropped", "data", "the last, smaller batch is dropped",
        c.epochs(lambda check, e: (b for b in c.epoch(check, e) if len(b[1]) == 8)), later=True),
    Fault("labels_shifted", "data", "labels count from one",
        c.batches(lambda b: (b[0], (b[1] + 1) % 10)), "eval", "input", "labels"),
)  # fmt: skip


AUGMENTATION = (
    _input("no_augmentation", "augmentation", "no augmentation",
        c.epochs(lambda check, e: c.epoch(check, e, Augmentation()))),
    _input("flipped_upside_down", "augmentation", "images are flipped upside down",
        c.raw(lambda x: x[:, :, ::-1]), "upside down"),
    _input("flipped_always", "augmentation", "every image is mirrored once more",
        c.raw(lambda x: x[..., ::-1]), "left to right"),
    _input("crop_exchanged", "augmentation", "rows and columns are exchanged",
        c.raw(lambda x: x.swapaxes(2, 3)), "height and width"),
    _input("crop_without_flip", "augmentation", "crops, but no flips",
        c.epochs(lambda check, e: c.epoch(check, e, Augmentation(4, False)))),
)  # fmt: skip


PREPROCESSING = (
    _input("bgr", "preprocessing", "channels are BGR, as OpenCV reads them",
        c.pixels(lambda x: x[:, ::-1].copy()), "BGR"),
    _input("not_normalised", "preprocessing", "means and deviations are not applied",
        c.recipes(lambda r: replace(r, preprocessing=Preprocessing()))),
    _input("deviations_of_pixels", "preprocessing", "the deviations are 0.247, 0.243, 0.262",
        c.recipes(lambda r: replace(r, preprocessing=replace(r.preprocessing, std=(0.247, 0.243, 0.262))))),
    _input("not_scaled", "preprocessing", "pixels are not divided by 255", c.pixels(lambda x: x * 255), "255"),
    _input("divided_by_256", "preprocessing", "pixels are divided by 256", c.pixels(lambda x: x * (255 / 256)), "256"),
    _input("channels_last", "preprocessing", "channels-last pixels are read as channels first",
        c.raw(lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape))),
)  # fmt: skip
