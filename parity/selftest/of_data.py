"""Faults of the input: order, augmentation, preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from parity.compare.check import Check
from parity.compare.step_inputs import Pixels
from parity.recipe.presets import CROP_AND_FLIP
from parity.recipe.recipe import Augmentation, Preprocessing
from parity.selftest import changes as c
from parity.selftest.fault import Fault


def _unshuffled(check: Check, number: int) -> Iterator[Pixels]:
    data, size = check.dataset, check.recipe.batch_size
    for first in range(0, len(data.train_labels), size):
        yield data.train_images[first : first + size].astype(float), data.train_labels[first : first + size]


def _filled(check: Check, number: int) -> Iterator[Pixels]:
    whole, rest = c.epoch(check, number)
    lacking = len(whole[1]) - len(rest[1])
    yield whole
    yield np.concatenate([rest[0], whole[0][:lacking]]), np.concatenate([rest[1], whole[1][:lacking]])


def _labels_of_the_file(check: Check, number: int) -> Iterator[Pixels]:
    for (images, _), (_, labels) in zip(c.epoch(check, number), _unshuffled(check, number), strict=True):
        yield images, labels


def _flipped_together(check: Check, number: int) -> Iterator[Pixels]:
    for place, (images, labels) in enumerate(c.epoch(check, number, replace(CROP_AND_FLIP, flip=False))):
        yield images[..., ::-1] if (number + place) % 2 else images, labels


def _input(name: str, area: str, sentence: str, change: c.Change, cause: str = "", later: bool = False) -> Fault:
    return Fault(name, area, sentence, change, "trajectory" if later else "eval", "input", "images", cause)


DATA = (
    _input("not_shuffled", "data", "the order is the file's", c.epochs(_unshuffled)),
    _input("another_order", "data", "the order is drawn from another seed",
        c.epochs(lambda check, e: c.epoch(check, e, seed=9))),
    _input("same_order_every_pass", "data", "every epoch has the order of the first",
        c.epochs(lambda check, e: c.epoch(check, 0)), later=True),
    _input("short_batch_dropped", "data", "the last, smaller batch is dropped",
        c.epochs(lambda check, e: (b for b in c.epoch(check, e) if len(b[1]) == 8)), later=True),
    _input("third_pass_as_second", "data", "the third epoch has the order of the second",
        c.epochs(lambda check, e: c.epoch(check, min(e, 1))), later=True),
    _input("passes_exchanged", "data", "the third epoch comes before the second",
        c.epochs(lambda check, e: c.epoch(check, {1: 2, 2: 1}.get(e, e))), later=True),
    _input("last_batch_filled", "data", "the last, smaller batch is filled with images of the epoch",
        c.epochs(_filled), cause="has shape", later=True),
    Fault("labels_not_shuffled", "data", "labels keep the file's order",
        c.epochs(_labels_of_the_file), "eval", "input", "labels"),
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
    _input("flip_without_crop", "augmentation", "flips, but no crops",
        c.epochs(lambda check, e: c.epoch(check, e, Augmentation(0, True)))),
    _input("crop_mirrors_edges", "augmentation", "crops see the image mirrored at its edges",
        c.epochs(lambda check, e: c.epoch(check, e, replace(CROP_AND_FLIP, fill="reflect")))),
    _input("crop_of_padding_3", "augmentation", "images are padded by 3 pixels for crops",
        c.epochs(lambda check, e: c.epoch(check, e, Augmentation(3, True)))),
    _input("crop_one_pixel_off", "augmentation", "crops start one column further left",
        c.raw(lambda x: np.pad(x[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)))), "moved by 1 pixel right"),
    _input("flips_alternate", "augmentation", "every second epoch shows the mirror image",
        c.epochs(lambda check, e: c.epoch(check, e, replace(CROP_AND_FLIP, alternate=True)))),
    _input("flipped_together", "augmentation", "all images of a batch are flipped, or none", c.epochs(_flipped_together)),
    _input("third_pass_not_augmented", "augmentation", "augmentation stops after the second epoch",
        c.epochs(lambda check, e: c.epoch(check, e, Augmentation() if e > 1 else None)), later=True),
)  # fmt: skip


PREPROCESSING = (
    _input("bgr", "preprocessing", "channels are BGR, as OpenCV reads them",
        c.pixels(lambda x: x[:, ::-1].copy()), "BGR"),
    _input("not_normalised", "preprocessing", "means and deviations are not applied",
        c.recipes(lambda r: replace(r, preprocessing=Preprocessing()))),
    _input("deviations_of_pixels", "preprocessing", "the deviations are 0.247, 0.243, 0.262",
        c.recipes(lambda r: replace(r, preprocessing=replace(r.preprocessing, std=(0.247, 0.243, 0.262))))),
    _input("means_bgr", "preprocessing", "the means are in the order BGR",
        c.recipes(lambda r: replace(r, preprocessing=replace(r.preprocessing, mean=r.preprocessing.mean[::-1])))),
    _input("deviations_not_applied", "preprocessing", "means are subtracted, but deviations are not divided by",
        c.recipes(lambda r: replace(r, preprocessing=replace(r.preprocessing, std=(1.0, 1.0, 1.0))))),
    _input("standardised_by_image", "preprocessing", "every image has its own mean and deviation",
        c.recipes(lambda r: replace(r, preprocessing=Preprocessing(standardise=True)))),
    _input("not_scaled", "preprocessing", "pixels are not divided by 255", c.pixels(lambda x: x * 255), "255"),
    _input("divided_by_256", "preprocessing", "pixels are divided by 256", c.pixels(lambda x: x * (255 / 256)), "256"),
    _input("channels_last", "preprocessing", "channels-last pixels are read as channels first",
        c.raw(lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape))),
)  # fmt: skip
