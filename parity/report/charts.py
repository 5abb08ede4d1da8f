"""Charts as inline SVG: errors on a logarithmic scale, beside the bounds that they must not exceed.

Every chart is two pictures: the axis, which stays in view, and the plot, which scrolls beside it. What has no place on a
logarithmic scale gets a row of its own: 0 below it, infinities and NaN above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element

from parity.report.markup import above, limit, real, scroll, shown, tag

AXIS, ROW, HEIGHT, TOP, WIDTH = 58, 28, 264, 26, 1080
NARROWEST, WIDEST = 18, 44  # columns of layers; a network of more than 60 layers scrolls
EXPONENTS = range(-40, 41)  # beyond, a point stands at the edge
LONGEST_NAME = 28

SHAPES = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z",
    "M0 -4.4L4.2 3.4L-4.2 3.4z",
    "M-3.2 -3.2H3.2V3.2H-3.2z",
    "M0 -4.8L4.3 0L0 4.8L-4.3 0z",
    "M0 4.4L4.2 -3.4L-4.2 -3.4z",
    "M-4 -1.4H-1.4V-4H1.4V-1.4H4V1.4H1.4V4H-1.4V1.4H-4z",
    "M-3.9 -2.5L-2.5 -3.9L0 -1.4L2.5 -3.9L3.9 -2.5L1.4 0L3.9 2.5L2.5 3.9L0 1.4L-2.5 3.9L-3.9 2.5L-1.4 0z",
    "M-4.6 0L-1.2 -1.2L0 -4.6L1.2 -1.2L4.6 0L1.2 1.2L0 4.6L-1.2 1.2z",
)
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
"""Phase, in the order of computation -> its shape and colour. Input and loss share theirs: no layer has both."""
OTHER = 6


@dataclass(frozen=True)
class Scale:
    """Heights of a logarithmic axis: decades from `low` to `high`, and the rows for what is not on it."""

    low: int
    high: int
    beyond: bool
    zero: bool

    @staticmethod
    def of(values: Iterable[float]) -> Scale:
        """The scale that shows all `values`."""
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
        """Where the plot ends."""
        return self.last + ROW * self.zero

    def y(self, value: float) -> float:
        """Height of `value`."""
        if not math.isfinite(value):
            return TOP + ROW / 2
        if value <= 0:
            return self.last + ROW / 2
        exponent = min(max(math.log10(value), self.low), self.high)
        return self.first + HEIGHT * (self.high - exponent) / (self.high - self.low)

    def ticks(self) -> list[int]:
        """The decades that are named, at most a dozen."""
        stride = next(n for n in (1, 2, 5, 10) if (self.high - self.low) / n <= 11)
        return [exponent for exponent in range(self.low, self.high + 1) if exponent % stride == 0]


@dataclass(frozen=True)
class Series:
    """One kind of point: its name, its shape and colour, where its points are, and what each says."""

    name: str
    style: int
    points: list[tuple[float, float, bool, str]]  # x, value, above its bound, tooltip


def layers_chart(layers: Sequence[dict[str, Any]], marked: str | None) -> Element:
    """Error of every layer in every phase, in network order; the layer `marked` is singled out."""
    names = phases(layers)
    errors = [real(error) for layer in layers for error in layer["errors"].values()]
    scale = Scale.of([*errors, *(real(bound) for layer in layers for bound in layer["bounds"].values())])
    pitch = min(max(WIDTH // len(layers), NARROWEST), WIDEST)
    centres = [pitch * (index + 0.5) for index in range(len(layers))]
    series = [_phase(name, layers, centres, pitch * 0.16 * (i - (len(names) - 1) / 2)) for i, name in enumerate(names)]
    lines, legend = _bounds(layers, names, scale, pitch)
    stripes = [_stripe(x, pitch, scale, layer["layer"] == marked) for x, layer in zip(centres, layers, strict=True)]
    labels = [
        _layer_name(x, scale, layer["layer"], layer["layer"] == marked)
        for x, layer in zip(centres, layers, strict=True)
    ]
    depth = 12 + 6.7 * min(max(len(layer["layer"]) for layer in layers), LONGEST_NAME)
    width = max(pitch * len(layers), 240)
    parts = [*stripes, *_grid(scale, width), *lines, *(_points(one, scale) for one in series), *labels]
    legends = [_legend_point(one) for one in series] + legend
    return _chart("Error per layer, logarithmic", scale, width, depth, parts, legends)


def phases(layers: Sequence[dict[str, Any]]) -> list[str]:
    """The phases that any layer has, in the order of computation."""
    found = {name: None for layer in layers for name in layer["errors"]}
    return [name for name in PHASES if name in found] + [name for name in found if name not in PHASES]


def _phase(name: str, layers: Sequence[dict[str, Any]], centres: Sequence[float], offset: float) -> Series:
    points = []
    for x, layer in zip(centres, layers, strict=True):
        if name in layer["errors"]:
            error, bound = layer["errors"][name], layer["bounds"].get(name)
            text = f"{layer['layer']}, {name}: error {shown(error)}, bound {limit(bound)}"
            points.append((x + offset, real(error), above(error, bound), text))
    return Series(name, PHASES.get(name, OTHER), points)


def _bounds(
    layers: Sequence[dict[str, Any]], names: Sequence[str], scale: Scale, pitch: float
) -> tuple[list[Element], list[Element]]:
    """A line, and its entry in the legend, for every course that the bounds of some phases take together."""
    profiles: dict[str, list[float | None]] = {
        name: [None if (bound := layer["bounds"].get(name)) is None else real(bound) for layer in layers]
        for name in names
    }
    courses: list[tuple[list[str], list[float | None]]] = []
    for name, profile in profiles.items():
        same = next((course for course in courses if _agree(course[1], profile)), None)
        if same is None:
            courses.append(([name], profile))
        else:
            same[0].append(name)
            same[1][:] = [a if a is not None else b for a, b in zip(same[1], profile, strict=True)]
    lines = [
        tag("path", d=_steps(course, scale, pitch), class_=f"bound b{i % 3}") for i, (_, course) in enumerate(courses)
    ]
    texts = ["bound"] if len(courses) == 1 else [f"bound of {', '.join(members)}" for members, _ in courses]
    return lines, [_legend_line(f"bound b{i % 3}", text) for i, text in enumerate(texts)]


def _agree(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def _steps(bounds: Sequence[float | None], scale: Scale, pitch: float) -> str:
    """A path as wide as a layer at every bound, joined where neighbours have one."""
    path, joined = [], False
    for index, bound in enumerate(bounds):
        if bound is not None:
            y = scale.y(bound)
            path.append(f"{'L' if joined else 'M'}{pitch * index:g} {y:.1f}H{pitch * (index + 1):g}")
        joined = bound is not None
    return "".join(path)


def _stripe(x: float, pitch: float, scale: Scale, marked: bool) -> Element | None:
    if not marked and int(x / pitch) % 2:
        return None
    style = "marked" if marked else "stripe"
    return tag("rect", x=f"{x - pitch / 2:g}", y=TOP, width=pitch, height=f"{scale.bottom - TOP:g}", class_=style)


def _layer_name(x: float, scale: Scale, name: str, marked: bool) -> Element:
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    turn = f"translate({x + 4:g} {scale.bottom + 8:g}) rotate(-90)"
    return tag("text", tag("title", name), short, transform=turn, class_="end strong" if marked else "end")


def trajectory_chart(steps: Sequence[dict[str, Any]]) -> Element:
    """Error of every step beside its bound and beside the twin's distance; a line wherever the rate changed."""
    values = [real(step[key]) for step in steps for key in ("error", "bound", "twin") if step.get(key) is not None]
    scale, width = Scale.of(values), min(max(26 * len(steps), 620), WIDTH)
    first, last = steps[0]["step"], steps[-1]["step"]
    places = {step["step"]: 14 + (width - 28) * (step["step"] - first) / max(last - first, 1) for step in steps}
    error = [_step_point(step, "error", places, f"bound {limit(step['bound'])}") for step in steps]
    twin = [_step_point(step, "twin", places, "twin") for step in steps if step.get("twin") is not None]
    series = [Series("distance of the two sides", 0, error)]
    if twin:
        series.append(Series("distance of the one-ULP twin", 2, twin))
    bound = _polyline([(places[step["step"]], real(step["bound"])) for step in steps], scale, "bound b0")
    lines = [_polyline([(x, y) for x, y, _, _ in one.points], scale, f"line s{one.style}") for one in series]
    parts = [
        *_grid(scale, width),
        *_rates(steps, places, scale),
        bound,
        *lines,
        *(_points(one, scale) for one in series),
    ]
    legends = [*(_legend_point(one) for one in series), _legend_line("bound b0", "bound")]
    return _chart(
        "Distance per step, logarithmic", scale, width, 40, [*parts, *_step_axis(places, scale, width)], legends
    )


def _step_point(step: dict[str, Any], key: str, places: dict[int, float], more: str) -> tuple[float, float, bool, str]:
    over = key == "error" and above(step["error"], step["bound"])
    return places[step["step"]], real(step[key]), over, f"step {step['step']}: {shown(step[key])}, {more}"


def _polyline(points: Sequence[tuple[float, float]], scale: Scale, style: str) -> Element:
    return tag("polyline", points=" ".join(f"{x:.1f},{scale.y(value):.1f}" for x, value in points), class_=style)


def _rates(steps: Sequence[dict[str, Any]], places: dict[int, float], scale: Scale) -> list[Element]:
    """A line at the first step of each new rate, and the rate above it where there is room."""
    found: list[Element] = []
    free = 0.0
    for index, (rate, group) in enumerate(groupby(steps, lambda step: step["rate"])):
        step = next(group)["step"]
        x, text = places[step], f"rate {limit(rate)}"
        if index:
            line = tag(
                "path", tag("title", f"{text} from step {step}"), d=f"M{x:.1f} {TOP}V{scale.bottom:g}", class_="rate"
            )
            found.append(line)
        if x >= free:
            last = x + 7 * len(text) > max(places.values())  # it would stick out at the right
            place = {"x": f"{x + 4:.1f}", "class_": "end"} if last and index else {"x": f"{x - 4:.1f}"}
            found.append(tag("text", text, y=TOP - 8, **place))
            free = x + 7 * len(text) + 8
    return found


def _step_axis(places: dict[int, float], scale: Scale, width: float) -> list[Element]:
    stride = next(n * 10**k for k in range(9) for n in (1, 2, 5) if len(places) / (n * 10**k) <= width / 48)
    shown_steps = [step for step in places if step % stride == 0 or len(places) <= stride]
    ticks = [
        tag("text", str(step), x=f"{places[step]:.1f}", y=scale.bottom + 16, class_="middle") for step in shown_steps
    ]
    return [*ticks, tag("text", "step", x=f"{width / 2:g}", y=scale.bottom + 33, class_="middle")]


def _grid(scale: Scale, width: float) -> list[Element]:
    heights = [scale.y(10.0**exponent) for exponent in scale.ticks()]
    lines = [tag("path", d=f"M0 {y:.1f}H{width:g}", class_="grid") for y in heights]
    edges = [y for y, kept in ((scale.first, scale.beyond), (scale.last, scale.zero)) if kept]
    return lines + [tag("path", d=f"M0 {y:g}H{width:g}", class_="edge") for y in edges]


def _points(series: Series, scale: Scale) -> Element:
    return tag("g", *(_point(series.style, point, scale) for point in series.points))


def _point(style: int, point: tuple[float, float, bool, str], scale: Scale) -> Element:
    x, value, over, text = point
    place = f"translate({x:.1f} {scale.y(value):.1f})"
    return tag("path", tag("title", text), d=SHAPES[style], transform=place, class_=f"point s{style}{' over' * over}")


def _axis(scale: Scale) -> list[Element]:
    named = [(scale.y(10.0**exponent), f"1e{exponent}") for exponent in scale.ticks()]
    rows = [(scale.y(math.inf), "inf, NaN")] * scale.beyond + [(scale.y(0.0), "0")] * scale.zero
    return [tag("text", text, x=AXIS - 8, y=f"{y + 4:.1f}", class_="end") for y, text in named + rows]


def _chart(
    name: str, scale: Scale, width: float, depth: float, parts: Sequence[Element | None], legends: Sequence[Element]
) -> Element:
    height = round(scale.bottom + depth)
    axis = _svg(AXIS, height, _axis(scale), class_="axis", aria_hidden="true")
    plot = _svg(width, height, parts, role="img", aria_label=f"{name}. The numbers are in the table below.")
    legend = tag("ul", *legends, class_="legend")
    return tag("div", legend, scroll(f"Chart: {name}", tag("div", axis, plot, class_="plot")), class_="chart")


def _svg(width: float, height: float, parts: Sequence[Element | None], **attributes: str) -> Element:
    # The width is a variable for the printer, where both pictures shrink by one factor.
    box = {"viewBox": f"0 0 {width:g} {height:g}", "style": f"--width:{width:g}"}
    return tag("svg", *parts, width=f"{width:g}", height=f"{height:g}", **box, **attributes)


def _legend_point(series: Series) -> Element:
    sample = tag("path", d=SHAPES[series.style], transform="translate(8 8)", class_=f"point s{series.style}")
    return tag("li", _sample(sample), series.name)


def _legend_line(style: str, text: str) -> Element:
    return tag("li", _sample(tag("path", d="M0 8H26", class_=style), 26), text)


def _sample(shape: Element, width: int = 16) -> Element:
    return tag("svg", shape, width=width, height=16, viewBox=f"0 0 {width} 16", aria_hidden="true")
