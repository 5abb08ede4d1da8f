"""A service in a child process. Its methods are declared once, and the caller calls them as if they ran here.

Arguments and results may be None, booleans, numbers, text, bytes, paths, and numpy arrays of the dtypes of `parity.backend.messages`. They
may also be objects of the classes that the service lists, and lists, tuples and mappings of all these. Arrays are tensors of the message,
the rest is JSON. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Process, Record, serve
from parity.backend.registry import FRAMEWORKS
from parity.errors import InputError
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer, read_optimizer
from parity.recipe.recipe import Recipe, read_recipe

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Kind:
    """A class whose objects may be sent: `plain` turns one into plain values and arrays, `restore` makes it from them again."""

    type: type
    plain: Callable[[Any], Any]
    restore: Callable[[Any], Any]


def fields_kind(type_: type) -> Kind:
    """The `Kind` of a dataclass whose fields may be sent."""
    names = [field.name for field in dataclasses.fields(type_)]
    return Kind(type_, lambda value: {name: getattr(value, name) for name in names}, lambda fields: type_(**fields))


def _json_kind(type_: type, read: Callable[[Any], Any]) -> Kind:
    return Kind(type_, lambda value: json.dumps(dataclasses.asdict(value)), lambda text: read(json.loads(text)))


KINDS = (
    Kind(Network, lambda network: network.to_json(), Network.from_json),
    _json_kind(Optimizer, read_optimizer),
    _json_kind(Recipe, read_recipe),
)
"""The kinds that every service knows."""


class Service:
    """Base of what a process offers: all public methods of a subclass, which is made with framework, threads and device."""

    KINDS: ClassVar[tuple[Kind, ...]] = KINDS

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        self.framework, self.threads, self.device = framework, threads, device


def at_caller(method: Method) -> Method:
    """Mark a method of a service as run by the caller's process: only the calls in it go to the service's process."""
    method.at_caller = True  # type: ignore[attr-defined]
    return method


def public_methods(service: type[Service]) -> dict[str, Callable[..., Any]]:
    """The methods of `service` that another process may call, by name."""
    found = inspect.getmembers(service, inspect.isfunction)
    return {name: act for name, act in found if not name.startswith("_") and not hasattr(act, "at_caller")}


class RemoteService(Process):
    """A service of `framework` in a child process, run by the interpreter `python` (None: this process's own).

    Another interpreter needs the framework, numpy and safetensors; it imports this project's code from here. See `Process` for the other
    arguments. A subclass names the service, and also inherits from it for its types: `class Worker(RemoteService, TrainerService,
    service=TrainerService)`. The module of the service calls `serve_service`.
    """

    SERVICE: ClassVar[type[Service]]

    ENVIRONMENT: ClassVar[Mapping[str, str]] = {}
    """Environment variables that its process has besides those of this process."""

    def __init_subclass__(cls, service: type[Service] | None = None) -> None:
        if service is not None:
            cls.SERVICE = service
            for name, method in public_methods(service).items():
                setattr(cls, name, _forward(name, method))

    def __init__(
        self,
        framework: str,
        python: str | Path | None = None,
        threads: int | None = None,
        device: str = "cpu",
        own_session: bool = False,
    ) -> None:
        if framework not in FRAMEWORKS:
            raise InputError(f"unknown framework {framework!r}: {' or '.join(FRAMEWORKS)}")
        self.framework = framework
        arguments = (framework, str(threads or 0), device)
        program = self.SERVICE.__module__
        super().__init__(f"{framework} worker", program, arguments, python, own_session, self.ENVIRONMENT)


def _forward(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def forward(self: RemoteService, *positional: Any, **named: Any) -> Any:
        arrays, arguments = encode((positional, named), self.SERVICE.KINDS)
        found, result = self.call("invoke", arrays, method=name, arguments=arguments)
        return decode(found, result, self.SERVICE.KINDS)

    return forward


class _Server:
    """The end in the service's process: one call is (arrays, method, arguments) -> (arrays, result)."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def invoke(self, arrays: Record, method: str, arguments: Any) -> tuple[Record, Any]:
        act = public_methods(type(self.service)).get(method)
        if act is None:
            raise ValueError(f"{type(self.service).__name__} offers no method {method!r}")
        positional, named = decode(arrays, arguments, self.service.KINDS)
        return encode(act(self.service, *positional, **named), self.service.KINDS)


def serve_service(service: type[Service], framework: str, threads: str, device: str) -> None:
    """Answer the calls of a `RemoteService` until it closes; the arguments are those of the command line."""
    serve(lambda: _Server(service(framework, int(threads) or None, device)))


def encode(value: Any, kinds: Collection[Kind] = KINDS) -> tuple[Record, Any]:
    """The arrays in `value`, by number, and all else as JSON. `TypeError` for a value that cannot be sent."""
    arrays: Record = {}
    return arrays, _plain(value, {kind.type: kind for kind in kinds}, arrays)


# Not nested functions: two that call each other form a cycle, which would hold gigabytes of arrays until garbage collection.
def _plain(value: Any, kinds: Mapping[type, Kind], arrays: Record) -> Any:
    """`value` as JSON; its arrays are added to `arrays`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = kinds.get(type(value))
    name, content = (
        (kind.type.__name__, _plain(kind.plain(value), kinds, arrays)) if kind else _tagged(value, kinds, arrays)
    )
    return {name: content}


def _tagged(value: Any, kinds: Mapping[type, Kind], arrays: Record) -> tuple[str, Any]:
    """The kind of `value`, and its content as JSON."""
    if isinstance(value, np.ndarray):
        return "array", _hold(value, arrays)
    if isinstance(value, bytes):
        return "bytes", _hold(np.frombuffer(value, np.uint8), arrays)
    if isinstance(value, Path):
        return "path", str(value.absolute())
    if isinstance(value, Mapping):
        return "dict", [[_plain(key, kinds, arrays), _plain(one, kinds, arrays)] for key, one in value.items()]
    if isinstance(value, Collection):
        return "tuple" if isinstance(value, tuple) else "list", [_plain(one, kinds, arrays) for one in value]
    raise TypeError(f"a {type(value).__name__} cannot be sent to another process")


def _hold(array: Array, arrays: Record) -> str:
    name = str(len(arrays))
    arrays[name] = array
    return name


def decode(arrays: Mapping[str, Array], found: Any, kinds: Collection[Kind] = KINDS) -> Any:
    """The value of which `encode` made `arrays` and `found`, with absolute paths. Collections but tuples and mappings become lists."""
    return _value(found, {kind.type.__name__: kind for kind in kinds}, arrays)


def _value(found: Any, kinds: Mapping[str, Kind], arrays: Mapping[str, Array]) -> Any:
    if not isinstance(found, dict):
        return found
    ((name, content),) = found.items()
    if name in kinds:
        return kinds[name].restore(_value(content, kinds, arrays))
    if name in ("array", "bytes"):
        return arrays[content] if name == "array" else arrays[content].tobytes()
    if name == "path":
        return Path(content)
    if name == "dict":
        return {_value(key, kinds, arrays): _value(one, kinds, arrays) for key, one in content}
    parts = [_value(one, kinds, arrays) for one in content]
    return {"tuple": tuple, "list": list}[name](parts)
