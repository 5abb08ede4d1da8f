"""The body of an ONNX loop that changes nothing but a sign: with enough trips it never ends."""

from __future__ import annotations

from onnx import GraphProto, TensorProto, helper


def loop_body() -> GraphProto:
    """The body of a Loop: x -> -x, and the condition stays as it is."""
    return helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Neg", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
