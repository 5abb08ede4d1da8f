"""The worker's end for anybody's models: a process that holds one model. `parity.pairs.model_worker.ModelWorker` is the other end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.backend.child_process import Record, serve
from parity.backend.registry import implementation, make_backend
from parity.backend.watched_model import WatchedModel
from parity.errors import InputError
from parity.files.strict_json import from_fields
from parity.pairs import factories, replaced_functions
from parity.recipe.optimizer import Optimizer


class _Models:
    """One method a call, (arrays, arguments) -> (arrays, result)."""

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        self.framework, self.threads, self.device = framework, threads, device
        self.model: Any = None
        self.variance = "unbiased"
        self.replaced: replaced_functions.Functions = {}

    def open(
        self,
        arrays: Record,
        factory: str,
        folder: str,
        dtype: str,
        settings: dict[str, Any],
        seed: int,
        changes: list[Any],
    ) -> tuple[Record, Any]:
        """Makes the model. Where the factory's module imports both frameworks, it decides which of them comes first."""
        machine.set_threads(self.threads)
        environment = getattr(machine, f"{self.framework}_environment")()
        os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
        with _told(f"the {self.framework} side: {factory} cannot be imported"):
            found, given, named = factories.load_model(factory, folder)
        runtime = implementation(self.framework, "runtime", self.threads)
        runtime.start(self.device, self.threads)
        runtime.be_exact()
        backend, own = make_backend(self.framework), implementation(self.framework, "replaced_functions")
        backend.set_default_dtype("float32")
        backend.seed(seed)
        with _told(f"the {self.framework} side: {factory} cannot be made"):
            model = found if isinstance(found, backend.MODULE) else found(*given, **named)
        if not isinstance(model, backend.MODULE):
            wanted = f"{backend.MODULE.__module__}.{backend.MODULE.__qualname__}"
            raise InputError(f"the {self.framework} side: {factory} makes a {type(model).__name__}, not a {wanted}")
        self.model = WatchedModel(backend, model, dtype, from_fields(Optimizer, settings, "optimizer"))
        for layer, attribute, value in changes:
            if not self.model.change(layer, attribute, value):
                raise InputError(
                    f"the {self.framework} model has no layer {layer!r} with an attribute {attribute!r} to set"
                )
        modules = self.model.describe()
        own.prepare(self.model.model)
        if not self.replaced:
            functional = sys.modules[f"{self.framework}.nn.functional"]
            self.replaced = replaced_functions.rounded(functional) | own.replacements(self._draw, lambda: self.variance)
        replaced_functions.replace(self.replaced)
        versions = runtime.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}
        return {}, {"modules": modules, "versions": versions}

    def kernel_variance(self, arrays: Record) -> tuple[Record, Any]:
        return {}, make_backend(self.framework).kernel_variance()

    def agree(self, arrays: Record, variance: str) -> tuple[Record, Any]:
        self.variance = variance
        return {}, None

    def tensors(self, arrays: Record, names: list[str]) -> tuple[Record, Any]:
        return self.model.state(names), None

    def gradients(self, arrays: Record, names: list[str]) -> tuple[Record, Any]:
        return self.model.gradients(names), None

    def load(self, arrays: Record) -> tuple[Record, Any]:
        self.model.load(arrays)
        return {}, None

    def run(
        self,
        arrays: Record,
        train: bool,
        wanted: list[str],
        seed: int,
        keys: dict[str, str],
        randomness: bool,
        path: str,
    ) -> tuple[Record, Any]:
        watch = self.model.watch
        watch.wanted = set(wanted)
        watch.begin({int(n): key for n, key in keys.items()}, seed, bool(wanted), randomness)
        with self._failing("in forward"):
            outputs = self.model.run([arrays[f"{i}"] for i in range(len(arrays))], train, path)
        found = {f"output/{name}": array for name, array in outputs.items()} | watch.arrays
        return found, {"calls": watch.calls, "dropouts": watch.dropouts, "random": watch.random}

    def backward(self, arrays: Record) -> tuple[Record, Any]:
        with self._failing("in backward"):
            found = {f"input/{i}": array for i, array in self.model.backward(arrays).items()}
        return found | {f"backward/{key}": array for key, array in self.model.watch.gradients.items()}, None

    def update(self, arrays: Record) -> tuple[Record, Any]:
        self.model.update(arrays)
        return {}, None

    def read_arrays(self, arrays: Record, path: str) -> tuple[Record, Any]:
        found = implementation(self.framework, "state_dict_files").read_arrays(Path(path))
        return {str(name): array for name, array in found.items() if _is_floats(array)}, None

    def write_arrays(self, arrays: Record, path: str) -> tuple[Record, Any]:
        implementation(self.framework, "state_dict_files").write_arrays(Path(path), arrays)
        return {}, None

    def _draw(self, size: int, p: float) -> np.ndarray:
        factors: np.ndarray = self.model.watch.draw(size, p)
        return factors

    @contextlib.contextmanager
    def _failing(self, where: str) -> Iterator[None]:
        """An exception of the user's model becomes one line that says where it happened."""
        stack = self.model.watch.stack
        stack.clear()
        try:
            yield
        except Exception as error:
            path = self.model.watch.stack[-1] if self.model.watch.stack else ""
            layer = f" at layer {path or 'the model itself'}" if where == "in forward" else ""
            hint = ""
            if self.model.dtype == "float64" and (
                "dtype" in str(error).lower() or "data type" in str(error).lower() or "Float" in str(error)
            ):
                hint = " (the check runs in float64: a constant that forward makes may be float32)"
            raise InputError(f"the {self.framework} model failed {where}{layer}: {_sentence(error)}{hint}") from error


def _is_floats(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    """Type and first telling line of an exception; Paddle's begin with pages of C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if line.startswith("(") or "Error: " in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {telling}"[:400]


if __name__ == "__main__":
    serve(lambda: _Models(sys.argv[1], int(sys.argv[2]) or None, sys.argv[3]))
