"""One training step of both networks, Paddle against PyTorch, on CIFAR-10 images: every tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from helpers.compared import compare
from parity import data
from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare import program
from parity.compare.noise_model import rounded_differences
from parity.compare.one_ulp_twin import move_one_ulp
from parity.compare.step_inputs import make_run_inputs
from parity.compare.tolerances import ZERO_GRADIENT
from parity.compare.training_source import TrainingSource, known_zero_gradients
from parity.compare.verdicts import OF_OPTIMIZERS, UNWATCHED
from parity.data.batches import Batches, preprocess
from parity.data.random_streams import masks
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.weights.canonical_state import initialise

PHASES = ("forward", "loss", "backward", "gradient", "update")
BATCH = 8
CASES = [("vgg16_bn_drop", "article"), ("vgg_mini", "adam"), ("vgg_mini", "quick")]


@pytest.fixture(scope="module")
def images() -> data.Dataset:
    return data.load("cifar10").limit(64, 16)


def one_step(
    worker: Worker, network: str, recipe: str, dataset: data.Dataset, dtype: str, twin: bool = False
) -> tuple[Record, Record]:
    """Inference before the update, and everything that one update does."""
    net, how = articles.get_network(network), presets.get_recipe(recipe)
    batches = Batches(dataset.train_images, dataset.train_labels, BATCH, how.augmentation, seed=1)
    pixels, labels = next(batches.epoch(0))
    inputs = preprocess(pixels, how.preprocessing, dtype)
    state = initialise(net, seed=1)
    if twin:
        state, inputs = move_one_ulp(state, 0), move_one_ulp({"images": inputs}, 0)["images"]
    worker.start(net, how.optimizer, state, dtype)
    before = worker.predict(inputs, record=True)
    dropped = masks(1, 1, range(BATCH), net.dropouts)
    record, cost, wrong = worker.step(inputs, labels, dropped, how.optimizer.rate, how.loss_divisor(BATCH), PHASES)
    record |= {"loss": record["loss"], "cost": np.float64(cost).reshape(1), "wrong": np.float64(wrong).reshape(1)}
    return before, record


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def float64_step(
    request: pytest.FixtureRequest, workers: dict[str, Worker], images: data.Dataset
) -> tuple[str, str, dict[str, tuple[Record, Record]]]:
    network, recipe = request.param
    return (
        network,
        recipe,
        {name: one_step(worker, network, recipe, images, "float64") for name, worker in workers.items()},
    )


def adam_tolerance(reference: Record, other: Record, name: str) -> float:
    """1e-12, plus the rounding of the gradients after Adam's first step.

    The step is rate * g / (|g| + eps), with the slope rate * eps / (|g| + eps)^2. A gradient within 1e-8 of zero has its rounding
    error multiplied by up to rate / eps = 1e5. The factor 2 is for the slope between the two gradients.
    """
    gradient = name.replace("update/", "gradient/")
    if gradient not in reference:
        return 1e-12
    settings = presets.get_recipe("adam").optimizer
    a, b = reference[gradient], other[gradient]
    slope = settings.rate * settings.eps / (np.abs(a) + settings.eps) ** 2
    return 1e-12 + 2 * float(np.linalg.norm(slope * (b - a)) / np.linalg.norm(reference[name]))


def assert_equal(reference: Record, other: Record, bound: float | Callable[[str], float]) -> None:
    differences = compare(reference, other, bound)
    wrong = [d for d in differences if not d.equal]
    assert not wrong, f"{len(wrong)} of {len(differences)} differ, first {wrong[0]}"


def test_inference_of_fresh_networks_agrees_in_float64(float64_step) -> None:
    *_, steps = float64_step
    assert_equal(steps["torch"][0], steps["paddle"][0], 1e-12)


@pytest.mark.parametrize("phase", ["forward", "loss", "backward", "gradient", "update", "cost", "wrong"])
def test_one_step_agrees_in_float64(float64_step, phase: str) -> None:
    name, recipe, steps = float64_step
    network = articles.get_network(name)
    zero = {f"gradient/{parameter}" for parameter in network.zero_gradients}
    records = {side: {n: a for n, a in step[1].items() if n not in zero} for side, step in steps.items()}
    chosen = {side: {n: a for n, a in r.items() if n.split("/")[0] == phase} for side, r in records.items()}
    if recipe == "adam" and phase == "update":
        assert_equal(
            chosen["torch"], chosen["paddle"], lambda key: adam_tolerance(records["torch"], records["paddle"], key)
        )
    else:
        assert_equal(chosen["torch"], chosen["paddle"], 1e-12)


def test_gradients_that_batch_norm_cancels_are_zero_to_rounding_in_float64(float64_step, framework: str) -> None:
    name, _, steps = float64_step
    network = articles.get_network(name)
    sizes = known_zero_gradients(network, steps[framework][1], steps[framework][1])
    assert set(sizes) == {f"gradient/{parameter}" for parameter in network.zero_gradients}
    assert max(max(size) for size in sizes.values()) <= ZERO_GRADIENT["float64"]


def test_an_update_records_every_parameter_statistic_and_slot(float64_step, framework: str) -> None:
    name, _, steps = float64_step
    network = articles.get_network(name)
    updated = {key.removeprefix("update/") for key in steps[framework][1] if key.startswith("update/")}
    assert set(network.parameters) < updated
    slots = {key.split(".", 2)[2] for key in updated if key.startswith("optimizer.")}
    assert slots == {key for key, parameter in network.parameters.items() if parameter.trainable}


@pytest.mark.parametrize(("network", "recipe"), [(f"{network}@0.25", recipe) for network, recipe in CASES])
def test_one_rounded_step_differs_only_by_rounding(
    network: str, recipe: str, framework: str, workers: dict[str, Worker], images: data.Dataset
) -> None:
    how = changed(presets.get_recipe(recipe), batch_size=BATCH)
    exact, single = (
        make_run_inputs(articles.get_network(network), how, images, 1, dtype) for dtype in ("float64", "float32")
    )
    reference = next(name for name in workers if name != framework)
    sides = {reference: workers[reference], framework: workers[framework]}
    source = TrainingSource(sides, dict.fromkeys(sides, single), 1, program.PHASES, exact)
    found = [difference for _, side, difference in rounded_differences(source) if side]
    assert {d.name.partition("/")[0] for d in found} == set(program.PHASES) - {
        "fresh",
        *UNWATCHED.values(),
        *OF_OPTIMIZERS,
    }
    assert not [d for d in found if not d.equal]
