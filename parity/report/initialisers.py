"""What a report shows of the stage init: the initialisers of both sides, and a histogram of each kind of difference.

templates/sections.html draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from parity.modules.description import below
from parity.report.text import real

WIDTH, HEIGHT = 280, 84
"""Size of a histogram, in pixels."""

MOST_PICTURES = 12
"""Histograms of one report."""


class Histogram(NamedTuple):
    """A picture: what it shows, the path of each side, and the smallest and the largest number on its axis."""

    title: str
    paths: list[str]
    low: str
    high: str


def differing(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of arrays that differ."""
    return [row for row in rows if row["verdict"] == "different"]


def place_of(row: Mapping[str, Any]) -> str:
    """Return the name of an array in its layer."""
    return below(row["layer"], row["array"])


def measured(side: Mapping[str, Any]) -> str:
    """Return what was measured on one side; nothing for a constant."""
    if side["family"] == "constant":
        return ""
    mean, deviation, low, high = (f"{real(side[key]):.3g}" for key in ("mean", "deviation", "low", "high"))
    return f"mean {mean}, std {deviation}, {low} to {high}"


def histograms(rows: Sequence[Mapping[str, Any]], sides: Sequence[str]) -> list[Histogram]:
    """Return a picture of the first array of each kind of difference."""
    kinds: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in differing(rows):
        if row.get("histogram"):
            key = (row["kind"], row["array"], *(row[side]["initialiser"] for side in sides))
            kinds.setdefault(key, row)
    return [_histogram(row, sides) for row in list(kinds.values())[:MOST_PICTURES]]


def _histogram(row: Mapping[str, Any], sides: Sequence[str]) -> Histogram:
    found = row["histogram"]
    ends = (f"{real(found[end]):.3g}" for end in ("low", "high"))
    return Histogram(place_of(row), [outline(found[side]) for side in sides], *ends)


def outline(shares: Sequence[float]) -> str:
    """Return the outline of bins as an SVG path. The highest bin of each side has the full height."""
    most = max(shares) or 1.0
    width = WIDTH / len(shares)
    heights = (HEIGHT * (1 - share / most) for share in shares)
    steps = "".join(f"V{height:.1f}H{(bin + 1) * width:.1f}" for bin, height in enumerate(heights))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}"
