"""Layers in numpy, compared with loops and with both frameworks; slopes compared with complex steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from helpers import numpy_network as reference
from helpers.compared import compare
from helpers.layer_cases import CASES, DIVISOR, MAP, batch, network, weights
from helpers.numpy_network import slopes
from parity.arrays import Array
from parity.backend.worker import Worker
from parity.compare import numpy_layers
from parity.compare.numpy_layers import batch_statistics, cross_entropy, layer_output, moved_statistics, slope
from parity.network.graph import Layer
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    KINDS,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    LogSoftmax,
    MaxPool,
    Node,
    ReLU,
)
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State

BOUND = 1e-12
SLOPE_BOUND = 1e-7
PLAIN = Optimizer("momentum", rate=0.125)


def own_arrays(state: State, name: str) -> State:
    return {key.partition(".")[2]: array for key, array in state.items() if key.partition(".")[0] == name}


def judged(net: Network, state: State, outputs: Mapping[str, Array], images: Array, masks: State | None) -> State:
    """Each layer's output in numpy, computed from the `outputs` of the layers before it."""
    return {
        name: layer_output(
            layer,
            [outputs[source] if source else images for source in layer.sources],
            own_arrays(state, name),
            masks is not None,
            (masks or {}).get(name),
        )
        for name, layer in net.layers.items()
        if name in outputs
    }


def assert_equal(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    assert [str(difference) for difference in compare(wanted, found, BOUND) if not difference.equal] == []


def alone(node: Node, shape: tuple[int, ...]) -> Layer:
    return Layer(node, ("",), shape, node.output(shape))


def test_every_kind_of_node_is_computed_and_has_a_case() -> None:
    assert set(numpy_layers.LAYERS) == set(KINDS.values()) - {Auxiliary}
    tried = {type(layer.node) for net in CASES.values() for layer in net.layers.values()}
    assert tried == set(numpy_layers.LAYERS)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_equals_the_loops_of_its_definition(case: str, training: bool) -> None:
    net, state = CASES[case], weights(CASES[case])
    images, _, masks = batch(net)
    outputs = reference.outputs(net, state, images, masks if training else None)
    layers = set(net.layers if training else net.inference.layers)
    wanted = {name: output for name, output in outputs.items() if name in layers}
    assert set(wanted) == layers
    assert_equal(judged(net, state, wanted, images, masks if training else None), wanted)


@pytest.mark.parametrize("case", CASES)
def test_a_layer_in_training_equals_the_frameworks(case: str, worker: Worker) -> None:
    net, state = CASES[case], weights(CASES[case])
    images, labels, masks = batch(net)
    worker.start(net, PLAIN, state, "float64")
    record, _, _ = worker.step(images, labels, masks, PLAIN.rate, DIVISOR, ("forward",))
    outputs = {name: record[f"forward/{name}"] for name in net.layers}
    assert_equal(judged(net, state, outputs, images, masks), outputs)


@pytest.mark.parametrize("case", CASES)
def test_a_layer_in_inference_equals_the_frameworks(case: str, worker: Worker) -> None:
    net, state = CASES[case], weights(CASES[case])
    images, _, _ = batch(net)
    worker.start(net, PLAIN, state, "float64")
    record = worker.predict(images, record=True)
    outputs = {name: record[f"eval/{name}"] for name in net.inference.layers}
    assert_equal(judged(net, state, outputs, images, None), outputs)


# Statistics and the loss

NORMS = {
    "biased": BatchNorm("norm", decay=0.7, variance="biased", start_variance=0.0),
    "unbiased": BatchNorm("norm", decay=0.6, variance="unbiased"),
    "frozen": BatchNorm("norm", decay=0.7, frozen=True),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [MAP, (8, 1, 1)], ids=["maps", "vectors"])
def test_running_statistics_move_as_in_the_framework(shape: tuple[int, ...], norm: str, worker: Worker) -> None:
    flat = [Flatten("flat")] if shape == (8, 1, 1) else []
    net = network(shape, *flat, NORMS[norm])
    state = weights(net)
    worker.start(net, PLAIN, state, "float64")
    record, _, _ = worker.step(*batch(net), PLAIN.rate, DIVISOR, ("forward", "update"))
    x = record["forward/flat" if flat else "forward/entry"]
    found = moved_statistics(NORMS[norm], x, state["norm.mean"], state["norm.variance"])
    wanted = {name: record[f"update/norm.{name}"] for name in ("mean", "variance")}
    assert_equal(dict(zip(wanted, found, strict=True)), wanted)


@pytest.mark.parametrize("kind", ["biased", "unbiased"])
@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 5, 6)], ids=["vectors", "maps"])
def test_batch_statistics_are_those_of_the_definition(shape: tuple[int, ...], kind: str) -> None:
    x = np.random.default_rng(0).normal(2, 3, shape)
    for found, wanted in zip(batch_statistics(x, kind), reference.batch_statistics(x, kind), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=BOUND)


def test_a_single_value_has_no_unbiased_variance() -> None:
    assert batch_statistics(np.ones((1, 2)), "biased")[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="unbiased variance"):
        batch_statistics(np.ones((1, 2)), "unbiased")


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_cross_entropy_is_that_of_the_framework(smoothing: float, worker: Worker) -> None:
    net = network(MAP, ReLU("relu"))
    images, labels, _ = batch(net)
    worker.start(net, Optimizer("momentum", 0.1, label_smoothing=smoothing), weights(net), "float64")
    record, _, _ = worker.step(images, labels, {}, 0.1, DIVISOR, ("forward", "loss"))
    scores = record["forward/scores"]
    assert cross_entropy(scores, labels, smoothing) / DIVISOR == pytest.approx(record["loss"].item(), rel=BOUND)
    targets = (1 - smoothing) * np.eye(scores.shape[1])[labels] + smoothing / scores.shape[1]
    by_definition = -(targets * np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))).sum()
    assert cross_entropy(scores, labels, smoothing) == pytest.approx(by_definition, rel=BOUND)


# Single layers


def test_gelu_keeps_its_digits_far_below_zero() -> None:
    x = np.array([[-8.0, -1.0, 0.0, 1.0, 8.0]])
    # x times the standard normal distribution function, by mpmath with 30 digits.
    wanted = [[-4.97676845941742e-15, -0.158655253931457051, 0, 0.841344746068542949, 7.99999999999999502]]
    np.testing.assert_allclose(layer_output(alone(GELU("gelu"), (5,)), [x], {}, True), wanted, rtol=1e-14)


def test_log_softmax_holds_for_scores_whose_exponentials_overflow() -> None:
    found = layer_output(alone(LogSoftmax("log"), (3,)), [np.array([[1000.0, 0.0, 1000.0]])], {}, True)
    np.testing.assert_allclose(found, [[-np.log(2), -1000 - np.log(2), -np.log(2)]], rtol=BOUND)


@pytest.mark.parametrize("kind", [MaxPool, AvgPool])
def test_padding_of_a_pool_never_enters(kind: type[MaxPool]) -> None:
    node, x = kind("pool", 3, 2, padding=1, ceil=True), np.full((2, 2, 4, 4), -5.0)
    np.testing.assert_array_equal(layer_output(alone(node, (2, 4, 4)), [x], {}, True), np.full((2, 2, 3, 3), -5.0))


def test_a_convolution_of_a_few_images_at_a_time_equals_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    node, random = Conv("conv", 6, stride=2, groups=2), np.random.default_rng(0)
    x, weight = random.normal(size=(5, 4, 7, 8)), random.normal(size=(6, 2, 3, 3))
    layer, own = alone(node, (4, 7, 8)), {"weight": weight, "bias": np.zeros(6)}
    wanted = layer_output(layer, [x], own, True)
    for elements in (1, 2 * 4 * 7 * 8):
        monkeypatch.setattr(numpy_layers, "ELEMENTS_AT_ONCE", elements)
        np.testing.assert_allclose(layer_output(layer, [x], own, True), wanted, rtol=BOUND, atol=BOUND)


def test_float32_is_computed_in_float64() -> None:
    own = {"weight": np.full((1, 2), 1 / 3, np.float32), "bias": np.zeros(1, np.float32)}
    found = layer_output(alone(Linear("fc", 1), (2,)), [np.ones((1, 2), np.float32)], own, True)
    assert (found.dtype, found.item()) == (np.float64, 2 * float(np.float32(1 / 3)))


def test_arrays_of_another_shape_are_refused() -> None:
    conv, x = alone(Conv("conv", 3), MAP), np.ones((2, *MAP))
    own = {"weight": np.ones((3, 4, 3, 3)), "bias": np.ones(3)}
    with pytest.raises(ValueError, match=r"^conv: input has shape \[2, 4, 5, 5\], expected shape \[2, 4, 5, 6\]$"):
        layer_output(conv, [x[..., :-1]], own, True)
    with pytest.raises(ValueError, match=r"^conv.bias has shape \[1\], expected shape \[3\]$"):
        layer_output(conv, [x], own | {"bias": np.ones(1)}, True)
    with pytest.raises(ValueError, match=r"^conv.bias is missing"):
        layer_output(conv, [x], {"weight": own["weight"]}, True)
    with pytest.raises(ValueError, match=r"^drop: mask is missing"):
        layer_output(alone(Dropout("drop"), MAP), [x], {}, True)


# Slopes

DIFFERENTIATED = {
    "conv": Conv("conv", 3, stride=2),
    "batch norm": BatchNorm("norm", eps=0.01),
    "ReLU": ReLU("relu"),
    "max pool": MaxPool("pool", 3, 2, ceil=True),
}


@pytest.fixture(params=DIFFERENTIATED)
def differentiated(request: pytest.FixtureRequest) -> tuple[Callable[[Array], float], Array, Array]:
    """A smooth scalar of one layer's output, the layer's input, and the gradient there by complex steps."""
    node, random = DIFFERENTIATED[request.param], np.random.default_rng(1)
    layer, x = alone(node, MAP), random.normal(size=(3, *MAP))
    own = own_arrays({p.name: random.uniform(0.5, 1.5, p.shape) for p in node.parameters(MAP)}, node.name)
    factors = random.normal(size=(3, *layer.output))

    def scalar(output: Array) -> Array:
        return np.sin(factors * output).sum()

    gradient = slopes(lambda moved: scalar(reference.NODES[type(node)](node, moved, own, True)), x)
    return lambda moved: float(scalar(layer_output(layer, [moved], own, True))), x, gradient


def test_a_slope_is_that_of_complex_steps(differentiated: tuple[Callable[[Array], float], Array, Array]) -> None:
    function, x, gradient = differentiated
    random = np.random.default_rng(2)
    single = np.zeros_like(x)
    single[1, 2, 3, 4] = 1.0
    for direction in (gradient, random.normal(size=x.shape), 1e-12 * random.normal(size=x.shape), single):
        bound = SLOPE_BOUND * float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert slope(function, x, direction) == pytest.approx(np.vdot(gradient, direction), rel=0, abs=bound)


@pytest.mark.parametrize("error", [1e-5, 1e-2, 1.0])
def test_a_slope_decides_which_gradient_is_right(
    differentiated: tuple[Callable[[Array], float], Array, Array], error: float
) -> None:
    function, x, right = differentiated
    noise = np.random.default_rng(3).normal(size=x.shape)
    wrong = right + error * np.linalg.norm(right) / np.linalg.norm(noise) * noise
    direction = right - wrong
    found = slope(function, x, direction)
    assert abs(np.vdot(right, direction) - found) < 0.02 * abs(np.vdot(wrong, direction) - found)


def test_a_slope_does_not_depend_on_the_sizes_of_input_and_direction() -> None:
    for size in (1e-8, 1.0, 1e8):
        x = size * np.array([1.0, -2.0])
        found = slope(lambda moved, size=size: float(np.sum((moved / size) ** 3)), x, np.array([1e-6, 1e6]))
        assert found * size == pytest.approx(3 * (1e-6 + 4e6), rel=SLOPE_BOUND)


def test_a_slope_of_a_large_map_crosses_few_kinks() -> None:
    random = np.random.default_rng(0)
    x, factors, noise = random.normal(size=(3, 2, 16, 128, 128))
    right = factors * (x > 0)
    for error in (1e-5, 1e-2):
        direction = error * np.linalg.norm(right) / np.linalg.norm(noise) * noise
        found = slope(lambda moved: float(np.vdot(factors, np.maximum(moved, 0))), x, direction)
        assert abs(np.vdot(right, direction) - found) < 0.02 * np.vdot(direction, direction)


def test_a_slope_at_zero_and_along_a_zero_direction() -> None:
    assert slope(lambda x: float(np.sin(x).sum()), np.zeros(3), np.ones(3)) == pytest.approx(3, rel=SLOPE_BOUND)
    assert slope(lambda x: float(x.sum()), np.ones(3), np.zeros(3)) == 0
