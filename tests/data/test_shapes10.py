"""shapes10 is the same everywhere, too hard for a linear classifier and easy for a small convolutional network."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from parity import data
from parity.data import shapes10
from parity.errors import InputError


def quiet(_message):
    pass


@pytest.fixture(scope="module")
def shapes():
    return data.load("shapes10", None, quiet)


def test_it_holds_10000_and_2000_pictures_of_balanced_shuffled_classes(shapes):
    assert shapes.name == "shapes10"
    assert len(set(shapes.classes)) == 10
    assert shapes.train_images.shape == (10_000, 3, 32, 32)
    assert shapes.test_images.shape == (2_000, 3, 32, 32)
    assert shapes.train_images.dtype == shapes.test_images.dtype == np.uint8
    assert shapes.train_labels.dtype == shapes.test_labels.dtype == np.int64
    assert np.bincount(shapes.train_labels).tolist() == [1000] * 10
    assert np.bincount(shapes.test_labels).tolist() == [200] * 10
    first = np.bincount(shapes.train_labels[:1000], minlength=10)
    assert first.min() > 60
    assert first.max() < 140


def test_no_picture_comes_twice(shapes):
    pictures = np.concatenate([shapes.train_images, shapes.test_images])
    assert len({picture.tobytes() for picture in pictures}) == 12_000


def test_it_is_the_same_in_another_process_with_other_vector_instructions(shapes):
    code = "from parity import data; import hashlib; s = data.load('shapes10')\n"
    code += "print(hashlib.sha256(s.train_images.data).hexdigest())"
    plain = os.environ | ({"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"} if platform.machine() == "x86_64" else {})
    outputs = [subprocess.check_output([sys.executable, "-c", code], env=env) for env in (plain, None)]
    assert outputs[0] == outputs[1]


def test_a_picture_that_comes_out_differently_is_our_bug_and_said_so(monkeypatch):
    monkeypatch.setattr(shapes10, "SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="shapes10 has another SHA-256"):
        shapes10.load(None, quiet)


def test_a_folder_that_it_does_not_need_is_not_passed_over_in_silence(tmp_path):
    said = []
    data.load("shapes10", tmp_path, said.append)
    assert said == [f"shapes10 is generated: {tmp_path} is not used"]


def test_colours_brightness_and_noise_do_not_tell_the_class(shapes):
    """The colours of the corners (mostly background) alone do not predict the class by the nearest class mean."""
    corners = shapes.train_images[:, :, ::31, ::31].reshape(10_000, -1).astype(np.float64)
    means = np.stack([corners[shapes.train_labels == label].mean(axis=0) for label in range(10)])
    tested = shapes.test_images[:, :, ::31, ::31].reshape(2_000, -1)
    nearest = ((tested[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == shapes.test_labels).mean() < 0.15


def softmax_regression(images, labels, epochs=15, rate=1e-3, batch=250):
    """Logistic regression on standardised pixels by Adam (numpy); returns a function images -> labels."""
    random = np.random.default_rng(0)
    flat = images.reshape(len(images), -1).astype(np.float32)
    mean, scale = flat.mean(axis=0), flat.std(axis=0) + 1  # no division by 0

    def features(images):
        flat = (images.reshape(len(images), -1).astype(np.float32) - mean) / scale
        return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)

    inputs, targets = features(images), np.eye(10, dtype=np.float32)[labels]
    weights = np.zeros((inputs.shape[1], 10), np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    step = 0
    for _ in range(epochs):
        for rows in random.permutation(len(inputs)).reshape(-1, batch):
            scores = inputs[rows] @ weights
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            gradient = inputs[rows].T @ (odds / odds.sum(axis=1, keepdims=True) - targets[rows]) / batch
            step += 1
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            weights -= rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return lambda images: (features(images) @ weights).argmax(axis=1)


@pytest.mark.slow
def test_a_linear_classifier_stays_far_below_sixty_percent(shapes):
    predict = softmax_regression(shapes.train_images, shapes.train_labels)
    assert (predict(shapes.train_images) == shapes.train_labels).mean() > 0.25  # it learned what it can
    assert (predict(shapes.test_images) == shapes.test_labels).mean() < 0.30


def test_the_same_linear_classifier_does_learn_what_is_linear(shapes):
    """The regression works: it learns ten pixels that depend on the class at once."""

    def marked(images, labels):
        images = images.copy()
        images[:, :, 0, :10] = 255 * np.eye(10, dtype=np.uint8)[labels][:, None]
        return images

    predict = softmax_regression(marked(shapes.train_images, shapes.train_labels), shapes.train_labels, epochs=5)
    assert (predict(marked(shapes.test_images, shapes.test_labels)) == shapes.test_labels).mean() > 0.95


@pytest.mark.slow
def test_a_small_convolutional_network_passes_ninety_five_percent(shapes):
    import torch

    torch.manual_seed(0)
    nn = torch.nn

    def block(inputs, outputs):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    blocks = [*block(3, 16), *block(16, 32), *block(32, 64), *block(64, 64)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(256, 10))
    images, labels = torch.from_numpy(shapes.train_images), torch.from_numpy(shapes.train_labels)
    epochs, batch = 6, 100
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * len(images) // batch)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows] / 127.5 - 1), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        predicted = net(torch.from_numpy(shapes.test_images) / 127.5 - 1).argmax(dim=1).numpy()
    assert (predicted == shapes.test_labels).mean() > 0.95


# What every data set shares


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"^unknown data set 'cifar': choose one of cifar10, shapes10"):
        data.load("cifar")


def test_a_limit_takes_the_first_pictures_and_none_takes_all(shapes):
    cut = shapes.limit(7, None)
    assert np.array_equal(cut.train_images, shapes.train_images[:7])
    assert np.array_equal(cut.train_labels, shapes.train_labels[:7])
    assert len(cut.test_images) == len(cut.test_labels) == 2_000
    assert len(shapes.limit(None, 2_000).test_images) == 2_000
    assert len(shapes.train_images) == 10_000


@pytest.mark.parametrize("train, test", [(0, None), (-1, None), (10_001, None), (None, 0), (None, 2_001)])
def test_a_limit_below_one_or_above_what_there_is_is_refused(shapes, train, test):
    with pytest.raises(InputError, match="give a number from 1 to"):
        shapes.limit(train, test)
