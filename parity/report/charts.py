"""Charts of errors on a logarithmic scale, beside the tolerances that they must not exceed; templates/parts.html draws them.

Values that a logarithmic scale cannot show have their own rows: 0 below it, infinities and NaN above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from parity.report.text import above, limit, real, shown

ROW, HEIGHT, TOP, WIDTH = 28, 264, 42, 1080
NARROWEST, WIDEST = 18, 44  # columns of layers; a network of more than 60 layers scrolls
EXPONENTS = range(-40, 41)  # beyond, a point is at the edge
LONGEST_NAME = 28

PHASES = {
    "start": 6,
    "input": 5,
    "eval": 0,
    "forward": 1,
    "loss": 5,
    "backward": 2,
    "gradient": 3,
    "update": 4,
    "onnx": 7,
}
"""Phase, in the order of computation -> the number of its shape and colour. Input and loss share one: no layer has both."""
OTHER = 6


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
    """Text in the plot. A label with a title is rotated by 90 degrees."""

    text: str
    x: float
    y: float
    style: str
    title: str = ""


Y_TITLE = Label("relative error (L2, no unit), logarithmic", 0, 14, "")


@dataclass(frozen=True)
class Chart:
    """A chart: names on the axis with their heights; lines, points and labels of the plot."""

    name: str
    width: float
    height: float
    axis: dict[str, float]
    lines: list[Line]
    series: list[Series]
    labels: list[Label]


def layers_chart(layers: Sequence[dict[str, Any]], marked: str | None) -> Chart:
    """Return the error of every layer in every phase, in network order; the layer `marked` is highlighted."""
    names = phases(layers)
    errors = [real(error) for layer in layers for error in layer["errors"].values()]
    scale = Scale.of([*errors, *(real(bound) for layer in layers for bound in layer["bounds"].values())])
    pitch = min(max(WIDTH // len(layers), NARROWEST), WIDEST)
    width = max(pitch * len(layers), 240)
    stripes, labels = list[Line](), list[Label]()
    for index, layer in enumerate(layers):
        name, strong = layer["layer"], layer["layer"] == marked
        if strong or index % 2 == 0:
            path = f"M{pitch * index} {TOP}h{pitch}V{scale.bottom}h-{pitch}z"
            stripes.append(Line(path, "marked" if strong else "stripe"))
        short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        x, y = pitch * (index + 0.5) + 4, scale.bottom + 8
        labels.append(Label(short, x, y, "end strong" if strong else "end", name))
    depth = 12 + 6.7 * min(max(len(layer["layer"]) for layer in layers), LONGEST_NAME)
    lines = [*stripes, *scale.grid(width), *_bounds(layers, names, scale, pitch)]
    series = []
    for index, name in enumerate(names):
        offset = pitch * (0.5 + 0.16 * (index - (len(names) - 1) / 2))
        points = [_layer_point(name, layer, scale, pitch * n + offset) for n, layer in enumerate(layers)]
        series.append(Series(name, PHASES.get(name, OTHER), [point for point in points if point]))
    labels += [Y_TITLE, Label("layer, in the order of computation", 0, scale.bottom + depth + 8, "")]
    height = round(scale.bottom + depth + 14)
    return Chart("Relative error per layer, logarithmic", width, height, scale.rows(), lines, series, labels)


def phases(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Return the phases that any layer has, in the order of computation."""
    found = {name: None for layer in layers for name in layer["errors"]}
    return [name for name in PHASES if name in found] + [name for name in found if name not in PHASES]


def _layer_point(phase: str, layer: dict[str, Any], scale: Scale, x: float) -> Point | None:
    if phase not in layer["errors"]:
        return None
    error, bound = layer["errors"][phase], layer["bounds"].get(phase)
    text = f"{layer['layer']}, {phase}: error {shown(error)}, tolerance {limit(bound)}"
    return Point(x, scale.y(real(error)), above(error, bound), text)


def _bounds(layers: Sequence[dict[str, Any]], names: Sequence[str], scale: Scale, pitch: float) -> list[Line]:
    """Return one line for each set of phases whose tolerances are the same in every layer."""
    courses: list[tuple[list[str], list[float | None]]] = []
    for name in names:
        bounds = (layer["bounds"].get(name) for layer in layers)
        profile = [None if bound is None else real(bound) for bound in bounds]
        same = next((course for course in courses if _agree(course[1], profile)), None)
        if same is None:
            courses.append(([name], profile))
        else:
            same[0].append(name)
            same[1][:] = [a if a is not None else b for a, b in zip(same[1], profile, strict=True)]
    texts = ["tolerance"] if len(courses) == 1 else [f"tolerance of {', '.join(members)}" for members, _ in courses]
    return [
        Line(_steps(course, scale, pitch), f"bound b{i % 3}", text)
        for i, ((_, course), text) in enumerate(zip(courses, texts, strict=True))
    ]


def _agree(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def _steps(bounds: Sequence[float | None], scale: Scale, pitch: float) -> str:
    """Return a path with one step for each layer at its tolerance, joined where neighbours have one."""
    path, joined = [], False
    for index, bound in enumerate(bounds):
        if bound is not None:
            y = scale.y(bound)
            path.append(f"{'L' if joined else 'M'}{pitch * index:g} {y:.1f}H{pitch * (index + 1):g}")
        joined = bound is not None
    return "".join(path)


def trajectory_chart(steps: Sequence[dict[str, Any]]) -> Chart:
    """Return the error of every step, its tolerance and the twin's error, with a line where the learning rate changed."""
    twins = [step for step in steps if step.get("twin") is not None]
    values = [real(step[key]) for step in steps for key in ("error", "bound")] + [real(step["twin"]) for step in twins]
    scale, width = Scale.of(values), min(max(26 * len(steps), 620), WIDTH)
    first, last = steps[0]["step"], steps[-1]["step"]
    places = {step["step"]: 14 + (width - 28) * (step["step"] - first) / max(last - first, 1) for step in steps}

    def point(step: dict[str, Any], key: str, over: bool, more: str) -> Point:
        text = f"step {step['step']}: {shown(step[key])}, {more}"
        return Point(places[step["step"]], scale.y(real(step[key])), over, text)

    errors = [
        point(step, "error", above(step["error"], step["bound"]), f"tolerance {limit(step['bound'])}") for step in steps
    ]
    series = [Series("error of the candidate", 0, errors)]
    if twins:
        points = [point(step, "twin", False, "twin") for step in twins]
        series.append(Series("error of the one-ULP twin", 2, points))
    changes, rates = _rates(steps, places, scale)
    bound = _polyline((places[step["step"]], scale.y(real(step["bound"]))) for step in steps)
    lines = [*scale.grid(width), *changes, Line(bound, "bound b0", "tolerance")]
    lines += [Line(_polyline((one.x, one.y) for one in kind.points), f"line s{kind.style}") for kind in series]
    labels = [Y_TITLE, *rates, *_step_axis(places, scale, width)]
    height = round(scale.bottom + 40)
    return Chart(
        "Relative error of the weights per step, logarithmic", width, height, scale.rows(), lines, series, labels
    )


def _polyline(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _rates(steps: Sequence[dict[str, Any]], places: dict[int, float], scale: Scale) -> tuple[list[Line], list[Label]]:
    """Return a line at the first step of each new learning rate, and the rate above it where there is room."""
    lines, labels = list[Line](), list[Label]()
    free = 0.0
    for index, (rate, group) in enumerate(groupby(steps, lambda step: step["rate"])):
        step = next(group)["step"]
        x, text = places[step], f"learning rate {limit(rate)}"
        if index:
            lines.append(Line(f"M{x:.1f} {TOP}V{scale.bottom:g}", "rate", title=f"{text} from step {step}"))
        if x >= free:
            last = index > 0 and x + 7 * len(text) > max(places.values())  # it would exceed the right edge
            labels.append(Label(text, x + 4 if last else x - 4, TOP - 8, "end" if last else ""))
            free = x + 7 * len(text) + 8
    return lines, labels


def _step_axis(places: dict[int, float], scale: Scale, width: float) -> list[Label]:
    stride = next(n * 10**k for k in range(9) for n in (1, 2, 5) if len(places) / (n * 10**k) <= width / 48)
    named = [step for step in places if step % stride == 0 or len(places) <= stride]
    ticks = [Label(str(step), places[step], scale.bottom + 16, "middle") for step in named]
    return [*ticks, Label("step", width / 2, scale.bottom + 33, "middle")]
