"""The permutation study: how digits are split, what seeds change, and that a fully connected network cannot see a permutation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.compared import compare
from parity import data
from parity.backend.worker import Worker
from parity.compare.program import Program
from parity.compare.step_inputs import RunInputs, make_run_inputs, make_twin
from parity.compare.tolerances import TWIN
from parity.data import Dataset
from parity.data.batches import Batches
from parity.data.random_streams import stream
from parity.experiments import permutation
from parity.experiments.permutation import STUDY, report, split
from parity.experiments.study import limited, trials
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.weights.canonical_state import State, initialise

USUAL = {entry.name: entry.usual for entry in STUDY.entries}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The 10,000 digits, from the cache or the network."""
    return data.load("mnist10k")


# The data


def test_the_digits_are_split_8000_to_2000_with_every_class_in_proportion(digits: Dataset) -> None:
    divided = split(digits, 3)
    assert divided.train_images.shape == (8000, 1, 28, 28) and divided.test_images.shape == (2000, 1, 28, 28)
    both = np.bincount(np.concatenate([digits.train_labels, digits.test_labels]))
    np.testing.assert_array_less(np.abs(np.bincount(divided.test_labels) - both / 5), 1)
    np.testing.assert_array_equal(np.bincount(divided.test_labels) + np.bincount(divided.train_labels), both)


def test_no_digit_is_lost_or_used_for_both_training_and_test(digits: Dataset) -> None:
    def listed(dataset: Dataset) -> list[bytes]:
        return [
            bytes([label]) + image.tobytes()
            for images, labels in (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
            )
            for image, label in zip(images, labels, strict=True)
        ]

    assert sorted(listed(split(digits, 0))) == sorted(listed(digits))


def test_a_limited_split_holds_all_classes(digits: Dataset) -> None:
    few = split(digits, 0).limit(300, 300)
    for labels in (few.train_labels, few.test_labels):
        # Binomial with p of about 0.1: 30 a class, and 5.2 the standard deviation.
        assert np.bincount(labels, minlength=10).min() > 10 and np.bincount(labels).max() < 55


def test_other_data_keep_the_split_of_their_authors() -> None:
    shapes = data.load("shapes10").limit(10, 10)
    assert split(shapes, 1) is shapes


# The seeds


def test_seeds_differ_in_split_weights_order_and_permutation(digits: Dataset) -> None:
    datasets = {seed: split(digits, seed) for seed in range(3)}
    planned = [trial for trial in trials(STUDY, USUAL, ["torch"], datasets) if trial.entry.name == "cnn_permuted"]
    found: dict[str, list[bytes]] = {}
    for trial in planned:
        experiment, dataset = trial.experiment, limited(trial, datasets)
        how, numbers = experiment.recipe.augmentation, np.arange(64)
        batches = Batches(numbers.astype(np.uint8).reshape(64, 1, 1, 1), numbers, 64, how, experiment.seed)
        pixels = recipes_permutation(experiment.recipe.preprocessing.permutation)
        for what, array in {
            "split": dataset.test_images,
            "weights": initialise(experiment.network, experiment.seed)["conv1.weight"],
            "order": next(batches.epoch(0))[1],
            "permutation": pixels,
        }.items():
            found.setdefault(what, []).append(array.tobytes())
    assert {what: len(set(values)) for what, values in found.items()} == dict.fromkeys(found, 3)


def recipes_permutation(seed: int | None) -> np.ndarray:
    assert seed is not None
    return stream(seed, "pixels").permutation(28 * 28)


def test_all_runs_of_a_seed_get_the_same_permutation_and_digits(digits: Dataset) -> None:
    planned = trials(STUDY, USUAL, ["paddle", "torch"], {7: split(digits, 7)})
    assert [trial.name for trial in planned[:3]] == ["paddle-fc-7", "torch-fc-7", "paddle-fc_permuted-7"]
    assert {(t.experiment.data, t.experiment.seed) for t in planned} == {("mnist10k, split 7", 7)}
    permutations = {t.entry.name: t.experiment.recipe.preprocessing.permutation for t in planned}
    assert permutations == {"fc": None, "fc_permuted": 7, "cnn": None, "cnn_permuted": 7}


# The proof

STEPS, BATCH = 20, 64


def inputs_of(recipe: str, digits: Dataset) -> RunInputs:
    how = changed(presets.get_recipe(recipe), batch_size=BATCH)
    return make_run_inputs(articles.get_network("mnist_fc"), how, digits.limit(STEPS * BATCH, 1), 1)


def trained(worker: Worker, given: RunInputs) -> State:
    Program(worker, given).start()
    for _, batch in zip(range(STEPS), given.steps(), strict=False):
        Program(worker, given).step(batch, ())
    return worker.state()


def distance(one: State, other: State) -> float:
    """The largest relative distance of a tensor."""
    return max(difference.error for difference in compare(one, other, 0.0))


def test_permuting_pixels_equals_permuting_columns_of_the_first_weight_of_fc(worker: Worker, digits: Dataset) -> None:
    # Equal to rounding, not to the bit: every sum over the 784 pixels has the same terms in another order. So the bound is what rounding
    # does to the same run anyway: ten times the distance of its twin whose weights are moved by one unit in the last place.
    plain, permuted = inputs_of("mnist", digits), inputs_of("mnist_permuted", digits)
    order = recipes_permutation(0)

    def moved(state: State) -> State:
        return {name: array[:, order] if name.endswith("fc1.weight") else array for name, array in state.items()}

    wanted = trained(worker, plain)
    noise = distance(wanted, trained(worker, make_twin(plain)))
    found = distance(moved(wanted), trained(worker, replace(permuted, state=moved(permuted.state))))
    assert 0 < noise < 1e-12
    assert found <= TWIN * noise
    assert distance(wanted, plain.state | {n: a for n, a in wanted.items() if n.startswith("optimizer.")}) > 0.01, (
        "the network was not trained"
    )
    assert distance(moved(wanted), trained(worker, permuted)) > 0.01, "nothing was permuted: the test proves nothing"


# The verdict


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures, which take a second."""
    monkeypatch.setattr(permutation.pictures, "grid", lambda rows, labels, title: b"")
    monkeypatch.setattr(permutation.pictures, "changes", lambda found: b"")


def rows(fc: list[float], cnn: list[float]) -> list[dict[str, Any]]:
    """Rows of two frameworks whose networks change by the given points in each seed."""
    return [
        {"framework": framework, "entry": entry, "seed": seed, "test_accuracy": accuracy, "permutation": permuted}
        | {"train_images": 9000, "test_images": 1000, "epochs": 1}
        for framework in ("paddle", "torch")
        for name, changes in (("fc", fc), ("cnn", cnn))
        for seed, change in enumerate(changes)
        for entry, accuracy, permuted in ((name, 0.9, None), (f"{name}_permuted", 0.9 + change / 100, seed))
    ]


@pytest.mark.parametrize(
    ("fc", "cnn", "failed"),
    [
        ([3.0, -4.0, 4.0, 0.0, 0.0], [-6.0, -4.0, -8.0, -5.0, -4.0], ()),
        ([1.9] * 5, [-5.1] * 5, ()),
        ([-2.0, -2.1, -2.2, -2.0, -2.0], [-6.0] * 5, ("mnist_fc in PaddlePaddle", "mnist_fc in PyTorch")),
        ([2.5] * 5, [-6.0] * 5, ("mnist_fc in PaddlePaddle", "mnist_fc in PyTorch")),
        ([0.1] * 5, [-4.0, -4.5, -5.0, -5.5, -4.0], ("mnist_cnn in PaddlePaddle", "mnist_cnn in PyTorch")),
        ([0.1] * 5, [6.0] * 5, ("mnist_cnn in PaddlePaddle", "mnist_cnn in PyTorch")),
    ],
)
def test_the_verdict_is_on_the_mean_change_within_a_seed(
    fc: list[float], cnn: list[float], failed: tuple[str, ...], digits: Dataset, undrawn: None
) -> None:
    datasets = dict.fromkeys(range(5), digits)
    found = report(rows(fc, cnn), datasets, True)
    assert [name for name in failed if name in found.failed] == list(failed)
    assert bool(found.failed) == bool(failed)
    assert f"{np.mean(cnn):+.2f} ± {np.std(cnn, ddof=1):.2f} |" in found.text
    assert found.text.count("holds.") == 4 - len(failed)


def test_a_shortened_study_or_few_seeds_are_not_judged(digits: Dataset, undrawn: None) -> None:
    for seeds, whole in ((10, False), (4, True)):
        found = report(rows([9.0] * seeds, [9.0] * seeds), dict.fromkeys(range(seeds), digits), whole)
        assert found.failed == "" and "Not judged" in found.text


def test_the_picture_of_digits_shows_the_networks_own_permutation(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(permutation.pictures, "grid", lambda rows, labels, title: drawn.append((rows, labels)) or b"")
    permutation.digits(digits, 5)
    (shown, labels), order = drawn[0], recipes_permutation(5)
    assert labels == ["as they are", "permuted"] * 2
    for plain, permuted in zip(shown[::2], shown[1::2], strict=True):
        np.testing.assert_array_equal(plain.reshape(10, -1)[:, order], permuted.reshape(10, -1))
    first = digits.test_images[np.flatnonzero(digits.test_labels == 4)[0], 0]
    np.testing.assert_array_equal(shown[0][4], (first / 255).astype(np.float32))
