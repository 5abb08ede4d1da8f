"""ONNX graphs: what an exporter wrote is the network or is refused, both frameworks' files are one, and runtimes agree with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from made_networks import EVERY_KIND
from onnx import ModelProto, TensorProto, helper, numpy_helper

from parity import networks, recipes
from parity.compare import relative_l2
from parity.errors import InputError
from parity.faults.subject import network, state
from parity.network import Network
from parity.nodes import Conv, Dropout, Flatten, Linear, ReLU
from parity.onnx import operators, sessions, writing
from parity.onnx.exporting import check_pictures, export, scores
from parity.onnx.reading import NotTheNetwork
from parity.onnx.runtime import session
from parity.randomness import stream
from parity.recipe import Preprocessing
from parity.recipes import CIFAR10_STATISTICS
from parity.weights import State, initialise
from parity.worker import Worker

CHAIN = operators.operators(network(), state())


def weights_of(net: Network) -> State:
    """Weights as after some training: no statistic is trivial."""
    if net == network():
        return state()
    fresh = initialise(net, 0)
    for name, array in fresh.items():
        if name.endswith((".mean", ".variance", ".gamma", ".beta")):
            fresh[name] = stream(1, name).uniform(0.5, 1.5, array.shape).astype(np.float32)
    return fresh


def raw_export(worker: Worker, net: Network) -> bytes:
    worker.start(net, recipes.get("article").optimizer, weights_of(net), "float32")
    return worker.export()


@pytest.fixture(scope="module")
def raw(workers: dict[str, Worker]) -> dict[str, bytes]:
    """What either framework's exporter writes of the network that has every habit of the articles'."""
    return {name: raw_export(worker, network()) for name, worker in workers.items()}


@pytest.fixture
def model() -> ModelProto:
    return writing.write(network(), CHAIN)


def pixels(count: int, shape: tuple[int, ...] = (3, 32, 32)) -> np.ndarray:
    return stream(2, "pixels").uniform(-1, 1, (count, *shape)).astype(np.float32)


# ----------------------------------------------------------------------------------- exports are the network


@pytest.mark.parametrize("net", [network(), EVERY_KIND, networks.get("vgg_mini@0.125")], ids=lambda net: net.name)
def test_the_exports_of_both_frameworks_become_one_file_to_the_byte(net: Network, workers: dict[str, Worker]) -> None:
    files = {
        name: export(raw_export(worker, net), net, weights_of(net)).SerializeToString()
        for name, worker in workers.items()
    }
    assert files["torch"] == files["paddle"]


def test_exporting_ten_times_gives_ten_equal_graphs(worker: Worker) -> None:
    made = {
        export(raw_export(worker, EVERY_KIND), EVERY_KIND, weights_of(EVERY_KIND)).SerializeToString()
        for _ in range(10)
    }
    assert len(made) == 1


def test_an_export_runs_as_the_framework_does(framework: str, workers: dict[str, Worker]) -> None:
    worker, images = workers[framework], pixels(5, EVERY_KIND.input_shape)
    made = export(raw_export(worker, EVERY_KIND), EVERY_KIND, weights_of(EVERY_KIND))
    eager = worker.predict(images, record=True)
    layers = sessions.run_layers(made, images)
    assert list(layers) == [node.name for node in EVERY_KIND.nodes if node.name != "drop"]
    for layer, array in layers.items():
        assert relative_l2(eager[f"eval/{layer}"], array) < 2e-6, layer
    exact = sessions.reference_layers(made, images)
    worker.start(EVERY_KIND, recipes.get("article").optimizer, weights_of(EVERY_KIND), "float64")
    eager = worker.predict(images.astype(np.float64), record=True)
    for layer, array in exact.items():
        assert relative_l2(eager[f"eval/{layer}"], array) < 1e-13, layer


def changed(data: bytes, change: Callable[[ModelProto], None]) -> bytes:
    made = onnx.load_from_string(data)
    change(made)
    return bytes(made.SerializeToString())


def node_of(made: ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in made.graph.node if node.op_type == kind)


def set_attribute(kind: str, name: str, value: object) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        node = node_of(made, kind)
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def one_bit(made: ModelProto) -> None:
    """The smallest change of one convolution's weight, wherever the exporter keeps it."""
    for holder in [
        *made.graph.initializer,
        *(node.attribute[0].t for node in made.graph.node if node.op_type == "Constant"),
    ]:
        if list(holder.dims) == [8, 8, 3, 3]:
            array = numpy_helper.to_array(holder).copy()
            array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
            holder.CopyFrom(numpy_helper.from_array(array, holder.name))
            return
    raise AssertionError("no such weight")


def dropped_in_training(made: ModelProto) -> None:
    """A Dropout that acts stands in front of the last operator."""
    last = made.graph.node[-1]
    flag = numpy_helper.from_array(np.array(True), "training")
    rate = numpy_helper.from_array(np.array(0.5, np.float32), "rate")
    made.graph.initializer.extend([flag, rate])
    dropout = helper.make_node("Dropout", [last.input[0], "rate", "training"], ["dropped"])
    last.input[0] = "dropped"
    made.graph.node.insert(len(made.graph.node) - 1, dropout)


def exchanged(made: ModelProto) -> None:
    """The square linear layer multiplies from the other side."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    shapes |= {
        node.output[0]: tuple(node.attribute[0].t.dims) for node in made.graph.node if node.op_type == "Constant"
    }
    node = next(node for node in made.graph.node if len(node.input) > 1 and shapes.get(node.input[1]) == (32, 32))
    first, second = node.input[:2]
    node.input[0], node.input[1] = second, first


BROKEN: list[tuple[Callable[[ModelProto], None], str]] = [
    (set_attribute("BatchNormalization", "training_mode", 1), "training_mode = 1"),
    (set_attribute("BatchNormalization", "epsilon", 1e-3), "layer bn1: epsilon is 0.001"),
    (set_attribute("MaxPool", "ceil_mode", 0), "layer pool1: ceil_mode is 0 in the export, 1"),
    (set_attribute("MaxPool", "pads", [1, 1, 1, 1]), "layer pool1: pads"),
    (set_attribute("AveragePool", "count_include_pad", 1), "layer pool3: count_include_pad is 1"),
    (set_attribute("Conv", "strides", [2, 2]), "layer conv1: strides"),
    (set_attribute("Conv", "dilations", [2, 2]), "dilations = [2, 2]"),
    (set_attribute("Conv", "group", 2), "layer conv1: group is 2"),
    (one_bit, "weight is not the network's own, to the bit"),
    (dropped_in_training, "Dropout"),
    (exchanged, "takes the image as another input"),
    (lambda made: setattr(node_of(made, "Relu"), "op_type", "Sigmoid"), "operator Sigmoid"),
    (lambda made: setattr(node_of(made, "Relu"), "op_type", "Identity"), "layer relu1: the export has Mul"),
]


@pytest.mark.parametrize(("change", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_an_export_that_is_not_the_network_is_refused_at_its_layer(
    change: Callable[[ModelProto], None], said: str, framework: str, raw: dict[str, bytes]
) -> None:
    with pytest.raises(NotTheNetwork, match=said.replace("[", r"\[").replace("]", r"\]")):
        export(changed(raw[framework], change), network(), state())


def test_an_export_of_other_weights_or_of_another_network_is_refused(framework: str, raw: dict[str, bytes]) -> None:
    with pytest.raises(NotTheNetwork, match="layer conv1: bias is not the network's own"):
        export(raw[framework], network(), state(seed=1))
    longer = replace(network(), nodes=(*network().nodes[:-1], ReLU("extra"), network().nodes[-1]))
    with pytest.raises(NotTheNetwork, match="layer extra: the export has Gemm where Relu belongs"):
        export(raw[framework], longer, state())


def test_a_graph_with_two_ways_is_refused(raw: dict[str, bytes], framework: str) -> None:
    def fork(made: ModelProto) -> None:
        relu = node_of(made, "Relu")
        made.graph.node.append(helper.make_node("Sigmoid", [relu.output[0]], ["elsewhere"]))

    with pytest.raises(NotTheNetwork, match="goes to 2 operators"):
        export(changed(raw[framework], fork), network(), state())


# ------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("opset", writing.OPSETS)
def test_every_opset_is_the_one_asked_for_and_means_the_same(opset: int, model: ModelProto) -> None:
    made = writing.write(network(), CHAIN, opset)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", opset)]
    assert made.ir_version <= 10  # what onnxruntime 1.18, the oldest that pyproject admits, reads
    assert (
        relative_l2(sessions.run(model, pixels(3)), sessions.run(made, pixels(3))) < 2e-6
    )  # other kernels round otherwise
    exact = [sessions.reference_layers(one, pixels(3))["fc3"] for one in (model, made)]
    assert np.array_equal(*exact)


@pytest.mark.parametrize("opset", [16, 22])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(InputError, match="is not one of 17 to 21"):
        writing.write(network(), CHAIN, opset)


def test_input_and_output_have_their_names_types_and_shapes_and_any_number_of_images_goes(model: ModelProto) -> None:
    run = session(model.SerializeToString())
    (given,), (made,) = run.get_inputs(), run.get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(float)", ["N", 3, 32, 32])
    assert (made.name, made.type, made.shape) == ("logits", "tensor(float)", ["N", 10])
    for count in (1, 2, 7, 128):
        assert run.run(None, {"image": pixels(count)})[0].shape == (count, 10)


def test_softmax_makes_probabilities_of_the_logits(model: ModelProto) -> None:
    made = writing.write(network(), CHAIN, softmax=True)
    logits, chances = sessions.run(model, pixels(4)), sessions.run(made, pixels(4))
    powers = np.exp(logits.astype(np.float64))
    assert [output.name for output in made.graph.output] == ["probabilities"]
    np.testing.assert_allclose(chances, powers / powers.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "how", [recipes.get("article").preprocessing, CIFAR10_STATISTICS], ids=["scaled", "normalised"]
)
def test_preprocessing_inside_the_graph_is_the_one_outside(how: Preprocessing, model: ModelProto) -> None:
    made, pictures = writing.write(network(), CHAIN, preprocessing=how), check_pictures((3, 32, 32))
    assert session(made.SerializeToString()).get_inputs()[0].type == "tensor(uint8)"
    assert relative_l2(scores(model, pictures, how), scores(made, pictures, how)) < 1e-6


def test_folding_takes_every_batch_norm_behind_a_layer_away_and_changes_rounding_only(model: ModelProto) -> None:
    folded = operators.folded(CHAIN)
    assert "BatchNormalization" not in {operator.kind for operator in folded}
    assert len(CHAIN) - len(folded) == 5
    made = writing.write(network(), folded)
    assert relative_l2(sessions.run(model, pixels(8)), sessions.run(made, pixels(8))) < 2e-6


def test_folding_leaves_a_batch_norm_without_a_layer_before_it_and_makes_a_missing_bias() -> None:
    nodes = (
        networks.get("vgg_mini").nodes[1],
        Conv("conv", 4, bias=False),
        replace(networks.get("vgg_mini").nodes[1], name="after"),
        Flatten("flatten"),
        Linear("fc", 2),
    )
    net = Network("norm_first", (3, 4, 4), nodes)
    chain = operators.operators(net, weights_of(net))
    folded = operators.folded(chain)
    assert [operator.kind for operator in folded] == ["BatchNormalization", "Conv", "Flatten", "Gemm"]
    assert "bias" in folded[1].arrays and "bias" not in chain[1].arrays
    images = pixels(3, (3, 4, 4))
    assert relative_l2(*(sessions.run(writing.write(net, made), images) for made in (chain, folded))) < 2e-6


def test_a_layer_may_be_called_like_an_input_or_an_output() -> None:
    net = Network(
        "names",
        (3, 4, 4),
        (ReLU("image"), Flatten("pixels"), Linear("logits", 4), ReLU("probabilities"), Linear("fc", 3)),
    )
    made = writing.write(
        net, operators.operators(net, initialise(net, 0)), softmax=True, preprocessing=CIFAR10_STATISTICS
    )
    assert scores(made, check_pictures((3, 4, 4)), CIFAR10_STATISTICS).shape == (12, 3)


def test_dropout_that_does_nothing_in_inference_is_in_no_graph_and_the_articles_is_a_factor() -> None:
    for kind, expected in (("upscale_in_train", []), ("downscale_in_infer", ["Mul"])):
        net = Network("drop", (3, 4, 4), (Dropout("drop", 0.25, kind), Flatten("flatten"), Linear("fc", 3)))
        kinds = [operator.kind for operator in operators.operators(net, initialise(net, 0))]
        assert kinds == [*expected, "Flatten", "Gemm"]


def test_metadata_is_kept(model: ModelProto) -> None:
    made = writing.write(network(), CHAIN, metadata={"network": network().to_json(), "classes": '["a"]'})
    told = session(made.SerializeToString()).get_modelmeta().custom_metadata_map
    assert Network.from_json(told["network"]) == network()
    assert told["classes"] == '["a"]'


def test_the_float64_graph_holds_the_same_numbers(model: ModelProto) -> None:
    wide = writing.in_float64(model)
    for narrow, wider in zip(model.graph.initializer, wide.graph.initializer, strict=True):
        assert wider.data_type == TensorProto.DOUBLE
        assert np.array_equal(numpy_helper.to_array(narrow), numpy_helper.to_array(wider))
