"""Pieces of the experiments' tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parity.progress import duration

Rows = Sequence[dict[str, Any]]
"""What trials gave, see `parity.experiments.study.row`."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table; the first `left` columns are text, the others figures."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


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
