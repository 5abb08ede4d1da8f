"""Vanished gradients: their relative error is rounding, which the bound knows; nothing else passes with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.backend.worker import Worker
from parity.compare import training_source
from parity.compare.cancellation import LARGEST, Inherited, magnifications
from parity.compare.check import Check, run_check
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Flatten, Linear, ReLU
from parity.recipe.optimizer import Optimizer
from parity.selftest import changes
from parity.selftest.subject import network, state, subject

NETWORK = Network("two", (1, 1, 3), (Flatten("flatten"), Linear("fc1", 4), ReLU("relu"), Linear("fc2", 3)))
LABELS = np.array([0, 1])


def record(residual: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
    """One step of two images with the `residual` softmax - one-hot [2,3], divided by 2."""
    return {"backward/fc2": residual / 2, **{name.replace("_", "/", 1): array for name, array in more.items()}}


FRESH = np.array([[-2 / 3, 1 / 3, 1 / 3], [1 / 3, -2 / 3, 1 / 3]])
FITTED = 1e-9 * np.array([[-2.0, 1.0, 1.0], [1.0, -2.0, 1.0]])


def test_images_that_are_not_fitted_magnify_nothing() -> None:
    assert magnifications(NETWORK, record(FRESH), LABELS, 2) == {}


def test_images_that_are_fitted_magnify_by_what_is_left_of_them() -> None:
    found = magnifications(NETWORK, record(FITTED), LABELS, 2)
    assert found["backward/fc2"] == pytest.approx(1 / np.sqrt(6e-18), rel=1e-6)
    assert found["gradient/fc2.bias"] == found["backward/fc2"]


def test_one_fitted_image_among_others_excuses_nothing() -> None:
    # What comes from both is as large as what comes from the other: at most the square root of their number.
    found = magnifications(NETWORK, record(np.stack([FITTED[0], FRESH[1]])), LABELS, 2)
    assert 1 < max(found.values()) < 2


def test_a_gradient_that_comes_from_the_fitted_image_alone_is_magnified() -> None:
    mixed = record(np.stack([FITTED[0], FRESH[1]]), forward_relu=np.array([[1.0, 0, 0, 2], [0, 0, 0, 0]]))
    found = magnifications(NETWORK, mixed, LABELS, 2)
    assert max(found["backward/fc2"], found["gradient/fc2.bias"]) < 2
    assert found["gradient/fc2.weight"] == pytest.approx(1 / np.sqrt(6e-18), rel=1e-6)


def test_further_up_every_image_counts_by_its_part() -> None:
    mixed = np.stack([FITTED[0], FRESH[1]])
    alone = record(mixed, backward_relu=np.array([[1e-9, 0, 0, 0], [0, 0, 0, 0]]))
    assert magnifications(NETWORK, alone, LABELS, 2)["backward/relu"] > 1e8
    both = record(mixed, backward_relu=np.array([[1e-9, 0, 0, 0], [1.0, 0, 0, 0]]))
    assert magnifications(NETWORK, both, LABELS, 2)["backward/relu"] < 2


def test_a_batch_norm_mixes_the_images() -> None:
    nodes = (*NETWORK.nodes[:2], BatchNorm("bn"), *NETWORK.nodes[2:])
    mixed = record(
        np.stack([FITTED[0], FRESH[1]]),
        backward_bn=np.array([[1e-9, 0, 0, 0], [0, 0, 0, 0]]),  # the other image's units are all off
        backward_fc1=np.array([[1e-9, 0, 0, 0], [1e-9, 0, 0, 0]]),
    )
    found = magnifications(replace(NETWORK, nodes=nodes), mixed, LABELS, 2)
    assert found["gradient/bn.gamma"] == found["backward/bn"] > 1e8
    assert found["backward/fc1"] == pytest.approx(found["backward/bn"])


def test_the_cost_of_fitted_images_is_a_difference_of_large_scores() -> None:
    scores = np.array([[30.0, 0, 0], [0, 30.0, 0]])
    found = magnifications(NETWORK, {"forward/fc2": scores, "loss/cost": np.array([6e-12])}, LABELS, 2)
    assert found == {"loss/cost": pytest.approx(1e13), "loss/loss": pytest.approx(1e13)}


@pytest.mark.parametrize("value", [0.0, 1e-300])
def test_a_bound_stays_finite_where_nothing_is_left(value: float) -> None:
    found = magnifications(
        NETWORK, record(value * FITTED) | {"forward/fc2": FRESH, "loss/cost": np.zeros(1)}, LABELS, 2
    )
    assert all(np.isfinite(1e-12 * factor) and factor <= LARGEST for factor in found.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_excused_by_nothing(value: float) -> None:
    broken = record(np.full((2, 3), value)) | {"forward/fc2": FRESH, "loss/cost": np.array([value])}
    assert magnifications(NETWORK, broken, LABELS, 2) == {}


def test_slots_keep_what_magnified_gradients_rounded_and_forget_it_as_they_forget() -> None:
    name = "update/optimizer.velocity.fc1.weight"
    kept = Inherited(Optimizer("momentum", 0.1, momentum=0.5))
    kept.add("fc1.weight", None, None)
    assert kept.held(name) == 0  # no gradient had vanished: nothing is excused
    kept.add("fc1.weight", np.ones(4), np.ones(4) + 1e-6)
    assert kept.held(name) == pytest.approx(2e-6, rel=1e-6)
    kept.add("fc1.weight", None, None, factor=10.0)
    assert kept.held(name) == pytest.approx(1e-5, rel=1e-6)
    assert kept.held("update/fc1.weight") == kept.held("update/optimizer.velocity.fc2.weight") == 0


@pytest.fixture(scope="module")
def fitted() -> Check:
    """A check whose images are all of one class that the network is sure of: every gradient is rounding."""
    made = subject(data.load("cifar10").limit(64, 1))
    dataset = replace(made.dataset, train_labels=np.zeros_like(made.dataset.train_labels))
    bias = np.where(np.arange(10) == 0, 25, 0).astype(np.float32)
    return replace(made, dataset=dataset, state=state() | {"fc3.bias": bias})


def test_vanished_gradients_are_no_difference(fitted: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(fitted, workers)
    assert outcome.verdict == "equal", outcome.first


def test_without_the_rule_they_would_be_one(
    fitted: Check, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_source, "magnifications", lambda *_: {})
    outcome = run_check(fitted, workers)
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.phase in ("loss", "backward")


def test_an_error_beside_vanished_gradients_is_still_found(fitted: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(fitted, workers, changes.perturbed("conv2:weight:1e-9", network()))
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.layer == "conv2"
