"""Short texts for large things: the `repr` of a dataclass, and a list of places."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

LINES = 3 * 120
"""Most characters of a `repr`."""

PART = 60
"""Most characters of one field."""

MOST = 4
"""A sentence names this many places and counts the rest."""


class ShortRepr:
    """Base of dataclasses (with `repr=False`) whose `repr` shows the fields that differ from their defaults.

    Long fields are shortened.
    """

    def __repr__(self) -> str:
        parts = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.repr and not _is_default(field, getattr(self, field.name))
        ]
        return _cut(f"{type(self).__name__}({', '.join(parts)})", LINES)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return isinstance(value, Collection) and not len(value)
    return isinstance(value, str | int | float | bool | tuple | None) and bool(value == field.default)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Mapping | list | tuple | set | frozenset) and len(repr(value)) > PART:
        return f"<{len(value)} entries>"
    return repr(value) if isinstance(value, ShortRepr) else _cut(repr(value), PART)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 5]} ...{text[-1] if text[-1] in ')>' else ''}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 epoch", "2 epochs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def steps_in_words(numbers: Sequence[int]) -> str:
    """Return "step 1", or "steps 1, 2"; of many steps, the first ones and how many more there are."""
    return f"step{'s' if len(numbers) > 1 else ''} {few(list(map(str, numbers)))}"


def few(places: Sequence[str], most: int = MOST) -> str:
    """Join the first `most` places, and say how many more there are."""
    rest = len(places) - most
    return ", ".join(place or "(the model itself)" for place in places[:most]) + (
        f" and {rest} more" if rest > 0 else ""
    )
