"""Small cousins of all networks of the articles are equal in both frameworks, with branches and auxiliary heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.paths import ROOT
from parity.backend.worker import Worker
from parity.compare.cancellation import magnifications
from parity.compare.check import Check, run_check
from parity.compare.noise_model import Crossed
from parity.compare.source import Rounded
from parity.compare.training_source import behind
from parity.data import Dataset
from parity.network import articles
from parity.network.examples import EXAMPLES
from parity.network.network import Network
from parity.network.nodes import Auxiliary, Conv, Flatten, Linear, LogSoftmax, ReLU, edited
from parity.network.windows import around
from parity.onnx.comparison import compare_through_onnx
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import Recipe
from parity.selftest import changes
from parity.weights.canonical_state import initialise

BATCH = 4
PLAIN = Optimizer("momentum", rate=0.125)
ONE_STEP = ("eval", "forward", "backward", "update")
RECIPE = Recipe("plain", Optimizer("momentum", 0.05, momentum=0.9, weight_decay=5e-4), epochs=1, batch_size=BATCH)


def noise(network: Network, count: int = 2 * BATCH) -> Dataset:
    """Pictures of noise that fit the network."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *network.input_shape), np.uint8)
    return Dataset(
        "noise", tuple("abcdefghij"), images, random.integers(0, 10, count), images[:1], np.zeros(1, np.int64)
    )


def check(network: Network, **fields: object) -> Check:
    grey = replace(RECIPE.preprocessing, mean=(0.0,), std=(1.0,))
    recipe = RECIPE if network.input_shape[0] == 3 else replace(RECIPE, preprocessing=grey)
    return replace(Check(network, recipe, noise(network), 1, stages=ONE_STEP), **fields)  # type: ignore[arg-type]


# plain56 multiplies rounding, so it needs a one-ULP twin: see test_deep_networks.py.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("resnet32", "resnet32_b", "resnet56_b") else name
        for name in articles.NETWORKS
        if name != "plain56"
    ],
)
def test_one_training_step_is_equal_in_both_frameworks(name: str, workers: dict[str, Worker]) -> None:
    network = articles.small(articles.get_network(name))
    outcome = run_check(check(network), workers, onnx=compare_through_onnx)
    assert outcome.verdict == "equal", outcome.first and outcome.first.sentence()
    trainable = sum(parameter.trainable for parameter in network.parameters.values())
    stages = outcome.summaries()
    assert stages["backward"]["compared"] >= trainable + len(network.layers) - 1
    # Between the sides, and between the watched and the unwatched run of each side.
    assert stages["update"]["compared"] == 3 * (len(network.parameters) + trainable)
    assert {stage["bound"] for stage in stages.values()} <= {0.0, 1e-12}


@pytest.mark.parametrize("width", ["@0.5", pytest.param("", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_documents_is_equal_through_onnx_too(
    name: str, width: str, workers: dict[str, Worker]
) -> None:
    network = articles.get_network(f"{ROOT}/docs/networks/{name}.json{width}")
    outcome = run_check(check(network, stages=(*ONE_STEP, "onnx")), workers, onnx=compare_through_onnx)
    assert outcome.verdict == "equal", outcome.first and outcome.first.sentence()
    assert set(outcome.summaries()) == {*ONE_STEP, "onnx"}


# Branches and auxiliary heads

GOOGLENET = articles.get_network("googlenet@0.125x64")


def test_an_error_in_a_branch_is_found_there_and_nowhere_else(workers: dict[str, Worker]) -> None:
    plant = changes.perturbed("inception_4b_3x3:output:1e-6", GOOGLENET)
    outcome = run_check(check(GOOGLENET), workers, plant, isolated=True, onnx=compare_through_onnx)
    assert outcome.first and (outcome.first.phase, outcome.first.layer) == ("eval", "inception_4b_3x3")
    assert outcome.first.cause and "times 1.000001" in outcome.first.cause
    rows = {row["layer"]: row["verdict"] for row in outcome.isolated or []}
    assert list(rows) == list(GOOGLENET.layers)
    assert [layer for layer, verdict in rows.items() if verdict == "different"] == ["inception_4b_3x3"]


@pytest.mark.parametrize("layer", ["inception_4b", "aux1_fc1"])
def test_an_error_at_the_end_of_branches_or_in_a_head_is_found_there(layer: str, workers: dict[str, Worker]) -> None:
    outcome = run_check(
        check(GOOGLENET),
        workers,
        changes.perturbed(f"{layer}:output:1e-6", GOOGLENET),
        isolated=True,
        onnx=compare_through_onnx,
    )
    assert outcome.first and outcome.first.layer == layer
    assert outcome.first.phase == ("forward" if layer.startswith("aux") else "eval")
    assert [row["layer"] for row in outcome.isolated or [] if row["verdict"] == "different"] == [layer]


CAUSES = {
    "alpha / 5": (changes.node("lrn2", alpha=2e-5), "lrn2", "divides alpha by the size 5"),
    "alpha * 5": (changes.node("lrn1", alpha=5e-4), "lrn1", "multiplies alpha by the size 5"),
    "PyTorch's k": (changes.node("lrn1", k=1.0), "lrn1", "uses k = 1"),
    "branches in another order": (
        changes.nodes(lambda n: n.with_parts(n.parts[::-1]) if n.name == "inception_3b" else n),
        "inception_3b",
        "another order",
    ),
    "heads weigh too little": (changes.kinds(Auxiliary, weight=0.29), "loss", ""),
}


@pytest.mark.parametrize("what", CAUSES)
def test_a_common_mistake_in_googlenet_is_found_and_explained(what: str, workers: dict[str, Worker]) -> None:
    change, layer, cause = CAUSES[what]
    checked = check(GOOGLENET)
    outcome = run_check(checked, workers, change(checked), onnx=compare_through_onnx)
    assert outcome.first is not None
    assert layer in (outcome.first.layer, outcome.first.phase)
    assert cause in (outcome.first.cause or "")


def weighted(network: Network, weight: float) -> Network:
    """The network with another weight of its auxiliary heads."""
    return replace(
        network, nodes=edited(network.nodes, lambda n: replace(n, weight=weight) if isinstance(n, Auxiliary) else n)
    )


def gradients(worker: Worker, network: Network) -> tuple[dict[str, np.ndarray], float]:
    """All gradients of one step, the loss, and the summed loss."""
    random = np.random.default_rng(1)
    images = random.uniform(-1, 1, (BATCH, *network.input_shape))
    masks = {name: random.random((BATCH, *shape)) >= rate for name, (shape, rate) in network.dropouts.items()}
    worker.start(network, PLAIN, initialise(network, 2), "float64")
    record, cost, _ = worker.step(images, np.arange(BATCH), masks, 0.1, BATCH, ("loss", "gradient"))
    return record, cost


def departure(worker: Worker, weight: float) -> float:
    """How far GoogLeNet's gradients are from those of the scores alone and `weight` times those of both heads."""
    (without, cost), (with_one, _), (own, own_cost) = (
        gradients(worker, net) for net in (weighted(GOOGLENET, 0.0), weighted(GOOGLENET, 1.0), GOOGLENET)
    )
    assert own_cost == cost, "what is reported is of the scores alone"
    trunk = ("loss", "gradient/conv1_7x7.weight", "gradient/inception_4a_1x1.bias", "gradient/inception_4d_3x3.weight")
    wanted = {name: without[name] + weight * (with_one[name] - without[name]) for name in trunk}
    assert all(np.linalg.norm(with_one[name] - without[name]) > 1e-3 * np.linalg.norm(own[name]) for name in trunk)
    return max(float(np.linalg.norm(own[n] - a) / np.linalg.norm(a)) for n, a in wanted.items())


def test_the_losses_of_googlenets_heads_enter_training_with_0_3(worker: Worker) -> None:
    assert departure(worker, float(np.float32(0.3))) < 1e-12
    assert departure(worker, 0.29) > 1e-4


def test_heads_have_no_part_in_inference(worker: Worker) -> None:
    state, images = initialise(GOOGLENET, 0), np.random.default_rng(0).random((2, *GOOGLENET.input_shape))
    worker.start(GOOGLENET, PLAIN, state, "float64")
    record = worker.predict(images, record=True)
    assert {name.removeprefix("eval/") for name in record} - {"logits"} == set(GOOGLENET.inference.layers)
    broken = state | {name: np.full_like(a, np.nan) for name, a in state.items() if name.startswith("aux")}
    worker.start(GOOGLENET, PLAIN, broken, "float64")
    np.testing.assert_array_equal(worker.predict(images)["logits"], record["logits"])


def test_after_training_inference_still_has_no_heads(worker: Worker) -> None:
    gradients(worker, GOOGLENET)
    record = worker.predict(np.zeros((1, *GOOGLENET.input_shape)), record=True)
    assert not [name for name in record if name.startswith("eval/aux")]


# Log-softmax, padding


def test_log_probabilities_far_below_the_largest_are_not_cut_off(worker: Worker) -> None:
    net = Network("sure", (3,), (Linear("fc", 3, bias=False), LogSoftmax("scores")))
    worker.start(net, PLAIN, {"fc.weight": 200 * np.eye(3)}, "float64")
    images, labels = np.eye(3), np.array([0, 1, 0])
    np.testing.assert_allclose(worker.predict(images)["logits"], 200 * np.eye(3) - 200, rtol=1e-12)
    _, cost, _ = worker.step(images, labels, {}, 0.1, 3)
    assert cost == pytest.approx(200.0, rel=1e-12), "their cross-entropy is their negative log-likelihood"


@pytest.mark.parametrize(
    "size,window,stride,pad",
    [
        (13, 6, 5, (1, 2)),  # the example of TensorFlow's documentation
        (24, 3, 1, (1, 1)),
        (24, 2, 2, (0, 0)),
        (3, 2, 2, (0, 1)),
        (224, 7, 2, (2, 3)),
        (5, 1, 2, (0, 0)),
        (5, 2, 3, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size: int, window: int, stride: int, pad: tuple[int, int]) -> None:
    assert around("x", size, window, stride, "same") == pad


# Rules that follow gradients backwards

TRUNK = (Flatten("flat"), Linear("fc1", 4), ReLU("relu"))
HEADED = Network("headed", (1, 1, 3), (*TRUNK, Auxiliary("aux", (Linear("aux_fc", 3),), 0.25), Linear("fc2", 3)))
LABELS = np.array([0, 1])
FRESH = np.array([[-2 / 3, 1 / 3, 1 / 3], [1 / 3, -2 / 3, 1 / 3]])
FITTED = 1e-9 * np.array([[-2.0, 1.0, 1.0], [1.0, -2.0, 1.0]])


def step(main: np.ndarray, aux: np.ndarray) -> dict[str, np.ndarray]:
    return {"backward/fc2": main / 2, "backward/aux_fc": 0.25 * aux / 2, "backward/relu": np.ones((2, 4))}


def test_a_trunk_is_magnified_where_all_heads_on_it_are_fitted() -> None:
    both = magnifications(HEADED, step(FITTED, FITTED), LABELS, 2)
    assert both["backward/relu"] == pytest.approx(both["backward/fc2"]) == pytest.approx(both["backward/aux_fc"])
    assert both["backward/relu"] > 1e8


def test_an_unfitted_head_limits_the_magnification_of_the_trunk() -> None:
    found = magnifications(HEADED, step(FITTED, FRESH), LABELS, 2)
    assert found["backward/fc2"] > 1e8
    assert "backward/aux_fc" not in found
    quarter = 0.25 / np.sqrt(3)  # of the fresh softmax; the fitted one is zero
    assert found["backward/relu"] == pytest.approx((1 + quarter) / quarter)


def test_a_pixel_that_flips_in_one_branch_excuses_nothing_in_another() -> None:
    network = articles.get_network("googlenet_naive@0.125")
    exact, flipped = np.ones((1, 4)), np.array([[1.0, 1.0, 1.0, 0.0]])
    crossed, found = Crossed(), dict[str, float]()
    for name in reversed(network.layers):
        own = flipped if name == "inception_3a_3x3" else exact
        tensor = Rounded(f"backward/{name}", (exact, own), exact, (name, name), behind=behind(network)[name])
        found[name] = crossed.part(tensor, own)
    assert found["inception_3a_3x3"] == found["pool2"] == found["conv1_3x3"] == 0.5
    assert found["inception_3a_5x5"] == found["inception_3a"] == found["fc"] == 0


def test_a_planted_fault_may_change_a_node_within_a_node() -> None:
    changed = changes.node("inception_4b_1x1", filters=1)(check(GOOGLENET))(check(GOOGLENET).run_inputs()).network
    assert isinstance(changed.layers["inception_4b_1x1"].node, Conv)
    assert changed.shapes["inception_4b_1x1"][0] == 1
    gone = changes.without("inception_4b_1x1_relu")(check(GOOGLENET))(check(GOOGLENET).run_inputs()).network
    assert set(GOOGLENET.layers) - set(gone.layers) == {"inception_4b_1x1_relu"}
