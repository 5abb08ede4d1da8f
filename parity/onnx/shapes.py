"""The shapes of what a model computes, inferred without its weights."""

from __future__ import annotations

import math

from onnx import ModelProto, ValueInfoProto, helper, shape_inference

WEIGHTS = 1024
"""Numbers of a constant from which it is taken for weights: no shape depends on their values."""


def inferred(model: ModelProto) -> dict[str, ValueInfoProto]:
    """By name, type and shape of the inputs of `model` and of all that it computes from them, as far as they can be told."""
    graph = model.graph
    large = {tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) >= WEIGHTS}
    inputs = [value for value in graph.input if value.name not in large]
    # onnx copies the model several times, and weights can be half a gigabyte.
    stand_ins = [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in large.values()]
    constants = [tensor for tensor in graph.initializer if tensor.name not in large]
    bare = helper.make_graph(graph.node, graph.name, [*inputs, *stand_ins], graph.output, constants)
    made = helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.functions.extend(model.functions)
    found = shape_inference.infer_shapes(made).graph
    return {value.name: value for value in (*inputs, *found.value_info, *found.output)}
