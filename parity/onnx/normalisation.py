"""Local response normalisation in ONNX, as a dozen operators: exporters cannot write alpha of ONNX's own LRN, a float32, exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.network.windows import over_channels
from parity.onnx.operators import Operator
from parity.onnx.shapes import infer_shapes
from parity.onnx.steps import Steps

SIZES = range(1, 32)
"""The window sizes that `read` recognises."""

THREE_QUARTERS = np.array(0.75, np.float32)
"""The beta of most networks. Two roots compute this power faster than ONNX Runtime's Pow; k > 0, so no base is negative."""

SUMMED = 1e-12
"""The tolerance, relative and in float64, within which a graph's sums must equal the sums of squares."""


def read(
    node: NodeProto, model: ModelProto, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]
) -> tuple[str, Operator] | None:
    """The normalised value's name and the operator, if the Div `node` ends x / (k + alpha * sums) ** beta; otherwise None.

    The power is a Pow, or the roots that `write` adds. Whether the sums are those of the squares of `size` channels is tested by computing
    them for random channels.
    """
    x, divisor = node.input
    arrays = dict[str, Array]()
    value, kinds = divisor, [("Pow", "beta"), ("Add", "k"), ("Mul", "alpha")]
    if (base := _under_roots(divisor, makers)) is not None:
        value, arrays["beta"] = base, THREE_QUARTERS
        del kinds[0]
    for kind, name in kinds:
        value = _original(value, makers, constants)
        maker = makers.get(value)
        if maker is None or maker.op_type != kind or maker.input[1] not in constants:
            return None
        value, scalar = maker.input
        if constants[scalar].size != 1 or constants[scalar].ndim > 1:
            return None
        arrays[name] = constants[scalar].reshape(())
    size = _window(_between(model, constants, x, value), _channels(model, x))
    return (x, Operator("", "LRN", {"size": size}, arrays)) if size else None


def _under_roots(value: str, makers: Mapping[str, NodeProto]) -> str | None:
    """The value d, if `value` is sqrt(d) * sqrt(sqrt(d)); otherwise None."""
    product = makers.get(value)
    if product is None or product.op_type != "Mul":
        return None
    for root, outer in (product.input, product.input[::-1]):
        inner, last = makers.get(root), makers.get(outer)
        if inner is not None and last is not None and inner.op_type == last.op_type == "Sqrt" and last.input[0] == root:
            return str(inner.input[0])
    return None


def _original(value: str, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]) -> str:
    """The value of which `value` is a copy, or a product with 1."""
    while (maker := makers.get(value)) and (
        maker.op_type == "Identity"
        or (maker.op_type == "Mul" and np.array_equal(constants.get(maker.input[1], np.zeros(0)).reshape(-1), [1.0]))
    ):
        value = maker.input[0]
    return value


def _channels(model: ModelProto, value: str) -> int:
    return int(infer_shapes(model)[value].type.tensor_type.shape.dim[1].dim_value)


def _between(model: ModelProto, constants: Mapping[str, Array], first: str, last: str) -> ReferenceEvaluator:
    """The part of a graph that computes the value `last` from the value `first`, in float64."""
    wanted, nodes = {last}, list[NodeProto]()
    for node in reversed(model.graph.node):  # nodes are stored in the order of computation
        if wanted.intersection(node.output) and first not in node.output:
            nodes.insert(0, node)
            wanted.update(name for name in node.input if name not in constants)
    used = {name: _widened(constants[name]) for node in nodes for name in node.input if name in constants}
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info(first, TensorProto.DOUBLE, None)],
        [helper.make_tensor_value_info(last, TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in used.items()],
    )
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _window(sums: ReferenceEvaluator, channels: int) -> int | None:
    """The size of the windows whose squares `sums` adds; None if it computes anything else."""
    x = stream(0, "channels").uniform(0.5, 1.5, (2, channels, 3, 3))
    (found,) = sums.run(None, {sums.input_names[0]: x})
    matching = (size for size in SIZES if found.shape == x.shape and _close(found, over_channels(x**2, size)))
    return next(matching, None)


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=SUMMED, atol=0))


def write(steps: Steps, value: str, operator: Operator, channels: int) -> None:
    """Add the operators that normalise `value` [N,`channels`,H,W]."""
    size, add = operator.attributes["size"], steps.add
    alpha, k = (steps.constant(name, operator.arrays[name]) for name in ("alpha", "k"))
    edges = steps.constant("edges", np.array([0, size // 2, 0, 0, 0, (size - 1) // 2, 0, 0]))
    axis = steps.constant("axis", np.array([1]))
    padded = add("Pad", "padded", add("Mul", "squares", value, value), edges)
    parts = []
    for first in range(size):
        bounds = [
            steps.constant(f"{word}{first}", np.array([at])) for word, at in (("from", first), ("to", first + channels))
        ]
        parts.append(add("Slice", f"part{first}", padded, *bounds, axis))
    shifted = add("Add", "shifted", add("Mul", "scaled", add("Sum", "sums", *parts), alpha), k)
    if operator.arrays["beta"] == THREE_QUARTERS:
        root = add("Sqrt", "root", shifted)
        divisor = add("Mul", "divisor", root, add("Sqrt", "fourth_root", root))
    else:
        divisor = add("Pow", "divisor", shifted, steps.constant("beta", operator.arrays["beta"]))
    add("Div", "", value, divisor)
