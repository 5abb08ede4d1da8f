"""Pieces of the experiments' tables and texts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.progress import duration
from parity.standard_streams import printable

Rows = Sequence[dict[str, Any]]
"""Results of trials, see `parity.experiments.study.row`."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table. The first `left` columns are text, the others are numbers. Cells are escaped."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in (head, *rows)]
    return [lines[0], rule, *lines[1:]]


def escape_markdown(text: str) -> str:
    """Return `text` for a cell of a Markdown table. Names come from files, and may hold bars, tags or line breaks."""
    return re.sub(r"[\\`*|\[\]<>&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(" ".join(text.split())))


def counted(number: int, what: str) -> str:
    """Return "1 seed", "2 seeds"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def wrapped(item: str) -> list[str]:
    """Return the lines of a list item of Markdown, at most 116 characters each where words allow."""
    return textwrap.wrap(f"- {item}", 116, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def conditions(facts: Mapping[str, str], line: str) -> list[str]:
    """Return lines of Markdown: `facts` as a list, without empty ones, and the command `line`, which a reader can copy whole."""
    items = [piece for name, fact in facts.items() if fact for piece in wrapped(f"{name}: {fact}")]
    return [*items, "", "Command:", "", f"    {line}"]


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return mean ± sample standard deviation, or the value alone where there is one."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}{unit}"


def percent(values: Iterable[float]) -> str:
    """Return accuracies (0 to 1) as mean ± sample standard deviation in percent."""
    return spread([100 * value for value in values], ".2f", "%")


def grouped(rows: Rows) -> dict[tuple[str, str], Rows]:
    """Return the rows by entry and framework: one row for each seed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["entry"], row["framework"]), []).append(row)
    return dict(found)


def speed(group: Rows) -> tuple[str, str]:
    """Return two cells: the mean training time, without tests, and images/s."""
    seconds = float(np.mean([row["seconds"] for row in group]))
    return duration(seconds), f"{np.mean([row['images_per_second'] for row in group]):.0f}"
