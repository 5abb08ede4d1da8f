"""Shortens an exporter's error to one line."""

from __future__ import annotations

import re
from itertools import takewhile

ERROR = re.compile(r"(?:<class ')?(?P<name>[\w.]*(?:Error|Exception))(?:'>)?(?P<text>:.*)?")
"""A line that begins an error's message: "ValueError: ..." of a traceback, "<class 'ValueError'>: ..." of torch.onnx."""

COLOUR = re.compile("\x1b\\[[0-9;]*m")

LONGEST = 300
"""The longest message, in characters."""


def error_line(text: str) -> str:
    """The last error in `text` (a traceback, or an error's message) with its message; without an error, the first line of `text`."""
    lines = [line.strip() for line in COLOUR.sub("", text).splitlines()]
    for place in reversed(range(len(lines))):
        if error := ERROR.fullmatch(lines[place]):
            message = " ".join(takewhile(bool, lines[place + 1 :]))
            name = error["name"].rpartition(".")[2]
            return f"{name}{error['text'] or ''} {message}".strip()[:LONGEST]
    first, *others = [line for line in lines if line] or ["it does not say why"]
    return (f"{first} {others[-1]}" if others and first.endswith(":") else first)[:LONGEST]
