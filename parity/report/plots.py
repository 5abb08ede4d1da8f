"""Pictures and TensorBoard events of a run, from its metrics.jsonl; pictures of a benchmark and of what networks cost."""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
import math
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import numpy as np

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.errors import InputError, how_to_install
from parity.files.atomic import write_atomically
from parity.files.strict_json import parse_json
from parity.machine import paused_collector
from parity.network.costs import Cost
from parity.recipe.recipe import Experiment
from parity.standard_streams import printable
from parity.training.run_folder import RunFolder


class Style(NamedTuple):
    """How a framework is drawn: colour and marker."""

    colour: str
    marker: str


FRAMEWORK_STYLES = {
    "paddle": Style("#2f6fde", "o"),
    "torch": Style("#d9772b", "s"),
    "onnx": Style("#2f9e6e", "D"),
}
"""Framework -> its style in every picture. Colour and marker both differ, so that no picture rests on colours."""

OTHER_STYLE = Style("#57606a", "^")
"""Of what belongs to no framework, such as a program that a benchmark runs."""

LINES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
"""Line styles, which tell the networks of one framework apart."""

LONGEST_LABEL = 90


class Race(NamedTuple):
    """A training run: test accuracy (0 to 1) after minutes of training, one of each an epoch."""

    framework: str
    machine: str
    minutes: Sequence[float]
    accuracies: Sequence[float]


def style_of(framework: str) -> Style:
    """Return the style of `framework`; `OTHER_STYLE` where it is none."""
    return FRAMEWORK_STYLES.get(framework, OTHER_STYLE)


Drawing = ParamSpec("Drawing")


def matplotlib() -> Any:
    """Import the package now, since that takes a second. Without `MPLBACKEND`: the import fails for a missing backend."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with paused_collector():
            return importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def as_png(draw: Callable[Drawing, Any]) -> Callable[Drawing, bytes]:
    """Make a function that returns a figure return it as a PNG. The user's settings of matplotlib have no effect."""

    @functools.wraps(draw)
    def wrapper(*arguments: Drawing.args, **named: Drawing.kwargs) -> bytes:
        mpl = matplotlib()
        style = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
        with mpl.rc_context(style | {"text.parse_math": False}):  # a $ in a name is a $
            picture = io.BytesIO()
            draw(*arguments, **named).savefig(picture, dpi=110, format="png")
            return picture.getvalue()

    return wrapper


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of `width` by `height` inches. It needs no window and ignores the user's backend."""
    with paused_collector():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure((width, height), layout="constrained")).figure


def curves(run: RunFolder) -> None:
    """Write curves.png: loss and accuracy of training and test, and the learning rate, against epochs.

    Without a line in metrics.jsonl, write nothing.
    """
    batches, epochs = run.metrics("batch"), run.metrics("pass")
    if batches:
        config = parse_json((run.folder / "config.json").read_text(), "run")
        drawn = course(run.experiment, str(config.get("framework")), batches, epochs)
        write_atomically(run.folder / "curves.png", drawn)


@as_png
def course(
    experiment: Experiment, framework: str, batches: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]
) -> Any:
    """Return a PNG of the lines of metrics.jsonl: those of `batches` and those of `epochs`."""
    figure = new_figure(13, 4.2)
    axes = figure.subplots(1, 3)
    colour, marker = style_of(framework)
    at, ends = [line["passes"] for line in batches], [line["passes"] for line in epochs]
    size = 5 if len(batches) <= 50 else 2

    def draw(axis: Any, during: Sequence[float], after: Sequence[float]) -> None:
        axis.plot(at, during, ".-", color="#8a97a6", markersize=2 * size, label="training, mean since the epoch began")
        axis.plot(ends, after, f"{marker}-", color=colour, markersize=5, label="test, after the epoch")
        axis.legend(fontsize=9)

    draw(axes[0], [line["mean_cost"] for line in batches], [line["test_cost"] for line in epochs])
    draw(
        axes[1],
        [100 * (1 - line["mean_error"]) for line in batches],
        [100 * (1 - line["test_error"]) for line in epochs],
    )
    axes[2].plot(at, [line["rate"] for line in batches], ".-", color="#8a97a6", markersize=2 * size)
    axes[0].set(title="Loss", ylabel="loss (nats per image)", ylim=(0, None))
    axes[1].set(title="Accuracy", ylabel="accuracy (%)", ylim=(0, 100))
    axes[2].set(title="Learning rate", ylabel="learning rate", ylim=(0, None))
    for axis in axes:
        axis.set(xlabel="epochs", xlim=(0, max([*at, *ends]) * 1.03))
        axis.grid(alpha=0.3)
    final = f", test accuracy {epochs[-1]['test_accuracy']:.2%}" if epochs else ""
    side = f", {FRAMEWORKS[framework]}" if framework in FRAMEWORKS else ""
    figure.suptitle(
        f"{experiment.network.name}, recipe {experiment.recipe.name}, {experiment.data}, seed {experiment.seed}{side}{final}"
    )
    return figure


def check_tensorboard() -> None:
    """Raise `InputError` where the package that `tensorboard` needs is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(f"tensorboard is not installed here: {how_to_install('tensorboard')}")


SCALARS = {
    "batch": ("train", ("cost", "error", "rate")),
    "pass": ("test", ("test_cost", "test_error", "test_accuracy")),
}


def tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes a line of metrics.jsonl as TensorBoard scalars into `folder`: `train/cost`, `test/accuracy`, ...

    Raise `InputError` where the package is missing.
    """
    check_tensorboard()
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    def write(line: dict[str, Any]) -> None:
        group, keys = SCALARS[line["event"]]
        values = [Summary.Value(tag=f"{group}/{key.removeprefix('test_')}", simple_value=line[key]) for key in keys]
        writer.add_event(Event(step=line["update"], wall_time=time.time(), summary=Summary(value=values)))
        writer.flush()

    return write


WHAT = {"train": "Training", "infer": "Inference"}
"""What `vgg-parity bench` times -> the word for it in a title."""

PROGRAMS = FRAMEWORKS | {"onnx": "ONNX Runtime"}


@as_png
def speeds(result: dict[str, Any]) -> Any:
    """Return a PNG of what `vgg-parity bench` measured: images/s of every contestant, every round and the median."""
    tables = result["tables"]
    most = max(len(table["speeds"]) for table in tables.values())
    figure = new_figure(6.2 * len(tables), 1.5 + 0.55 * most)
    axes = figure.subplots(1, len(tables), squeeze=False)
    rounds = 0
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        rows = table["speeds"]
        for place, (contestant, row) in enumerate(rows.items()):
            colour, marker = style_of(contestant)
            rounds = len(row["rounds"])
            axis.plot([row["least"], row["most"]], [place, place], "-", color=colour, linewidth=2, alpha=0.5)
            axis.plot(row["rounds"], [place] * rounds, marker, color=colour, alpha=0.35, markersize=5, linestyle="")
            axis.plot(row["images_per_second"], place, marker, color=colour, markersize=10)
            text = f"{row['images_per_second']:.1f}"
            axis.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontweight="bold")
        axis.set_yticks(range(len(rows)), [_in_lines(PROGRAMS.get(contestant, contestant)) for contestant in rows])
        widest = max(row["most"] for row in rows.values())
        axis.set(title=f"{WHAT.get(result['what'], result['what'])}, {name}", xlabel="images/s")
        axis.set(xlim=(0, 1.05 * widest), ylim=(len(rows) - 0.5, -0.5))
        axis.annotate("median", (1.02, 1.02), xycoords="axes fraction", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(
        f"{result['network']}, {result['threads']} threads, {result['machine']}\n"
        f"large marker: median of {rounds} rounds; small markers: the rounds; line: slowest to fastest round",
        fontsize=10,
    )
    return figure


COSTS = {"seconds": ("time (s)", 1.0), "peak_memory_bytes": ("peak memory (GB)", 1e-9)}
"""What `vgg-parity bench growth` measures -> the label of its axis, and its factor."""


@as_png
def growth(result: dict[str, Any], predict: Callable[[Mapping[str, Any], Array], Array]) -> Any:
    """Return a PNG of what `vgg-parity bench growth` measured: a column a part, time above memory, all rounds and the fits.

    `predict` returns the costs that a fit expects at some points.
    """
    from matplotlib.lines import Line2D

    parts = result["parts"]
    figure = new_figure(max(7.5, 3.9 * len(parts)), 7.4)
    axes = figure.subplots(len(COSTS), len(parts), squeeze=False)
    for column, part in enumerate(parts.values()):
        for row, cost in enumerate(COSTS):
            _growth_panel(axes[row][column], part, cost, predict)
        axes[0][column].set_title(part["title"])
        axes[-1][column].set_xlabel(part["work"])
    drawn = dict.fromkeys(point["contestant"] for part in parts.values() for point in part["points"])
    handles = [
        Line2D(
            [],
            [],
            marker=style_of(one).marker,
            color=style_of(one).colour,
            label=FRAMEWORKS.get(one, "both, in a check"),
        )
        for one in drawn
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    figure.suptitle(
        f"{_cut(printable(result['network']), LONGEST_LABEL)}, {result['threads']} threads, {result['machine']}\n"
        f"large markers: medians of {result['rounds']} round{'s' * (result['rounds'] > 1)}; small markers: the rounds; lines: the fits",
        fontsize=10,
    )
    return figure


def _growth_panel(axis: Any, part: dict[str, Any], cost: str, predict: Callable[..., Array]) -> None:
    """Draw one cost of one part: the points of every contestant, and the line of its fit."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    label, factor = COSTS[cost]
    work = sorted({point["work"] for point in part["points"]})
    powers = any(fits["seconds"]["kind"] == "power" for fits in part["fits"].values())
    for name in dict.fromkeys(point["contestant"] for point in part["points"]):
        colour, marker = style_of(name)
        points = [point for point in part["points"] if point["contestant"] == name]
        at, medians = [point["work"] for point in points], [factor * np.median(point[cost]) for point in points]
        for point in points:
            costs = factor * np.array(point[cost])
            axis.plot([point["work"]] * len(costs), costs, marker, color=colour, alpha=0.35, markersize=4)
        axis.plot(at, medians, marker, color=colour, markersize=8, linestyle="" if part["fits"] else ":")
        if part["fits"]:
            grid = np.geomspace(work[0], work[-1], 100)
            axis.plot(grid, factor * predict(part["fits"][name][cost], grid), "-", color=colour, linewidth=1)
    axis.set_ylabel(label)
    if powers:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        shown = [one for one, after in itertools.pairwise([*work, math.inf]) if after - one > 0.08 * work[-1]]
        axis.set_xlim(0, 1.06 * work[-1])
        axis.set_xticks(shown, [f"{one:,}" for one in shown])
    if powers and cost == "seconds":
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_ylim(0, 1.1 * factor * max(max(point[cost]) for point in part["points"]))
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)


@as_png
def races(groups: Mapping[str, Sequence[Race]], levels: Sequence[tuple[str, float]]) -> Any:
    """Return a PNG of test accuracy against minutes of training: a panel a machine.

    Runs of one label are one line: their mean, in a band from the smallest to the largest. `levels` are further lines (name, percent).
    """
    machines = list(dict.fromkeys(run.machine for runs in groups.values() for run in runs))
    columns = min(3, len(machines))
    rows = -(-len(machines) // columns)
    figure = new_figure(max(8.0, 5.2 * columns), 4.4 * rows + 0.3 * len(groups))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(machines) :]:
        axis.set_axis_off()
    handles: dict[str, Any] = {}
    lines: dict[str, Any] = {}  # one for both frameworks
    for label, runs in groups.items():
        trained = label.removesuffix(f", {FRAMEWORKS[runs[0].framework]}")
        line = lines.setdefault(trained, LINES[len(lines) % len(LINES)])
        for machine in dict.fromkeys(run.machine for run in runs):
            axis = axes.flat[machines.index(machine)]
            own = [run for run in runs if run.machine == machine]
            handles.setdefault(label, _race(axis, own, line, _cut(printable(label), LONGEST_LABEL)))
    for axis, machine in zip(axes.flat, machines, strict=False):
        for name, level in levels:
            drawn = axis.axhline(level, color=OTHER_STYLE.colour, linewidth=1, label=f"{name} {level:g}%")
            handles[f"{name}={level:g}"] = drawn
        axis.set_title(textwrap.fill(machine, 58), fontsize=10)
        axis.set(xlabel="minutes of training", xlim=(0, None), ylim=(None, 100))
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy (%)")
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=2 if len(groups) > 3 else 1,
        frameon=False,
        fontsize=9,
        handlelength=4,
        title="one marker an epoch; several seeds: their mean, band from smallest to largest",
        title_fontsize=9,
    )
    return figure


def _race(axis: Any, runs: Sequence[Race], line: Any, label: str) -> Any:
    """Draw the mean of `runs`, and their band where there are several."""
    colour, marker = style_of(runs[0].framework)
    minutes = np.mean([run.minutes for run in runs], axis=0)
    percent = 100 * np.array([run.accuracies for run in runs])
    if len(runs) > 1:
        axis.fill_between(minutes, percent.min(0), percent.max(0), color=colour, alpha=0.2, linewidth=0)
    (drawn,) = axis.plot(
        minutes, percent.mean(0), linestyle=line, marker=marker, color=colour, markersize=5, label=label
    )
    return drawn


PANELS: dict[str, tuple[Callable[[Cost], int], Callable[[Cost], str]]] = {
    "side of the output (elements)": (lambda cost: max(cost.output[1:], default=1), lambda cost: _shape(cost.output)),
    "parameters (number)": (lambda cost: cost.parameters, lambda cost: _short(cost.parameters)),
    "multiply-adds (per image)": (lambda cost: cost.multiply_adds, lambda cost: _short(cost.multiply_adds)),
    "activations (bytes per image)": (lambda cost: cost.activation_bytes, lambda cost: _short(cost.activation_bytes)),
}
"""Panel of `layers` -> its value, and the text beside the bar."""

COLOURS = {
    "Conv": "#2c7a7b",
    "MaxPool": "#8a97a6",
    "AvgPool": "#b9c3ce",
    "Linear": "#9b3f6b",
    "Branches": "#a08423",
    "Add": "#5d7a2c",
}
"""Kind of layer -> colour. No framework has one of these."""
OTHER_COLOUR = "#6b4fa0"

MOST_ROWS = 600
"""The most layers in a picture of costs."""


@as_png
def layers(tables: Sequence[tuple[str, Sequence[Cost]]]) -> Any:
    """Return a PNG of what layers cost: tables (title, rows) one below the other. All tables share the scales of the `PANELS`.

    Raise `InputError` for more than `MOST_ROWS` rows.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import EngFormatter, MaxNLocator

    everything = [row for _, rows in tables for row in rows]
    if len(everything) > MOST_ROWS:
        raise InputError(f"a picture holds at most {MOST_ROWS} layers, not {len(everything)}: draw fewer networks")
    heights = [1.1 + 0.19 * len(rows) for _, rows in tables]
    figure = new_figure(15, 0.5 + sum(heights))
    parts = figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, rows) in zip(parts, tables, strict=True):
        part.suptitle(_cut(title, 150), fontsize=11)
        colours = [COLOURS.get(row.kind.partition(" ")[0], OTHER_COLOUR) for row in rows]
        axes = part.subplots(1, len(PANELS), sharey=True)
        for axis, (label, (value, text)) in zip(axes, PANELS.items(), strict=True):
            drawn = axis.barh(range(len(rows)), [float(value(row)) for row in rows], color=colours, height=0.75)
            axis.bar_label(drawn, [text(row) for row in rows], padding=3, fontsize=7)
            most = max(1.0, *(float(value(row)) for row in everything))
            axis.set(xlabel=label, xlim=(0, 1.3 * most), ylim=(len(rows) - 0.4, -0.6))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.xaxis.set_major_formatter(EngFormatter())
            axis.tick_params(labelsize=8, left=False)
            axis.grid(axis="x", alpha=0.3)
            axis.set_axisbelow(True)
        axes[0].set_yticks(range(len(rows)), [_cut(row.layer) for row in rows])
        axes[0].set_ylabel("layer")
    kinds = sorted({row.kind.partition(" ")[0] for row in everything})
    handles = [Patch(color=COLOURS.get(kind, OTHER_COLOUR), label=kind) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9)
    return figure


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _short(value: int) -> str:
    """Return a count for a narrow place: 1.8 G, 36.9 k; an empty text for 0."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return str(value or "")


def _in_lines(text: str) -> str:
    """Return `text` in lines that are short enough for a label."""
    return "\n".join(map(_cut, textwrap.wrap(text, 24, break_long_words=False)))


def _cut(text: str, most: int = 30) -> str:
    """Return `text`, without its middle where it is too long."""
    return text if len(text) < most else f"{text[: most // 2 - 3]}…{text[-most // 2 - 1 :]}"


MOST_NUMBERED, MOST_NAMED = 20, 60
"""The most classes of a confusion matrix with percentages in its cells, and with names beside it."""


@as_png
def confusion(counts: Array, classes: Sequence[str], title: str) -> Any:
    """Return a PNG of a confusion matrix. `counts` [K,K] are images by true (row) and predicted class; the PNG shows shares of a row."""
    size = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(5.0, 0.55 * size + 2), 12.0)
    figure = new_figure(side + 1.2, side)
    axis = figure.subplots()
    image = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="share of the images of the true class (%)", shrink=0.8)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(textwrap.fill(title, round(10 * side)), fontsize=10)
    if size <= MOST_NAMED:
        axis.set_xticks(range(size), [_cut(name) for name in classes], rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(size), [_cut(name) for name in classes])
    if size <= MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else "#1d2733"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return figure
