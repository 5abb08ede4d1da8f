"""Runs ONNX models: ONNX Runtime in float32, and onnx.reference, in numpy, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from parity.errors import InputError
from parity.onnx.writing import INPUT, in_float64, with_every_layer


def session(model: ModelProto | Path, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU; `InputError` where ONNX Runtime is missing or the file is no model that it can run."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError('ONNX Runtime is not installed here: pip install -e ".[cpu]" brings it') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise InputError(
            f"ONNX Runtime cannot run {model if isinstance(model, Path) else 'the model'}: {error}"
        ) from None


def run(model: ModelProto, images: np.ndarray, threads: int = 1) -> np.ndarray:
    """The first output of ONNX Runtime for `images`, as the model wants them."""
    output: np.ndarray = session(model, threads).run(None, {INPUT: images})[0]
    return output


def run_layers(model: ModelProto, images: np.ndarray, threads: int = 1) -> dict[str, np.ndarray]:
    """By layer, what ONNX Runtime computes for float32 `images`."""
    opened = with_every_layer(model)
    outputs = session(opened, threads).run(None, {INPUT: images})
    return _by_layer(opened, outputs)


def reference_layers(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """By layer, what onnx.reference computes in float64 for `images`."""
    opened = with_every_layer(model)
    outputs = ReferenceEvaluator(in_float64(opened)).run(None, {INPUT: images.astype(np.float64)})
    return _by_layer(opened, outputs)


def _by_layer(opened: ModelProto, outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    values = dict(zip((value.name for value in opened.graph.output), outputs, strict=True))
    return {node.name: values[node.output[0]] for node in opened.graph.node}


def open_file(path: Path) -> ModelProto:
    """The model in a file; `InputError` where it is missing, truncated or no ONNX model."""
    try:
        model = onnx.load_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give an .onnx file") from None
    except Exception:  # protobuf's and the checker's own
        raise InputError(f"{path} is not a whole ONNX model: take another copy, or export it again") from None
    return model
