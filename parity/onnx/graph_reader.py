"""Reads an ONNX graph, an exporter's or ours, as a list of operators, and compares it with the network, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from parity.arrays import Array
from parity.network.nodes import Shape
from parity.onnx import gelu, normalisation
from parity.onnx.operators import IMAGE, Operator
from parity.onnx.runtime import first_line


class NotTheNetwork(Exception):
    """An exported graph does not compute what its network does in inference; the message names the layer or operator.

    `layer` is the network's layer if it is known, otherwise "". `reason` is the message without it. `unread` means: an operator could not
    be read, and nothing before it is wrong, so the graph may still compute the network with other operators.
    """

    def __init__(self, reason: str, layer: str = "", unread: bool = False) -> None:
        super().__init__(f"layer {layer}: {reason}" if layer else reason)
        self.reason, self.layer, self.unread = reason, layer, unread


class UnknownOperator(NotTheNetwork):
    """An operator of the ONNX type `kind` that belongs to no layer. The operators `before` it could be read."""

    def __init__(self, reason: str, kind: str, before: list[Operator]) -> None:
        super().__init__(reason)
        self.kind, self.before = kind, before


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
    "LogSoftmax": {"axis": -1},
    "Softmax": {"axis": -1},
    "Concat": {},
    "Pad": {"mode": b"constant"},
    "ReduceMean": {"keepdims": 1, "noop_with_empty_axes": 0, "axes": None},
    "ReduceLogSumExp": {"keepdims": 1, "noop_with_empty_axes": 0},
}
"""ONNX's defaults of the attributes that matter in inference."""

WITHOUT_DEFAULT = {kind: {"kernel_shape"} for kind in ("Conv", "MaxPool", "AveragePool")} | {
    "Concat": {"axis"},
    "Cast": {"to"},
    "Transpose": {"perm"},
}
"""Attributes that matter and for which ONNX has no default."""

IGNORED = {"BatchNormalization": {"momentum"}, "Reshape": {"allowzero"}}
"""Attributes that have no effect in inference."""

JOINING = ("Concat", "Sub", "Add", "Mul")
"""Operators that may take several values that depend on the image."""

PENDING = ("Pad", "ReduceLogSumExp")
"""Operators that form a layer only together with the next operator."""

COMMUTATIVE = ("Add", "Mul")
"""Operators whose inputs may be swapped."""


UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    shape_inference.InferenceError,
)
"""What onnx raises when it evaluates the constants or infers the shapes of a graph that is not valid."""


POSITIVE = ("strides", "dilations", "kernel_shape", "group", "size")
"""Attributes that must be at least 1."""


def read_operators(model: ModelProto, shape: Shape, kind: int = TensorProto.FLOAT) -> list[Operator]:
    """The operators, without layer names, between the only input of `model`, [N,*shape] of dtype `kind`, and its only output.

    A size of 0 in `shape` means any size. Every operator comes after those whose outputs it takes. Constants are computed and copies left
    out. An Add of a bias becomes the bias of its layer, a MatMul becomes a Gemm, and a Reshape becomes a Flatten. Whether a Reshape mixes
    images is found only when the graph is run. `UnknownOperator` names an operator that no network of ours has in inference, such as a
    dropout in training mode.
    """
    try:
        _must_take(model, shape, kind)
        return _Reader(model).operators()
    except UNREADABLE as error:
        raise NotTheNetwork(f"its graph cannot be read ({_what(error)})") from None


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _must_take(model: ModelProto, shape: Shape, kind: int) -> None:
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise NotTheNetwork("the graph must have exactly one input and one output")
    if model.functions:
        raise NotTheNetwork(f"the graph has a function {model.functions[0].name}, which is not ONNX's own")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise NotTheNetwork(f"operator {node.domain}.{node.op_type} ({node.name}) is not ONNX's own")
    for node in model.graph.node:
        for entry in node.attribute:
            # onnx 1.17 divides by them: a zero kills the process.
            if entry.name in POSITIVE and min(entry.ints or [entry.i]) < 1:
                raise NotTheNetwork(f"operator {node.op_type} ({node.name}) has {entry.name} below 1")
    tensor = model.graph.input[0].type.tensor_type
    count, *sizes = tensor.shape.dim
    if tensor.elem_type != kind or tuple(size.dim_value for size in sizes) != shape or count.dim_value:
        actual = [size.dim_value or size.dim_param or "?" for size in tensor.shape.dim]
        wanted = helper.tensor_dtype_to_np_dtype(kind)
        raise NotTheNetwork(f"the graph takes {actual}, not {wanted} ['N', {', '.join(map(str, shape))}]")


class _Reader:
    """Follows the output of one graph back to its input. `found` is in order; `places` maps a value to the operator that yields it."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.constants, self.shapes = _computable(model)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.takers = Counter(name for node in model.graph.node for name in _taken(node))
        self.found: list[Operator] = []
        self.places = {model.graph.input[0].name: IMAGE}

    def operators(self) -> list[Operator]:
        self.follow(self.model.graph.output[0].name)
        return self.found

    def follow(self, value: str) -> int:
        """Read the operator that yields `value`, after all operators that it needs in the order of its inputs; return its place."""
        if value not in self.places:
            if value not in self.makers:
                raise NotTheNetwork(f"value {value} does not come from the image")
            maker = self.makers[value]
            if value != maker.output[0]:
                raise NotTheNetwork(f"value {value} is not the first output of {maker.op_type} ({maker.name})")
            if read := self.composed(maker):
                self.found.append(replace(read[1], inputs=(self.follow(read[0]),)))
                self.places[value] = len(self.found) - 1
                return self.places[value]
            for name in self.data(maker):
                self.follow(name)
            self.places[value] = self.named(maker)
        return self.places[value]

    def named(self, node: NodeProto) -> int:
        """Call `one`; an error of it names the operator and holds the operators before it."""
        try:
            return self.one(node)
        except NotTheNetwork as error:
            raise UnknownOperator(error.reason, node.op_type, self.found) from None
        except UNREADABLE as error:
            reason = f"operator {node.op_type} ({node.name}) cannot be read ({_what(error)})"
            raise UnknownOperator(reason, node.op_type, self.found) from None

    def composed(self, node: NodeProto) -> tuple[str, Operator] | None:
        """The input's name and the operator, if `node` is the last of several nodes that form one layer; otherwise None."""
        if node.op_type == "Div":
            return normalisation.read(node, self.model, self.makers, self.constants)
        if node.op_type == "Flatten":
            return self.averaged(node)
        return gelu.read(node, self.makers, self.constants) if node.op_type == "Mul" else None

    def averaged(self, node: NodeProto) -> tuple[str, Operator] | None:
        """Do `composed` for the Flatten `node`: with a GlobalAveragePool before it, both form one mean [N,C]."""
        mean = self.makers.get(node.input[0])
        if mean is None or mean.op_type != "GlobalAveragePool" or _attributes(node) != {"axis": 1}:
            return None
        return mean.input[0], Operator("", "GlobalAveragePool")

    def data(self, node: NodeProto) -> list[str]:
        """The inputs of `node` that depend on the numbers of the image, not only on its shape."""
        return [name for name in node.input if name and name not in self.constants and name not in self.shapes]

    def one(self, node: NodeProto) -> int:
        """Read one operator; return its place, or its input's place if it adds no operator."""
        if node.op_type not in READERS and node.op_type not in JOINING:
            raise NotTheNetwork(f"operator {node.op_type} ({node.name}) belongs to no layer in inference")
        data = self.data(node)
        constants = [self.constants[name] for name in node.input if name in self.constants]
        if node.op_type in JOINING and len(data) == len(node.input):
            return self.join(node, [self.places[name] for name in data])
        if (
            node.op_type not in READERS
            or len(data) != 1
            or (len(constants) + 1 != len([*filter(None, node.input)]) and node.op_type != "Reshape")
        ):
            raise NotTheNetwork(
                f"operator {node.op_type} ({node.name}) takes other inputs than one value and constants"
            )
        if node.input[0] != data[0] and node.op_type not in COMMUTATIVE:
            raise NotTheNetwork(f"operator {node.op_type} ({node.name}) does not take the image as its first input")
        return self.chain(node, data[0], READERS[node.op_type](node, constants))

    def chain(self, node: NodeProto, value: str, read: Operator | None) -> int:
        """Append the operator `read` after the one that yields `value`, or merge both into one; return its place."""
        source = self.places[value]
        if read is None:
            return source
        before = self.found[source] if source != IMAGE else None
        alone = self.takers[value] == 1
        if node.op_type == "Add":
            if before is None or not alone:
                raise NotTheNetwork(f"operator Add ({node.name}) is not the bias of a layer")
            self.found[source] = _with_bias(node, before, read.arrays["bias"])
            return source
        if before and before.kind == "Pad":
            if not alone or source != len(self.found) - 1:
                raise NotTheNetwork(f"operator Pad before {node.op_type} ({node.name}) also pads for other operators")
            self.found[source] = replace(_padded(node, read, before), inputs=before.inputs)
            return source
        if before and before.kind == read.kind == "Unsqueeze" and alone and source == len(self.found) - 1:
            self.found[source] = replace(
                before, attributes={"axes": before.attributes["axes"] + read.attributes["axes"]}
            )
            return source
        self.found.append(replace(read, inputs=(source,)))
        return len(self.found) - 1

    def join(self, node: NodeProto, sources: list[int]) -> int:
        """Read an operator with several data inputs: the end of branches, or the Sub of a log-softmax."""
        if node.op_type != "Sub":
            self.found.append(Operator("", node.op_type, _attributes(node), inputs=tuple(sources)))
            return len(self.found) - 1
        x, sums = sources
        last = self.found[-1]
        if sums != len(self.found) - 1 or last.kind != "ReduceLogSumExp" or last.inputs != (x,):
            raise NotTheNetwork(f"operator Sub ({node.name}) belongs to no layer in inference")
        self.found[-1] = Operator("", "LogSoftmax", {"axis": 1}, inputs=(x,))
        return sums


def _taken(node: NodeProto) -> list[str]:
    """The inputs whose numbers `node` uses, not only their shape or type."""
    return list(node.input)[: {"Shape": 0, "CastLike": 1}.get(node.op_type)]


def _computable(model: ModelProto) -> tuple[dict[str, Array], set[str]]:
    """The values that do not depend on the input, computed, and the names of those that depend only on its shape."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes: set[str] = set()
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        needed = [name for name in node.input if name]
        if node.op_type == "CastLike" and needed[0] in found:
            # float32 is the dtype of all values that depend on the image.
            found[node.output[0]] = found[needed[0]].astype(np.float32)
        elif all(name in found for name in needed):
            outputs = ReferenceEvaluator(node, opsets=opsets).run(None, {name: found[name] for name in needed})
            found |= dict(zip(node.output, outputs, strict=True))
        elif node.op_type == "Shape" or all(name in found or name in shapes for name in needed):
            shapes |= set(node.output)
    return found, shapes


def _attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of `node` with their defaults; `NotTheNetwork` for an unknown attribute."""
    present = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    known = DEFAULTS.get(node.op_type, {})
    unknown = set(present) - set(known) - IGNORED.get(node.op_type, set()) - WITHOUT_DEFAULT.get(node.op_type, set())
    if unknown:
        raise NotTheNetwork(f"operator {node.op_type} ({node.name}) has an unknown attribute {min(unknown)}")
    return known | {name: value for name, value in present.items() if name not in IGNORED.get(node.op_type, ())}


def _must(node: NodeProto, attributes: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """Check the attributes that must have a `wanted` value, and remove them from `attributes`."""
    for name, value in wanted.items():
        if (found := attributes.pop(name)) != value:
            raise NotTheNetwork(f"operator {node.op_type} ({node.name}) has {name} = {found}, not {value}")
    return attributes


def _conv(node: NodeProto, constants: list[Array]) -> Operator:
    attributes = _must(node, _attributes(node), auto_pad=b"NOTSET", dilations=[1, 1])
    return Operator("", "Conv", attributes, dict(zip(("weight", "bias"), constants, strict=False)))


def _gemm(node: NodeProto, constants: list[Array]) -> Operator:
    attributes = _must(node, _attributes(node), alpha=1.0, beta=1.0, transA=0)
    weight, *bias = constants
    if not attributes["transB"]:
        weight = weight.T
    return Operator(
        "", "Gemm", {"transB": attributes["transB"] or 1}, dict(zip(("weight", "bias"), (weight, *bias), strict=False))
    )


def _matmul(node: NodeProto, constants: list[Array]) -> Operator:
    return Operator("", "Gemm", {"transB": 1}, {"weight": constants[0].T})


def _add(node: NodeProto, constants: list[Array]) -> Operator:
    return Operator("", "Add", {}, {"bias": constants[0]})


def _with_bias(node: NodeProto, layer: Operator, bias: Array) -> Operator:
    """`layer` with `bias`, of shape [C] or [1,C] for a linear layer, [C,1,1] or [1,C,1,1] for a convolution."""
    if layer.kind not in ("Conv", "Gemm") or "bias" in layer.arrays:
        raise NotTheNetwork(f"operator Add ({node.name}) is not the bias of a layer")
    channels = (len(layer.arrays["weight"]), *([1, 1] if layer.kind == "Conv" else []))
    if bias.shape not in (channels, (1, *channels)):
        raise NotTheNetwork(f"operator Add ({node.name}) adds a bias of shape {bias.shape} to {channels[0]} channels")
    return replace(layer, arrays={**layer.arrays, "bias": bias.reshape(-1)})


def _batch_norm(node: NodeProto, constants: list[Array]) -> Operator:
    attributes = _must(node, _attributes(node), training_mode=0)
    return Operator(
        "", "BatchNormalization", attributes, dict(zip(("gamma", "beta", "mean", "variance"), constants, strict=True))
    )


def _pool(node: NodeProto, constants: list[Array]) -> Operator:
    attributes = _must(node, _attributes(node), auto_pad=b"NOTSET", dilations=[1, 1])
    attributes.pop("storage_order", None)  # it concerns only the output of indices, which is not used
    return Operator("", node.op_type, attributes)


def _elementwise(node: NodeProto, constants: list[Array]) -> Operator:
    return Operator("", node.op_type, _attributes(node))


def _over_classes(node: NodeProto, constants: list[Array]) -> Operator:
    attributes = _attributes(node)
    # Negative axes count from the end of [N,K].
    return Operator("", node.op_type, attributes | {"axis": attributes["axis"] % 2})


def _by_constant(node: NodeProto, constants: list[Array]) -> Operator:
    return Operator("", node.op_type, {}, {"by": constants[0]})


def _sum_of_powers(node: NodeProto, constants: list[Array]) -> Operator:
    _must(node, _attributes(node), keepdims=1)
    if len(constants) != 1 or constants[0].tolist() != [1]:
        raise NotTheNetwork(f"operator ReduceLogSumExp ({node.name}) does not reduce over the classes")
    return Operator("", "ReduceLogSumExp")


def _mean(node: NodeProto, constants: list[Array]) -> Operator:
    """A mean over height and width. The axes are an attribute up to opset 17, and an input from opset 18 on."""
    axes = _must(node, _attributes(node), keepdims=0).pop("axes")
    axes = constants[0].tolist() if constants else axes
    if not axes or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise NotTheNetwork(f"operator ReduceMean ({node.name}) does not reduce over height and width")
    return Operator("", "GlobalAveragePool")


def _pad(node: NodeProto, constants: list[Array]) -> Operator | None:
    _must(node, _attributes(node), mode=b"constant")
    pads, value = constants[0].tolist(), constants[1].item() if len(constants) > 1 else 0.0
    if len(constants) > 2 or len(pads) != 8 or min(pads) < 0:
        raise NotTheNetwork(f"operator Pad ({node.name}) does not pad an image")
    if not any(pads):
        return None
    if pads[1] + pads[5] == sum(pads) and value == 0:
        return Operator("", "PadChannels", {"pads": [pads[1], pads[5]]})
    if any(pads[:2] + pads[4:6]):
        raise NotTheNetwork(f"operator Pad ({node.name}) pads more than height and width, or channels by {value}")
    return Operator("", "Pad", {"pads": [*pads[2:4], *pads[6:]], "value": value})


def _padded(node: NodeProto, layer: Operator, pad: Operator) -> Operator:
    """`layer` with the padding of the Pad before it: of zeros for a convolution, of minus infinity for a max pool."""
    neutral = {"Conv": 0.0, "MaxPool": -np.inf}.get(layer.kind)
    if neutral is None or pad.attributes["value"] != neutral:
        raise NotTheNetwork(f"operator Pad before {node.op_type} ({node.name}) pads by {pad.attributes['value']}")
    pads = [a + b for a, b in zip(pad.attributes["pads"], layer.attributes["pads"], strict=True)]
    return replace(layer, attributes={**layer.attributes, "pads": pads})


def _mul(node: NodeProto, constants: list[Array]) -> Operator:
    if constants[0].size != 1 or constants[0].ndim > 2:  # with more it would broadcast a vector to an image
        raise NotTheNetwork(f"operator Mul ({node.name}) does not multiply by a single constant")
    return Operator("", "Mul", {}, {"scale": constants[0].reshape(())})


def _unsqueeze(node: NodeProto, constants: list[Array]) -> Operator:
    """An Unsqueeze behind a vector [N,C]: one axis or two axes of size 1 at the end. Axes count from the end of the output if negative."""
    axes = constants[0].tolist()
    return Operator("", "Unsqueeze", {"axes": sorted(axis % (len(axes) + 2) if axis < 0 else axis for axis in axes)})


def _flatten(node: NodeProto, constants: list[Array]) -> Operator:
    return Operator("", "Flatten", _attributes(node) if node.op_type == "Flatten" else {"axis": 1})


def _identity(node: NodeProto, constants: list[Array]) -> None:
    """No operator: an Identity only copies."""


def _dropout(node: NodeProto, constants: list[Array]) -> None:
    """No operator: a dropout does nothing in inference. Its third input is the training mode."""
    if len(node.input) > 2 and node.input[2] and constants[-1]:
        raise NotTheNetwork(f"operator Dropout ({node.name}) drops: it was exported in training mode")


READERS: dict[str, Callable[[NodeProto, list[Array]], Operator | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Relu": _elementwise,
    "Tanh": _elementwise,
    "Sigmoid": _elementwise,
    "Unsqueeze": _unsqueeze,
    "LogSoftmax": _over_classes,
    "Softmax": _over_classes,
    "Cast": _elementwise,
    "Transpose": _elementwise,
    "Sub": _by_constant,
    "Div": _by_constant,
    "ReduceMean": _mean,
    "ReduceLogSumExp": _sum_of_powers,
    "Pad": _pad,
    "Mul": _mul,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Identity": _identity,
    "Dropout": _dropout,
}


def verify_model(model: ModelProto, shape: Shape, wanted: list[Operator], kind: int = TensorProto.FLOAT) -> None:
    """Raise `NotTheNetwork`, naming the layer, unless `model` has exactly the operators `wanted`."""
    try:
        found = read_operators(model, shape, kind)
    except UnknownOperator as error:
        raise _placed(error, wanted) from None
    verify_operators(found, wanted)


def _placed(error: UnknownOperator, wanted: list[Operator]) -> NotTheNetwork:
    """What is wrong with a graph whose operators could be read only up to that of `error`."""
    before = list(takewhile(lambda operator: operator.kind not in PENDING, error.before))
    try:
        _verify_common(before, wanted)
    except NotTheNetwork as first:
        return NotTheNetwork(f"{first.reason}; further on, {error.reason}", first.layer)
    if len(before) >= len(wanted):
        return NotTheNetwork(f"{error.reason}; it comes after the last layer")
    expected = wanted[len(before)]
    place = "" if error.kind == expected.kind else f"; the network has {expected.kind} at this place"
    return NotTheNetwork(f"{error.reason}{place}", expected.layer, unread=True)


def verify_operators(found: Iterable[Operator], wanted: Iterable[Operator]) -> None:
    """Raise `NotTheNetwork`, naming the layer, unless operators, inputs and attributes are equal, and arrays bit for bit.

    A bias of zeros that only `found` has does not count.
    """
    found, wanted = list(found), list(wanted)
    _verify_common(found, wanted)
    if len(found) != len(wanted):
        rest = max(found, wanted, key=len)[min(len(found), len(wanted))]
        counts = f"the export has {len(found)} operators, the network {len(wanted)}"
        # A surplus operator of the export has no layer.
        raise NotTheNetwork(f"{counts} ({rest.kind} is {'missing' if rest.layer else 'too many'})", rest.layer)


def _verify_common(found: list[Operator], wanted: list[Operator]) -> None:
    """Do `verify_operators` for as many operators as both lists have."""
    for actual, expected in zip(found, wanted, strict=False):
        if actual.kind != expected.kind:
            raise NotTheNetwork(f"the export has {actual.kind}, the network has {expected.kind}", expected.layer)
        if actual.inputs != expected.inputs:
            raise NotTheNetwork("in the export it takes the output of another layer", expected.layer)
        for name in sorted({*actual.attributes, *expected.attributes}):
            values = (actual.attributes.get(name), expected.attributes.get(name))
            if not _alike(*values):
                raise NotTheNetwork(f"{name} is {values[0]} in the export, {values[1]} in the network", expected.layer)
        for name in sorted({*actual.arrays, *expected.arrays}):
            if name == "bias" and name not in expected.arrays and not actual.arrays[name].any():
                continue
            if name not in actual.arrays or name not in expected.arrays:
                side = "network" if name in actual.arrays else "export"
                raise NotTheNetwork(f"the {side} has no {name}", expected.layer)
            a, b = actual.arrays[name], expected.arrays[name]
            if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
                raise NotTheNetwork(f"{name} differs from the network's, compared bit for bit", expected.layer)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.float32(a) == np.float32(b))  # attributes are float32
    return bool(a == b)


def load(data: bytes) -> ModelProto:
    """The model in the bytes of an ONNX file."""
    return onnx.load_from_string(data)
