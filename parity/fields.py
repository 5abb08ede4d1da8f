"""Dataclasses from JSON, strictly: whatever is missing, unknown or of a wrong type is named."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from pathlib import Path
from reprlib import repr as short
from typing import Any

from parity.errors import InputError


def parse_json(text: str, what: str) -> dict[str, Any]:
    """The JSON object in `text`; `InputError` naming `what` where it is not one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{what} JSON: an object is needed, not {type(document).__name__}")
    return document


def read_text(path: Path, what: str) -> str:
    """The text in `path`; `InputError` saying that it should hold `what` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): give a file that holds {what}") from None


_Value = typing.TypeVar("_Value")


def from_fields(cls: type[_Value], fields: dict[str, Any], what: str) -> _Value:
    """`cls(**fields)` for a dataclass read from JSON, strictly: unknown, missing or mistyped fields are an `InputError`."""
    if not isinstance(fields, dict):
        raise InputError(f"{what}: an object is needed, not {type(fields).__name__}")
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


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` may stand where the annotation `hint` does: scalars, X | None, tuple[X, ...] and dataclasses."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if arguments:
        return any(_fits(value, argument) for argument in arguments)
    if hint is float:
        return isinstance(value, float) or (_fits(value, int) and abs(value) <= sys.float_info.max)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
