"""The default inputs of a check: no constant arrays, a hard image, crops, groups, epochs, drops and a resumption."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.backend.worker import Worker
from parity.compare.check import Check, make_check, run_check
from parity.compare.default_inputs import GROUPS, HARD_SCORE, make_images_hard, random_state
from parity.compare.program import Program
from parity.compare.verdicts import TRAINING, UNWATCHED
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Flatten, Linear, LogSoftmax, ReLU
from parity.recipe import presets
from parity.recipe.recipe import changed

BATCH = 8


def check(name: str = "vgg_mini@0.0625", recipe: str = "article", plain: bool = False) -> Check:
    how = changed(presets.get_recipe(recipe), batch_size=BATCH)
    return make_check(articles.get_network(name), how, data.load("shapes10"), plain, stages=TRAINING)


def test_no_array_of_the_start_is_constant_or_like_another() -> None:
    state = check("vgg16_bn_drop@0.125").state
    assert state
    for name, array in state.items():
        assert len(np.unique(array)) > 1, name
        if name.endswith((".gamma", ".variance")):
            assert (array > 0).all(), name
    assert len({array.tobytes() for array in state.values()}) == len(state)


@pytest.mark.parametrize("name", ["vgg_mini@0.0625", "mnist_fc"])
def test_an_image_of_the_first_batch_has_a_loss_above_64_nats(name: str, worker: Worker) -> None:
    network = articles.get_network(name)
    how = changed(presets.recipe_for(network), batch_size=BATCH)
    dataset = data.load("shapes10").fitted(network.input_shape)
    made = make_check(network, how, dataset, stages=TRAINING)
    inputs = made.run_inputs()
    given = next(inputs.steps())
    Program(worker, inputs).start()
    scores = worker.predict(given.images)["logits"]
    costs = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
    costs -= scores[np.arange(BATCH), given.labels]
    assert costs.max() > 64


def test_heads_get_a_hard_image_and_scores_behind_a_relu_get_none() -> None:
    network = articles.get_network("googlenet@0.125x64")
    state = make_images_hard(random_state(network, 0), network, 3)
    hard = [name for name, array in state.items() if HARD_SCORE in array]
    assert len(hard) == 1 + len(network.heads)
    assert all(np.count_nonzero(state[name] == HARD_SCORE) == 1 and state[name][3] == HARD_SCORE for name in hard)
    nodes = (Flatten("flatten"), Linear("fc", 10), ReLU("relu"))
    clipped = Network("clipped", (1, 2, 2), nodes)
    assert HARD_SCORE not in make_images_hard(random_state(clipped, 0), clipped, 3)["fc.bias"]
    logarithms = Network("logarithms", (1, 2, 2), (Flatten("flatten"), Linear("fc", 10), LogSoftmax("scores")))
    assert HARD_SCORE in make_images_hard(random_state(logarithms, 0), logarithms, 3)["fc.bias"]


def test_six_steps_are_three_epochs_with_two_drops_and_a_resumption() -> None:
    made = check()
    steps = list(itertools.islice(made.run_inputs().steps(), made.steps))
    assert [len(step.labels) for step in steps] == [8, 4] * 3
    assert [round(step.rate, 6) for step in steps] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert [step.number for step in steps if step.resumes] == [4]
    images = [np.sort(step.labels) for step in steps]
    passes = [np.concatenate(images[i : i + 2]) for i in (0, 2, 4)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)


@pytest.mark.parametrize("plain", [False, True])
def test_a_schedule_of_several_drops_has_two_in_six_steps(plain: bool) -> None:
    made = check("resnet20@0.25", "resnet", plain)
    steps = list(itertools.islice(made.run_inputs().steps(), made.steps))
    assert [round(step.rate, 6) for step in steps] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


def test_the_check_adds_what_the_recipe_lacks_and_says_so() -> None:
    made = check()
    assert made.recipe.optimizer.groups == GROUPS
    assert made.recipe.augmentation == presets.CROP_AND_FLIP
    assert len(made.added) == 5
    own = make_check(
        articles.get_network("vgg_fast@0.125"), presets.get_recipe("fast"), data.load("shapes10"), stages=TRAINING
    )
    assert len(own.added) == 3
    assert own.recipe.optimizer == presets.get_recipe("fast").optimizer


def test_a_plain_check_has_fresh_weights_and_the_unchanged_recipe() -> None:
    made = check(plain=True)
    recipe = presets.get_recipe("article")
    assert (made.state, made.resumed, made.added) == (None, 0, ())
    assert (made.recipe.optimizer, made.recipe.augmentation) == (recipe.optimizer, recipe.augmentation)


def test_given_weights_are_not_changed(workers: dict[str, Worker]) -> None:
    network = articles.get_network("vgg_mini@0.0625")
    state = random_state(network, 7)
    made = make_check(
        network, changed(presets.get_recipe("article"), batch_size=BATCH), data.load("shapes10"), state=state
    )
    assert all(np.array_equal(made.state[name], array) for name, array in state.items())  # type: ignore[index]


def test_the_unwatched_run_of_each_side_is_compared_with_its_watched_run(workers: dict[str, Worker]) -> None:
    made = check()
    outcome = run_check(made, workers)
    assert outcome.verdict == "equal", outcome.first
    stages = outcome.summaries()
    trainable = sum(parameter.trainable for parameter in made.network.parameters.values())
    assert stages["update"]["compared"] == 3 * (len(made.network.parameters) + trainable) + 1 * bool(
        outcome.trajectory[0]["twin"]
    )
    rows = {row["layer"]: row["errors"] for row in outcome.layers()}
    assert UNWATCHED["eval"] in rows[made.network.output]
    assert UNWATCHED["update"] in rows["conv1_1"]


def test_a_small_batch_norm_network_has_no_short_batch_of_one() -> None:
    network = Network(
        "tiny", (3, 8, 8), (Conv("conv", 2), BatchNorm("bn"), ReLU("relu"), Flatten("f"), Linear("fc", 10))
    )
    recipe = replace(changed(presets.get_recipe("article"), batch_size=2))
    made = make_check(network, recipe, data.load("shapes10").fitted(network.input_shape), stages=TRAINING)
    steps = itertools.islice(made.run_inputs().steps(), made.steps)
    assert [len(step.labels) for step in steps] == [2] * 6
