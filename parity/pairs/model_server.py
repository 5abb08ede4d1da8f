"""Anybody's model as a service: one model at a time, in this process or, as `parity.pairs.model_worker.ModelWorker`, in one of its own."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.protocol import Backend
from parity.backend.registry import implementation, make_backend
from parity.backend.remote import KINDS, Service, at_caller, fields_kind, serve_service
from parity.backend.watched_model import WatchedModel
from parity.errors import InputError
from parity.pairs import factories, replaced_functions
from parity.recipe.optimizer import Optimizer


@dataclass(frozen=True)
class ModelRun:
    """What a run noted: `outputs` by place, `calls` {path, inputs, outputs} whose arrays are in `arrays`, `dropouts`, `random`."""

    outputs: Record
    arrays: Record
    calls: list[dict[str, Any]]
    dropouts: list[dict[str, Any]]
    random: list[str]


class ModelService(Service):
    """Holds a `parity.backend.watched_model.WatchedModel`. Functions of the framework are replaced in the whole process meanwhile."""

    KINDS = (*KINDS, fields_kind(ModelRun))

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        super().__init__(framework, threads, device)
        self.variance = "unbiased"
        self._replaced = replaced_functions.Replaced.of(framework)
        self._held = contextlib.ExitStack()
        self._model: WatchedModel

    @at_caller
    def open(
        self,
        factory: Any,
        dtype: str,
        settings: Optimizer,
        seed: int = 0,
        folder: str | None = None,
        changes: Sequence[tuple[str, str, Any]] = (),
    ) -> dict[str, Any]:
        """Makes the model of `factory`; returns its `modules` and the `versions` of what it runs on.

        `factory` is a text, see `parity.pairs.factories`; in this process it may also be a model, of which a copy is used, or what makes
        one. `folder` (None: the working directory) is where a text is looked for. `changes` are set in the model: layer (a path, or a
        class for all of it), attribute, value.
        """
        where = os.path.abspath(folder or os.getcwd())  # noqa: PTH100, PTH109
        return self.open_in(where, factory, dtype, settings, seed, changes)

    def open_in(
        self,
        folder: str,
        factory: Any,
        dtype: str,
        settings: Optimizer,
        seed: int,
        changes: Sequence[tuple[str, str, Any]],
    ) -> dict[str, Any]:
        """Makes the model. Where the factory's module imports both frameworks, it decides which of them comes first."""
        self.release()
        text = factories.text_of(factory)
        if isinstance(factory, str):
            found, given, named = self._load(factory, folder)
        else:
            found, given, named = factory, [], {}
        runtime = implementation(self.framework, "runtime", self.threads)
        backend = make_backend(self.framework)
        self._replaced.enter()
        self._held.callback(self._replaced.leave)
        if isinstance(factory, str):
            runtime.start(self.device, self.threads)
            backend.set_default_dtype("float32")
            backend.seed(seed)
        with _told(f"the {self.framework} side: {text} cannot be made"):
            model = found if isinstance(found, backend.MODULE) else found(*given, **named)
            # A function may return a model that it has made before.
            is_live = model is factory or (not isinstance(factory, str | type) and factory() is model)
        if not isinstance(model, backend.MODULE):
            wanted = f"{backend.MODULE.__module__}.{backend.MODULE.__qualname__}"
            raise InputError(f"the {self.framework} side: {text} makes a {type(model).__name__}, not a {wanted}")
        if is_live:
            model = self._copied(model, text, backend)
        if isinstance(factory, str) or backend.device_of(model) == "gpu":
            runtime.be_exact()
        with _told(f"the {self.framework} side: {text} cannot be watched"):
            self._model = WatchedModel(backend, model, dtype, settings)
        self._held.callback(self._model.close)
        for layer, attribute, value in changes:
            if not self._model.change(layer, attribute, value):
                raise InputError(
                    f"the {self.framework} model has no layer {layer!r} with an attribute {attribute!r} to set"
                )
        modules = self._model.describe()
        implementation(self.framework, "replaced_functions").prepare(self._model.model)
        self._replaced.replace()
        versions = runtime.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}
        return {"modules": modules, "versions": versions}

    def release(self) -> None:
        """Lets go of the model. Behind the last one of a process, everything that was replaced or set in it is as it was."""
        self._held.close()

    def _load(self, factory: str, folder: str) -> tuple[Any, list[Any], dict[str, Any]]:
        machine.set_threads(self.threads)
        environment = getattr(machine, f"{self.framework}_environment")()
        os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
        with _told(f"the {self.framework} side: {factory} cannot be imported"):
            return factories.load_model(factory, folder)

    def _copied(self, model: Any, text: str, backend: Backend) -> Any:
        for path, module in backend.named_modules(model):
            if isinstance(vars(module).get("forward"), types.FunctionType):  # a copy of it would still run the original
                raise InputError(
                    f"the {self.framework} side: {text} cannot be copied, since forward of layer {path or '(the model itself)'} was "
                    "replaced: give a function that makes the model"
                )
        try:
            return copy.deepcopy(model)
        except Exception as error:  # whatever is in somebody's model
            raise InputError(
                f"the {self.framework} side: {text} cannot be copied ({_sentence(error)}): give its class, or a function that makes it"
            ) from error

    def kernel_variance(self) -> str:
        """Which variance of a batch the framework's kernel adds to the running one: "biased" or "unbiased"."""
        return make_backend(self.framework).kernel_variance()

    def agree(self, variance: str) -> None:
        """From now on the running variances are moved by this convention, where that can be chosen."""
        self.variance = variance

    @at_caller
    def draw(self, size: int, p: float) -> Array:
        """What a dropout of the model multiplies `size` numbers by."""
        return self._model.watch.draw(size, p)

    def tensors(self, names: Sequence[str]) -> Record:
        """Tensors by the model's own names."""
        return self._model.state(names)

    def gradients(self, names: Sequence[str]) -> Record:
        """Gradients of the last backward, of those of the named tensors that have one."""
        return self._model.gradients(names)

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Overwrites the named tensors and starts a fresh optimizer."""
        self._model.load(arrays)

    def run(
        self,
        inputs: Sequence[Array],
        train: bool,
        wanted: Sequence[str] = (),
        seed: int = 0,
        keys: Mapping[int, str] | None = None,
        randomness: bool = False,
        path: str = "",
    ) -> ModelRun:
        """Forward. `wanted` are the layers to note, `keys` the streams of dropouts, `randomness` notes who draws random numbers."""
        self._replaced.running = self
        watch = self._model.watch
        watch.wanted = set(wanted)
        watch.begin(keys or {}, seed, bool(wanted), randomness)
        with self._failing("in forward"):
            outputs = self._model.run(inputs, train, path)
        return ModelRun(outputs, watch.arrays, watch.calls, watch.dropouts, watch.random)

    def backward(self, gradients: Mapping[str, Array]) -> Record:
        """Backward from the gradients of the outputs; returns those of inputs (`input/I`) and noted outputs (`backward/KEY`)."""
        with self._failing("in backward"):
            found = {f"input/{i}": array for i, array in self._model.backward(gradients).items()}
        return found | {f"backward/{key}": array for key, array in self._model.watch.gradients.items()}

    def update(self, kept: Mapping[str, Array]) -> None:
        """One step of the optimizer; gradients named in `kept` are first multiplied by its 0/1 arrays."""
        self._model.update(kept)

    def read_arrays(self, path: Path) -> Record:
        """The arrays of floats in a state dict's file of the framework, as they are there."""
        found = implementation(self.framework, "state_dict_files").read_arrays(path)
        return {str(name): array for name, array in found.items() if _is_floats(array)}

    def write_arrays(self, path: Path, arrays: Mapping[str, Array]) -> None:
        """Writes them as the file of a state dict."""
        implementation(self.framework, "state_dict_files").write_arrays(path, arrays)

    @contextlib.contextmanager
    def _failing(self, where: str) -> Iterator[None]:
        """An exception of the user's model becomes one line that says where it happened."""
        stack = self._model.watch.stack
        stack.clear()
        try:
            yield
        except Exception as error:
            path = self._model.watch.stack[-1] if self._model.watch.stack else ""
            layer = f" at layer {path or 'the model itself'}" if where == "in forward" else ""
            hint = ""
            if self._model.dtype == "float64" and (
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
    serve_service(ModelService, *sys.argv[1:])
