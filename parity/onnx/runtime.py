"""Sessions of ONNX Runtime. This module imports no other large package, so that a prediction starts at once."""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from parity.errors import InputError, how_to_install

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
"""Our device names -> ONNX Runtime's providers. The GPU's has never been run."""


def session(model: Path | bytes, threads: int = 1, device: str = "cpu", optimised: Path | None = None) -> Any:
    """An `InferenceSession` of a file or of a model's bytes on `device`, cpu or gpu. This is the only place that makes sessions.

    ONNX Runtime applies all its optimisations, and writes the optimised graph to the file `optimised`. `InputError` if ONNX Runtime is
    missing, has no provider for the device, or cannot load the model.
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
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if optimised:
        options.optimized_model_filepath = str(optimised)
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
    """The version of ONNX Runtime, which must be installed."""
    return str(importlib.import_module("onnxruntime").__version__)


def optimised_operators(model: Path | bytes, device: str = "cpu") -> dict[str, int]:
    """How many operators of each type ONNX Runtime runs, the most frequent first. `InputError` as in `session`.

    An operator that was fused has the names of its parts, such as Conv+Relu.
    """
    onnx = importlib.import_module("onnx")  # large, and no prediction needs it
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        session(model, device=device, optimised=path)
        graph = onnx.load(path, load_external_data=False).graph
    return dict(Counter(map(_parts, graph.node)).most_common())


def _parts(node: Any) -> str:
    """The name of an operator of an optimised graph: its type, and what was fused into it."""
    activation = next((entry.s.decode() for entry in node.attribute if entry.name == "activation"), "")
    added = node.op_type.endswith("Conv") and len(node.input) > 3 and bool(node.input[3])
    return "+".join([node.op_type.removeprefix("Fused"), *["Add"] * added, *[activation] * bool(activation)])


def first_line(error: Exception) -> str:
    """The first line of the error's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
