"""The lines of metrics.jsonl: the fields of each, and their limits."""

from __future__ import annotations

import re
import sys
from reprlib import repr as short
from typing import Any

from parity.errors import InputError
from parity.files.strict_json import parse_json

_COMMON = {
    "epoch": int,
    "update": int,
    "samples": int,
    "passes": float,
    "cost": float,
    "error": float,
    "rate": float,
    "seconds": float,
}
_FIELDS: dict[str, dict[str, type]] = {
    "batch": _COMMON | {"batch": int, "mean_cost": float, "mean_error": float},
    "pass": _COMMON
    | {"test_cost": float, "test_error": float, "test_accuracy": float, "test_seconds": float, "stream": str},
}
"""Event of a line of metrics.jsonl -> its fields and their types. No number is negative."""


def parse_line(text: str, what: str) -> dict[str, Any]:
    """Read one line of metrics.jsonl. `InputError`, which names `what`, unless it has the fields that `parity.training.loop` writes."""
    line = parse_json(text, f"{what}, metrics")
    event = line.get("event")
    if not (isinstance(event, str) and event in _FIELDS):
        raise InputError(f"{what}: event = {short(event)} is none of {', '.join(_FIELDS)}")
    for key, kind in _FIELDS[event].items():
        if key not in line:
            raise InputError(f"{what} lacks {key}")
        value = line[key]
        if kind is str:
            if not (isinstance(value, str) and _SHA256.fullmatch(value)):
                raise InputError(f"{what}: {key} = {short(value)} is not a SHA-256")
        elif not is_amount(value):
            raise InputError(f"{what}: {key} = {short(value)} is not a number from 0 on")
        elif kind is int and not isinstance(value, int):
            raise InputError(f"{what}: {key} = {short(value)} is not a whole number")
        elif key.endswith(("error", "accuracy")) and value > 1:
            raise InputError(f"{what}: {key} = {short(value)} is not a number from 0 to 1")
    return line


_SHA256 = re.compile("[0-9a-f]{64}")


def is_amount(value: Any) -> bool:
    """Return whether `value`, read from JSON, is a finite number of at least 0 that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max
