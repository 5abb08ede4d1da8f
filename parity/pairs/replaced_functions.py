"""Replace functions of a framework while two models are compared, and restore them afterwards.

Paddle's kernels hold many scalars in float32, even for float64 tensors, and the set changes with the version. Both sides round them
once, so that they agree. Dropouts and other functions draw from shared random streams.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np

from parity.arrays import Array
from parity.backend.registry import implementation
from parity.modules.function_calls import FunctionCalls
from parity.modules.recording import Watch

ROUNDED: Mapping[str, tuple[str, ...]] = {
    "layer_norm": ("eps", "epsilon"),
    "group_norm": ("eps", "epsilon"),
    "instance_norm": ("eps", "epsilon"),
    "rms_norm": ("eps", "epsilon"),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "hardtanh": ("min_val", "max_val", "min", "max"),
}
"""Functions of both frameworks' `nn.functional` -> the arguments that are rounded to float32."""

Functions = Mapping[Callable[..., Any], Callable[..., Any]]


def rounded(functional: ModuleType) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the functions of `ROUNDED` in a framework's `nn.functional` -> substitutes with rounded scalars."""
    found = {getattr(functional, name): words for name, words in ROUNDED.items() if hasattr(functional, name)}
    return {
        function: functools.partial(_rounded, function, inspect.signature(function), words)
        for function, words in found.items()
    }


def _rounded(
    original: Callable[..., Any], signature: inspect.Signature, words: tuple[str, ...], /, *given: Any, **named: Any
) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    for word in words:
        if isinstance(call.arguments.get(word), float):
            call.arguments[word] = float(np.float32(call.arguments[word]))
    return original(*call.args, **call.kwargs)


def replace_everywhere(functions: Functions, undo: contextlib.ExitStack) -> None:
    """Replace functions in all loaded modules that hold them, under any name; `undo` restores them."""
    by_identity = {id(function): substitute for function, substitute in functions.items()}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict) or getattr(module, "__name__", "").startswith(
            ("parity", "torch_impl", "paddle_impl")
        ):
            continue
        for name, value in list(names.items()):
            if id(value) in by_identity:
                names[name] = by_identity[id(value)]
                undo.callback(names.__setitem__, name, value)


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

    def replace(self, compiled: bool = False) -> None:
        """Replace every function in all loaded modules that hold it, under any name. `compiled`: models are, but not the substitutes."""
        if not self._functions:
            own = implementation(self.framework, "replaced_functions")
            functional = sys.modules[f"{self.framework}.nn.functional"]
            self._functions = own.operators(lambda: self._watch) | rounded(functional)
            self._functions |= own.replacements(self._draw, self._variance, self._scale)
            if compiled:
                self._functions = {function: own.not_compiled(new) for function, new in self._functions.items()}
        replace_everywhere(self._functions, self._undo)

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
            replace_everywhere(own.recorded(calls), undo)
            undo.enter_context(own.recording(calls))
            yield

    def leave(self) -> None:
        """Note that a model is closed; restore everything after the last one."""
        self._models -= 1
        if not self._models:
            self.running, self._functions = None, {}
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


@contextlib.contextmanager
def observing(
    framework: str, dropped: Callable[[Array, float], None] | None, clips: Callable[[str, float], None]
) -> Iterator[None]:
    """A context in which functions tell what they do, and change no number.

    `dropped(factors, p)` gets the multipliers that a dropout has used; None: dropouts stay as they are. `clips(kind, limit)` is called
    before gradients are clipped; the kinds are those of `parity.recipe.optimizer_description.Clip`.
    """
    own = implementation(framework, "replaced_functions")
    utilities = sys.modules[f"{framework}.nn.utils"]
    with contextlib.ExitStack() as undo:
        dropouts: Functions = own.observed(dropped) if dropped else {}
        replace_everywhere({**dropouts, **_observed_clips(utilities, clips)}, undo)
        yield


def _observed_clips(utilities: ModuleType, clips: Callable[[str, float], None]) -> Functions:
    def clip_norm(original: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        call = inspect.signature(original).bind(*given, **named)
        call.apply_defaults()
        order = call.arguments["norm_type"]
        clips("global norm" if order == 2 else f"global norm of order {order}", float(call.arguments["max_norm"]))
        return original(*given, **named)

    def clip_value(original: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        call = inspect.signature(original).bind(*given, **named)
        clips("value", float(call.arguments["clip_value"]))
        return original(*given, **named)

    substitutes = {"clip_grad_norm_": clip_norm, "clip_grad_value_": clip_value}
    return {
        (own := getattr(utilities, name)): functools.partial(substitute, own)
        for name, substitute in substitutes.items()
    }


@contextlib.contextmanager
def dropping(framework: str, draw: Callable[[int, float], Array]) -> Iterator[None]:
    """A context in which dropouts of `size` values and probability `p` multiply by `draw(size, p)`."""
    own = implementation(framework, "replaced_functions")
    functional = sys.modules[f"{framework}.nn.functional"]
    functions = own.replacements(draw, lambda: "", lambda p: None)
    with contextlib.ExitStack() as undo:
        names = ("dropout", "dropout1d", "dropout2d", "dropout3d")
        dropouts = [getattr(functional, name) for name in names if hasattr(functional, name)]
        replace_everywhere({function: functions[function] for function in dropouts if function in functions}, undo)
        yield


class RunningModel(Protocol):
    """A model that is running: its dropout masks, and its convention for running variances."""

    variance: str

    def draw(self, size: int, p: float) -> Array:
        """Return the factors of a dropout of `size` values, see `parity.modules.recording.Watch.draw`."""

    def note_scaled(self, p: float) -> None:
        """Record a dropout that scales in inference."""
