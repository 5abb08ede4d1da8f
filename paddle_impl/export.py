"""A model in the formats that others run: ONNX as paddle2onnx exports it, and Paddle's own inference format."""

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
"""The opset that the exporter is asked for; `parity.onnx` writes the file for any."""

_MOST_EPS = float32(1e-3)
"""The largest eps of a batch norm that Paddle 2 takes in a program."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as Paddle's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. Nothing is simplified and nothing checked: that is for
    `parity.onnx`. `model` is in float32 and stays as it is. `InputError` where the exporter is known to refuse it.
    """
    with tempfile.TemporaryDirectory() as folder:
        program, weights = _save(model, Path(folder))
        # DIFFERS: given no file to write, paddle2onnx 2.1 runs no tool that installs packages.
        with _silent_stdout():
            exported: bytes = paddle2onnx.export(
                str(program),
                str(weights) if weights.exists() else "",  # there is none of a network without parameters
                None,
                opset_version=OPSET,
                auto_upgrade_opset=False,
                verbose=False,
                enable_onnx_checker=True,
            )
    return exported


def to_static(model: Model, folder: Path) -> list[Path]:
    """Writes the inference program into `folder` in Paddle's own format; returns the files.

    Input and output are as in `to_onnx`.
    """
    _save(model, folder)
    return sorted(folder.iterdir())


def from_static(folder: Path, images: Array) -> Array:
    """What the program in `folder` that `to_static` wrote yields for float32 `images` [N,C,H,W]: [N,classes]."""
    program = paddle.jit.load(str(folder / "model"))
    with paddle.no_grad():
        scores: Array = program(paddle.to_tensor(images)).numpy()
    return scores


@contextlib.contextmanager
def _inference(model: Model) -> Iterator[None]:
    """Within it the model is in inference mode; afterwards it is as it was."""
    # DIFFERS: an export leaves a forward of its own in every layer, with which nothing trains any more.
    before = {layer: dict(vars(layer)) for layer in model.sublayers(include_self=True)}
    for layer in (layer for layer in before if "forward" in vars(layer)):
        # DIFFERS: Paddle makes a program of a function's source, which lacks what the function closes over.
        paddle.jit.not_to_static(layer.forward.__func__)
    model.eval()
    try:
        yield
    finally:
        for layer, attributes in before.items():
            vars(layer).clear()
            vars(layer).update(attributes)
        # DIFFERS: a program of Paddle 2 that could not be traced leaves its parameters, under an address that another may get.
        if recorder := getattr(ProgramTranslator.get_instance(), "_params_recorder", None):
            recorder.params_dict.clear()


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keeps what the exporter's C++ writes off stdout, which is for our JSON."""
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
    """Saves program and weights; returns their files."""
    for node in (layer.node for layer in model.network.inference.layers.values()):
        # DIFFERS: a program of Paddle 2 refuses an eps that the same kernel takes outside of it.
        if isinstance(node, BatchNorm) and node.eps > _MOST_EPS and paddle.__version__.startswith("2."):
            raise InputError(
                f"layer {node.name} has eps {node.eps:g}, and Paddle {paddle.__version__} exports no batch norm with more "
                "than 0.001: export with Paddle 3, or with the other framework"
            )
    spec = InputSpec([None, *model.network.input_shape], "float32", "image")
    with _inference(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no variable in your model")
        paddle.jit.save(model, str(folder / "model"), input_spec=[spec])
    # DIFFERS: a full disk is not noticed in writing, and the ONNX exporter dies of half a program; reading it back fails first.
    paddle.jit.load(str(folder / "model"))
    # DIFFERS: the program is model.pdmodel in Paddle 2 and model.json in Paddle 3.
    program = next(path for path in folder.iterdir() if path.suffix in (".pdmodel", ".json"))
    return program, folder / "model.pdiparams"
