"""Pieces of the experiments' tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parity.progress import duration
from parity.standard_streams import printable

Rows = Sequence[dict[str, Any]]
"""What trials gave, see `parity.experiments.study.row`."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table; the first `left` columns are text, the others figures. Every cell is shown as it is."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in (head, *rows)]
    return [lines[0], rule, *lines[1:]]


def escape_markdown(text: str) -> str:
    """Return what a cell of a Markdown table shows as `text`: names come from files, and may hold bars, tags or line breaks."""
    return re.sub(r"[\\`*|\[\]<>&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(" ".join(text.split())))


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Mean ± sample standard deviation; the value alone where there is one."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}{unit}"


def percent(values: Iterable[float]) -> str:
    """Accuracies (0 to 1) as mean ± sample standard deviation in percent."""
    return spread([100 * value for value in values], ".2f", "%")


def grouped(rows: Rows) -> dict[tuple[str, str], Rows]:
    """The rows by entry and framework: one a seed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["entry"], row["framework"]), []).append(row)
    return dict(found)


def speed(group: Rows) -> tuple[str, str]:
    """Two cells: the mean training time, without tests, and images/s."""
    seconds = float(np.mean([row["seconds"] for row in group]))
    return duration(seconds), f"{np.mean([row['images_per_second'] for row in group]):.0f}"
