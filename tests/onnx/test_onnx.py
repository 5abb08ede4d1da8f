"""ONNX graphs: an export that is not the network is refused, both frameworks' files are equal, and runtimes agree with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from helpers.onnx_graphs import BRANCHES, CHAIN, FEW, NORMALISED, ROUNDED_UP, WITHOUT_BIAS, raw_export, weights_of
from helpers.sample_networks import EVERY_KIND
from parity.backend.worker import Worker
from parity.compare.noise_model import inference_noise
from parity.compare.relative_error import relative_l2
from parity.compare.tolerances import inference_tolerance, pair_tolerance
from parity.data.batches import preprocess
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Branches, Conv, Dropout, Flatten, Linear, ReLU, Tanh
from parity.onnx import graph_reader, graph_writer, operators, sessions
from parity.onnx.exporting import check_pictures, compared, export, scores
from parity.onnx.runtime import session
from parity.recipe import presets
from parity.recipe.presets import CIFAR10_STATISTICS
from parity.recipe.recipe import Preprocessing
from parity.selftest.subject import network
from parity.weights.canonical_state import State, initialise


@pytest.fixture
def model() -> ModelProto:
    return graph_writer.write(network(), CHAIN)


def pixels(count: int, shape: tuple[int, ...] = (3, 32, 32)) -> np.ndarray:
    return stream(2, "pixels").uniform(-1, 1, (count, *shape)).astype(np.float32)


# ----------------------------------------------------------------------------------- exports are the network


@pytest.mark.parametrize(
    "net",
    [
        network(),
        EVERY_KIND,
        WITHOUT_BIAS,
        ROUNDED_UP,
        BRANCHES,
        NORMALISED,
        FEW,
        articles.get_network("vgg_mini@0.125"),
    ],
    ids=lambda net: net.name,
)
def test_the_exports_of_both_frameworks_become_equal_files(net: Network, workers: dict[str, Worker]) -> None:
    files = {name: export(raw_export(worker, net), net, weights_of(net)) for name, worker in workers.items()}
    assert files["torch"] == files["paddle"]


def test_exporting_three_times_gives_three_equal_graphs(worker: Worker) -> None:
    made = {export(raw_export(worker, EVERY_KIND), EVERY_KIND, weights_of(EVERY_KIND))}
    made |= {export(worker.export(), EVERY_KIND, weights_of(EVERY_KIND)) for _ in range(2)}
    assert len(made) == 1


@pytest.mark.parametrize("net", [EVERY_KIND, ROUNDED_UP, BRANCHES, NORMALISED, FEW], ids=lambda net: net.name)
def test_an_export_computes_what_the_framework_does(net: Network, framework: str, workers: dict[str, Worker]) -> None:
    worker, images = workers[framework], pixels(5, net.input_shape)
    made = graph_reader.load(export(raw_export(worker, net), net, weights_of(net)))
    eager = worker.predict(images, record=True)
    layers = sessions.run_layers(made, images)
    assert list(layers) == [name for name, layer in net.layers.items() if name != "drop" and not layer.head]
    for layer, array in layers.items():
        assert relative_l2(eager[f"eval/{layer}"], array) < 2e-6, layer
    exact = sessions.reference_layers(made, images)
    worker.start(net, presets.get_recipe("article").optimizer, weights_of(net), "float64")
    eager = worker.predict(images.astype(np.float64), record=True)
    for layer, array in exact.items():
        assert relative_l2(eager[f"eval/{layer}"], array) < 1e-13, layer


def test_an_auxiliary_head_never_reaches_an_exporters_graph_even_after_training(worker: Worker) -> None:
    mark = np.float32(0.12345)
    heads = {name for name in BRANCHES.parameters if name not in BRANCHES.inference.parameters}
    state = {name: np.full_like(a, mark) if name in heads else a for name, a in weights_of(BRANCHES).items()}
    assert heads == {"side_fc.weight", "side_fc.bias"}
    worker.start(BRANCHES, presets.get_recipe("article").optimizer, state, "float32")
    worker.step(pixels(4, BRANCHES.input_shape), np.arange(4), {}, 0.0, 4)
    graph = onnx.load_from_string(worker.export()).graph
    constants = [a.t for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    arrays = [numpy_helper.to_array(tensor) for tensor in (*graph.initializer, *constants)]
    assert not [array.shape for array in arrays if (array == mark).any()]
    assert any((array == state["one.bias"]).all() for array in arrays if array.size == 2), "the trunk's are there"


# ------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("opset", graph_writer.OPSETS)
def test_every_opset_is_as_requested_and_computes_the_same(opset: int, model: ModelProto) -> None:
    made = graph_writer.write(network(), CHAIN, opset)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", opset)]
    assert made.ir_version <= 10  # onnxruntime 1.18, the oldest that pyproject admits, reads it
    assert (
        relative_l2(sessions.run(model, pixels(3)), sessions.run(made, pixels(3))) < 2e-6
    )  # other kernels round differently
    exact = [sessions.reference_layers(one, pixels(3))["fc3"] for one in (model, made)]
    assert np.array_equal(*exact)


@pytest.mark.parametrize("opset", [16, 22])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(InputError, match="choose one from 17 to 21"):
        graph_writer.write(network(), CHAIN, opset)


def test_input_and_output_have_their_names_types_and_shapes_for_any_batch_size(model: ModelProto) -> None:
    run = session(model.SerializeToString())
    (given,), (made,) = run.get_inputs(), run.get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(float)", ["N", 3, 32, 32])
    assert (made.name, made.type, made.shape) == ("logits", "tensor(float)", ["N", 10])
    for count in (1, 2, 7, 128):
        assert run.run(None, {"image": pixels(count)})[0].shape == (count, 10)


def test_softmax_turns_logits_into_probabilities(model: ModelProto) -> None:
    made = graph_writer.write(network(), CHAIN, softmax=True)
    logits, chances = sessions.run(model, pixels(4)), sessions.run(made, pixels(4))
    powers = np.exp(logits.astype(np.float64))
    assert [output.name for output in made.graph.output] == ["probabilities"]
    np.testing.assert_allclose(chances, powers / powers.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "how", [presets.get_recipe("article").preprocessing, CIFAR10_STATISTICS], ids=["scaled", "normalised"]
)
def test_preprocessing_in_the_graph_equals_preprocessing_outside(how: Preprocessing, model: ModelProto) -> None:
    made, pictures = graph_writer.write(network(), CHAIN, preprocessing=how), check_pictures((3, 32, 32))
    assert session(made.SerializeToString()).get_inputs()[0].type == "tensor(uint8)"
    assert relative_l2(scores(model, pictures, how), scores(made, pictures, how)) < 1e-6


def test_folding_removes_batch_norms_and_factors_and_changes_only_rounding(model: ModelProto) -> None:
    folded = operators.fold_batch_norms(CHAIN)
    assert [operator for operator in folded if operator.kind in ("BatchNormalization", "Mul")] == []
    assert len(CHAIN) - len(folded) == sum(operator.kind in ("BatchNormalization", "Mul") for operator in CHAIN) > 5
    made = graph_writer.write(network(), folded)
    assert relative_l2(sessions.run(model, pixels(8)), sessions.run(made, pixels(8))) < 2e-6


def test_a_factor_stays_where_it_cannot_come_before_what_it_follows() -> None:
    nodes = (
        Conv("conv", 4),
        Tanh("tanh"),
        Dropout("bent", 0.5, "downscale_in_infer"),
        Conv("shared", 4),
        ReLU("relu"),
        Branches("both", ((Dropout("branch", 0.2, "downscale_in_infer"),), (ReLU("whole"),))),
        Flatten("flatten"),
        Linear("fc", 3),
        Dropout("last", 0.3, "downscale_in_infer"),
    )
    net = Network("factors", (3, 4, 4), nodes)
    chain = operators.operators(net, weights_of(net))
    folded = operators.fold_batch_norms(chain)
    assert [operator.layer for operator in folded if operator.kind == "Mul"] == ["bent", "branch"]
    factor = chain[-1].arrays["scale"].astype(float)
    for name, array in chain[-2].arrays.items():
        assert np.array_equal(folded[-1].arrays[name], (array * factor).astype(np.float32)), name
    images = pixels(3, (3, 4, 4))
    assert relative_l2(*(sessions.run(graph_writer.write(net, made), images) for made in (chain, folded))) < 2e-6


@pytest.mark.parametrize(("name", "value"), [("variance", -1.0), ("variance", np.nan), ("gamma", 3e38)])
def test_a_fold_that_float32_cannot_hold_is_refused_in_one_line(name: str, value: float) -> None:
    norm = next(operator for operator in CHAIN if operator.kind == "BatchNormalization")
    broken = {**norm.arrays, name: np.full_like(norm.arrays[name], value)}
    broken |= {"variance": np.full_like(broken["variance"], 1e-30)} if name == "gamma" else {}
    chain = [replace(operator, arrays=broken) if operator is norm else operator for operator in CHAIN]
    with pytest.raises(InputError, match=f"{norm.layer} cannot be folded: with its smallest variance"):
        operators.fold_batch_norms(chain)


def test_a_layer_that_does_not_fit_the_one_before_is_not_written() -> None:
    fc = next(operator for operator in CHAIN if operator.layer == "fc1")
    narrow = replace(fc, arrays={**fc.arrays, "weight": fc.arrays["weight"][0]})
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph_writer.write(network(), [narrow if operator is fc else operator for operator in CHAIN])


def test_folding_keeps_a_batch_norm_without_a_layer_and_adds_a_missing_bias() -> None:
    nodes = (
        articles.get_network("vgg_mini").nodes[1],
        Conv("conv", 4, bias=False),
        replace(articles.get_network("vgg_mini").nodes[1], name="after"),
        Flatten("flatten"),
        Linear("fc", 2),
    )
    net = Network("norm_first", (3, 4, 4), nodes)
    chain = operators.operators(net, weights_of(net))
    folded = operators.fold_batch_norms(chain)
    assert [operator.kind for operator in folded] == ["BatchNormalization", "Conv", "Flatten", "Gemm"]
    assert "bias" in folded[1].arrays and "bias" not in chain[1].arrays
    images = pixels(3, (3, 4, 4))
    assert relative_l2(*(sessions.run(graph_writer.write(net, made), images) for made in (chain, folded))) < 2e-6


def test_a_layer_may_be_called_like_an_input_or_an_output() -> None:
    net = Network(
        "names",
        (3, 4, 4),
        (ReLU("image"), Flatten("pixels"), Linear("logits", 4), ReLU("probabilities"), Linear("fc", 3)),
    )
    made = graph_writer.write(
        net, operators.operators(net, initialise(net, 0)), softmax=True, preprocessing=CIFAR10_STATISTICS
    )
    assert scores(made, check_pictures((3, 4, 4)), CIFAR10_STATISTICS).shape == (12, 3)


def test_dropout_is_absent_from_graphs_except_for_the_factor_of_the_articles() -> None:
    for kind, expected in (("upscale_in_train", []), ("downscale_in_infer", ["Mul"])):
        net = Network("drop", (3, 4, 4), (Dropout("drop", 0.25, kind), Flatten("flatten"), Linear("fc", 3)))
        kinds = [operator.kind for operator in operators.operators(net, initialise(net, 0))]
        assert kinds == [*expected, "Flatten", "Gemm"]


def test_metadata_are_written_to_the_file(model: ModelProto) -> None:
    made = graph_writer.write(network(), CHAIN, metadata={"network": network().to_json(), "classes": '["a"]'})
    told = session(made.SerializeToString()).get_modelmeta().custom_metadata_map
    assert Network.from_json(told["network"]) == network()
    assert told["classes"] == '["a"]'


def test_the_pictures_of_checks_are_noise_and_extremes() -> None:
    found = check_pictures((3, 4, 5))
    assert found.shape == (12, 3, 4, 5) and found.dtype == np.uint8
    assert all(len(np.unique(picture)) > 20 for picture in found[:8])
    assert [len(np.unique(picture)) for picture in found[8:]] == [1, 1, 1, 2]
    assert [picture[0, 1, 1] for picture in found[8:]] == [0, 255, 128, 0]


def test_the_scores_of_a_framework_are_compared_with_every_run_within_rounding() -> None:
    net, weights, how = (
        network(),
        {"w": np.linspace(-1, 1, 10 * 3072, dtype=np.float32).reshape(3072, 10)},
        Preprocessing(),
    )

    def predict(given: State, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) @ given["w"]

    def off(by: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda pictures: predict(weights, preprocess(pictures, how)) * np.float32(1 + by)

    found = compared({"same": off(0), "far": off(1e-3)}, predict, net, weights, how, lambda *_: {})
    given = {"scores": preprocess(check_pictures(net.input_shape), how)}
    own = {"scores": predict(weights, given["scores"])}
    noise = inference_noise(lambda w, g: {"scores": predict(w, g["scores"])}, own, weights, given)["scores"]
    tolerance = pair_tolerance(inference_tolerance(noise))
    assert [difference.name for difference in found] == ["same", "far"]
    assert [difference.equal for difference in found] == [True, False]
    assert {difference.bound for difference in found} == {tolerance} and 1e-7 < tolerance < 1e-4


def test_the_float64_graph_holds_the_same_numbers(model: ModelProto) -> None:
    wide = graph_writer.in_float64(model)
    for narrow, wider in zip(model.graph.initializer, wide.graph.initializer, strict=True):
        assert wider.data_type == TensorProto.DOUBLE
        assert np.array_equal(numpy_helper.to_array(narrow), numpy_helper.to_array(wider))
