"""A model in the formats that others run: ONNX as paddle2onnx exports it, and Paddle's own inference format."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import paddle2onnx
from paddle.static import InputSpec

from paddle_impl.model import Model

OPSET = 18
"""The opset that the exporter is asked for; `parity.onnx` writes the file for any."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as Paddle's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. Nothing is simplified and nothing checked: that is for
    `parity.onnx`. `model` is in float32 and left in inference mode.
    """
    with tempfile.TemporaryDirectory() as folder:
        program, weights = (str(path) for path in _save(model, Path(folder)))
        # DIFFERS: given no file to write, paddle2onnx 2.1 runs no tool that installs packages.
        with _silent_stdout():
            exported: bytes = paddle2onnx.export(
                program,
                weights,
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


def from_static(folder: Path, images: np.ndarray) -> np.ndarray:
    """What the program in `folder` that `to_static` wrote yields for float32 `images` [N,C,H,W]: [N,classes]."""
    program = paddle.jit.load(str(folder / "model"))
    with paddle.no_grad():
        scores: np.ndarray = program(paddle.to_tensor(images)).numpy()
    return scores


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
    model.eval()
    spec = InputSpec([None, *model.network.input_shape], "float32", "image")
    paddle.jit.save(model, str(folder / "model"), input_spec=[spec])
    # DIFFERS: the program is model.pdmodel in Paddle 2 and model.json in Paddle 3.
    program = next(path for path in folder.iterdir() if path.suffix in (".pdmodel", ".json"))
    return program, folder / "model.pdiparams"
