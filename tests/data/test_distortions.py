"""Distorted crops, per-image standardisation and permuted pixels equal slow formulas; and the recipes that use them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from parity.backend.worker import Worker
from parity.compare.check import Check, run_check
from parity.data import Dataset
from parity.data.batches import Batches, distort, preprocess
from parity.errors import InputError
from parity.network import articles
from parity.onnx.comparison import compare_through_onnx
from parity.recipe import presets
from parity.recipe.recipe import Augmentation, Preprocessing, changed

DISTORTED = presets.get_recipe("distorted")
COUNT = 300


def pictures(count: int = COUNT, size: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, size, size), np.uint8)


def batches(images: np.ndarray, augmentation: Augmentation = DISTORTED.augmentation, seed: int = 1) -> Batches:
    return Batches(images, np.arange(len(images)), 64, augmentation, seed)


def test_the_recipe_is_tensorflows_distorted_inputs() -> None:
    assert DISTORTED.augmentation == Augmentation(0, True, 24, 63.0, 0.2, 1.8)
    assert (DISTORTED.preprocessing.crop, DISTORTED.preprocessing.standardise) == (24, True)
    assert DISTORTED.seen((3, 32, 32)) == articles.get_network("tf_vgg16").input_shape
    assert presets.get_recipe("article").seen((3, 32, 32)) == (3, 32, 32)
    assert {presets.recipe_for(articles.get_network(name)).name for name in ("tf_vgg16", "tf_vgg16_logits@0.5")} == {
        "distorted"
    }
    assert presets.recipe_for(articles.get_network("vgg_d")).name == "article"


def test_crops_lie_anywhere_in_the_image_half_of_them_mirrored() -> None:
    place = np.arange(32 * 32).reshape(32, 32)
    coded = np.stack([place // 256, place % 256]).astype(np.uint8)
    plain = batches(np.repeat(coded[None], COUNT, 0), Augmentation(crop=24, flip=True))
    starts, flips = set(), 0
    for made, _ in plain.epoch(0):
        assert made.dtype == np.uint8 and made.shape[1:] == (2, 24, 24)
        for image in made.astype(int):
            where = image[0] * 256 + image[1]
            flipped = where[0, 0] > where[0, 1]
            where = where[:, ::-1] if flipped else where
            row, column = divmod(int(where[0, 0]), 32)
            np.testing.assert_array_equal(where, place[row : row + 24, column : column + 24])
            starts.add((row, column))
            flips += flipped
    assert {row for row, _ in starts} == {column for _, column in starts} == set(range(9))
    assert pytest.approx(flips, abs=5 * np.sqrt(COUNT) / 2) == COUNT / 2


def test_brightness_and_contrast_are_tensorflows_formulas() -> None:
    images, brightness, contrast = pictures(5, 6), np.array([-63.0, 0, 20, 62.9, 1]), np.array([0.2, 1, 1.8, 0.7, 1.3])
    made = distort(images, brightness, contrast)
    assert made.dtype == np.float32
    for i, c in np.ndindex(5, 3):
        plane = images[i, c].astype(float) + brightness[i]
        wanted = (plane - plane.mean()) * contrast[i] + plane.mean()
        np.testing.assert_allclose(made[i, c], wanted, rtol=1e-5, atol=1e-4)


def measured(augmentation: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each image in the order of the data, the brightness added to it and the factor of its contrast."""
    images = pictures(size=8)
    added, factor = np.empty(COUNT), np.empty(COUNT)
    for made, labels in batches(images, augmentation).epoch(0):
        own = images[labels].astype(float)
        added[labels] = (made - own).mean((1, 2, 3))
        factor[labels] = made[:, 0].std((1, 2)) / own[:, 0].std((1, 2))
    return added, factor


def test_brightness_and_contrast_fill_their_ranges() -> None:
    added, factor = measured(Augmentation(brightness=63.0, contrast_low=0.2, contrast_high=1.8))
    assert -63 <= added.min() < -60 and 60 < added.max() <= 63
    assert 0.2 <= factor.min() + 1e-4 < 0.23 and 1.77 < factor.max() <= 1.8 + 1e-4
    assert added.mean() == pytest.approx(0, abs=5 * 63 / np.sqrt(3 * COUNT))
    assert factor.mean() == pytest.approx(1, abs=5 * 0.8 / np.sqrt(3 * COUNT))
    assert abs(np.corrcoef(added, factor)[0, 1]) < 0.3
    only, none = measured(Augmentation(contrast_low=0.5))
    np.testing.assert_allclose(only, 0, atol=1e-4)
    assert none.max() <= 1 + 1e-5


def test_a_batch_depends_on_seed_and_place_only() -> None:
    one = [array for array, _ in batches(pictures()).epoch(3)]
    for place, array in enumerate(array for array, _ in batches(pictures()).epoch(3, start=2)):
        np.testing.assert_array_equal(array, one[place + 2])
    assert not np.array_equal(one[0], next(batches(pictures()).epoch(4))[0])
    assert not np.array_equal(one[0], next(batches(pictures(), seed=2).epoch(3))[0])


def test_a_seed_means_the_same_distortions_under_every_version_of_numpy() -> None:
    made, labels = next(batches(pictures()).epoch(0))
    digest = hashlib.sha256(np.rint(made * 64).astype("<i4").tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "ddc1c022feecc143d7ef15e6337a961df961c3a142d2c1dc794450060e0d2a4c"


def test_every_image_is_standardised_by_its_own_mean_and_deviation() -> None:
    how, images = Preprocessing(standardise=True), pictures(4, 8)
    made = preprocess(images, how, "float64")
    for image, own in zip(made, images.astype(float), strict=True):
        np.testing.assert_allclose(image, (own - own.mean()) / own.std(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(preprocess(images.astype(float), how, "float64"), made, rtol=1e-12)
    almost = np.full((1, 3, 8, 8), 7, np.uint8)
    assert (preprocess(almost, how) == 0).all()
    almost[0, 0, 0, 0] = 8  # a deviation of 0.072 is a little above 1 / sqrt(192), one of 0.036 is below
    own = almost.astype(float)
    np.testing.assert_allclose(
        preprocess(almost, how, "float64"), (own - own.mean()) / max(own.std(), 192**-0.5), rtol=1e-9
    )
    half = 7 + (own - 7) / 2
    np.testing.assert_allclose(preprocess(half, how, "float64"), (half - half.mean()) * 192**0.5, rtol=1e-9)


def test_tests_see_the_middle_of_an_image_and_training_the_crop_as_it_is() -> None:
    images = pictures(2)
    made = preprocess(images, Preprocessing(crop=24))
    np.testing.assert_array_equal(made, preprocess(images[:, :, 4:28, 4:28], Preprocessing()))
    np.testing.assert_array_equal(made, preprocess(images[:, :, 4:28, 4:28], Preprocessing(crop=24)))


def test_a_permutation_puts_the_pixels_of_all_images_in_one_other_order() -> None:
    plain, shuffled = Preprocessing((0.5,), (0.25,)), Preprocessing((0.5,), (0.25,), permutation=3)
    images = pictures(4, 6, 1)
    before, after = preprocess(images, plain), preprocess(images, shuffled)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(before.reshape(4, -1)), np.sort(after.reshape(4, -1)))
    order = preprocess(np.arange(36, dtype=np.uint8).reshape(1, 1, 6, 6), shuffled).reshape(-1)
    place = np.rint((order * 0.25 + 0.5) * 255).astype(int)
    np.testing.assert_array_equal(after.reshape(4, -1), before.reshape(4, -1)[:, place])
    assert not np.array_equal(after, preprocess(images, Preprocessing((0.5,), (0.25,), permutation=4)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equal_means_are_for_however_many_channels_there_are(channels: int) -> None:
    images = pictures(2, 4, channels)
    np.testing.assert_array_equal(
        preprocess(images, Preprocessing()), preprocess(images, Preprocessing((0.0,), (1.0,)))
    )


def test_what_does_not_fit_is_an_input_error() -> None:
    with pytest.raises(InputError, match="1 channels"):
        preprocess(pictures(1, 4, 1), Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="24 by 24"):
        preprocess(pictures(1, 20), Preprocessing(crop=24))
    with pytest.raises(InputError, match="crops of 24"):
        batches(pictures(1, 20))
    with pytest.raises(InputError, match="crops 24 by 24"):
        DISTORTED.seen((3, 20, 32))


@pytest.mark.parametrize(
    "recipe,name,shape", [("distorted", "tf_vgg16@0.0625", (3, 32, 32)), ("mnist_permuted", "mnist_cnn", (1, 28, 28))]
)
def test_both_frameworks_train_by_it_alike(
    recipe: str, name: str, shape: tuple[int, ...], workers: dict[str, Worker]
) -> None:
    images = pictures(20, shape[1], shape[0])
    data = Dataset("noise", tuple("0123456789"), images, np.arange(20) % 10, images[:1], np.zeros(1, np.int64))
    how = changed(presets.get_recipe(recipe), batch_size=8)
    stages = ("eval", "forward", "backward", "update", "trajectory")
    outcome = run_check(
        Check(articles.get_network(name), how, data, 3, stages=stages), workers, onnx=compare_through_onnx
    )
    assert outcome.verdict == "equal", outcome.first and outcome.first.sentence()
    assert outcome.summaries()["trajectory"]["compared"] > 50
