"""Reads an exporter's graph back as a chain of operators, and holds it against the network, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from parity.onnx.operators import Operator


class NotTheNetwork(Exception):
    """An exported graph does not compute what its network does in inference; the message names the layer or operator.

    `layer` is the network's layer where it is known, otherwise "".
    """

    def __init__(self, message: str, layer: str = "") -> None:
        super().__init__(f"layer {layer}: {message}" if layer else message)
        self.layer = layer


DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1], "group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0]},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "BatchNormalization": {"epsilon": 1e-5, "training_mode": 0},
    "MaxPool": {
        "auto_pad": b"NOTSET",
        "ceil_mode": 0,
        "dilations": [1, 1],
        "pads": [0, 0, 0, 0],
        "storage_order": 0,
        "strides": [1, 1],
    },
    "AveragePool": {
        "auto_pad": b"NOTSET",
        "ceil_mode": 0,
        "count_include_pad": 0,
        "dilations": [1, 1],
        "pads": [0, 0, 0, 0],
        "strides": [1, 1],
    },
    "Flatten": {"axis": 1},
}
"""ONNX's defaults of the attributes that matter in inference."""

IGNORED = {"BatchNormalization": {"momentum"}, "Reshape": {"allowzero"}}
"""Attributes without meaning in inference."""


COMMUTATIVE = ("Add", "Mul")
"""Operators whose inputs may be exchanged."""


def read(model: ModelProto) -> list[Operator]:
    """The operators on the way from the one input to the one output of `model`, without layer names.

    Constants are computed, copies left out, a bias that is added goes into its layer, a MatMul becomes a Gemm and a Reshape a
    Flatten. `NotTheNetwork` names an operator that no network here has in inference, such as dropout that acts.
    """
    constants = _constants(model)
    chain: list[Operator] = []
    for node in _path(model):
        if node.op_type not in READERS:
            raise NotTheNetwork(f"operator {node.op_type} ({node.name}) belongs to no layer in inference")
        READERS[node.op_type](node, [constants[name] for name in node.input if name in constants], chain)
    return chain


def _constants(model: ModelProto) -> dict[str, np.ndarray]:
    """Every value that does not depend on the input."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Shape" and all(name in found for name in node.input):
            evaluator = ReferenceEvaluator(node, opsets={entry.domain: entry.version for entry in model.opset_import})
            outputs = evaluator.run(None, {name: found[name] for name in node.input})
            found |= dict(zip(node.output, outputs, strict=True))
    return found


def _path(model: ModelProto) -> list[NodeProto]:
    """The nodes that the image passes through, in order. Shape computations branch off and are left out."""
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise NotTheNetwork("the graph has not one input and one output")
    value, path = model.graph.input[0].name, []
    while value != model.graph.output[0].name:
        takers = [node for node in model.graph.node if value in node.input and node.op_type != "Shape"]
        if len(takers) != 1:
            raise NotTheNetwork(f"value {value} goes to {len(takers)} operators, not to one")
        if takers[0].input[0] != value and takers[0].op_type not in COMMUTATIVE:
            raise NotTheNetwork(f"operator {takers[0].op_type} ({takers[0].name}) takes the image as another input")
        path.append(takers[0])
        value = takers[0].output[0]
    return path


def _attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes with their defaults; `NotTheNetwork` for an attribute that is unknown here."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    known = DEFAULTS.get(node.op_type, {})
    unknown = set(given) - set(known) - IGNORED.get(node.op_type, set()) - {"kernel_shape"}
    if unknown:
        raise NotTheNetwork(f"operator {node.op_type} ({node.name}) has an attribute {min(unknown)}")
    return known | {name: value for name, value in given.items() if name not in IGNORED.get(node.op_type, ())}


def _must(node: NodeProto, attributes: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """Takes attributes out of `attributes` that must have one value."""
    for name, value in wanted.items():
        if (found := attributes.pop(name)) != value:
            raise NotTheNetwork(f"operator {node.op_type} ({node.name}) has {name} = {found}, not {value}")
    return attributes


Read = Callable[[NodeProto, list[np.ndarray], list[Operator]], None]


def _conv(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    attributes = _must(node, _attributes(node), auto_pad=b"NOTSET", dilations=[1, 1])
    chain.append(Operator("", "Conv", attributes, dict(zip(("weight", "bias"), given, strict=False))))


def _gemm(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    attributes = _must(node, _attributes(node), alpha=1.0, beta=1.0, transA=0)
    weight, *bias = given
    if not attributes["transB"]:
        weight = weight.T
    chain.append(Operator("", "Gemm", {"transB": 1}, dict(zip(("weight", "bias"), (weight, *bias), strict=False))))


def _matmul(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    if len(given) != 1:
        raise NotTheNetwork(f"operator MatMul ({node.name}) has no constant weight")
    chain.append(Operator("", "Gemm", {"transB": 1}, {"weight": given[0].T}))


def _add(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    """A bias: [C] of a linear layer, [C,1,1] of a convolution."""
    layer = chain[-1] if chain else None
    if len(given) != 1 or layer is None or layer.kind not in ("Conv", "Gemm") or "bias" in layer.arrays:
        raise NotTheNetwork(f"operator Add ({node.name}) is no bias of a layer")
    channels, ndim = len(layer.arrays["weight"]), 3 if layer.kind == "Conv" else 1
    if given[0].shape[-ndim:] != (channels, *[1] * (ndim - 1)) or given[0].size != channels:
        raise NotTheNetwork(f"operator Add ({node.name}) adds {given[0].shape} behind {channels} channels")
    chain[-1] = Operator("", layer.kind, layer.attributes, {**layer.arrays, "bias": given[0].reshape(-1)})


def _batch_norm(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    attributes = _must(node, _attributes(node), training_mode=0)
    arrays = dict(zip(("gamma", "beta", "mean", "variance"), given, strict=True))
    chain.append(Operator("", "BatchNormalization", attributes, arrays))


def _pool(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    attributes = _must(node, _attributes(node), auto_pad=b"NOTSET", dilations=[1, 1])
    attributes.pop("storage_order", None)  # of the indices, which nobody asks for
    chain.append(Operator("", node.op_type, attributes))


def _relu(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    chain.append(Operator("", "Relu", _attributes(node)))


def _mul(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    if len(given) != 1 or given[0].size != 1:
        raise NotTheNetwork(f"operator Mul ({node.name}) multiplies by no single constant")
    chain.append(Operator("", "Mul", {}, {"scale": given[0].reshape(())}))


def _flatten(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    attributes = _attributes(node) if node.op_type == "Flatten" else {"axis": 1}
    chain.append(Operator("", "Flatten", attributes))


def _identity(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    """Nothing."""


def _dropout(node: NodeProto, given: list[np.ndarray], chain: list[Operator]) -> None:
    """Nothing in inference: the third input says whether it trains."""
    if len(node.input) > 2 and node.input[2] and not (len(given) == len(node.input) - 1 and not given[-1]):
        raise NotTheNetwork(f"operator Dropout ({node.name}) acts: it was exported in training mode")


READERS: dict[str, Read] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Relu": _relu,
    "Mul": _mul,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Identity": _identity,
    "Dropout": _dropout,
}


def prove(found: Iterable[Operator], wanted: Iterable[Operator]) -> None:
    """`NotTheNetwork`, naming the layer, unless both chains are the same, attributes and arrays to the bit."""
    found, wanted = list(found), list(wanted)
    for here, there in zip(found, wanted, strict=False):
        if here.kind != there.kind:
            raise NotTheNetwork(f"the export has {here.kind} where {there.kind} belongs", there.layer)
        for name in sorted({*here.attributes, *there.attributes}):
            values = (here.attributes.get(name), there.attributes.get(name))
            if not _alike(*values):
                raise NotTheNetwork(f"{name} is {values[0]} in the export, {values[1]} in the network", there.layer)
        for name in sorted({*here.arrays, *there.arrays}):
            if name not in here.arrays or name not in there.arrays:
                side = "network" if name in here.arrays else "export"
                raise NotTheNetwork(f"the {side} has no {name}", there.layer)
            a, b = here.arrays[name], there.arrays[name]
            if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=True):
                raise NotTheNetwork(f"{name} is not the network's own, to the bit", there.layer)
    if len(found) != len(wanted):
        rest = (found + wanted)[min(len(found), len(wanted))]
        raise NotTheNetwork(f"the export has {len(found)} operators, the network {len(wanted)} ({rest.kind})")


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return np.float32(a) == np.float32(b)  # attributes are float32
    return bool(a == b)


def load(data: bytes) -> ModelProto:
    """The model in the bytes of an exporter."""
    return onnx.load_from_string(data)
