"""The parts of `vgg_fast` and the recipe `fast`: whitening, identity filters, smoothed labels, alternating flips, slow weights."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.framework_process import FrameworkProcess
from helpers.numpy_network import loss, outputs
from helpers.training_runs import position, same_end, script, stop, succeed
from parity import data
from parity.backend.worker import Worker
from parity.compare.program import Program
from parity.compare.step_inputs import make_run_inputs
from parity.data.batches import Batches, padded, preprocess
from parity.errors import InputError
from parity.experiments.remote import Remote
from parity.network import articles
from parity.network.initialisers import Init
from parity.progress import Console
from parity.recipe import presets
from parity.recipe.optimizer import Group, Optimizer
from parity.recipe.recipe import Augmentation, Experiment, Lookahead, Schedule, changed, read_recipe
from parity.training.loop import Stopped, train
from parity.training.run_folder import Position, RunFolder
from parity.weights import whitening
from parity.weights.canonical_state import DIRAC_NOISE, initialise

NETWORK = articles.get_network("vgg_fast@0.125")
RECIPE = changed(presets.get_recipe("fast"), lookahead=Lookahead(every=5, keep=0.95**5, power=3))  # airbench94's


def test_whitened_patches_are_far_less_correlated_than_pixels() -> None:
    images = preprocess(data.load("shapes10").train_images[:200], presets.WHITENED)
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    rows = patches.reshape(-1, 12).astype(np.float64)
    white = rows @ whitening.make_filters((12, 3, 2, 2)).reshape(12, 12).T
    alike, left = (np.abs(np.corrcoef(found.T)[~np.eye(12, dtype=bool)]).mean() for found in (rows, white))
    assert left < alike / 2


@pytest.mark.slow
def test_the_filters_whiten_the_first_training_images_of_cifar10() -> None:
    images = preprocess(data.load("cifar10").train_images[:5000], presets.WHITENED, "float64")
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    rows = patches.reshape(-1, 12)
    second = rows.T @ rows / len(rows)
    filters = whitening.make_filters((12, 3, 2, 2)).reshape(12, 12).astype(np.float64)
    values = np.linalg.eigvalsh(second)[::-1]
    # Six digits of each number are kept.
    np.testing.assert_allclose(filters @ second @ filters.T, np.diag(values / (values + 5e-4)), atol=1e-4)


def test_whitening_filters_include_negatives_and_need_their_shape() -> None:
    filters = initialise(articles.get_network("vgg_fast"), 3)["white.weight"]
    assert filters.shape == (24, 3, 2, 2) and np.array_equal(filters[:12], -filters[12:])
    for shape in ((25, 3, 2, 2), (12, 1, 2, 2), (12, 3, 3, 3), (12,)):
        with pytest.raises(InputError, match="whitening needs at most 24 kernels"):
            whitening.make_filters(shape)


def test_filters_that_start_as_the_identity_copy_their_channel() -> None:
    network = articles.get_network("vgg_fast")
    state = initialise(network, 0)
    weight = state["conv2_1.weight"]
    plain = initialise(replace(network, nodes=_drawn(network.nodes)), 0)["conv2_1.weight"]
    identity = weight[:64] - DIRAC_NOISE * plain[:64]
    wanted = np.zeros_like(identity)
    wanted[np.arange(64), np.arange(64), 1, 1] = 1
    np.testing.assert_allclose(identity, wanted, atol=1e-7)
    assert np.array_equal(weight[64:], plain[64:])


def _drawn(nodes: Any) -> Any:
    change = Init("uniform", 1.0, "in")
    return tuple(replace(node, init=change) if node.name == "conv2_1" else node for node in nodes)


def test_frozen_weights_do_not_change_and_have_no_slots(worker: Worker) -> None:
    given = make_run_inputs(NETWORK, changed(RECIPE, batch_size=8), data.load("shapes10").limit(64, 8), 0)
    Program(worker, given).start()
    before = worker.state()
    Program(worker, given).step(next(given.steps()), ("update",))
    after = worker.state()
    frozen = [name for name, p in NETWORK.parameters.items() if name == "white.weight" or name.endswith(".gamma")]
    assert len(frozen) == 7
    for name in frozen:
        assert np.array_equal(before[name], after[name])
        assert f"optimizer.velocity.{name}" not in after
    assert not np.array_equal(before["white.bias"], after["white.bias"])
    assert not np.array_equal(before["bn1_1.beta"], after["bn1_1.beta"])


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 0.9])
def test_smoothed_labels_are_spread_over_all_classes(smoothing: float, worker: Worker) -> None:
    network = articles.get_network("cifar_net")
    settings = Optimizer("momentum", 0.1, label_smoothing=smoothing)
    state = {name: array.astype("float64") for name, array in initialise(network, 0).items()}
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32))
    labels = np.array([1, 2, 3, 9])
    worker.start(network, settings, state, "float64")
    found, cost, _ = worker.step(images, labels, {}, 0.1, 4, ("loss",))
    logits = outputs(network, state, images)[network.output]
    spread = np.mean([loss(logits, np.full(4, k), 4) for k in range(10)])
    share = settings.label_smoothing
    np.testing.assert_allclose(found["loss"], (1 - share) * loss(logits, labels, 4) + share * spread, rtol=1e-12)
    np.testing.assert_allclose(cost, 4 * loss(logits, labels, 4), rtol=1e-12)  # the test's loss can be compared with it


def test_groups_take_the_first_pattern_that_matches_and_leave_frozen_parameters_out() -> None:
    groups = (Group("bn1_1.*", 2.0), Group("*.beta", 64.0, 1 / 64), Group("nothing"))
    settings = Optimizer("momentum", 1.0, weight_decay=0.5, groups=groups)
    rest, first, betas = settings.grouped(NETWORK)
    assert first == (["bn1_1.beta"], 2.0, 0.5)
    assert betas == ([f"bn{name}.beta" for name in ("1_2", "2_1", "2_2", "3_1", "3_2")], 64.0, 0.5 / 64)
    assert rest[0][0] == "white.bias" and rest[1:] == (1.0, 0.5)


def test_alternating_flips_show_every_image_unchanged_and_mirrored() -> None:
    images = np.zeros((50, 1, 2, 2), np.uint8)
    images[..., 0] = np.arange(50)[:, None, None] + 1  # the left column
    batches = Batches(images, np.arange(50), 16, Augmentation(flip=True, alternate=True), seed=1)
    seen = []
    for epoch in range(4):
        flipped = np.zeros(50, bool)
        for pixels, labels in batches.epoch(epoch):
            flipped[labels] = pixels[:, 0, 0, 0] == 0
        seen.append(flipped)
    assert 10 < seen[0].sum() < 40
    assert np.array_equal(seen[1], ~seen[0]) and np.array_equal(seen[2], seen[0]) and np.array_equal(seen[3], seen[1])


def test_reflected_edges_repeat_the_pixels_behind_the_edge() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    assert padded(image, 1, "reflect")[0, 0].tolist()[0] == [4, 3, 4, 5, 4]
    assert padded(image, 1, "zeros")[0, 0].tolist()[0] == [0] * 5
    with pytest.raises(InputError, match="are too small for 3 mirrored pixels"):
        padded(image, 3, "reflect")


def test_one_cycle_may_start_and_end_above_zero() -> None:
    schedule = Schedule("one_cycle", warmup=0.25, start=0.2, end=0.1)
    found = [schedule.fraction(samples, 100) for samples in (0, 25, 100, 200)]
    np.testing.assert_allclose(found, [0.2, 1, 0.1, 0.1])


def test_slow_weights_are_updated_every_few_batches_and_after_an_epoch() -> None:
    ahead = Lookahead(every=5, keep=0.8, power=3)
    assert [batch for batch in range(1, 13) if ahead.due(batch, 12)] == [5, 10, 12]
    assert not any(Lookahead().due(batch, 12) for batch in range(1, 13))
    np.testing.assert_allclose([ahead.share(samples, 100) for samples in (0, 50, 100)], [0, 0.1, 0.8])


def test_slow_weights_pull_the_trained_weights_back(worker: Worker) -> None:
    recipe = changed(RECIPE, batch_size=8, lookahead=Lookahead(every=2, keep=0.5, power=0))
    given = make_run_inputs(NETWORK, recipe, data.load("shapes10").limit(80, 8), 0)
    alone = replace(given, keep=lambda update, samples: None)
    Program(worker, alone).start()
    for _, step in zip(range(2), alone.steps()):  # noqa: B905 - the other has no end
        fast = Program(worker, alone).step(step, ("update",))
    Program(worker, given).start()
    for _, step in zip(range(2), given.steps()):  # noqa: B905
        drawn = Program(worker, given).step(step, ("update",))
    for name in NETWORK.parameters:
        wanted = (given.state[name] + fast[f"update/{name}"]) / 2
        np.testing.assert_allclose(drawn[f"update/{name}"], wanted, rtol=1e-14, atol=1e-16)
    velocities = [name for name in fast if "velocity" in name]
    assert velocities and all(np.array_equal(fast[name], drawn[name]) for name in velocities)


@pytest.mark.parametrize("after", [0, 6])
def test_ctrl_c_saves_the_state_in_which_slow_and_trained_weights_were_last_equal(
    after: int, worker: Worker, tmp_path: Path
) -> None:
    recipe = changed(RECIPE, batch_size=8, epochs=2)
    dataset = data.load("shapes10").limit(72, 8)
    run = RunFolder.create(tmp_path / "run", Experiment(NETWORK, recipe, "shapes10", 0, 72, 8), {})
    worker.start(NETWORK, recipe.optimizer, initialise(NETWORK, 0), "float32")

    class Signalled(Remote):
        """A trainer that receives Ctrl-C while it computes an update."""

        def step(self, *arguments: Any) -> tuple[float, int]:
            if at.update == after + 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(*arguments)

    at = Position()
    with pytest.raises(Stopped):
        train(Signalled(worker), run, dataset, at, Console(silent=True))
    assert at.update == after + 1  # of nine in an epoch; slow weights are updated after the fifth
    state, saved = run.restore(72)
    assert saved.update == (5 if after else 0) and state is not None
    whole = RunFolder.create(tmp_path / "whole", run.experiment, {})
    worker.start(NETWORK, recipe.optimizer, initialise(NETWORK, 0), "float32")
    train(Remote(worker), whole, dataset, Position(), Console(silent=True))
    worker.start(NETWORK, recipe.optimizer, {name: state[name] for name in NETWORK.parameters}, "float32")
    worker.load(state, saved.update)
    train(Remote(worker), run, dataset, saved, Console(silent=True))
    same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_run_with_slow_weights_that_was_killed_and_stopped_ends_with_the_same_bits(
    framework: str, tmp_path: Path
) -> None:
    size = ("--data", "shapes10", "--train-limit", 140, "--test-limit", 20, "--batch-size", 16, "--epochs", 2)
    recipe, whole, broken = tmp_path / "slow.json", tmp_path / "whole", tmp_path / "broken"
    recipe.write_text(json.dumps(asdict(RECIPE)))
    flags = ("--network", NETWORK.name, "--recipe", recipe, *size, "--checkpoint-every", 0)
    succeed(script(framework, *flags, "--out", whole))
    _, at = stop(script(framework, *flags, "--out", broken), broken, signal.SIGKILL, 5)
    assert at["batch"] == 5  # of nine: the only one within an epoch where slow and trained weights are equal
    again = script(framework, "--resume", broken, "--checkpoint-every", 0)
    ended, _ = stop(again, broken, signal.SIGINT, 6)
    assert ended.code == 130
    assert position(broken)["batch"] in (0, 5, 9)
    succeed(again)
    same_end(whole, broken)


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.slow] * (name == "best")) for name in presets.FOR]
)
def test_a_recipe_names_the_network_for_which_it_was_made(
    recipe: str, processes: dict[str, FrameworkProcess], tmp_path: Path
) -> None:
    size = ("--data", "shapes10", "--train-limit", 16, "--test-limit", 8, "--batch-size", 16, "--epochs", 1)
    processes["torch"].train("--recipe", recipe, *size, "--out", tmp_path / "run")
    found = json.loads((tmp_path / "run" / "config.json").read_text())["experiment"]
    assert (found["network"]["name"], found["recipe"]["name"]) == (presets.FOR[recipe], recipe)


def test_the_recipe_goes_to_json_and_back() -> None:
    assert read_recipe(json.loads(json.dumps(asdict(RECIPE)))) == RECIPE


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Group("*.beta", 3.0), "rate must be a power of two, not 3.0"),
        (lambda: Group("*.beta", 1.0, -1.0), "weight_decay"),
        (lambda: Optimizer("momentum", 0.1, label_smoothing=1.5), "label_smoothing"),
        (lambda: Augmentation(alternate=True), "alternate needs flip"),
        (lambda: Augmentation(fill="mirror"), "fill must be zeros or reflect"),
        (lambda: Lookahead(keep=2.0), "lookahead keep"),
        (lambda: Schedule("one_cycle", start=2.0), "schedule start"),
    ],
)
def test_invalid_settings_are_refused(made: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
