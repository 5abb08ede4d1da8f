"""Finds the last operator of an ONNX graph that computes, behind those that only copy, cast or reshape."""

from __future__ import annotations

from onnx import ModelProto

PASSING = (
    "Cast",
    "CastLike",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""The operators that keep the values of their first input."""


def last_operator(model: ModelProto) -> str | None:
    """Return the name of the operator that computes the first output of `model`. None if the output is an input or a constant."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in PASSING:
        node = makers.pop(node.input[0], None)  # each once: a damaged graph may be a circle
    return node.op_type if node is not None else None
