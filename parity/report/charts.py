"""The chart of the trajectory on a logarithmic scale, beside the tolerances; templates/parts.html draws it.

Values that a logarithmic scale cannot show have their own rows: 0 below it, infinities and NaN above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from parity.report.text import above, limit, real, shown

ROW, HEIGHT, TOP = 28, 264, 26
NARROWEST, WIDEST = 248, 1080  # the narrowest plot fits on a phone
NEAREST = 10  # between two points; a longer trajectory has a point at every second step, or fewer
EXPONENTS = range(-40, 41)  # beyond, a point is at the edge


@dataclass(frozen=True)
class Scale:
    """Heights of a logarithmic axis: decades from `low` to `high`, and the rows for values beyond it."""

    low: int
    high: int
    beyond: bool
    zero: bool

    @staticmethod
    def of(values: Iterable[float]) -> Scale:
        """Return the scale that shows all `values`."""
        kept = list(values)
        exponents = [math.log10(value) for value in kept if 0 < value < math.inf] or [0.0]
        low, high = math.floor(min(exponents)), math.floor(max(exponents)) + 1
        low, high = (min(max(edge, EXPONENTS[0]), EXPONENTS[-1]) for edge in (low, high))
        beyond = any(not math.isfinite(value) for value in kept)
        return Scale(low, max(high, low + 1), beyond, any(value <= 0 for value in kept))

    @property
    def first(self) -> float:
        """Height of 10**high."""
        return TOP + ROW * self.beyond

    @property
    def last(self) -> float:
        """Height of 10**low."""
        return self.first + HEIGHT

    @property
    def bottom(self) -> float:
        """Height of the lower edge of the plot."""
        return self.last + ROW * self.zero

    def y(self, value: float) -> float:
        """Return the height of `value`."""
        if not math.isfinite(value):
            return TOP + ROW / 2
        if value <= 0:
            return self.last + ROW / 2
        exponent = min(max(math.log10(value), self.low), self.high)
        return self.first + HEIGHT * (self.high - exponent) / (self.high - self.low)

    def ticks(self) -> dict[str, float]:
        """Return the names of at most a dozen decades, and their heights."""
        stride = next(n for n in (1, 2, 5, 10) if (self.high - self.low) / n <= 11)
        return {f"1e{n}": self.y(10.0**n) for n in range(self.low, self.high + 1) if n % stride == 0}

    def rows(self) -> dict[str, float]:
        """Return the names on the axis and their heights."""
        beyond, zero = {"inf, NaN": self.y(math.inf)}, {"0": self.y(0.0)}
        return self.ticks() | (beyond if self.beyond else {}) | (zero if self.zero else {})

    def grid(self, width: float) -> list[Line]:
        """Return a line at every name, and at the edges of the logarithmic scale."""
        edges = [self.first] * self.beyond + [self.last] * self.zero
        lines = [Line(f"M0 {y:.1f}H{width:g}", "grid") for y in self.ticks().values()]
        return lines + [Line(f"M0 {y:g}H{width:g}", "edge") for y in edges]


class Line(NamedTuple):
    """An SVG path. A line with a name is in the legend."""

    path: str
    style: str
    name: str = ""
    title: str = ""


class Point(NamedTuple):
    """One value: its place and its tooltip."""

    x: float
    y: float
    above: bool
    title: str


class Series(NamedTuple):
    """Points of one kind, and the number of their shape and colour."""

    name: str
    style: int
    points: list[Point]


class Label(NamedTuple):
    """Text in the plot."""

    text: str
    x: float
    y: float
    style: str


@dataclass(frozen=True)
class Chart:
    """A chart: titles and names of the axes; lines, points and labels of the plot. A plot that scrolls opens at the place `opens`."""

    name: str
    y_title: str
    x_title: str
    opens: float | None
    width: float
    height: float
    axis: dict[str, float]
    lines: list[Line]
    series: list[Series]
    labels: list[Label]


def trajectory_chart(steps: Sequence[dict[str, Any]]) -> Chart:
    """Return the error of every step, its tolerance and the twin's error, with a line where the learning rate changed."""
    twins = [step for step in steps if step.get("twin") is not None]
    values = [real(step[key]) for step in steps for key in ("error", "bound")] + [real(step["twin"]) for step in twins]
    scale, width = Scale.of(values), min(max(36 * len(steps), NARROWEST), WIDEST)
    first, last = steps[0]["step"], steps[-1]["step"]
    places = {step["step"]: 14 + (width - 28) * (step["step"] - first) / max(last - first, 1) for step in steps}
    over = [step["step"] for step in steps if above(step["error"], step["bound"])]
    every = math.ceil(NEAREST * len(steps) / width)
    marked = {step["step"] for step in steps[::every]} | set(over[:1])

    def course(kind: Sequence[dict[str, Any]], key: str) -> str:
        return _polyline((places[step["step"]], scale.y(real(step[key]))) for step in kind)

    def point(step: dict[str, Any], key: str) -> Point:
        more = f"tolerance {limit(step['bound'])}" if key == "error" else key
        text = f"step {step['step']}: {shown(step[key])}, {more}"
        return Point(places[step["step"]], scale.y(real(step[key])), key == "error" and step["step"] in over, text)

    kinds = [("error of the candidate", 0, "error", steps)]
    if twins:
        kinds.append(("error of the one-ULP twin", 2, "twin", twins))
    series = [
        Series(name, style, [point(step, key) for step in kind if step["step"] in marked])
        for name, style, key, kind in kinds
    ]
    changes, rates = _rates(steps, places, scale)
    lines = [*scale.grid(width), *changes, Line(course(steps, "bound"), "bound", "tolerance")]
    lines += [Line(course(kind, key), f"line s{style}") for _, style, key, kind in kinds]
    return Chart(
        "Relative error of the weights per step, logarithmic",
        "relative error of all weights (L2, no unit), logarithmic",
        "step",
        places[over[0]] if over else None,
        width,
        round(scale.bottom + 24),
        scale.rows(),
        lines,
        series,
        [*rates, *_step_axis(places, scale, width)],
    )


def _polyline(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _rates(steps: Sequence[dict[str, Any]], places: dict[int, float], scale: Scale) -> tuple[list[Line], list[Label]]:
    """Return a line at the first step of each new learning rate, and the rate above it, both where there is room."""
    lines, labels = list[Line](), list[Label]()
    free, drawn = 0.0, 0.0
    for index, (rate, group) in enumerate(groupby(steps, lambda step: step["rate"])):
        step = next(group)["step"]
        x, text = places[step], f"learning rate {limit(rate)}"
        if index and x >= drawn + NEAREST:
            lines.append(Line(f"M{x:.1f} {TOP}V{scale.bottom:g}", "rate", title=f"{text} from step {step}"))
            drawn = x
        if x >= free:
            last = index > 0 and x + 7 * len(text) > max(places.values())  # it would exceed the right edge
            labels.append(Label(text, x + 4 if last else x - 4, TOP - 8, "end" if last else ""))
            free = x + 7 * len(text) + 8
    return lines, labels


def _step_axis(places: dict[int, float], scale: Scale, width: float) -> list[Label]:
    stride = next(n * 10**k for k in range(9) for n in (1, 2, 5) if len(places) / (n * 10**k) <= width / 48)
    named = [step for step in places if step % stride == 0 or len(places) <= stride]
    return [Label(str(step), places[step], scale.bottom + 16, "middle") for step in named]
