"""Format numbers and foreign text for reports."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

# What XML forbids (control characters, halves of surrogate pairs), and what reverses the direction of reading: with it a
# name could look like another name.
UNREADABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def readable(text: str) -> str:
    """Return `text` with every character that cannot be shown as its escape: "\\x00"."""
    return UNREADABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def real(value: Any) -> float:
    """Return a number of a result as a float; report.json writes some as "inf" and "nan"."""
    return float(value)


def above(error: Any, bound: Any) -> bool:
    """Return whether an error exceeds its tolerance. NaN always does; where one of the two is None, the answer is False."""
    return error is not None and bound is not None and not real(error) <= real(bound)


def shown(value: Any) -> str:
    """Format a measured number with two decimals."""
    if value is None:
        return "–"
    number = real(value)
    if math.isnan(number):
        return "NaN"
    return "0" if number == 0 else f"{number:.2e}" if math.isfinite(number) else str(number)


def brief(value: Any) -> str:
    """Format a measured number with one digit, for narrow columns: 5e-4."""
    text = shown(value)
    if "e" not in text:  # 0, infinity, NaN, nothing
        return text
    digit, _, exponent = f"{real(value):.0e}".partition("e")
    return f"{digit}e{int(exponent)}"


def limit(value: Any) -> str:
    """Format a chosen number, such as a tolerance or a learning rate, without trailing zeros."""
    return "–" if value is None else f"{real(value):.3g}"


def precise(value: Any, other: Any) -> str:
    """Format a number with the digits in which it differs from `other`, and two more."""
    a, b = real(value), real(other)
    largest, difference = max(abs(a), abs(b)), abs(b - a)
    if math.isnan(a):
        return "NaN"
    if not (0 < difference < math.inf and largest < math.inf):
        return f"{a:.6g}"
    digits = 2 + math.ceil(math.log10(largest / difference))
    return f"{a:.{min(max(digits, 5), 17)}g}"


def ratio(a: Any, b: Any) -> str:
    """Format `a` divided by `b`."""
    return limit(real(a) / real(b)) if a is not None and b is not None and real(b) else "–"


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table. A bar inside a cell, also in code, would end the cell, so it is escaped."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
