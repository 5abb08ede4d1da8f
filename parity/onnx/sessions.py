"""Runs ONNX models: ONNX Runtime in float32, and onnx.reference, in numpy, in float64."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from parity.arrays import Array
from parity.errors import InputError
from parity.onnx.graph_writer import INPUT, in_float64, with_every_layer, with_plain_pools
from parity.onnx.runtime import first_line, session


@dataclass(frozen=True)
class Opened:
    """A model in ONNX Runtime."""

    session: Any

    @property
    def takes_pixels(self) -> bool:
        """Whether its input is uint8."""
        return bool(self.session.get_inputs()[0].type == "tensor(uint8)")

    def run(self, images: Array) -> Array:
        """The model's first output for `images`, which have the dtype and layout of its input. `InputError` if it fails."""
        try:
            output: Array = self.session.run(None, {self.session.get_inputs()[0].name: images})[0]
        except Exception as error:  # onnxruntime has a class of its own for every kind of failure
            raise InputError(f"the model cannot be run on {len(images)} images ({first_line(error)})") from None
        return output


def opened(model: ModelProto | bytes, threads: int = 1) -> Opened:
    """A session of `model`, or of its file's bytes, in ONNX Runtime. `InputError` if it cannot be loaded."""
    return Opened(session(model if isinstance(model, bytes) else model.SerializeToString(), threads))


def run(model: ModelProto | bytes, images: Array, threads: int = 1) -> Array:
    """The first output of `model`, or of its file's bytes, for `images`, computed by ONNX Runtime."""
    return opened(model, threads).run(images)


def run_layers(model: ModelProto, images: Array, threads: int = 1) -> dict[str, Array]:
    """The output of every layer for float32 `images`, computed by ONNX Runtime."""
    whole = with_every_layer(model)
    outputs = session(whole.SerializeToString(), threads).run(None, {INPUT: images})
    return _by_layer(whole, outputs)


def reference_layers(model: ModelProto, images: Array) -> dict[str, Array]:
    """The output of every layer for `images`, computed by onnx.reference in float64."""
    whole = with_every_layer(model)
    reference = ReferenceEvaluator(in_float64(with_plain_pools(whole)), new_ops=[Erf])
    outputs = reference.run(None, {INPUT: images.astype(np.float64)})
    del reference
    gc.collect()  # an evaluator and its operators form a cycle, which can hold a gigabyte of weights
    return _by_layer(whole, outputs)


class Erf(OpRun):  # type: ignore[misc]  # mypy skips onnx (pyproject.toml), so OpRun is Any
    """The error function in the dtype of its input: that of onnx.reference 1.23 rounds to float32 (docs/differences.md)."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def _by_layer(whole: ModelProto, outputs: list[Array]) -> dict[str, Array]:
    values = dict(zip((value.name for value in whole.graph.output), outputs, strict=True))
    # Where several operators form one layer, only the last has the layer's name; the others' names hold a dot.
    return {node.name: values[node.output[0]] for node in whole.graph.node if "." not in node.name}
