"""A model in the formats that others run: ONNX as PyTorch exports it, and PyTorch's own `.pt2`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from torch_impl.model import Model

OPSET = 18
"""The opset that the exporter is asked for; `parity.onnx` writes the file for any."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as PyTorch's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. Nothing is simplified and nothing checked: that is for
    `parity.onnx`. `model` is in float32 and left in inference mode.
    """
    # DIFFERS: the exporter traces two images, so that their number does not become a constant.
    example = torch.zeros(2, *model.network.input_shape)
    count = torch.export.Dim("N")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecated parts
        program = torch.onnx.export(
            model.cpu().eval(),
            (example,),
            dynamo=True,
            optimize=False,  # it would fold the batch norms
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: count}},
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def to_static(model: Model, folder: Path) -> list[Path]:
    """Writes the inference program into `folder` in PyTorch's own format; returns the files.

    Input and output are as in `to_onnx`.
    """
    example = torch.zeros(2, *model.network.input_shape)
    program = torch.export.export(model.cpu().eval(), (example,), dynamic_shapes={"x": {0: torch.export.Dim("N")}})
    torch.export.save(program, folder / "model.pt2")
    return sorted(folder.iterdir())


def from_static(folder: Path, images: np.ndarray) -> np.ndarray:
    """What the program in `folder` that `to_static` wrote yields for float32 `images` [N,C,H,W]: [N,classes]."""
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        scores: np.ndarray = program(torch.from_numpy(images)).numpy()
    return scores
