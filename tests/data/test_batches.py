"""Batches, preprocessing and dropout masks equal slow loops, and depend only on seed and place."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.data.batches import Batches, preprocess
from parity.data.random_streams import mask, masks, stream
from parity.network.articles import NETWORKS
from parity.recipe.presets import CIFAR10_STATISTICS
from parity.recipe.recipe import Augmentation, Preprocessing

BOTH = Augmentation(crop_padding=4, flip=True)
AUGMENTATIONS = [Augmentation(), Augmentation(flip=True), Augmentation(crop_padding=2), BOTH]

# The same numbers with NumPy 1 and 2, in both environments and in later versions.
PINNED = {
    "batches": "c7263b764f1e04c357aa13f884fcc6be5d4214fe5bf187d06047040328867272",
    "mask": "b808f8bb18ab11a8dab4924c5edb0a156dcb40585f510bf15022f011b0be12f9",
}


def coded(count: int, height: int, width: int) -> np.ndarray:
    """Images whose pixels tell where they come from: image number, row and column, each from 1."""
    images = np.zeros((count, 3, height, width), np.uint8)
    images[:, 0] = np.arange(1, count + 1)[:, None, None]
    images[:, 1] = np.arange(1, height + 1)[:, None]
    images[:, 2] = np.arange(1, width + 1)
    return images


@dataclass(frozen=True)
class Origin:
    """Origin of an image of a batch: its index, the start of its crop, and whether it was flipped."""

    index: int
    row: int
    column: int
    flipped: bool


def origin(image: np.ndarray, padding: int) -> Origin:
    """Reads the code of one image; needs `padding` < its size - 1."""
    width = image.shape[2]
    index = int(image[0].max()) - 1
    y, x = (int(i) for i in np.argwhere(image[0])[0])
    columns = image[2][y]
    inside = np.flatnonzero(columns)
    flipped = bool(columns[inside[0]] > columns[inside[-1]])
    place = width - 1 - x if flipped else x
    return Origin(index, int(image[1][y, x]) - 1 + padding - y, int(columns[x]) - 1 + padding - place, flipped)


def reference(images: np.ndarray, origins: list[Origin], padding: int) -> np.ndarray:
    """Make one image after the other: pad with black, crop, flip."""
    made = []
    for where in origins:
        image = np.pad(images[where.index], ((0, 0), (padding, padding), (padding, padding)))
        height, width = images.shape[2:]
        image = image[:, where.row : where.row + height, where.column : where.column + width]
        made.append(image[:, :, ::-1] if where.flipped else image)
    return np.stack(made)


def one_pass(batches: Batches, epoch: int = 0, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches.epoch(epoch, start), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def pass_of(count: int = 100, batch: int = 32, epoch: int = 0, seed: int = 5) -> list[Origin]:
    """Return the origins of all images of an epoch over coded images of 9x12."""
    images, labels = one_pass(Batches(coded(count, 9, 12), np.arange(count), batch, BOTH, seed), epoch)
    assert len(images) == len(labels)
    return [origin(image, 4) for image in images]


# ------------------------------------------------------------------------------------------------- batches


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(5, 9), st.integers(5, 9)),
    st.integers(1, 50),
    st.builds(Augmentation, st.integers(0, 3), st.booleans()),
    st.integers(0, 2**63 - 1),
    st.integers(0, 500),
)
def test_batches_are_what_a_loop_over_single_images_makes(
    size: tuple[int, int, int], batch: int, augmentation: Augmentation, seed: int, epoch: int
) -> None:
    count = size[0]
    labels = np.arange(count) * 7
    known, numbers = one_pass(Batches(coded(*size), labels, batch, augmentation, seed), epoch)
    origins = [origin(image, augmentation.crop_padding) for image in known]
    assert sorted(where.index for where in origins) == list(range(count)), "every image once a pass"
    assert [int(number) for number in numbers] == [where.index * 7 for where in origins], "labels stay with images"
    assert all(0 <= p <= 2 * augmentation.crop_padding for where in origins for p in (where.row, where.column))
    assert augmentation.flip or not any(where.flipped for where in origins)

    images = np.random.default_rng(0).integers(0, 256, (count, 3, *size[1:]), np.uint8)
    made, _ = one_pass(Batches(images, labels, batch, augmentation, seed), epoch)
    assert made.dtype == np.uint8
    assert np.array_equal(made, reference(images, origins, augmentation.crop_padding))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_starting_in_the_middle_of_a_pass_equals_continuing_it(augmentation: Augmentation) -> None:
    batches = Batches(coded(100, 9, 12), np.arange(100), 16, augmentation, seed=3)
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == 7
    for start in range(len(batches) + 1):
        rest = list(batches.epoch(2, start))
        assert len(rest) == 7 - start
        for (images, labels), (expected, numbers) in zip(rest, whole[start:], strict=True):
            assert np.array_equal(images, expected)
            assert np.array_equal(labels, numbers)


def test_all_batches_are_full_but_the_last() -> None:
    def sizes(count: int, batch: int) -> list[int]:
        batches = Batches(coded(count, 5, 5), np.arange(count), batch, BOTH, 0)
        return [len(labels) for _, labels in batches.epoch(0)]

    assert sizes(100, 32) == [32, 32, 32, 4]
    assert sizes(96, 32) == [32, 32, 32]
    assert sizes(10, 32) == [10]


def test_without_augmentation_the_images_are_themselves() -> None:
    images = np.random.default_rng(1).integers(0, 256, (50, 3, 6, 7), np.uint8)
    made, labels = one_pass(Batches(images, np.arange(50), 8, Augmentation(), 0))
    assert np.array_equal(made, images[labels])


def test_a_flip_alone_mirrors_about_half_of_the_images() -> None:
    images = coded(200, 6, 7)
    made, labels = one_pass(Batches(images, np.arange(200), 64, Augmentation(flip=True), 0))
    mirrored = np.array([np.array_equal(image, images[i, :, :, ::-1]) for image, i in zip(made, labels, strict=True)])
    same = np.array([np.array_equal(image, images[i]) for image, i in zip(made, labels, strict=True)])
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / math.sqrt(200)


def test_another_epoch_or_seed_has_another_order_other_crops_and_other_flips() -> None:
    base, pass_1, seed_6 = pass_of(), pass_of(epoch=1), pass_of(seed=6)
    assert base == pass_of()
    for different in (pass_1, seed_6):
        assert [where.index for where in different] != [where.index for where in base]
        by_image = [{where.index: where for where in origins} for origins in (base, different)]
        for field in ("row", "column", "flipped"):
            same = sum(getattr(by_image[0][i], field) == getattr(by_image[1][i], field) for i in range(100))
            assert same < 80, field


def test_another_batch_size_has_the_same_order_crops_and_flips() -> None:
    assert pass_of(batch=32) == pass_of(batch=7)


def test_crops_and_flips_are_even_and_independent_of_each_other() -> None:
    origins = [where for epoch in range(40) for where in pass_of(100, 100, epoch)]
    n = len(origins)
    table = np.zeros((9, 9, 2))
    for where in origins:
        table[where.row, where.column, int(where.flipped)] += 1
    cells = table.size
    chi = ((table - n / cells) ** 2 / (n / cells)).sum()
    assert abs(chi - (cells - 1)) < 5 * math.sqrt(2 * (cells - 1))
    firsts = np.array([where.index for where in origins[::100]])
    assert len(set(firsts.tolist())) > 20, "any image may come first"


def test_making_batches_changes_neither_the_data_nor_later_batches() -> None:
    images = coded(20, 6, 7)
    before = images.copy()
    batches = Batches(images, np.arange(20), 8, Augmentation(flip=True), 0)
    for batch, _ in batches.epoch(0):
        batch[:] = 77
    assert np.array_equal(images, before)
    assert not (next(batches.epoch(0))[0] == 77).any()


def test_a_seed_means_the_same_batches_under_every_version_of_numpy() -> None:
    made, labels = one_pass(Batches(coded(200, 8, 8), np.arange(200), 64, BOTH, seed=1), epoch=3)
    assert hashlib.sha256(made.tobytes() + labels.astype("<i8").tobytes()).hexdigest() == PINNED["batches"]


# ------------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("preprocessing", [Preprocessing(), CIFAR10_STATISTICS], ids=["plain", "cifar10"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_preprocessing_is_the_formula_in_float64_rounded_once(preprocessing: Preprocessing, dtype: str) -> None:
    images = np.arange(4 * 3 * 8 * 8, dtype=np.uint64).astype(np.uint8).reshape(4, 3, 8, 8)
    assert set(images[:, 0].ravel().tolist() + images[:, 1].ravel().tolist()) > set(range(128))
    made = preprocess(images, preprocessing, dtype)
    assert made.dtype == dtype
    assert made.shape == images.shape
    for c in range(3):
        exact = (images[:, c] / 255.0 - preprocessing.mean[c]) / preprocessing.std[c]
        assert np.array_equal(made[:, c], exact.astype(dtype))


def test_plain_preprocessing_maps_all_256_values_onto_0_to_1() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    made = preprocess(values, Preprocessing(), "float64")
    assert np.array_equal(made[0, 2].ravel(), np.arange(256) / 255)


# ------------------------------------------------------------------------------------------------- dropout masks

RATES = [0.1, 0.3, 0.4, 0.5, 0.7]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", [(64, 32, 32), (512,), (7,), (3, 5, 5)], ids=str)
def test_elements_are_kept_at_the_rate_asked_for(rate: float, shape: tuple[int, ...]) -> None:
    rows = max(2, 200_000 // math.prod(shape))
    kept = mask(1, 9, "drop", range(rows), shape, rate)
    assert kept.shape == (rows, *shape)
    assert kept.dtype == bool
    assert abs(kept.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / kept.size) + 2**-17


@pytest.mark.parametrize("shape", [(7,), (16,), (33,)], ids=str)
def test_every_element_of_a_sample_and_every_sample_is_kept_at_the_same_rate(shape: tuple[int]) -> None:
    rows, rate = 4000, 0.4
    kept = mask(2, 1, "drop", range(rows), shape, rate)
    for axis in (0, 1):
        n = kept.shape[axis]
        z = (kept.mean(axis=axis) - (1 - rate)) / math.sqrt(rate * (1 - rate) / n)
        assert abs(z).max() < (5 if axis == 0 else 6.5)
    neighbours = np.corrcoef(kept[:-1].ravel(), kept[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(kept.size)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**63 - 1),
)
def test_rows_drawn_separately_equal_rows_drawn_together(
    shape: tuple[int, ...], parts: list[int], rate: float, seed: int
) -> None:
    together = mask(seed, 3, "drop", range(sum(parts)), shape, rate)
    edges = np.cumsum([0, *parts]).tolist()
    separately = [mask(seed, 3, "drop", range(a, b), shape, rate) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(separately), together)


def test_a_mask_depends_on_seed_update_layer_and_sample() -> None:
    def draw(seed: int = 1, update: int = 2, layer: str = "drop", first: int = 0) -> np.ndarray:
        return mask(seed, update, layer, range(first, first + 8), (100,), 0.5)

    base = draw()
    assert np.array_equal(base, draw())
    others = [draw(seed=2), draw(update=3), draw(layer="drop2"), draw(first=8), draw(seed=2, update=1)]
    for other in others:
        assert abs((base == other).mean() - 0.5) < 5 * 0.5 / math.sqrt(base.size)


def test_the_same_place_at_a_higher_rate_keeps_a_subset() -> None:
    low, high = (mask(1, 1, "drop", range(50), (33,), rate) for rate in (0.3, 0.6))
    assert (low | ~high).all()
    assert low.sum() > high.sum()


def test_masks_has_one_mask_for_every_dropout_layer_of_a_network() -> None:
    network = NETWORKS["vgg16_bn_drop"]
    made = masks(1, 5, range(4, 7), network.dropouts)
    assert list(made) == list(network.dropouts)
    for layer, (shape, rate) in network.dropouts.items():
        assert np.array_equal(made[layer], mask(1, 5, layer, range(4, 7), shape, rate))
    assert masks(1, 5, range(4), NETWORKS["vgg_mini"].dropouts) == {}


def test_no_rows_give_an_empty_mask() -> None:
    assert mask(1, 1, "drop", range(3, 3), (4, 5), 0.5).shape == (0, 4, 5)


def test_a_seed_means_the_same_masks_under_every_version_of_numpy() -> None:
    packed = np.packbits(mask(1, 2, "drop", range(3, 40), (5, 7), 0.3))
    assert hashlib.sha256(packed.tobytes()).hexdigest() == PINNED["mask"]


def test_streams_of_different_places_do_not_meet() -> None:
    places = [("order", 1), ("order", 11), ("order", "1"), ("order", 1, 1), ("order1",), ("init", "a"), ("init", "b")]
    firsts = {stream(seed, *place).integers(2**63) for place in places for seed in (1, 11)}
    assert len(firsts) == 2 * len(places)
