"""Fits of a cost against the work: straight lines and exponents, in every round, with the interval of their median over the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.benchmark.interleaved_timing import interval

LINE, POWER = "line", "power"
"""Kinds of fits: cost = fixed + slope * work, and cost = factor * work ** exponent."""


def fit(kind: str, work: Sequence[float], rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the fit of the costs `rounds` [rounds, points] at the points `work`, of which there are at least two.

    Each round has a fit of its own, by least squares of the relative deviations. `slope` and `fixed` of a line, or `exponent` and
    `factor` of a power, each hold the median over the rounds and its 95% bootstrap interval. `deviation` is the largest relative
    distance of a point, the median of its rounds, from the line of these medians; two points have none.
    """
    x, costs = np.array(work, np.float64), np.array(rounds, np.float64)
    if kind == LINE:
        found = np.array([np.polyfit(x, y, 1, w=1 / y) for y in costs])
        names = ("slope", "fixed")
    else:
        found = np.array([np.polyfit(np.log(x), np.log(y), 1) for y in costs])
        found[:, 1] = np.exp(found[:, 1])
        names = ("exponent", "factor")
    result: dict[str, Any] = {name: _summary(found[:, column]) for column, name in enumerate(names)}
    result |= {"kind": kind, "least": min(work), "most": max(work), "points": len(work), "rounds": len(costs)}
    expected = predict(result, x)
    deviations = np.abs(np.median(costs, axis=0) / expected - 1)
    return result | {"deviation": float(deviations.max()) if len(x) > 2 else None}


def predict(fitted: Mapping[str, Any], work: Array) -> Array:
    """Return the costs that a fit expects at the points `work`."""
    if fitted["kind"] == LINE:
        line: Array = fitted["fixed"]["median"] + fitted["slope"]["median"] * work
        return line
    power: Array = fitted["factor"]["median"] * work ** fitted["exponent"]["median"]
    return power


def _summary(values: Array) -> dict[str, float]:
    low, high = interval(values)
    return {"median": float(np.median(values)), "low": low, "high": high}
