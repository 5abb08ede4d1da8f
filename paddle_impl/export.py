"""Exports a model to ONNX with paddle2onnx, and to Paddle's own inference format."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import paddle
import paddle2onnx
from paddle.jit.dy2static.program_translator import ProgramTranslator
from paddle.static import InputSpec

from paddle_impl.model import Model
from parity.arrays import Array
from parity.errors import InputError
from parity.network.initialisers import float32
from parity.network.nodes import BatchNorm

OPSET = 18
"""The opset of the exporter's graph; `parity.onnx` writes the file for any supported opset."""

_MOST_EPS = float32(1e-3)
"""The largest eps of a batch norm that Paddle 2 accepts in a program."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as Paddle's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. The graph is neither simplified nor verified here: `parity.onnx` does
    that. `model` is in float32 and stays as it is. `InputError` if the exporter is known to refuse it.
    """
    with tempfile.TemporaryDirectory() as folder:
        program, weights = _save(model, Path(folder))
        # DIFFERS: without an output file, paddle2onnx 2.1 does not run a tool that installs packages.
        with _silent_stdout():
            exported: bytes = paddle2onnx.export(
                str(program),
                str(weights) if weights.exists() else "",  # a network without parameters has no such file
                None,
                opset_version=OPSET,
                auto_upgrade_opset=False,
                verbose=False,
                enable_onnx_checker=True,
            )
    return exported


def to_static(model: Model, folder: Path) -> list[Path]:
    """Write the inference program into `folder` in Paddle's own format; return the files.

    Input and output are as in `to_onnx`.
    """
    _save(model, folder)
    return sorted(folder.iterdir())


def from_static(folder: Path, images: Array) -> Array:
    """The scores [N,classes] of the program that `to_static` wrote into `folder`, for float32 `images` [N,C,H,W]."""
    program = paddle.jit.load(str(folder / "model"))
    with paddle.no_grad():
        scores: Array = program(paddle.to_tensor(images)).numpy()
    return scores


@contextlib.contextmanager
def _inference(model: Model) -> Iterator[None]:
    """A context in which the model is in inference mode; afterwards it is as before."""
    # DIFFERS: an export replaces the forward of every layer by one that cannot train.
    before = {layer: dict(vars(layer)) for layer in model.sublayers(include_self=True)}
    for layer in (layer for layer in before if "forward" in vars(layer)):
        # DIFFERS: Paddle makes a program from a function's source, which lacks the variables that an inner function captures.
        paddle.jit.not_to_static(layer.forward.__func__)
    model.eval()
    try:
        yield
    finally:
        for layer, attributes in before.items():
            vars(layer).clear()
            vars(layer).update(attributes)
        # DIFFERS: after a failed trace, Paddle 2 keeps the program's parameters under a memory address that another program may get.
        if recorder := getattr(ProgramTranslator.get_instance(), "_params_recorder", None):
            recorder.params_dict.clear()


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Discard what the exporter's C++ code prints to stdout, which is reserved for our JSON."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _save(model: Model, folder: Path) -> tuple[Path, Path]:
    """Save program and weights; return their files."""
    for node in (layer.node for layer in model.network.inference.layers.values()):
        # DIFFERS: a program of Paddle 2 refuses an eps that the same kernel accepts in dynamic mode.
        if isinstance(node, BatchNorm) and node.eps > _MOST_EPS and paddle.__version__.startswith("2."):
            raise InputError(
                f"layer {node.name} has eps {node.eps:g}, but Paddle {paddle.__version__} exports a batch norm only with eps up "
                "to 0.001: export with Paddle 3, or with the other framework"
            )
    spec = InputSpec([None, *model.network.input_shape], "float32", "image")
    with _inference(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no variable in your model")
        paddle.jit.save(model, str(folder / "model"), input_spec=[spec])
    # DIFFERS: writing to a full disk raises no error, and half a program crashes the ONNX exporter. Loading it first raises an error.
    paddle.jit.load(str(folder / "model"))
    # DIFFERS: the program is model.pdmodel in Paddle 2 and model.json in Paddle 3.
    program = next(path for path in folder.iterdir() if path.suffix in (".pdmodel", ".json"))
    return program, folder / "model.pdiparams"
