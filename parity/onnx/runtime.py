"""Sessions of ONNX Runtime. This module imports no other large package, so that a prediction starts at once."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from parity.errors import InputError, how_to_install

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
"""Our device names -> ONNX Runtime's providers. The GPU's has never been run."""


def session(model: Path | bytes, threads: int = 1, device: str = "cpu") -> Any:
    """An `InferenceSession` of a file or of a model's bytes on `device`, cpu or gpu.

    `InputError` if ONNX Runtime is missing, has no provider for the device, or cannot load the model.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        raise InputError(f"onnxruntime is not installed here: {how_to_install('cpu')}") from None
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise InputError("onnxruntime finds no GPU here: use --device cpu, or install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would print to stderr, and this function raises the error in one line
    options.intra_op_num_threads = threads
    name = model if isinstance(model, Path) else "the model"
    try:
        if isinstance(model, Path):
            model.open("rb").close()
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=[PROVIDERS[device]]
        )
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}; give an .onnx file that exists") from None
    except Exception as error:  # onnxruntime has a class of its own for every kind of failure
        raise InputError(f"{name} is not an ONNX file that onnxruntime can load ({first_line(error)})") from None


def version() -> str:
    """The version of ONNX Runtime, which is installed."""
    found: str = importlib.import_module("onnxruntime").__version__
    return found


def first_line(error: Exception) -> str:
    """The first line of the error's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
