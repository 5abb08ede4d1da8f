"""The functions that a model calls while it runs, in order: their names, layers and arguments, and which tensor feeds which."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.modules.function_names import PASSING, SETTING, spoken_name

DTYPE = re.compile(r"(torch|paddle)\.\w+")

IDLE = ("name", "inplace", "training", "_stacklevel", "data_format", "device", "place")
"""Arguments that do not change what a function computes. They are not recorded."""

SCALARS = {
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "hardtanh": ("min_val", "max_val"),
}
"""Activation -> what its layer in PyTorch passes by name. It is recorded without the name, as if Paddle's layer had passed it."""

LOSS = "the loss"
"""The path of what a user's loss calls, and the name of its result."""


class FunctionCalls:
    """The record of one run. A tensor has an origin: "12.0" is the first output of call 12.

    The origin of an input is "input" with its argument's number, that of an input of the loss "target" with its number, that of a weight
    "weight" with its name, and that of a tensor from elsewhere "other" with a number. `arrays` holds the wanted values by origin.

    `calls` holds {name, function, path, arguments, inputs, outputs, graded}: the one name of both frameworks, the name by which a
    program calls it, the layer in whose forward it was called, the arguments as in a program (`$0` is the first tensor), the origins of
    tensors, and whether each input gets a gradient.
    `layers` holds {path, inputs, outputs} in the order in which the layers ended, with the origins of tensors.

    Args:
        tensor: The class of the framework's tensors.
        to_numpy: Copies a tensor to numpy.
        has_values: Whether a tensor has values: a recurrent layer of Paddle passes one without.
        wanted: The origins whose values are kept.
        needs_gradient: Whether a tensor gets a gradient.
        on_gradient: Is called with the origin and the tensor where a value is kept, and may watch the tensor's gradient.
    """

    def __init__(
        self,
        tensor: type,
        to_numpy: Callable[[Any], Array],
        has_values: Callable[[Any], bool],
        wanted: Collection[str],
        needs_gradient: Callable[[Any], bool],
        on_gradient: Callable[[str, Any], None],
    ) -> None:
        self._tensor, self._to_numpy, self._has_values, self.wanted = tensor, to_numpy, has_values, frozenset(wanted)
        self._needs_gradient, self._on_gradient = needs_gradient, on_gradient
        self._depth = 0
        self.begin({})

    def begin(self, known: Mapping[str, Any]) -> None:
        """Clear the record. `known` are the tensors that exist already, by their origins."""
        self.calls: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self._origins: dict[int, str] = {}
        self._alive: list[Any] = []  # so that no other tensor gets the same id
        self._open: list[tuple[str, list[str]]] = []
        self._others = 0
        self.know(known)

    def know(self, tensors: Mapping[str, Any]) -> None:
        """Note tensors that no recorded call makes, by their origins."""
        for origin, tensor in tensors.items():
            self._put(tensor, origin)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which nothing is recorded."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def wrap(self, function: Callable[..., Any], spelled: str) -> Callable[..., Any]:
        """Return `function`, which a program calls `spelled`, with a record of its calls."""

        @functools.wraps(function, updated=())
        def wrapper(*given: Any, **named: Any) -> Any:
            return self.call(function, spelled, given, named)

        return wrapper

    def call(self, function: Callable[..., Any], spelled: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Call `function` with positional and named arguments, record the call, and return the result.

        Calls inside of it are not recorded, and neither is a call without a tensor in its result.
        """
        if self._depth:
            return function(*given, **named)
        name = spoken_name(spelled.removesuffix(".__get__").rpartition(".")[2])
        tensors: list[Any] = []
        arguments = [self._spell(value, tensors) for value in given]
        arguments += [
            f"{word}={self._spell(value, tensors)}"
            for word, value in named.items()
            if value is not None and word not in IDLE
        ]
        for place, word in enumerate(SCALARS.get(name, ()), 1):
            if len(arguments) > place:
                arguments[place] = arguments[place].removeprefix(f"{word}=")
        with self.paused():
            inputs = [self._origin(tensor) for tensor in tensors]
            graded = [self._needs_gradient(tensor) for tensor in tensors]
            result = function(*given, **named)
            outputs = [one for one in _flat(result) if isinstance(one, self._tensor)]
            if not outputs and name in SETTING:
                outputs = [one for one in given[:1] if isinstance(one, self._tensor)]
            if not outputs:
                return result
            if name in PASSING and len(outputs) == 1 and inputs:
                self._put(outputs[0], inputs[0])
            else:
                self._add(name, spelled, arguments, inputs, outputs, graded)
        return result

    def enter(self, path: str, inputs: Sequence[Any]) -> None:
        """Record that a layer begins."""
        with self.paused():
            self._open.append((path, [self._origin(tensor) for tensor in inputs]))

    def leave(self, path: str, outputs: Sequence[Any]) -> None:
        """Record that a layer ends. An output that no recorded call has made is one of a call of the layer itself."""
        with self.paused():
            _, inputs = self._open[-1]
            unknown = [tensor for tensor in outputs if id(tensor) not in self._origins]
            if unknown:
                self._add("forward", "", [], inputs, unknown)
            self._open.pop()
            self.layers.append({"path": path, "inputs": inputs, "outputs": [self._origin(t) for t in outputs]})

    def origins(self, tensors: Mapping[str, Any]) -> dict[str, str]:
        """Return the origins of named tensors."""
        with self.paused():
            return {name: self._origin(tensor) for name, tensor in tensors.items()}

    def _add(
        self,
        name: str,
        spelled: str,
        arguments: Sequence[str],
        inputs: Sequence[str],
        outputs: Sequence[Any],
        graded: Sequence[bool] = (),
    ) -> None:
        if name == "hardtanh" and arguments[1:3] == ["0.0", "6.0"]:
            name = "relu6"  # the layer ReLU6 of PyTorch
        number = len(self.calls)
        path = self._open[-1][0] if self._open else ""
        call: dict[str, Any] = {"name": name, "function": spelled, "path": path, "arguments": list(arguments)}
        call["graded"] = list(graded)
        for i, tensor in enumerate(outputs):
            self._put(tensor, f"{number}.{i}")
        self.calls.append(call | {"inputs": list(inputs), "outputs": [f"{number}.{i}" for i in range(len(outputs))]})

    def _put(self, tensor: Any, origin: str) -> None:
        self._origins[id(tensor)] = origin
        self._alive.append(tensor)
        if origin not in self.wanted or origin in self.arrays:
            return
        with self.paused():
            if self._has_values(tensor):
                self.arrays[origin] = np.array(self._to_numpy(tensor))
                if self._needs_gradient(tensor):
                    self._on_gradient(origin, tensor)

    def _origin(self, tensor: Any) -> str:
        if id(tensor) not in self._origins:
            self._put(tensor, f"other {self._others}")
            self._others += 1
        return self._origins[id(tensor)]

    def _spell(self, value: Any, tensors: list[Any]) -> str:
        """Spell an argument as in a program, and append its tensors to `tensors`. "?" stands for what cannot be spelled."""
        if isinstance(value, self._tensor):
            tensors.append(value)
            return f"${len(tensors) - 1}"
        if isinstance(value, list | tuple):
            inside = ", ".join(self._spell(one, tensors) for one in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
        if isinstance(value, slice):
            return f"slice({', '.join(self._spell(one, tensors) for one in (value.start, value.stop, value.step))})"
        return _spell_plain(value)


def _spell_plain(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return repr(float(value)) if np.isfinite(value) else f"float('{value}')"
    if value is None or value is Ellipsis or isinstance(value, bool | int | str):
        return repr(value)
    return str(value) if DTYPE.fullmatch(str(value)) else "?"


def _flat(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists and tuples."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value
