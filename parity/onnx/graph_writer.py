"""Writes a list of operators as an ONNX model, in the same form for both frameworks; values are named after the layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from parity.arrays import Array
from parity.errors import InputError
from parity.network.dense import takes_any_size
from parity.network.network import Network
from parity.onnx import gelu, normalisation
from parity.onnx.operators import IMAGE, Operator, with_ends
from parity.onnx.shapes import infer_shapes
from parity.onnx.steps import Steps
from parity.recipe.recipe import Preprocessing

OPSETS = range(17, 22)
"""The opsets for which a file can be written: the operators used here mean the same in all of them."""

DEFAULT_OPSET = 18

INPUT, LOGITS, PROBABILITIES = "image", "logits", "probabilities"


def write(
    network: Network,
    chain: list[Operator],
    opset: int = DEFAULT_OPSET,
    softmax: bool = False,
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] | None = None,
    any_size: bool = False,
) -> ModelProto:
    """The model of the operators `chain` of `network`, checked by onnx.checker with full shape inference.

    Input `image` float32 [N,C,H,W], preprocessed; with `preprocessing` it is uint8 [N,H,W,C], and the scaling is in the graph. Output
    `logits` [N,classes], or `probabilities` with `softmax`. With `any_size`, H and W are free (see `parity.network.dense`). `InputError`
    for an opset outside `OPSETS`, and if `any_size` is asked of a network that takes images of one size only.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported: choose one from {OPSETS.start} to {OPSETS.stop - 1}")
    if any_size and not takes_any_size(network):
        raise InputError(f"network {network.name} takes images of one size only: NAME+dense takes any")
    parts: list[NodeProto] = []
    tensors: dict[str, Array] = {}
    whole = with_ends(chain, preprocessing, softmax)
    ends = [LOGITS, PROBABILITIES] if softmax else [LOGITS]
    outputs = [*(value_name(operator.layer, operator.step) for operator in whole[: -len(ends)]), *ends]
    for operator, out in zip(whole, outputs, strict=True):
        taken = [INPUT if place == IMAGE else outputs[place] for place in operator.inputs]
        steps = Steps(f"{operator.layer}.{operator.step}" if operator.step else operator.layer, out)
        if operator.kind == "LRN":
            normalisation.write(steps, taken[0], operator, network.layers[operator.layer].input[0])
        elif operator.kind == "Gelu":
            gelu.write(steps, taken[0])
        elif operator.kind == "GlobalAveragePool":  # yields [N,C,1,1]
            steps.add("Flatten", "", steps.add(operator.kind, "mean", *taken), axis=1)
        elif operator.kind == "PadChannels":
            before, after = operator.attributes["pads"]
            steps.add("Pad", "", *taken, steps.constant("pads", np.array([0, before, 0, 0, 0, after, 0, 0])))
        elif operator.kind == "Unsqueeze":
            steps.add("Unsqueeze", "", *taken, steps.constant("axes", np.array(operator.attributes["axes"])))
        else:
            names = [steps.constant(name, array) for name, array in operator.arrays.items()]
            steps.add(operator.kind, "", *taken, *names, **operator.attributes)
        parts += steps.nodes
        tensors |= steps.tensors
    takes, yields = input_and_output(network, softmax, preprocessing is not None, any_size)
    initializers = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(parts, network.name or "network", [takes], [yields], initializers)
    imports = [helper.make_opsetid("", opset)]
    # The oldest IR version that allows the opset, for the oldest runtimes.
    version = helper.find_min_ir_version_for(imports)
    model = helper.make_model(graph, producer_name="vgg-parity", opset_imports=imports, ir_version=version)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def input_and_output(
    network: Network, softmax: bool, pixels: bool, any_size: bool
) -> tuple[ValueInfoProto, ValueInfoProto]:
    """The input and output of a file as `write` declares them; with `pixels` the input is uint8 [N,H,W,C]."""
    channels = network.input_shape[0]
    height, width = ("H", "W") if any_size else network.input_shape[1:]
    sizes = [height, width, channels] if pixels else [channels, height, width]
    return (
        helper.make_tensor_value_info(INPUT, TensorProto.UINT8 if pixels else TensorProto.FLOAT, ["N", *sizes]),
        helper.make_tensor_value_info(PROBABILITIES if softmax else LOGITS, TensorProto.FLOAT, ["N", network.classes]),
    )


def value_name(layer: str, step: str = "") -> str:
    """The name of a layer's output, or of a `step` in it: the layer's name, with a dot if an input or output of the model has that name."""
    if step:
        return f"{layer}.{step}"
    return f"{layer}." if layer in (INPUT, LOGITS, PROBABILITIES) else layer


def in_float64(model: ModelProto) -> ModelProto:
    """The same graph in float64. The constants keep their float32 values, except sqrt(2), which is rounded to float64 again."""
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            exact = numpy_helper.to_array(tensor).astype(np.float64)
            if tensor.name.endswith(gelu.ROOT_NAME):
                exact = np.sqrt(np.round(exact**2))
            tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def with_plain_pools(model: ModelProto) -> ModelProto:
    """The same graph without ceil mode: every such pool becomes one that rounds down, with more padding at the end.

    onnx.reference 1.17 and 1.23 compute some of the additional windows wrongly and leave others out (docs/differences.md).
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    known = infer_shapes(model)
    for node in plain.graph.node:
        attributes = {entry.name: entry for entry in node.attribute}
        if "ceil_mode" not in attributes or not attributes["ceil_mode"].i:
            continue
        before, after = (known[name].type.tensor_type.shape.dim[2:] for name in (node.input[0], node.output[0]))
        kernel, strides, pads = (list(attributes[name].ints) for name in ("kernel_shape", "strides", "pads"))
        for axis in range(2):
            span = (after[axis].dim_value - 1) * strides[axis] + kernel[axis]
            pads[axis + 2] = max(pads[axis + 2], span - before[axis].dim_value - pads[axis])
        attributes["ceil_mode"].i = 0
        attributes["pads"].ints[:] = pads
    return plain


def with_every_layer(model: ModelProto) -> ModelProto:
    """The same graph with the output of every operator as an output of the model, in the order of computation."""
    open_model = ModelProto()
    open_model.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    values = infer_shapes(model)
    extra = [values[name] for node in model.graph.node for name in node.output if name not in known]
    outputs = [*extra, *model.graph.output]
    del open_model.graph.output[:]
    open_model.graph.output.extend(outputs)
    return open_model
