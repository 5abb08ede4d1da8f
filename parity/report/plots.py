"""Pictures and TensorBoard events of a run, from its metrics.jsonl; pictures of a benchmark and of what networks cost."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from parity.arrays import Array
from parity.errors import InputError, how_to_install
from parity.files.atomic import write_atomically
from parity.network.costs import Cost
from parity.recipe.recipe import Experiment
from parity.training.run_folder import RunFolder

Race = tuple[Sequence[float], Sequence[float]]
"""A run: minutes of training until the end of every pass, and test accuracy (0 to 1) then."""


Drawing = ParamSpec("Drawing")


def matplotlib() -> Any:
    """The package, imported now, since it takes a second. `MPLBACKEND` is left out: the import fails for a backend that is not there."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        return importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def as_png(draw: Callable[Drawing, Any]) -> Callable[Drawing, bytes]:
    """Makes a function that returns a figure return it as a PNG. The user's settings of matplotlib have no effect."""

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
    """An empty figure of `width` by `height` inches. It belongs to no window: pyplot would choose its canvas by the user's settings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure((width, height), layout="constrained")).figure


def curves(run: RunFolder) -> None:
    """Writes curves.png: cost and error of training and test against passes, and the learning rate. Nothing before the first line."""
    batches, passes = run.metrics("batch"), run.metrics("pass")
    if batches:
        write_atomically(run.folder / "curves.png", course(run.experiment, batches, passes))


@as_png
def course(experiment: Experiment, batches: Sequence[dict[str, Any]], passes: Sequence[dict[str, Any]]) -> Any:
    """A PNG of what the lines of metrics.jsonl, of `batches` and of `passes`, say."""
    figure = new_figure(13, 4)
    axes = figure.subplots(1, 3)
    for axis, key, title in zip(
        axes, ("cost", "error"), ("cross-entropy (nats)", "classification error"), strict=False
    ):
        axis.plot(
            [b["passes"] for b in batches],
            [b[f"mean_{key}"] for b in batches],
            label="training, mean since the pass began",
            alpha=0.6,
        )
        axis.plot([p["passes"] for p in passes], [p[f"test_{key}"] for p in passes], "o-", label="test")
        axis.set(title=title, xlabel="passes", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[2].plot([b["passes"] for b in batches], [b["rate"] for b in batches], ".-")
    axes[2].set(title="learning rate", xlabel="passes", ylim=(0, None))
    axes[2].grid(alpha=0.3)
    final = f", test accuracy {passes[-1]['test_accuracy']:.2%}" if passes else ""
    figure.suptitle(
        f"{experiment.network.name}, recipe {experiment.recipe.name}, {experiment.data}, seed {experiment.seed}{final}"
    )
    return figure


def check_tensorboard() -> None:
    """`InputError` where the package that `tensorboard` needs is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(f"tensorboard is not installed here: {how_to_install('tensorboard')}")


SCALARS = {
    "batch": ("train", ("cost", "error", "rate")),
    "pass": ("test", ("test_cost", "test_error", "test_accuracy")),
}


def tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function that writes a line of metrics.jsonl as TensorBoard scalars into `folder`: `train/cost`, `test/accuracy`, ...

    `InputError` where the package is missing.
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


@as_png
def speeds(result: dict[str, Any]) -> Any:
    """A PNG of what `vgg-parity bench` found: a bar of median images/s a contestant, a whisker from the least to the most."""
    tables = result["tables"]
    widest = max(len(table["speeds"]) for table in tables.values())
    figure = new_figure(5.2 * len(tables), 1.6 + 0.55 * widest)
    axes = figure.subplots(1, len(tables), squeeze=False)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        rows = table["speeds"]
        medians = [row["images_per_second"] for row in rows.values()]
        whiskers = [[row["images_per_second"] - row["least"] for row in rows.values()]]
        whiskers.append([row["most"] - row["images_per_second"] for row in rows.values()])
        drawn = axis.barh(
            [_cut(contestant) for contestant in rows],
            medians,
            xerr=whiskers,
            capsize=4,
            height=0.6,
            color="#2f6fde",
            ecolor="#1d2733",
        )
        axis.bar_label(drawn, [f"{median:.1f}" for median in medians], label_type="center", color="white")
        axis.set(title=f"{result['what']}, {name}", xlabel="images/s, median, least to most", xlim=(0, None))
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(f"{result['network']}, {result['threads']} threads, {result['machine']}", fontsize=10)
    return figure


@as_png
def races(groups: Mapping[str, Sequence[Race]], levels: Sequence[tuple[str, float]]) -> Any:
    """A PNG of test accuracy against minutes of training: by label, runs of one colour; `levels` are further lines (name, percent)."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(10, 5.6)
    axis = figure.subplots()
    last = [minutes[-1] for runs in groups.values() for minutes, _ in runs]
    for number, (label, runs) in enumerate(groups.items()):
        for i, (minutes, accuracies) in enumerate(runs):
            percent = [100 * accuracy for accuracy in accuracies]
            name = _cut(label, 90) if i == 0 else None
            axis.plot(minutes, percent, "o-", color=f"C{number % 10}", markersize=3.5, linewidth=1.4, label=name)
            axis.plot(minutes[-1:], percent[-1:], "o", color=f"C{number % 10}", markersize=7)
    for name, level in levels:
        axis.axhline(level, color="#57606a", linestyle="--", linewidth=1)
        axis.annotate(
            f"{name} {level:g}%",
            (0, level),
            (4, 3),
            ("axes fraction", "data"),
            "offset points",
            fontsize=9,
            color="#57606a",
        )
    if max(last) > 10 * min(last) > 0:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="minutes of training", ylabel="test accuracy (%)", ylim=(None, 100))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=1 if len(groups) < 4 else 2, frameon=False, fontsize=9)
    return figure


PANELS: dict[str, tuple[Callable[[Cost], int], Callable[[Cost], str]]] = {
    "side of the map (elements)": (lambda cost: max(cost.output[1:], default=1), lambda cost: _shape(cost.output)),
    "parameters": (lambda cost: cost.parameters, lambda cost: _short(cost.parameters)),
    "multiply-adds": (lambda cost: cost.multiply_adds, lambda cost: _short(cost.multiply_adds)),
    "activations (bytes)": (lambda cost: cost.activation_bytes, lambda cost: _short(cost.activation_bytes)),
}
"""Of `layers`: what is drawn -> its value, and what stands beside the bar."""

COLOURS = {"Conv": "#2f6fde", "MaxPool": "#8a97a6", "AvgPool": "#b9c3ce", "Linear": "#d9772b", "Branches": "#2f9e6e"}
OTHER_COLOUR = "#6b4fa0"

MOST_ROWS = 600
"""Layers in a picture of costs."""


@as_png
def layers(tables: Sequence[tuple[str, Sequence[Cost]]]) -> Any:
    """A PNG of what layers cost: tables (title, rows) one below the other, each with the `PANELS`, whose scales are common to all.

    `InputError` for more than `MOST_ROWS` rows.
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
    kinds = sorted({row.kind.partition(" ")[0] for row in everything})
    handles = [Patch(color=COLOURS.get(kind, OTHER_COLOUR), label=kind) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9)
    return figure


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _short(value: int) -> str:
    """A count for a narrow place: 1.8 G, 36.9 k; nothing for 0."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return str(value or "")


def _cut(text: str, most: int = 30) -> str:
    """`text`, without its middle where it is too long."""
    return text if len(text) < most else f"{text[: most // 2 - 3]}…{text[-most // 2 - 1 :]}"


MOST_NUMBERED, MOST_NAMED = 20, 60
"""Classes of a confusion matrix whose cells hold their percentage, and whose names stand beside it."""


@as_png
def confusion(counts: Array, classes: Sequence[str], title: str) -> Any:
    """A PNG of a confusion matrix: `counts` [K,K] of pictures by true (row) and predicted class, drawn as shares of each row."""
    size = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(5.0, 0.55 * size + 2), 12.0)
    figure = new_figure(side + 1.2, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the pictures of a class", shrink=0.8)
    axis.set(xlabel="predicted", ylabel="true")
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
