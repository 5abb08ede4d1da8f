"""Comparison with results of TensorFlow in golden/tensorflow.npz, which golden/make_tensorflow.py makes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from helpers.paths import TESTS
from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.data.batches import distort, preprocess
from parity.network import articles
from parity.network.initialisers import XAVIER, Init
from parity.network.network import Network
from parity.network.nodes import LRN, AvgPool, Conv, Dropout, Flatten, Linear, MaxPool, Node, edited
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State, initialise

with np.load(TESTS / "golden" / "tensorflow.npz") as made:
    GOLDEN = dict(made)

PLAIN = Optimizer("momentum", rate=0.125)
BOUND = 1e-12
U = 2.0**-24
"""Half a unit in the last place of float32, relative: the largest error of one operation."""


def first_channels(array: np.ndarray) -> np.ndarray:
    """[N,H,W,C] -> float64 [N,C,H,W]."""
    return np.moveaxis(array, -1, 1).astype(np.float64)


def canonical(weight: np.ndarray) -> np.ndarray:
    """TensorFlow's [H,W,in,out] or [in,out] -> [out,in,H,W] or [out,in], float64."""
    return (weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T).astype(np.float64)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def scored(shape: tuple[int, ...], *nodes: Node) -> Network:
    return Network("golden", shape, (*nodes, Flatten("flatten"), Linear("scores", 2)))


def cases(kind: str) -> list[str]:
    return [name for name in GOLDEN if name.startswith(f"{kind}/")]


@pytest.mark.parametrize("case", [case for kind in ("conv", "max", "avg") for case in cases(kind)])
def test_same_padding_is_tensorflows_on_odd_sizes_with_even_windows_and_strides(case: str, worker: Worker) -> None:
    kind, sizes, window, stride = case.split("/")
    images = first_channels(GOLDEN[f"image/{sizes}"])
    kernel = canonical(GOLDEN[f"kernel/{window}"])
    fields = (int(window), int(stride), "same")
    node: Node = {"max": MaxPool, "avg": AvgPool}[kind]("node", *fields) if kind != "conv" else Conv("node", 3, *fields)
    network = scored(images.shape[1:], node)
    own = {"node.weight": kernel, "node.bias": np.zeros(3)} if kind == "conv" else {}
    worker.start(network, PLAIN, initialise(network, 0) | own)
    found = worker.predict(images, record=True)["eval/node"]
    wanted = first_channels(GOLDEN[case])
    assert found.shape == wanted.shape
    assert error(found, wanted) <= (0.0 if kind == "max" else BOUND)


@pytest.mark.parametrize(
    ("name", "node"),
    [("krizhevsky", LRN("node")), ("cifar10", LRN("node", size=9, k=1.0, alpha=0.001 / 9.0))],
    ids=["Krizhevsky's", "the CIFAR-10 tutorial's"],
)
def test_response_normalisation_equals_tensorflows(name: str, node: LRN, worker: Worker) -> None:
    images, slope = first_channels(GOLDEN["lrn/image"]), first_channels(GOLDEN["lrn/slope"])
    network = scored(images.shape[1:], node)
    worker.start(network, PLAIN, initialise(network, 0))
    record = worker.isolate("node", [images], [images], None, slope)
    # In float32 the sum has at most the error of size + 2 operations. The power of beta makes it smaller; power and product add five.
    forward = (node.size + 7) * U
    assert error(record["forward/node"], first_channels(GOLDEN[f"lrn/{name}"])) <= forward
    # The gradient is a difference of two terms, and the second is a sum of as many operations again.
    assert error(record["backward/node.0"], first_channels(GOLDEN[f"lrn/{name}/backward"])) <= 3 * forward
    wrong = replace(node, alpha=node.alpha / node.size)
    worker.start(replace(network, nodes=(wrong, *network.nodes[1:])), PLAIN, initialise(network, 0))
    assert error(worker.predict(images, record=True)["eval/node"], first_channels(GOLDEN[f"lrn/{name}"])) > 1e-2


def cousin() -> Network:
    """`tf_vgg16` with the numbers of filters, units and classes of the golden network."""

    def change(node: Node) -> Node:
        if isinstance(node, Conv):
            return replace(node, filters=GOLDEN[f"vgg/{node.name}.weight"].shape[3])
        return replace(node, units=GOLDEN[f"vgg/{node.name}.weight"].shape[1]) if isinstance(node, Linear) else node

    whole = articles.get_network("tf_vgg16")
    return replace(whole, nodes=edited(whole.nodes, change))


def given(network: Network) -> State:
    return {
        name: canonical(GOLDEN[f"vgg/{name}"]) if name.endswith("weight") else GOLDEN[f"vgg/{name}"].astype(np.float64)
        for name in network.parameters
    }


def test_the_articles_vgg16_yields_tensorflows_clipped_scores(worker: Worker) -> None:
    network, wanted = cousin(), GOLDEN["vgg/scores"]
    worker.start(network, PLAIN, given(network))
    found = worker.predict(first_channels(GOLDEN["vgg/images"]), record=True)
    assert error(found["logits"], wanted) <= BOUND
    assert (wanted == 0).any() and (wanted > 0).any()
    np.testing.assert_array_equal(found["logits"] == 0, wanted == 0)
    assert (found["eval/fc8"] < 0).any(), "the scores are clipped, and not merely positive"


def l2_gradients(worker: Worker, network: Network, images: np.ndarray) -> tuple[Record, float]:
    """The gradients of sum(scores ** 2) / 2, layer by layer from the end. The gradient of the scores is the scores."""
    record = worker.predict(images, record=True)
    gradient, found = record["logits"], {}
    for name, layer in reversed(network.layers.items()):
        if not isinstance(layer.node, Dropout):  # in inference it does nothing
            (source,) = layer.sources
            x = record[f"eval/{source}"] if source else images
            own = worker.isolate(name, [x], [x], None, gradient)
            gradient = own[f"backward/{name}.0"]
            found |= {key.removeprefix("gradient/"): a for key, a in own.items() if key.startswith("gradient/")}
    return found, float((record["logits"] ** 2).sum() / 2)


def test_the_gradients_of_the_articles_l2_loss_are_tensorflows(worker: Worker) -> None:
    network = cousin()
    worker.start(network, PLAIN, given(network))
    found, loss = l2_gradients(worker, network, first_channels(GOLDEN["vgg/images"]))
    assert loss == pytest.approx(float(GOLDEN["vgg/loss"]), rel=BOUND)
    assert list(found.keys()) == [name for name in found if name in network.parameters]
    assert found.keys() == network.parameters.keys()
    for name, array in found.items():
        wanted = GOLDEN[f"vgg/gradient/{name}"]
        assert error(array, canonical(wanted) if name.endswith("weight") else wanted) <= BOUND, name


# Numpy: the inputs of both implementations


def test_pictures_are_standardised_as_tensorflow_does() -> None:
    images = np.moveaxis(GOLDEN["pictures/images"], -1, 1)
    found = preprocess(images, Preprocessing(standardise=True))
    wanted = np.moveaxis(GOLDEN["pictures/standardised"], -1, 1)
    numbers = images[0].size
    for i, image in enumerate(images):
        # The error of a float32 sum of n pixels is at most that of n operations, and so are those of mean and deviation.
        allowed = 2 * numbers * U * 255 / max(image.std(), 1 / math.sqrt(numbers))
        np.testing.assert_allclose(found[i], wanted[i], rtol=0, atol=allowed)
    assert not found[-1].any(), "a picture of one colour"


def test_brightness_and_contrast_are_changed_as_tensorflow_does() -> None:
    images = np.moveaxis(GOLDEN["pictures/images"], -1, 1)
    brightness, contrast = GOLDEN["pictures/numbers"].T
    found = distort(images, brightness, contrast)
    wanted = np.moveaxis(GOLDEN["pictures/distorted"], -1, 1)
    pixels = images.shape[2] * images.shape[3]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2 * pixels * U * (255 + 63) * contrast.max())


@pytest.mark.parametrize("shape", ["3x3x128x256", "512x2048"])
def test_xaviers_numbers_have_the_bound_and_deviation_of_tensorflows(shape: str) -> None:
    *kernel, inputs, outputs = map(int, shape.split("x"))
    node: Node = Conv("x", outputs, init=XAVIER) if kernel else Linear("x", outputs, init=XAVIER)
    network = scored((inputs, 1, 1), node) if kernel else Network("n", (inputs,), (node,))
    draw = initialise(network, 0)["x.weight"].astype(np.float64)
    largest, deviation = GOLDEN[f"xavier/{shape}"]
    # On average, the largest of n uniform numbers is 1 / n of their bound below that bound; by 20 / n it is so once in e^20 times.
    assert np.abs(draw).max() == pytest.approx(largest, rel=20 / draw.size)
    assert draw.std() == pytest.approx(deviation, rel=5 / math.sqrt(draw.size))


def test_truncated_numbers_have_the_bound_and_deviation_of_tensorflows() -> None:
    network = Network("n", (1000,), (Linear("x", 1000, init=Init("truncated", 0.01)),))
    draw = initialise(network, 0)["x.weight"].astype(np.float64)
    largest, deviation = GOLDEN["truncated"]
    # The density at two deviations is 0.113: the largest of a million numbers is 1 / 113,000 deviations below that on average.
    assert np.abs(draw).max() == pytest.approx(largest, rel=20 / 113_000 / 2)
    assert draw.std() == pytest.approx(deviation, rel=5 / math.sqrt(draw.size))
