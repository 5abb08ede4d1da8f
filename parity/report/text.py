"""How a report writes numbers, and text that comes from elsewhere."""

from __future__ import annotations

import math
import re
from typing import Any

# What XML forbids (control characters, halves of surrogate pairs), and what turns the direction of reading, so that a
# name could look like another one.
UNREADABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def readable(text: str) -> str:
    """Return `text` with every character that cannot be shown as its escape: "\\x00"."""
    return UNREADABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def real(value: Any) -> float:
    """Return a number of a result; report.json's "inf" and "nan" too."""
    return float(value)


def above(error: Any, bound: Any) -> bool:
    """Return whether an error breaks its bound, as NaN always does. Never where one of them is None."""
    return error is not None and bound is not None and not real(error) <= real(bound)


def shown(value: Any) -> str:
    """Write a measured number: two decimals are plenty."""
    if value is None:
        return "–"
    number = real(value)
    if math.isnan(number):
        return "NaN"
    return "0" if number == 0 else f"{number:.2e}" if math.isfinite(number) else str(number)


def limit(value: Any) -> str:
    """Write a number that somebody chose, such as a bound or a rate: no trailing zeros."""
    return "–" if value is None else f"{real(value):.3g}"


def ratio(a: Any, b: Any) -> str:
    """Write how many times `b` fits into `a`."""
    return limit(real(a) / real(b)) if a is not None and b is not None and real(b) else "–"
