"""Strict reading of JSON: an error names what is missing, unknown, duplicate or of a wrong type."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections import abc
from pathlib import Path
from reprlib import repr as short
from typing import Any

from parity.errors import InputError


def parse_json(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in `text`. `InputError`, which names `what`, if it is not one."""
    document = parse_any_json(text, what)
    if not isinstance(document, dict):
        raise InputError(f"{what} JSON: expected an object, not {type(document).__name__}")
    return document


def parse_any_json(text: str, what: str) -> Any:
    """Return the JSON value in `text`. `InputError`, which names `what`, if it is not JSON, nested too deeply, or has a duplicate key."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} JSON: {error}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {short(twice)}")
    return found


class MissingFile(InputError):
    """There is no such file."""


def read_text(path: Path, what: str) -> str:
    """Return the text in `path`. `InputError`, which says that the file should hold `what`, if it cannot be read.

    It is a `MissingFile` where there is no file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"cannot read {path}: no such file. Give a file that holds {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): give a file that holds {what}") from None


_Value = typing.TypeVar("_Value")

_CONTAINERS = (tuple, abc.Sequence, abc.Mapping)


def from_fields(cls: type[_Value], fields: dict[str, Any], what: str) -> _Value:
    """Return `cls(**fields)` for a dataclass read from JSON. `InputError` for fields that are unknown, missing or of a wrong type."""
    if not isinstance(fields, dict):
        raise InputError(f"{what}: expected an object, not {type(fields).__name__}")
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    needed = {
        n for n, f in known.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if wrong := sorted(set(fields) - set(known)) or sorted(needed - set(fields)):
        raise InputError(f"{what}: {'unknown' if wrong[0] in fields else 'missing'} field {wrong[0]!r}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise InputError(f"{what}: {key} = {short(value)} is not of type {known[key].type}")
    return cls(**values)


def check_type(value: Any, hint: Any, place: str) -> None:
    """Raise `InputError` if the annotation `hint` does not allow `value`. It names the first wrong part; `place` names `value` itself.

    Supported are Any, scalars, X | None and other unions, tuple[X, ...], Sequence[X], Mapping[str, X], Literal, dataclasses, and
    TypedDicts, which may have additional keys.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if typing.is_typeddict(hint) and isinstance(value, dict):
        for key, inner in typing.get_type_hints(hint).items():
            if key in value:
                check_type(value[key], inner, f"{place}[{short(key)}]")
            elif key in hint.__required_keys__:
                raise InputError(f"{place} has no {key!r}")
    elif origin is abc.Mapping and isinstance(value, dict):
        for key, item in value.items():
            check_type(item, arguments[1], f"{place}[{short(key)}]")
    elif (origin is abc.Sequence and isinstance(value, list | tuple)) or (origin is tuple and isinstance(value, tuple)):
        for number, item in enumerate(value):
            check_type(item, arguments[0], f"{place}[{number}]")
    elif type(None) in arguments and value is not None and len(arguments) == 2:
        check_type(value, next(inner for inner in arguments if inner is not type(None)), place)
    elif not _is_scalar(value, hint):
        raise InputError(f"{place} is {short(value)}, expected {_named(hint)}")


def _named(hint: Any) -> str:
    """Return an annotation in the words of JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint) or origin is abc.Mapping:
        return "an object"
    if origin is abc.Sequence:
        return "a list"
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return " or ".join(map(_named, arguments)) if arguments else words.get(hint, str(hint))


def _fits(value: Any, hint: Any) -> bool:
    try:
        check_type(value, hint, "")
    except InputError:
        return False
    return True


def _is_scalar(value: Any, hint: Any) -> bool:
    """Return whether `value` is of the type `hint`, which is not a container."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in arguments
    if arguments:
        return typing.get_origin(hint) not in _CONTAINERS and any(_fits(value, argument) for argument in arguments)
    if hint in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and (hint is int or abs(value) <= sys.float_info.max)
    return not typing.is_typeddict(hint) and isinstance(value, hint)
