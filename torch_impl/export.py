"""A model in the formats that others run: ONNX as PyTorch exports it, and PyTorch's own `.pt2`."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from parity.arrays import Array
from parity.files.atomic import write_atomically
from torch_impl.model import Model

OPSET = 18
"""The opset that the exporter is asked for; `parity.onnx` writes the file for any."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as PyTorch's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. Nothing is simplified and nothing checked: that is for
    `parity.onnx`. `model` is in float32 and stays as it is. `InputError` where the exporter is known to refuse it.
    """
    # DIFFERS: the exporter traces two images, so that their number does not become a constant.
    example = torch.zeros(2, *model.network.input_shape)
    count = torch.export.Dim("N")
    with _inference(model), _silent():
        program = torch.onnx.export(
            model,
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
    buffer = io.BytesIO()
    with _inference(model):
        program = torch.export.export(model, (example,), dynamic_shapes={"x": {0: torch.export.Dim("N")}})
        torch.export.save(program, buffer)
    write_atomically(folder / "model.pt2", buffer.getvalue())
    return sorted(folder.iterdir())


def from_static(folder: Path, images: Array) -> Array:
    """What the program in `folder` that `to_static` wrote yields for float32 `images` [N,C,H,W]: [N,classes]."""
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        scores: Array = program(torch.from_numpy(images)).numpy()
    return scores


@contextlib.contextmanager
def _inference(model: Model) -> Iterator[None]:
    """Within it the model is in inference mode, and on the CPU; afterwards it is as it was."""
    before = {module: dict(vars(module)) for module in model.modules()}
    place = next((parameter.device for parameter in model.parameters()), "cpu")
    model.cpu().eval()
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
        model.to(place)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps what the exporter says of its own deprecated parts off stderr."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
