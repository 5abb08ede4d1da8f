"""Exports a model to ONNX with PyTorch's exporter, and to PyTorch's own `.pt2` format."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from parity import machine
from parity.arrays import Array
from parity.files.atomic import write_atomically
from torch_impl.model import Model

OPSET = 18
"""The opset of the exporter's graph; `parity.onnx` writes the file for any supported opset."""


def to_onnx(model: Model) -> bytes:
    """The inference graph as PyTorch's exporter writes it, as the bytes of an ONNX model.

    Input `image` float32 [N,C,H,W], N dynamic; output [N,classes]. The graph is neither simplified nor verified here: `parity.onnx` does
    that. `model` is in float32 and stays as it is. `InputError` if the exporter is known to refuse it.
    """
    # DIFFERS: with an example of one image, the exporter would make the batch size a constant.
    example = torch.zeros(2, *model.network.input_shape)
    count = torch.export.Dim("N")
    with _inference(model), _silent(), machine.paused_collector():
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
    """Write the inference program into `folder` in PyTorch's own format; return the files.

    Input and output are as in `to_onnx`.
    """
    example = torch.zeros(2, *model.network.input_shape)
    buffer = io.BytesIO()
    with _inference(model), machine.paused_collector():
        program = torch.export.export(model, (example,), dynamic_shapes={"x": {0: torch.export.Dim("N")}})
        torch.export.save(program, buffer)
    write_atomically(folder / "model.pt2", buffer.getvalue())
    return sorted(folder.iterdir())


def from_static(folder: Path, images: Array) -> Array:
    """The scores [N,classes] of the program that `to_static` wrote into `folder`, for float32 `images` [N,C,H,W]."""
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        scores: Array = program(torch.from_numpy(images)).numpy()
    return scores


@contextlib.contextmanager
def _inference(model: Model) -> Iterator[None]:
    """A context in which the model is in inference mode and on the CPU; afterwards it is as before."""
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
    """Suppress the exporter's warnings about its own deprecated parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
