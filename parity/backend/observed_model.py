"""A model of a user as it is: its modules, its tensors, and what its layers compute, recorded by hooks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from parity.arrays import Array
from parity.backend.protocol import Backend, Module, Tensor
from parity.errors import InputError
from parity.modules.description import below, is_below
from parity.modules.function_calls import FunctionCalls
from parity.modules.recording import Watch, plain_attributes


def dtype_of(tensor: Tensor) -> str:
    """Return the dtype of a tensor by the name that numpy gives it, or would give it."""
    return str(tensor.dtype).rpartition(".")[2]


def tensors_of(backend: Backend, model: Module) -> dict[str, Tensor]:
    """Return every distinct floating-point tensor of a model by its first name."""
    found: dict[str, Tensor] = {}
    known = set()
    for path, module in backend.named_modules(model):
        for name, tensor in backend.own_tensors(module):
            if id(tensor) not in known:
                found[below(path, name)] = tensor
                known.add(id(tensor))
    return found


class Hook:
    """A hook of a model. A copy of the model, or a file of it, gets one that does nothing: programs copy models to average weights."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *given: Any) -> None:
        """Call the function."""
        self._function(*given)

    def __reduce__(self) -> tuple[type[Hook], tuple[Callable[..., None]]]:
        return Hook, (_do_nothing,)


def _do_nothing(*given: Any) -> None:
    """Be called by the layers of a copy."""


class ObservedModel:
    """A `model` of the framework of `backend`, whose layers tell `watch` what they compute, until `close`. The model stays as it is.

    `functions` records the functions that the model calls, if it is not None.
    """

    def __init__(self, backend: Backend, model: Module, watch: Watch) -> None:
        self.backend, self.watch = backend, watch
        self.model: Module = model
        self.functions: FunctionCalls | None = None
        self.compiled = backend.compiled_modules(model)
        outer = {path: module for path, module in self.compiled.items() if module is not None}
        modules = dict(backend.named_modules(model))
        for path, module in modules.items():
            if empty := [name for name, tensor in backend.own_tensors(module) if not backend.has_values(tensor)]:
                raise InputError(
                    f"{below(path, empty[0])} of {type(module).__name__} has no numbers yet: run a model with lazy layers once before, and "
                    "initialize one that was made on the meta device or in a LazyGuard"
                )
        self._inside = {path: m for path, m in modules.items() if self._is_compiled(path) and path not in outer}
        self._hooks = self._hook({path: m for path, m in modules.items() if path not in self._inside} | outer)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def own_dtype(self) -> str:
        """Return the dtype of most floating-point numbers of the model, "" if it has none."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors().values():
            sizes[dtype_of(tensor)] = sizes.get(dtype_of(tensor), 0) + math.prod(tensor.shape)
        return max(sizes, key=lambda dtype: sizes[dtype], default="")

    def _is_compiled(self, path: str) -> bool:
        return any(is_below(path, other) for other in self.compiled)

    def _hook(self, modules: Mapping[str, Module]) -> list[Any]:
        """Record the calls of modules; return what removes the hooks."""
        found: list[Any] = []
        for path, module in modules.items():
            found.append(self.backend.before_forward(module, Hook(functools.partial(self._before, path))))
            found.append(self.backend.after_forward(module, Hook(functools.partial(self._after, path))))
        return found

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """A context in which compiled modules run as they were before, and the modules inside are recorded, too."""
        if not self.compiled:
            yield
            return
        hooks = self._hook(self._inside)
        try:
            with self.backend.uncompiled():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def describe(self) -> list[dict[str, Any]]:
        """Every module in the order of registration: path, classes, attributes, its own arrays, and whether it has submodules."""
        first = {id(tensor): name for name, tensor in self.tensors().items()}
        return [
            {
                "path": path,
                "classes": [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__[:-1]],
                "attributes": plain_attributes(vars(module)),
                "arrays": {
                    name: {
                        "shape": list(tensor.shape),
                        "dtype": dtype_of(tensor),
                        "trained": self.backend.is_trained(tensor),
                        "same_as": None if first[id(tensor)] == below(path, name) else first[id(tensor)],
                    }
                    for name, tensor in self.backend.own_tensors(module)
                },
                "inside": any(True for _ in module.children()),
            }
            for path, module in self.backend.named_modules(self.model)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Every distinct floating-point tensor by its first name."""
        return tensors_of(self.backend, self.model)

    def state(self, names: Sequence[str]) -> dict[str, Array]:
        """Copies of the named tensors."""
        tensors = self.tensors()
        return {name: self.backend.to_numpy(tensors[name]) for name in names}

    def gradients(self, names: Sequence[str]) -> dict[str, Array]:
        """Copies of the gradients of those of the named tensors that have one."""
        tensors = self.tensors()
        return {name: self.backend.to_numpy(tensors[name].grad) for name in names if tensors[name].grad is not None}

    def take(self, tensor: Tensor) -> Any:
        """Return what `watch` keeps of a tensor: a copy as numpy."""
        return self.backend.to_numpy(tensor)

    def _before(self, path: str, module: Module, inputs: tuple[Any, ...]) -> None:
        if self.functions:
            self.functions.enter(path, [tensor for _, tensor in self.flatten(inputs)])
        with self.functions.paused() if self.functions else contextlib.nullcontext():
            self._watch_inputs(path, inputs)

    def _watch_inputs(self, path: str, inputs: tuple[Any, ...]) -> None:
        self.watch.enter(path, self.backend.random_state)
        if self.watch.wants(path):
            self.watch.inputs(path, [self.take(tensor) for _, tensor in self.flatten(inputs)])

    def _after(self, path: str, module: Module, inputs: tuple[Any, ...], result: Any) -> None:
        if self.functions:
            self.functions.leave(path, [tensor for _, tensor in self.flatten(result)])
        with self.functions.paused() if self.functions else contextlib.nullcontext():
            self._watch_outputs(path, result)

    def _watch_outputs(self, path: str, result: Any) -> None:
        if self.watch.wants(path):
            outputs = [tensor for _, tensor in self.flatten(result)]
            keys = self.watch.outputs(path, [self.take(tensor) for tensor in outputs])
            for key, tensor in zip(keys, outputs, strict=True):
                if self.backend.needs_gradient(tensor):
                    self.watch_gradient(key, tensor)
        self.watch.leave(path, self.backend.random_state)

    def watch_gradient(self, key: str, tensor: Tensor) -> None:
        """Let `watch` record the gradient of a tensor of the last call, as soon as a backward pass computes it."""
        self.backend.on_gradient(tensor, functools.partial(self._graded, key))

    def _graded(self, key: str, gradient: Tensor) -> None:
        self.watch.gradient(key, self.take(gradient))

    def flatten(self, value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
        """The tensors in nested tuples, lists, dicts and dataclasses, by their places: "0.scores"."""
        if isinstance(value, self.backend.TENSOR):
            yield path, value
        elif isinstance(value, Mapping):
            for key, one in value.items():
                yield from self.flatten(one, below(path, str(key)))
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            for name, one in zip(value._fields, value, strict=True):
                yield from self.flatten(one, below(path, name))
        elif isinstance(value, list | tuple):
            for i, one in enumerate(value):
                yield from self.flatten(one, below(path, str(i)))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                yield from self.flatten(getattr(value, field.name), below(path, field.name))
