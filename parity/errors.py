"""The one error that a user can cause, and what its messages are made of."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from reprlib import repr as short
from typing import Any


class InputError(ValueError):
    """Something the user gave is unusable: a name, a number, a file.

    The message is one line that names the problem and the way out. Every script turns it into
    `error: <message>` on stderr and exit code 2; any other exception is a bug of ours. `result` is what --json prints all the same: what
    a command had found before a file of it could not be written.
    """

    result: dict[str, Any] | None = None


def how_to_install(extra: str) -> str:
    """The end of a message about a missing library: the command that installs `extra`, one of pyproject.toml.

    It needs a clone, since no package index has this project.
    """
    return f'pip install -e ".[{extra}]" in a clone of this project'


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: "; did you mean vgg_mini" where one of the `known` names is near, else nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}" if near else ""


def within(what: str, value: float, low: float, high: float) -> float:
    """`value` as a float; `InputError` naming `what` unless `low` <= `value` < `high`, which NaN never is."""
    if not low <= value < high or value > sys.float_info.max:  # JSON has whole numbers beyond all floats
        told = f"{value:g}" if isinstance(value, float) else short(value)
        raise InputError(f"{what} must be at least {low:g} and below {high:g}, not {told}")
    return float(value) + 0.0  # 0 for -0: equal values are written alike
