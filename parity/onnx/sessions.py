"""Runs ONNX models: ONNX Runtime in float32, and onnx.reference, in numpy, in float64."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from parity.errors import InputError
from parity.onnx.runtime import brief, session
from parity.onnx.writing import INPUT, in_float64, with_every_layer, with_plain_pools


def run(model: ModelProto | bytes, images: np.ndarray, threads: int = 1) -> np.ndarray:
    """The first output of ONNX Runtime for `images`, as the model, or its file's bytes, wants them. `InputError` where it fails."""
    opened = session(model if isinstance(model, bytes) else model.SerializeToString(), threads)
    try:
        output: np.ndarray = opened.run(None, {opened.get_inputs()[0].name: images})[0]
    except Exception as error:  # onnxruntime has a class of its own for every kind of failure
        raise InputError(f"the model cannot be run on {len(images)} images ({brief(error)})") from None
    return output


def run_layers(model: ModelProto, images: np.ndarray, threads: int = 1) -> dict[str, np.ndarray]:
    """By layer, what ONNX Runtime computes for float32 `images`."""
    opened = with_every_layer(model)
    outputs = session(opened.SerializeToString(), threads).run(None, {INPUT: images})
    return _by_layer(opened, outputs)


def reference_layers(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """By layer, what onnx.reference computes in float64 for `images`."""
    opened = with_every_layer(model)
    outputs = ReferenceEvaluator(in_float64(with_plain_pools(opened))).run(None, {INPUT: images.astype(np.float64)})
    return _by_layer(opened, outputs)


def _by_layer(opened: ModelProto, outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    values = dict(zip((value.name for value in opened.graph.output), outputs, strict=True))
    # What stands for one layer has names of its own for its steps, with a dot.
    return {node.name: values[node.output[0]] for node in opened.graph.node if "." not in node.name}
