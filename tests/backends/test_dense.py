"""A dense network computes exactly what its classifier does, at the classifier's size and at others (arXiv 1409.1556, section 3.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from helpers import numpy_network
from parity.backend.worker import Worker
from parity.cli import check
from parity.errors import InputError
from parity.network import articles
from parity.network.dense import AVERAGE, check_any_size, dense, dense_state, takes_any_size
from parity.network.network import Network
from parity.network.nodes import (
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    LogSoftmax,
    MaxPool,
    ReLU,
)
from parity.onnx import exporting, graph_reader, graph_writer, operators, runtime, sessions
from parity.recipe import presets
from parity.weights.canonical_state import State, initialise

PLAIN = presets.get_recipe("adam").optimizer
SMALL = Network(
    "small",
    (3, 12, 12),
    (
        Conv("conv1", 5),
        ReLU("relu1"),
        MaxPool("pool1"),
        Conv("conv2", 4),
        MaxPool("pool2"),
        Flatten("flatten"),
        Dropout("drop1", 0.3, "downscale_in_infer"),
        Linear("fc1", 7),
        BatchNorm("bn1"),
        ReLU("relu2"),
        Linear("fc2", 6, bias=False),
        LogSoftmax("log"),
    ),
)


def weights(net: Network) -> State:
    """Weights as after some training: no statistic and no bias has its start value."""
    random = np.random.default_rng(0)
    fresh = initialise(net, 0)
    return {
        name: random.uniform(0.5, 1.5, a.shape).astype(np.float32) if a.ndim == 1 else a for name, a in fresh.items()
    }


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def naive(net: Network, state: State, x: np.ndarray) -> np.ndarray:
    """The classifier's layers on vectors, applied to every window of the map before the Flatten, and the mean of their outputs."""
    state = {name: array.astype(np.float64) for name, array in state.items()}
    at = next(i for i, node in enumerate(net.nodes) if isinstance(node, Flatten))
    shape = net.layers[net.nodes[at - 1].name].output
    vector = tuple(node for node in net.nodes[at:] if not isinstance(node, LogSoftmax))
    wide = Network("wide", x.shape[1:], (*net.nodes[:at], GlobalAvgPool("end")))
    found = numpy_network.outputs(wide, state, x)[net.nodes[at - 1].name]
    tail = Network("tail", shape, vector)
    rows, columns = (size - window + 1 for size, window in zip(found.shape[2:], shape[1:], strict=True))
    scores = [
        numpy_network.outputs(tail, state, found[:, :, i : i + shape[1], j : j + shape[2]])[vector[-1].name]
        for i in range(rows)
        for j in range(columns)
    ]
    mean = np.mean(scores, axis=0)
    logarithms: np.ndarray = mean - np.log(np.exp(mean).sum(axis=1, keepdims=True))
    return logarithms if isinstance(net.nodes[-1], LogSoftmax) else mean


# The network as data


def test_vgg_d_yields_score_maps_of_6_by_6_at_384() -> None:
    made = articles.get_network("vgg_d+dense384")
    assert [made.shapes[name] for name in ("pool5", "fc6", "fc7", "fc8", AVERAGE)] == [
        (512, 12, 12),
        (4096, 6, 6),
        (4096, 6, 6),
        (1000, 6, 6),
        (1000,),
    ]
    assert made.trainable_count == articles.get_network("vgg_d").trainable_count == 138_357_544
    fc6, fc7 = made.layers["fc6"].node, made.layers["fc7"].node
    assert isinstance(fc6, Conv) and (fc6.kernel, fc6.padding) == (7, 0)
    assert isinstance(fc7, Conv) and (fc7.kernel, fc7.padding) == (1, 0)


ANY_SIZE = [name for name, network in articles.NETWORKS.items() if takes_any_size(network)]


def test_the_residual_networks_take_any_size_as_they_are() -> None:
    assert len(ANY_SIZE) == 9 and all(name.startswith(("resnet", "plain")) for name in ANY_SIZE)
    with pytest.raises(InputError, match="already takes images of any size"):
        articles.get_network("resnet20+dense")


@pytest.mark.parametrize("name", [name for name in articles.NETWORKS if name not in ANY_SIZE])
def test_every_network_of_the_articles_has_a_dense_form_of_as_many_parameters(name: str) -> None:
    whole = articles.get_network(f"{name}@0.25")
    made = dense(whole)
    assert made.shapes[AVERAGE] == (whole.classes,)
    assert made.trainable_count == whole.trainable_count
    assert made.inference == made
    assert Network.from_json(made.to_json()) == made
    assert takes_any_size(made) == (not name.startswith("tf_"))


def test_a_dense_name_after_a_cousin_keeps_its_size_and_classes() -> None:
    made = articles.get_network("vgg_a@0.125x64+classes3+dense96")
    assert (made.input_shape, made.classes) == ((3, 96, 96), 3)
    assert made.name == "vgg_a@0.125x64+classes3+dense96"


@pytest.mark.parametrize("name", ["vgg_a+Dense", "vgg_a+dense0", "vgg_a+classes", "vgg_a+", "vgg_a+dense+dense"])
def test_an_unknown_suffix_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^network [^\n]*$"):
        articles.get_network(name)


@pytest.mark.parametrize(
    "change,said",
    [
        ({"input_shape": (3, 12, 16)}, "fc1 takes a map of 3 by 4"),
        ({"nodes": (Flatten("f"), BatchNorm("bn"), Linear("fc", 3))}, "bn has statistics for every element"),
        (
            {"nodes": (Flatten("f"), Branches("b", ((Linear("x", 2),), (Linear("y", 2),))), Linear("fc", 3))},
            "b: linear layers in branches",
        ),
        ({"input_shape": (8,), "nodes": (Linear("fc", 3),)}, "takes no image"),
        ({"nodes": (GlobalAvgPool("mean"), Linear("fc", 3))}, "already takes images of any size"),
        ({"nodes": (Conv("c", 3, 3, 2, "same"), GlobalAvgPool("m"), Linear("fc", 3))}, "already averages its maps"),
    ],
)
def test_a_network_that_cannot_be_dense_is_refused_with_its_layer(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dense(replace(SMALL, **change))


def test_pools_whose_padding_depends_on_the_size_are_named() -> None:
    with pytest.raises(InputError, match="pool1 of network tf_vgg16"):
        check_any_size(dense(articles.get_network("tf_vgg16@0.125")))


# The arithmetic


def test_a_dense_network_in_numpy_is_the_mean_of_the_classifier_over_all_windows() -> None:
    state, x = weights(SMALL), images(2, 3, 20, 26)
    made = dense(SMALL)
    wide = {name: array.astype(np.float64) for name, array in dense_state(dense(SMALL), state).items()}
    found = numpy_network.outputs(replace(made, input_shape=(3, 20, 26)), wide, x)
    np.testing.assert_allclose(found["log"], naive(SMALL, state, x), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["small", "vgg_d@0.03125", "vgg_d@0.125x64", "vgg16_bn_drop@0.125", "vgg_mini@0.125", "googlenet@0.1x64"]
)
def test_at_its_own_size_a_dense_network_computes_what_the_classifier_does(worker: Worker, name: str) -> None:
    net = SMALL if name == "small" else articles.get_network(name)
    state, x = weights(net), images(1 if net.input_shape[1] == 224 else 9, *net.input_shape)
    worker.start(net, PLAIN, state, "float64")
    wanted = worker.predict(x)["logits"]
    worker.start(dense(net), PLAIN, dense_state(dense(net), state), "float64")
    found = worker.predict(x)["logits"]
    assert np.linalg.norm(found - wanted) <= 1e-12 * np.linalg.norm(wanted)


@pytest.mark.parametrize("size", [(20, 20), (20, 26), (12, 33)])
def test_a_dense_network_takes_any_image_size_and_averages_the_score_map(worker: Worker, size: tuple[int, int]) -> None:
    state = weights(SMALL)
    worker.start(dense(SMALL), PLAIN, dense_state(dense(SMALL), state), "float64")
    for count in (1, 9):  # Paddle multiplies nine images at once if the map is small
        x = images(count, 3, *size)
        wanted = naive(SMALL, state, x)
        found = worker.predict(x)["logits"]
        assert np.linalg.norm(found - wanted) <= 1e-12 * np.linalg.norm(wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("at_hand")
def test_the_parity_suite_proves_a_dense_cousin_at_a_size_other_than_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--network", "vgg_a@0.0625x32+dense48", "--steps", "2", "--batch-size", "4", "--json"]
    assert check.main([*flags, "--data", "shapes10"]) == 0
    assert '"verdict": "equal"' in capsys.readouterr().out


# ONNX


@pytest.mark.parametrize("opset", [17, 21])
def test_the_export_of_a_dense_network_is_verified_and_takes_any_size(worker: Worker, opset: int) -> None:
    made, state = dense(SMALL, 20), dense_state(dense(SMALL), weights(SMALL))
    worker.start(made, PLAIN, state, "float32")
    model = exporting.export(worker.export(), made, state, opset=opset, any_size=True)
    for size in ((20, 20), (33, 25)):
        x = images(2, 3, *size).astype(np.float32)
        found, wanted = sessions.run(model, x), worker.predict(x)["logits"]
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    assert runtime.session(model).get_inputs()[0].shape == ["N", 3, "H", "W"]


def test_a_network_whose_layers_depend_on_the_size_is_not_written_for_any_size() -> None:
    with pytest.raises(InputError, match="takes images of one size"):
        graph_writer.write(SMALL, operators.operators(SMALL, weights(SMALL)), any_size=True)


@pytest.mark.parametrize("axes,kept", [([1, 2], 0), ([2], 0), ([2, 3], 1)])
def test_a_mean_over_other_axes_than_height_and_width_is_not_the_network(axes: list[int], kept: int) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=kept)
    with pytest.raises(graph_reader.NotTheNetwork, match="ReduceMean"):
        graph_reader.READERS["ReduceMean"](node, [])
