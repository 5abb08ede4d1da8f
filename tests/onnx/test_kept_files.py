"""The bytes that an export keeps are read back and verified: anything lost or changed in writing is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from helpers.onnx_graphs import BRANCHES, FEW, NORMALISED, ROUNDED_UP, WITHOUT_BIAS, raw_export, weights_of
from helpers.sample_networks import BRANCHED, EVERY_KIND
from parity.backend.worker import Worker
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    LRN,
    AvgPool,
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
from parity.onnx import graph_reader, graph_writer, operators, sessions
from parity.onnx.exporting import export, verify_file
from parity.onnx.graph_reader import NotTheNetwork
from parity.onnx.operators import Operator
from parity.recipe.presets import CIFAR10_STATISTICS
from parity.recipe.recipe import Preprocessing
from parity.selftest.subject import network

WHOLE = Network(
    "whole",
    (3, 9, 8),
    (
        BatchNorm("first", eps=3e-4),
        Conv("conv", 4, 3, 2, padding="same", groups=1, bias=False),
        BatchNorm("bn", eps=1.1e-5),
        ReLU("relu"),
        LRN("lrn", 3, 1.5, 0.1, 0.7),
        Branches("joined", ((Conv("one", 2, 1, padding=0), GELU("gelu")), (MaxPool("peak", 2, 1, padding="same"),))),
        AvgPool("mean", 2, 1, 1),
        Dropout("idle", 0.5),
        Dropout("scaled", 0.25, "downscale_in_infer"),
        Flatten("flatten"),
        Linear("fc", 7),
        BatchNorm("bn_fc", eps=1e-3),
        Linear("square", 7),
        LogSoftmax("log_softmax"),
    ),
)
"""A network with everything that a file with a fixed image size can hold. Its eps is not ONNX's default, its padding asymmetric."""

SIZELESS = Network(
    "sizeless",
    (3, 8, 8),
    (Conv("conv", 4), BatchNorm("bn", eps=1.1e-5), ReLU("relu"), GlobalAvgPool("pool"), Linear("fc", 4)),
)

METADATA = {"network": WHOLE.to_json(), "classes": '["a"]'}


@dataclass(frozen=True)
class Form:
    """The contents of a file: a network, folded or not, and further arguments of the writer."""

    network: Network
    fold: bool
    arguments: dict[str, Any]

    @property
    def chain(self) -> list[Operator]:
        """The operators that the file must contain."""
        chain = operators.operators(self.network, weights_of(self.network))
        return operators.fold_batch_norms(chain) if self.fold else chain

    def write(self) -> ModelProto:
        """The model that the writer makes."""
        return graph_writer.write(self.network, self.chain, **self.arguments)

    def verify(self, model: ModelProto) -> None:
        """Verify the bytes of `model`."""
        verify_file(model.SerializeToString(), self.network, self.chain, **self.arguments)


FORMS = {
    "plain": Form(WHOLE, False, {}),
    "folded, with preprocessing and softmax": Form(
        WHOLE, True, {"opset": 17, "softmax": True, "preprocessing": CIFAR10_STATISTICS, "metadata": METADATA}
    ),
    "of any size": Form(SIZELESS, False, {"opset": 21, "any_size": True}),
    "of any size, with preprocessing and softmax": Form(
        SIZELESS,
        False,
        {"softmax": True, "preprocessing": CIFAR10_STATISTICS, "any_size": True, "metadata": {"a": "b"}},
    ),
}


@pytest.mark.parametrize("opset", graph_writer.OPSETS)
@pytest.mark.parametrize("fold", [False, True], ids=["as it is", "folded"])
@pytest.mark.parametrize(
    "net",
    [WHOLE, SIZELESS, network(), EVERY_KIND, BRANCHED, BRANCHES, FEW, NORMALISED, ROUNDED_UP, WITHOUT_BIAS],
    ids=lambda net: net.name,
)
def test_every_form_of_a_file_is_read_back_unchanged(net: Network, fold: bool, opset: int) -> None:
    channels = net.input_shape[0]
    scaled = Preprocessing((0.5,) * channels, (0.25,) * channels)
    for preprocessing in (None, Preprocessing((0.0,) * channels, (1.0,) * channels), scaled):
        for softmax in (False, True):
            arguments = {"opset": opset, "softmax": softmax, "preprocessing": preprocessing, "metadata": METADATA}
            form = Form(net, fold, arguments | {"any_size": net == SIZELESS})
            form.verify(form.write())


@pytest.mark.parametrize("net", [WHOLE, SIZELESS, BRANCHED], ids=lambda net: net.name)
@pytest.mark.parametrize("fold", [False, True], ids=["as it is", "folded"])
def test_both_frameworks_exports_of_every_form_are_kept(net: Network, fold: bool, workers: dict[str, Worker]) -> None:
    arguments = {"opset": 17, "softmax": True, "preprocessing": CIFAR10_STATISTICS, "any_size": net == SIZELESS}
    form = Form(net, fold, arguments)
    for worker in workers.values():
        kept = export(raw_export(worker, net), net, weights_of(net), fold, **arguments)
        assert kept == form.write().SerializeToString()


# ---------------------------------------------------------------------------------------------- what is lost in writing


def nodes_changed(model: ModelProto) -> Iterator[tuple[str, Callable[[NodeProto], None], int]]:
    """Changes of the operator at a place: an attribute dropped or changed, inputs dropped or exchanged."""
    for place, node in enumerate(model.graph.node):
        known = graph_reader.DEFAULTS.get(node.op_type, {})
        for entry in node.attribute:
            what, value = f"{node.name}.{entry.name}", helper.get_attribute_value(entry)
            if known.get(entry.name) != value and not _is_only_axis(node):
                yield f"{what} dropped", lambda one, name=entry.name: _without(one, name), place
            for other in _others(value):
                yield f"{what} = {other}", lambda one, name=entry.name, to=other: _with(one, name, to), place
        if len(node.input) > 1:
            yield f"{node.name} without its last input", lambda one: one.input.pop() and None, place
        if len(set(node.input)) > 1 and node.op_type not in ("Add", "Mul", "Sum"):
            yield f"{node.name} with its last inputs exchanged", _exchange, place


def _is_only_axis(node: NodeProto) -> bool:
    """Whether it takes a vector for each image, so that ONNX's default, the last axis, is the only one."""
    return node.op_type in ("Softmax", "LogSoftmax")


def _others(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [[*value[:i], value[i] + by, *value[i + 1 :]] for i in range(len(value)) for by in (-1, 1)]
    if isinstance(value, int):
        return [value - 1, value + 1]
    return [float(np.nextafter(np.float32(value), np.float32(end))) for end in (0, 1)]


def _without(node: NodeProto, name: str) -> None:
    rest = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(rest)


def _with(node: NodeProto, name: str, value: Any) -> None:
    _without(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _exchange(node: NodeProto) -> None:
    node.input[-2], node.input[-1] = node.input[-1], node.input[-2]


def arrays_changed(model: ModelProto) -> Iterator[tuple[str, int, np.ndarray | None]]:
    """The array at a place with one number changed, with another dtype or shape, or None (dropped)."""
    for place, tensor in enumerate(model.graph.initializer):
        yield f"{tensor.name} dropped", place, None
        array = numpy_helper.to_array(tensor)
        for index in {0, array.size // 2, array.size - 1}:
            other = array.copy()
            # Decrease it: an increase at the end of a window's last slice is beyond the channels and changes nothing.
            other.flat[index] = (
                np.nextafter(other.flat[index], 9, dtype="f4") if array.dtype == "f4" else other.flat[index] - 1
            )
            yield f"{tensor.name}[{index}]", place, other
        if array.dtype == np.float32:
            yield f"{tensor.name} in float64", place, array.astype(np.float64)
            yield f"{tensor.name} of another shape", place, array[None, None, None]


def bypassed(model: ModelProto) -> Iterator[tuple[str, Callable[[ModelProto], None]]]:
    """The model without one operator: those that take its output take its first input instead."""
    for place, node in enumerate(model.graph.node[:-1]):

        def change(made: ModelProto, place: int = place) -> None:
            gone = made.graph.node[place]
            for other in made.graph.node:
                for number, name in enumerate(other.input):
                    if name == gone.output[0]:
                        other.input[number] = gone.input[0]

        yield f"without {node.name}", change


def around(model: ModelProto) -> Iterator[tuple[str, Callable[[ModelProto], None]]]:
    """Changes of everything in the model around the graph's operators."""

    def last_is_another(made: ModelProto) -> None:
        made.graph.output[0].name = made.graph.node[-2].output[0]

    yield "another output", last_is_another
    yield "another opset", lambda made: setattr(made.opset_import[0], "version", made.opset_import[0].version + 1)
    yield "a size of the input", lambda made: setattr(made.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 5)
    yield "one image at a time", lambda made: setattr(made.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1)
    kinds = (TensorProto.UINT8, TensorProto.FLOAT)
    kind = model.graph.input[0].type.tensor_type.elem_type
    (other,) = set(kinds) - {kind}
    yield "the input's type", lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", other)
    yield "metadata that nobody gave", lambda made: helper.set_model_props(made, {"b": "c"})
    if model.metadata_props:
        yield "no metadata", lambda made: made.ClearField("metadata_props")
        yield "other metadata", lambda made: setattr(made.metadata_props[0], "value", "other")


def mutants(model: ModelProto) -> Iterator[tuple[str, ModelProto]]:
    """Copies of `model` with one change each, and the name of the change."""

    def copy() -> ModelProto:
        made = ModelProto()
        made.CopyFrom(model)
        return made

    for what, change, place in nodes_changed(model):
        made = copy()
        change(made.graph.node[place])
        yield what, made
    for what, place, array in arrays_changed(model):
        made = copy()
        tensor = made.graph.initializer[place]
        if array is None:
            made.graph.initializer.remove(tensor)
        else:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
        yield what, made
    for what, alter in (*bypassed(model), *around(model)):
        made = copy()
        alter(made)
        yield what, made


@pytest.mark.parametrize("name", FORMS)
def test_no_attribute_and_no_array_of_a_file_can_be_lost_or_changed(name: str) -> None:
    form = FORMS[name]
    model = form.write()
    form.verify(model)
    count, passed = 0, []
    for what, made in mutants(model):
        count += 1
        try:
            form.verify(made)
            passed.append(what)
        except NotTheNetwork:
            pass
    assert not passed, passed
    assert count > 4 * len(model.graph.node) + 4 * len(model.graph.initializer)


def without(kind: str, attribute: str) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        for node in made.graph.node:
            if node.op_type == kind:
                _without(node, attribute)

    return change


def scaled_by(value: float) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        tensor = next(tensor for tensor in made.graph.initializer if tensor.name == "scaled.by")
        tensor.CopyFrom(numpy_helper.from_array(np.float32(value).reshape(()), tensor.name))

    return change


LOSSES: list[tuple[str, Callable[[ModelProto], None], str, str]] = [
    ("epsilon", without("BatchNormalization", "epsilon"), "bn", "layer bn: .* epsilon is 1e-05 in the export, 1.1"),
    ("metadata", lambda made: made.ClearField("metadata_props"), "", "wrong: its metadata differs from"),
    ("the pixels' scale", scaled_by(256), "scaled.", "by differs from the network's"),
]


@pytest.mark.parametrize(("change", "layer", "said"), [row[1:] for row in LOSSES], ids=[row[0] for row in LOSSES])
def test_a_file_in_which_the_writer_loses_something_is_refused(
    change: Callable[[ModelProto], None], layer: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of(SIZELESS)
    raw = graph_writer.write(SIZELESS, operators.operators(SIZELESS, weights)).SerializeToString()
    arguments = {"preprocessing": CIFAR10_STATISTICS, "metadata": METADATA}
    right = export(raw, SIZELESS, weights, **arguments)
    write = graph_writer.write

    def broken(*given: Any, **named: Any) -> ModelProto:
        made = write(*given, **named)
        change(made)
        return made

    monkeypatch.setattr(graph_writer, "write", broken)
    with pytest.raises(NotTheNetwork, match=said) as refused:
        export(raw, SIZELESS, weights, **arguments)
    assert refused.value.layer == layer and "the file made of the export is wrong" in str(refused.value)
    assert right == write(SIZELESS, operators.operators(SIZELESS, weights), **arguments).SerializeToString()


def test_float32_scores_do_not_show_an_epsilon_that_was_lost() -> None:
    """Equal scores do not verify a file: with ONNX's 1e-5 instead of 1.1e-5 they differ by less than rounding allows."""
    right = FORMS["of any size"].write()
    wrong = onnx.load_from_string(right.SerializeToString())
    without("BatchNormalization", "epsilon")(wrong)
    images = np.random.default_rng(0).random((8, 3, 8, 8), np.float32)
    a, b = (sessions.run(model, images) for model in (right, wrong))
    assert np.linalg.norm(a - b) / np.linalg.norm(a) < 5e-6


def test_a_fold_uses_the_epsilon_of_the_batch_norm() -> None:
    """Fold variances that are so small that another eps makes other weights."""
    for eps in (1.1e-5, 1e-3):
        norm = BatchNorm("bn", eps=eps)
        net = replace(SIZELESS, nodes=(SIZELESS.nodes[0], norm, *SIZELESS.nodes[2:]))
        state = weights_of(net) | {"bn.variance": np.full(4, 1e-5, np.float32)}
        chain = operators.operators(net, state)
        images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
        a, b = (
            sessions.reference_layers(graph_writer.write(net, made), images)["fc"]
            for made in (chain, operators.fold_batch_norms(chain))
        )
        assert np.linalg.norm(a - b) / np.linalg.norm(a) < 1e-6


@pytest.mark.parametrize(
    ("how", "what"), [({"standardise": True}, "standardises every image"), ({"permutation": 1}, "permutes the pixels")]
)
def test_a_preprocessing_that_graphs_cannot_do_is_refused(how: dict[str, Any], what: str) -> None:
    chain = operators.operators(SIZELESS, weights_of(SIZELESS))
    with pytest.raises(InputError, match=f"the recipe {what}, but a graph can only scale pixels"):
        graph_writer.write(SIZELESS, chain, preprocessing=Preprocessing(**how))
