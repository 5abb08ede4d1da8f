"""An exported graph that is not the network, bit for bit, is refused at the layer that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from helpers.onnx_graphs import BRANCHES, CHAIN, NORMALISED, WITHOUT_BIAS, raw_export, weights_of
from parity.backend.worker import Worker
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import LRN, Flatten, Linear, ReLU
from parity.onnx import graph_writer, operators
from parity.onnx.exporting import export
from parity.onnx.graph_reader import NotTheNetwork
from parity.selftest.subject import network, state


@pytest.fixture(scope="module")
def raw(workers: dict[str, Worker]) -> dict[str, bytes]:
    """The export of either framework's exporter, for a network with every kind of layer of the articles."""
    return {name: raw_export(worker, network()) for name, worker in workers.items()}


@pytest.fixture
def model() -> ModelProto:
    return graph_writer.write(network(), CHAIN)


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
    """Change one bit of a convolution's weight, wherever the exporter keeps it."""
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
    """Insert a Dropout in training mode before the last operator."""
    last = made.graph.node[-1]
    flag = numpy_helper.from_array(np.array(True), "training")
    rate = numpy_helper.from_array(np.array(0.5, np.float32), "rate")
    made.graph.initializer.extend([flag, rate])
    dropout = helper.make_node("Dropout", [last.input[0], "rate", "training"], ["dropped"])
    last.input[0] = "dropped"
    made.graph.node.insert(len(made.graph.node) - 1, dropout)


def exchanged(made: ModelProto) -> None:
    """Make the square linear layer multiply from the other side."""
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
    (one_bit, "weight differs from the network's, compared bit for bit"),
    (dropped_in_training, "Dropout"),
    (exchanged, "does not take the image as its first input"),
    (lambda made: setattr(node_of(made, "Relu"), "op_type", "Sigmoid"), "the export has Sigmoid, the network has Relu"),
    (lambda made: setattr(node_of(made, "Relu"), "op_type", "Identity"), "layer relu1: the export has Mul"),
]


@pytest.mark.parametrize(("change", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_an_export_that_is_not_the_network_is_refused_at_its_layer(
    change: Callable[[ModelProto], None], said: str, framework: str, raw: dict[str, bytes]
) -> None:
    with pytest.raises(NotTheNetwork, match=said.replace("[", r"\[").replace("]", r"\]")):
        export(changed(raw[framework], change), network(), state())


UNKNOWN: list[tuple[str, str, str]] = [
    (
        "relu2",
        "relu2",
        r"layer relu2: operator HardSwish \(relu2\) belongs to no layer in inference; the network has Relu at this place",
    ),
    ("conv1", "conv1", r"layer conv1: operator HardSwish \(conv1\) belongs to no layer"),
    ("fc3", "fc3", r"layer fc3: operator HardSwish \(fc3\) .* the network has Gemm at this place"),
    ("drop2", "drop2", r"layer drop2: operator HardSwish \(drop2\) .* the network has Mul at this place"),
]


@pytest.mark.parametrize(("node", "layer", "said"), UNKNOWN, ids=[row[0] for row in UNKNOWN])
def test_an_unknown_operator_is_named_with_the_layer_at_its_place(
    node: str, layer: str, said: str, model: ModelProto
) -> None:
    def change(made: ModelProto) -> None:
        changed = next(one for one in made.graph.node if one.name == node)
        changed.op_type = "HardSwish"
        del changed.input[1:], changed.attribute[:]

    with pytest.raises(NotTheNetwork, match=said) as refused:
        export(changed(model.SerializeToString(), change), network(), state())
    assert refused.value.layer == layer


def put_behind(kind: str) -> Callable[[ModelProto], None]:
    """Append an operator of the `kind` after the last one."""

    def change(made: ModelProto) -> None:
        made.graph.node[-1].output[0] = "before"
        made.graph.node.append(helper.make_node(kind, ["before"], ["logits"], "behind"))

    return change


def foreign(made: ModelProto) -> None:
    node = node_of(made, "Relu")
    node.op_type, node.domain = "FastGelu", "com.microsoft"


def of_an_index(made: ModelProto) -> None:
    """Make the consumer of a max pool take the indices of the maxima instead of their values."""
    node = node_of(made, "MaxPool")
    node.output.append("places")
    after = next(one for one in made.graph.node if node.output[0] in one.input)
    after.input[0] = "places"


def without_the_last(made: ModelProto) -> None:
    made.graph.node.pop()
    made.graph.node[-1].output[0] = "logits"


def set_kind(made: ModelProto, name: str, kind: str) -> None:
    next(node for node in made.graph.node if node.name == name).op_type = kind


def wrong_before(made: ModelProto) -> None:
    """Change a weight, and insert an unknown operator far after it."""
    one_bit(made)
    set_kind(made, "relu3", "HardSwish")


BLAMED: list[tuple[str, Callable[[ModelProto], None], str, str]] = [
    ("behind the last layer", put_behind("HardSwish"), "", r"operator HardSwish \(behind\) .* it comes after the last layer$"),
    ("a known one behind the last layer", put_behind("Relu"), "", r"the network [0-9]+ \(Relu is too many\)"),
    ("the last one missing", without_the_last, "fc3", r"layer fc3: .* \(Gemm is missing\)"),
    ("of another domain", foreign, "", r"operator com.microsoft.FastGelu \(relu1\) is not ONNX's own"),
    ("another output", of_an_index, "", r"places is not the first output of MaxPool \(pool1\)"),
    (
        "behind what is wrong already",
        wrong_before,
        "conv2",
        r"layer conv2: weight differs from .* bit for bit; further on, operator HardSwish \(relu3\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "layer", "said"), [row[1:] for row in BLAMED], ids=[row[0] for row in BLAMED])
def test_a_layer_is_named_only_if_it_is_known(
    change: Callable[[ModelProto], None], layer: str, said: str, model: ModelProto
) -> None:
    with pytest.raises(NotTheNetwork, match=said) as refused:
        export(changed(model.SerializeToString(), change), network(), state())
    assert refused.value.layer == layer


def test_an_unknown_operator_in_a_branch_is_named_with_its_layer() -> None:
    weights = weights_of(BRANCHES)
    right = graph_writer.write(BRANCHES, operators.operators(BRANCHES, weights)).SerializeToString()
    for name in ("relu", "two", "scaled", "concat"):
        with pytest.raises(NotTheNetwork, match=f"layer {name}: operator Mish .{name}. ") as refused:
            export(changed(right, lambda made, name=name: set_kind(made, name, "Mish")), BRANCHES, weights)
        assert refused.value.layer == name


def test_an_export_of_other_weights_or_of_another_network_is_refused(framework: str, raw: dict[str, bytes]) -> None:
    with pytest.raises(NotTheNetwork, match="layer conv1: bias differs from the network's"):
        export(raw[framework], network(), state(seed=1))
    longer = replace(network(), nodes=(*network().nodes[:-1], ReLU("extra"), network().nodes[-1]))
    with pytest.raises(NotTheNetwork, match="layer extra: the export has Gemm, the network has Relu"):
        export(raw[framework], longer, state())


def only_in(kind: str, change: Callable[[onnx.NodeProto], object]) -> Callable[[ModelProto], None]:
    return lambda made: change(node_of(made, kind)) and None


def put_before(made: ModelProto, kind: str, operator: str, *arrays: np.ndarray, **attributes: object) -> None:
    """Insert an `operator` with constant inputs `arrays` between the first node of `kind` and its input."""
    node = node_of(made, kind)
    names = [f"given{number}" for number in range(len(arrays))]
    made.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
    place = list(made.graph.node).index(node)
    made.graph.node.insert(place, helper.make_node(operator, [node.input[0], *names], ["between"], **attributes))
    made.graph.node[place + 1].input[0] = "between"


def residual(made: ModelProto) -> None:
    """Add the input of a ReLU to its output."""
    node = node_of(made, "Relu")
    place = list(made.graph.node).index(node)
    after = made.graph.node[place + 1]
    made.graph.node.insert(place + 1, helper.make_node("Add", [node.input[0], node.output[0]], ["sum"]))
    made.graph.node[place + 2].input[0] = "sum"
    assert after is not None


def other_layer(made: ModelProto) -> None:
    """Make the second ReLU take the first one's input: all operators are present, but one has a wrong input."""
    first, second = [node for node in made.graph.node if node.op_type == "Relu"][:2]
    second.input[0] = first.output[0]


def negative_zero(made: ModelProto) -> None:
    bias = next(tensor for tensor in made.graph.initializer if tensor.name == "conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, -0.0, np.float32), bias.name))


def wider(made: ModelProto) -> None:
    bias = next(tensor for tensor in made.graph.initializer if tensor.name == "conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias).astype(np.float64), bias.name))


def two_outputs(made: ModelProto) -> None:
    made.graph.output.append(helper.make_tensor_value_info("relu1", TensorProto.FLOAT, None))


def local_function(made: ModelProto) -> None:
    made.functions.append(helper.make_function("here", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 18)]))


def sized(place: int, size: int) -> Callable[[ModelProto], None]:
    return lambda made: setattr(made.graph.input[0].type.tensor_type.shape.dim[place], "dim_value", size)


def not_transposed(made: ModelProto) -> None:
    """Remove transB from the square linear layer, which transposes its weight."""
    node = next(node for node in made.graph.node if node.name == "fc2")
    del node.attribute[:]


WRONG: list[tuple[str, Callable[[ModelProto], None], str]] = [
    ("alpha", set_attribute("Gemm", "alpha", 2.0), "has alpha = 2.0, not 1.0"),
    ("beta", set_attribute("Gemm", "beta", 0.5), "has beta = 0.5, not 1.0"),
    ("transposed input", set_attribute("Gemm", "transA", 1), "has transA = 1, not 0"),
    ("not transposed", not_transposed, "layer fc2: weight differs from the network's"),
    ("auto_pad", set_attribute("Conv", "auto_pad", "SAME_UPPER"), "has auto_pad"),
    ("unknown attribute", set_attribute("Relu", "slope", 0.1), "has an unknown attribute slope"),
    ("fewer operators", without_the_last, "the export has [0-9]+ operators, the network [0-9]+ .Gemm."),
    ("computed flag", lambda made: put_before(made, "Relu", "Dropout", np.float32(0.5), np.array(True)), "Dropout"),
    ("flag of the image", only_in("Relu", lambda node: node.input.append(node.input[0])), "takes other inputs than"),
    (
        "a second bias",
        lambda made: put_before(made, "BatchNormalization", "Add", np.ones((8, 1, 1), "f4")),
        "is not the bias of a layer",
    ),
    (
        "a factor of rank 5",
        lambda made: put_before(made, "Relu", "Mul", np.ones([1] * 5, "f4")),
        "does not multiply by a single constant",
    ),
    (
        "a factor a channel",
        lambda made: put_before(made, "Relu", "Mul", np.ones((8, 1, 1), "f4")),
        "does not multiply by a single constant",
    ),
    (
        "an Add of the image",
        lambda made: put_before(made, "Conv", "Add", np.ones((3, 1, 1), "f4")),
        "is not the bias of a layer",
    ),
    ("a residual", residual, "layer drop1: the export has Add, the network has Mul"),
    ("another way", other_layer, "takes the output of another layer|is not the network|the export has"),
    ("-0.0", negative_zero, "layer conv1: bias differs from the network's, compared bit for bit"),
    ("float64", wider, "layer conv1: bias differs from the network's, compared bit for bit"),
    ("two outputs", two_outputs, "exactly one input and one output"),
    ("foreign domain", only_in("Relu", lambda node: setattr(node, "domain", "elsewhere")), "not ONNX's own"),
    ("local function", local_function, "not ONNX's own"),
    ("fixed batch", sized(0, 2), r"takes \[2, 3, 32, 32\], not float32 \['N', 3, 32, 32\]"),
    ("other size", sized(2, 16), r"takes \['N', 3, 16, 32\]"),
    (
        "from nowhere",
        only_in("Relu", lambda node: node.input.__setitem__(0, "nothing")),
        "does not come from the image",
    ),
    ("from itself", only_in("Relu", lambda node: node.input.__setitem__(0, node.output[0])), "cannot be read"),
    ("unreadable", lambda made: setattr(made.graph.initializer[0], "data_type", 99), "cannot be read"),
]


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_graph_of_other_operators_is_refused(
    change: Callable[[ModelProto], None], said: str, model: ModelProto
) -> None:
    right = model.SerializeToString()
    export(right, network(), state())  # our files are read like an exporter's
    with pytest.raises(NotTheNetwork, match=said):
        export(changed(right, change), network(), state())


def test_an_exporters_bias_of_zeros_is_ignored_and_any_other_is_not() -> None:
    chain = operators.operators(WITHOUT_BIAS, weights_of(WITHOUT_BIAS))
    for bias, refused in ((0.0, False), (1e-45, True)):
        first = replace(chain[0], arrays={**chain[0].arrays, "bias": np.full(4, bias, np.float32)})
        data = graph_writer.write(WITHOUT_BIAS, [first, *chain[1:]]).SerializeToString()
        if refused:
            with pytest.raises(NotTheNetwork, match="layer conv1: the network has no bias"):
                export(data, WITHOUT_BIAS, weights_of(WITHOUT_BIAS))
        else:
            export(data, WITHOUT_BIAS, weights_of(WITHOUT_BIAS))


def test_a_bias_may_follow_its_layer_only_in_the_right_rank() -> None:
    for shape, good in (((5,), True), ((1, 5), True), ((1, 1, 5), False), ((5, 1), False)):
        nodes = (Flatten("flatten"), Linear("fc", 5))
        net = Network("behind", (1, 2, 2), nodes)
        weights = weights_of(net)
        chain = operators.operators(net, weights)
        bare = replace(chain[1], arrays={"weight": chain[1].arrays["weight"]})
        made = graph_writer.write(net, [chain[0], bare])
        made.graph.node[-1].output[0] = "bare"
        made.graph.initializer.append(numpy_helper.from_array(weights["fc.bias"].reshape(shape), "fc.bias"))
        made.graph.node.append(helper.make_node("Add", ["fc.bias", "bare"], ["logits"]))
        if good:
            export(made.SerializeToString(), net, weights)
        else:
            with pytest.raises(NotTheNetwork, match="to 5 channels"):
                export(made.SerializeToString(), net, weights)


# --------------------------------------------------------------------------------------------- beyond chains


def branches_exchanged(made: ModelProto) -> None:
    node = node_of(made, "Concat")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def branch_twice(made: ModelProto) -> None:
    node = node_of(made, "Concat")
    node.input[0] = node.input[1]


def padded_with(value: float, *more: int) -> Callable[[ModelProto], None]:
    """Insert a Pad of one row above, by `value`, before the convolution `one`."""

    def change(made: ModelProto) -> None:
        node = next(node for node in made.graph.node if node.name == "one")
        pads = np.array(more or [0, 0, 1, 0, 0, 0, 0, 0])
        made.graph.initializer.append(numpy_helper.from_array(pads, "pads"))
        made.graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(()), "value"))
        place = list(made.graph.node).index(node)
        made.graph.node.insert(place, helper.make_node("Pad", [node.input[0], "pads", "value"], ["padded"], "pad"))
        made.graph.node[place + 1].input[0] = "padded"

    return change


def other_sum(made: ModelProto) -> None:
    """Make a log-softmax subtract the log-sum-exp of other values."""
    last = made.graph.node[-1]
    place = len(made.graph.node) - 1
    made.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    made.graph.node.insert(place, helper.make_node("ReduceLogSumExp", [last.input[0], "axes"], ["sum"], keepdims=1))
    made.graph.node.insert(place + 1, helper.make_node("Tanh", [last.input[0]], ["squashed"]))
    del made.graph.node[-1]
    made.graph.node.append(helper.make_node("Sub", ["squashed", "sum"], ["logits"]))


WRONG_BRANCHES: list[tuple[str, Callable[[ModelProto], None], str]] = [
    ("branches exchanged", branches_exchanged, "layer one|layer peak"),
    ("one branch twice", branch_twice, "layer one"),
    ("joined along another axis", set_attribute("Concat", "axis", 2), "layer concat: axis is 2"),
    ("padded by zeros", padded_with(0.0), "layer one: pads is"),
    ("padded by something", padded_with(1.0), "pads by 1.0"),
    (
        "more channels",
        padded_with(0.0, 0, 1, 0, 0, 0, 0, 0, 0),
        "layer one: the export has PadChannels, the network has Conv",
    ),
    ("more images", padded_with(0.0, 1, 0, 0, 0, 0, 0, 0, 0), "pads more than height and width"),
    ("the sum of something else", other_sum, "operator Sub"),
    ("log-softmax along another axis", set_attribute("LogSoftmax", "axis", 0), "layer log_softmax: axis is 0"),
]


@pytest.mark.parametrize(
    ("change", "said"), [row[1:] for row in WRONG_BRANCHES], ids=[row[0] for row in WRONG_BRANCHES]
)
def test_a_graph_with_other_branches_is_refused(change: Callable[[ModelProto], None], said: str) -> None:
    weights = weights_of(BRANCHES)
    right = graph_writer.write(BRANCHES, operators.operators(BRANCHES, weights)).SerializeToString()
    export(right, BRANCHES, weights)
    with pytest.raises(NotTheNetwork, match=said):
        export(changed(right, change), BRANCHES, weights)


def constant(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[ModelProto], None]:
    def edit(made: ModelProto) -> None:
        tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

    return edit


def twice_as_far(made: ModelProto) -> None:
    node = next(node for node in made.graph.node if node.name == "norm.sums")
    node.input[0] = node.input[1]


def nearly_squares(made: ModelProto) -> None:
    """Make the sums larger by a millionth."""
    made.graph.initializer.append(numpy_helper.from_array(np.float32([1.000001]), "factor"))
    scaled = next(node for node in made.graph.node if node.name == "norm.scaled")
    place = list(made.graph.node).index(scaled)
    made.graph.node.insert(place, helper.make_node("Mul", [scaled.input[0], "factor"], ["larger"], "larger"))
    made.graph.node[place + 1].input[0] = "larger"


WRONG_NORMALISATION: list[tuple[str, Callable[[ModelProto], None], str]] = [
    ("alpha", constant("norm.alpha", lambda a: np.nextafter(a, np.float32(1))), "layer norm: alpha differs from the"),
    ("k", constant("norm.k", lambda a: a + np.float32(1)), "layer norm: k differs from the"),
    ("beta", constant("norm.beta", lambda a: a * np.float32(2)), "layer norm: beta differs from the"),
    ("a constant a channel", constant("norm.alpha", lambda a: np.full((7, 1, 1), a)), "operator"),
    ("the window stands elsewhere", constant("norm.edges", lambda a: a[[0, 5, 2, 3, 4, 1, 6, 7]]), "operator"),
    ("one channel twice, one not at all", twice_as_far, "operator"),
    ("sums that are nearly of squares", nearly_squares, "operator"),
    ("no squares", only_in("Mul", lambda node: setattr(node, "op_type", "Add")), "operator"),
]


@pytest.mark.parametrize(
    ("change", "said"), [row[1:] for row in WRONG_NORMALISATION], ids=[row[0] for row in WRONG_NORMALISATION]
)
def test_a_changed_normalisation_is_refused(change: Callable[[ModelProto], None], said: str) -> None:
    weights = weights_of(NORMALISED)
    right = graph_writer.write(NORMALISED, operators.operators(NORMALISED, weights)).SerializeToString()
    export(right, NORMALISED, weights)
    with pytest.raises(NotTheNetwork, match=said):
        export(changed(right, change), NORMALISED, weights)


def test_the_sizes_of_a_window_are_distinguished() -> None:
    for size in (1, 2, 3, 5, 6):
        net = Network("window", (7, 4, 4), (LRN("norm", size), Flatten("flatten"), Linear("fc", 3)))
        right = graph_writer.write(net, operators.operators(net, weights_of(net))).SerializeToString()
        export(right, net, weights_of(net))
        with pytest.raises(NotTheNetwork, match="layer norm: size is"):
            export(right, replace(net, nodes=(LRN("norm", size + 1), *net.nodes[1:])), weights_of(net))


@pytest.mark.parametrize(("step", "read"), [("norm.fourth_root", "norm.shifted"), ("norm.root", "norm.scaled")])
def test_other_roots_than_those_of_a_normalisation_are_refused(step: str, read: str) -> None:
    net = Network("roots", (7, 4, 4), (LRN("norm"), Flatten("flatten"), Linear("fc", 3)))
    right = graph_writer.write(net, operators.operators(net, weights_of(net))).SerializeToString()
    export(right, net, weights_of(net))

    def change(model: ModelProto) -> None:
        next(node for node in model.graph.node if node.name == step).input[0] = read

    with pytest.raises(NotTheNetwork, match="norm"):
        export(changed(right, change), net, weights_of(net))


def test_a_layer_of_a_kind_that_exports_do_not_support_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(operators.SPELLED, LRN)
    with pytest.raises(InputError, match="layer norm is of kind LRN"):
        operators.operators(NORMALISED, weights_of(NORMALISED))
