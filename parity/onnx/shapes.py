"""Infers the shapes of all values of a model without its weights."""

from __future__ import annotations

import math

from onnx import ModelProto, ValueInfoProto, helper, shape_inference

WEIGHTS = 1024
"""A constant with at least so many numbers counts as weights: no shape depends on its values."""


def infer_shapes(model: ModelProto) -> dict[str, ValueInfoProto]:
    """The type and shape, by name, of the inputs of `model` and of all values computed from them, where they can be inferred."""
    graph = model.graph
    large = {tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) >= WEIGHTS}
    inputs = [value for value in graph.input if value.name not in large]
    # onnx copies the model several times, and weights can take half a gigabyte.
    stand_ins = [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in large.values()]
    constants = [tensor for tensor in graph.initializer if tensor.name not in large]
    bare = helper.make_graph(graph.node, graph.name, [*inputs, *stand_ins], graph.output, constants)
    made = helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.functions.extend(model.functions)
    found = shape_inference.infer_shapes(made).graph
    return {value.name: value for value in (*inputs, *found.value_info, *found.output)}
