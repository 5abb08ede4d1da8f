"""Replace functions of a framework while two models are compared, and restore them afterwards.

Paddle's kernels hold many scalars in float32, even for float64 tensors, and the set changes with the version. Paddle's functions get
them exact. In static graphs batch norms cannot, so both sides round them. Dropouts and other functions draw from shared random streams.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import operator
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np

from parity.arrays import Array
from parity.backend.registry import implementation
from parity.modules.function_calls import FunctionCalls
from parity.modules.recording import Watch

Functions = Mapping[Callable[..., Any], Callable[..., Any]]
Clips = Callable[[str, float, Sequence[Any]], None]
"""Gets the kind of a clipping, its limit and the parameters."""


def replace_everywhere(
    functions: Functions, undo: contextlib.ExitStack, layers: Iterable[dict[str, Any]] = (), tables: bool = False
) -> None:
    """Replace functions in all loaded modules and in the attributes of `layers` that hold them, under any name; `undo` restores them.

    `tables`: also in partial calls, lists and dicts of modules.
    """
    by_identity = {id(function): substitute for function, substitute in functions.items()}
    before: list[tuple[dict[str, Any], str, Any]] = []
    undo.callback(_restore, before)

    def put(names: dict[str, Any], name: str, value: Any, new: Any) -> None:
        if new is not value:
            names[name] = new
            before.append((names, name, value))

    def replace(names: dict[str, Any], deep: bool) -> None:
        values = list(names.values())
        # Most names hold none of the functions and no holder. These tests run without a loop in Python.
        if not by_identity.keys().isdisjoint(map(id, values)):
            for name, value in list(names.items()):
                put(names, name, value, by_identity.get(id(value), value))
        if deep:
            for name, value in list(itertools.compress(names.items(), map(HOLDERS.__contains__, map(type, values)))):
                if not name.startswith("__"):  # each module holds all built-in functions as __builtins__
                    put(names, name, value, _substitute(value, by_identity))

    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        package = getattr(module, "__name__", "").partition(".")[0]
        if isinstance(names, dict) and package not in ("parity", "torch_impl", "paddle_impl"):
            replace(names, tables and package not in WITH_TABLES)
    for names in layers:
        replace(names, deep=True)


def _restore(before: list[tuple[dict[str, Any], str, Any]]) -> None:
    for names, name, value in reversed(before):
        names[name] = value


WITH_TABLES = sys.stdlib_module_names | {"torch", "paddle"}
"""Packages whose tables of functions stay as they are: a framework looks up its own functions."""

HOLDERS = frozenset({functools.partial, dict, list, tuple})
"""Types of values in which a function may be held."""


def _substitute(value: Any, by_identity: Mapping[int, Any]) -> Any:
    """Return the substitute of a function, of a partial call of one, or of a list, tuple or dict that holds one; else `value`."""
    kind = type(value)
    if kind is not functools.partial:
        held = value.values() if kind is dict else value
        if by_identity.keys().isdisjoint(map(id, held)) and functools.partial not in map(type, held):
            return value
    if kind is dict:
        changed = {key: new for key, one in value.items() if (new := _of_function(one, by_identity)) is not one}
        return value | changed if changed else value
    if kind is list or kind is tuple:
        several = [_of_function(one, by_identity) for one in value]
        return value if all(map(operator.is_, several, value)) else kind(several)
    return _of_function(value, by_identity)


def _of_function(value: Any, by_identity: Mapping[int, Any]) -> Any:
    if id(value) in by_identity:
        return by_identity[id(value)]
    function = by_identity.get(id(value.func)) if type(value) is functools.partial else None
    return functools.partial(function, *value.args, **value.keywords) if function else value


class Replaced:
    """The replaced functions of a framework, while its models are open in this process.

    Dropouts draw for the model that is `running`, and running variances use its convention. After the last model closes, everything is
    restored: functions, random states, default dtypes and other settings of the process.
    """

    _open: ClassVar[dict[str, Replaced]] = {}

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self.running: RunningModel | None = None
        self._watch: Watch | None = None
        self._models = 0
        self._undo = contextlib.ExitStack()
        self._functions: Functions = {}
        self._layers: list[dict[str, Any]] = []

    @classmethod
    def of(cls, framework: str) -> Replaced:
        """Return the one instance of a framework in this process."""
        return cls._open.setdefault(framework, cls(framework))

    def enter(self) -> None:
        """Save the state that a new model may change."""
        if not self._models:
            self._undo = contextlib.ExitStack()
            self._undo.callback(random.setstate, random.getstate())
            self._undo.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - user code draws from this state
            self._undo.enter_context(implementation(self.framework, "replaced_functions").prepared_process())
        self._models += 1

    def replace(self, layers: Iterable[Any] = (), compiled: bool = False) -> None:
        """Replace every function in all loaded modules and in the `layers` of a model that hold it, under any name.

        `compiled`: models are, but not the substitutes.
        """
        if not self._functions:
            own = implementation(self.framework, "replaced_functions")
            self._functions = own.operators(lambda: self._watch, self._rounds)
            self._functions |= own.replacements(self._draw, self._variance, self._rounds, self._scale)
            if compiled:
                self._functions = {function: own.not_compiled(new) for function, new in self._functions.items()}
            self._functions = _named(self._functions)
        self._layers += map(vars, layers)
        replace_everywhere(self._functions, self._undo, self._layers, tables=True)

    @contextlib.contextmanager
    def watching(self, watch: Watch | None) -> Iterator[None]:
        """A context in which random numbers come from `watch`, which also sees dtypes; None: operators are those of the framework."""
        if watch is None:
            yield
            return
        self._watch = watch
        try:
            with implementation(self.framework, "replaced_functions").watching(watch):
                yield
        finally:
            self._watch = None

    @contextlib.contextmanager
    def recording(self, calls: FunctionCalls | None) -> Iterator[None]:
        """A context in which `calls` records the functions that models call; None: nothing is recorded."""
        if calls is None:
            yield
            return
        own = implementation(self.framework, "replaced_functions")
        with contextlib.ExitStack() as undo:
            replace_everywhere(own.recorded(calls), undo, self._layers)
            undo.enter_context(own.recording(calls))
            yield

    def leave(self) -> None:
        """Note that a model is closed; restore everything after the last one."""
        self._models -= 1
        if not self._models:
            self.running, self._functions, self._layers = None, {}, []
            self._undo.close()

    def _draw(self, size: int, p: float) -> Array:
        assert self.running
        return self.running.draw(size, p)

    def _scale(self, p: float) -> None:
        assert self.running
        self.running.note_scaled(p)

    def _variance(self) -> str:
        assert self.running
        return self.running.variance

    def _rounds(self) -> bool:
        assert self.running
        return self.running.rounds


@contextlib.contextmanager
def observing(framework: str, dropped: Callable[[Array, float], None] | None, clips: Clips) -> Iterator[None]:
    """A context in which functions tell what they do, and change no number.

    `dropped(factors, p)` gets the multipliers that a dropout has used; None: dropouts stay as they are. `clips(kind, limit, parameters)`
    is called before gradients are clipped; the kinds are those of `parity.recipe.optimizer_description.Clip`.
    """
    own = implementation(framework, "replaced_functions")
    utilities = sys.modules[f"{framework}.nn.utils"]
    with contextlib.ExitStack() as undo:
        dropouts: Functions = own.observed(dropped) if dropped else {}
        functions = {**dropouts, **_observed_clips(utilities, clips)}
        replace_everywhere(_named(functions), undo)
        yield


def _named(functions: Functions) -> Functions:
    """Give the substitutes the names of the functions, for which a compiler asks."""
    return {function: functools.update_wrapper(new, function) for function, new in functions.items()}


def _observed_clips(utilities: ModuleType, clips: Clips) -> Functions:
    def clip(limit: str, original: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        call = inspect.signature(original).bind(*given, **named)
        call.apply_defaults()
        order, parameters = call.arguments.get("norm_type", 2), call.arguments["parameters"]
        alone = hasattr(parameters, "shape")
        several = call.arguments["parameters"] = [parameters] if alone else list(parameters)  # they may be an iterator
        norm = "global norm" if order == 2 else f"global norm of order {order}"
        clips(norm if limit == "max_norm" else "value", float(call.arguments[limit]), several)
        return original(*call.args, **call.kwargs)

    limits = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
    return {(own := getattr(utilities, name)): functools.partial(clip, limit, own) for name, limit in limits.items()}


@contextlib.contextmanager
def dropping(framework: str, draw: Callable[[int, float], Array]) -> Iterator[None]:
    """A context in which dropouts of `size` values and probability `p` multiply by `draw(size, p)`."""
    own = implementation(framework, "replaced_functions")
    functional = sys.modules[f"{framework}.nn.functional"]
    functions = own.replacements(draw, lambda: "", lambda: False, lambda p: None)
    with contextlib.ExitStack() as undo:
        names = ("dropout", "dropout1d", "dropout2d", "dropout3d")
        dropouts = [getattr(functional, name) for name in names if hasattr(functional, name)]
        replace_everywhere({function: functions[function] for function in dropouts if function in functions}, undo)
        yield


class RunningModel(Protocol):
    """A model that is running: its dropout masks, its convention for running variances, and whether batch norms round scalars."""

    variance: str
    rounds: bool

    def draw(self, size: int, p: float) -> Array:
        """Return the factors of a dropout of `size` values, see `parity.modules.recording.Watch.draw`."""

    def note_scaled(self, p: float) -> None:
        """Record a dropout that scales in inference."""
