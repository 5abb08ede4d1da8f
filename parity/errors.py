"""The error for bad input, and the parts of its messages."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
from collections.abc import Iterable
from reprlib import repr as short
from typing import Any


class InputError(ValueError):
    """A name, a number or a file that the user gave cannot be used.

    The message is one line. It says what is wrong, where, and what to do. A command prints it as `error: MESSAGE` on stderr
    and ends with exit code 2. Any other exception is a bug of this project.

    Attributes:
        result: What `--json` still prints. A command sets it if its work is done but a file cannot be written.
    """

    result: dict[str, Any] | None = None


def how_to_install(extra: str) -> str:
    """Return the end of a message about a missing library: the command that installs `extra`, an extra of pyproject.toml.

    The command needs a clone, because no package index has this project.
    """
    return f'pip install -e ".[{extra}]" in a clone of this project'


LONGEST = 400
"""Most characters of another program's message in one of ours."""

MARKS = ("[Hint", "At:", "(at ")
"""How the lines begin in which Paddle adds a hint, Python's stack, or a place in its source."""


def describe_error(error: BaseException) -> str:
    """Return the type of an exception and what it says in one line, without traces and lists of files."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    # Some messages of Paddle begin with a C++ trace.
    begin = next(
        (i for i, line in enumerate(lines) if line.startswith("(") or re.search(r"(Error|Exception): ", line)), 0
    )
    said = itertools.takewhile(lambda line: line and not line.startswith(MARKS), lines[begin:])
    kind = type(error).__name__
    text = re.sub(rf"^[\w.]*\b{kind}: ", "", " ".join(said))  # graphs of Paddle repeat it
    return shorten(f"{kind}: {text}")


def shorten(text: str) -> str:
    """Return a text of at most `LONGEST` characters, and three points where it is cut."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`: "; did you mean vgg_mini" if one of `known` is near, else ""."""
    names = {one.lower().lstrip("-"): one for one in known}  # the dashes of flags would make all flags near
    near = difflib.get_close_matches(name.lower().lstrip("-"), names, 1)
    return f"; did you mean {names[near[0]]}" if near else ""


def within(what: str, value: float, low: float, high: float) -> float:
    """Return `value` as a float.

    Raises:
        InputError: Not `low` <= `value` < `high`, which is so for NaN. The message names `what`.
    """
    if not low <= value < high or value > sys.float_info.max:  # JSON has whole numbers beyond all floats
        shown = f"{value:g}" if isinstance(value, float) else short(value)
        raise InputError(f"{what} must be at least {low:g} and below {high:g}, not {shown}")
    return float(value) + 0.0  # 0 for -0: equal values are written alike
