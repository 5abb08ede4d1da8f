"""The experiments' pictures, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.experiments.tables import Rows, grouped
from parity.report.plots import as_png, new_figure

COLOURS = ("#2f6fde", "#d9772b", "#2f9e6e", "#6b4fa0", "#8a97a6", "#b03a4a")
RIGHT, WRONG = "#1f7a4d", "#b03a4a"
LINES = {"paddle": "-", "torch": "--"}


@as_png
def grid(rows: Sequence[Array], labels: Sequence[str]) -> Any:
    """Grey pictures, rows of [n,H,W] from 0 to 1, a label in front of each row."""
    widest = max(len(row) for row in rows)
    figure = new_figure(1.0 * widest + 1, 1.05 * len(rows))
    axes = figure.subplots(len(rows), widest, squeeze=False)
    for line, row, label in zip(axes, rows, labels, strict=False):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=10)
    return figure


@as_png
def changes(found: Sequence[Mapping[str, Any]]) -> Any:
    """Accuracies on pixels as they are and permuted: a panel a network and framework, a line a seed, the mean in bold."""
    figure = new_figure(2.7 * len(found), 3.8)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)
    for axis, one, colour in zip(axes[0], found, _by_network(found), strict=True):
        pairs = 100 * np.array([one["plain"], one["permuted"]])
        axis.plot([0, 1], pairs, "o-", color=colour, alpha=0.35, markersize=4)
        axis.plot([0, 1], pairs.mean(1), "o-", color=colour, linewidth=3)
        mean = np.mean(one["change_points"])
        axis.set_title(f"{one['network']}\n{FRAMEWORKS[one['framework']]}: {mean:+.1f} points", fontsize=10)
        axis.set_xticks([0, 1], ["as they are", "permuted"])
        axis.set_xlim(-0.3, 1.3)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("test accuracy (%)")
    return figure


def _by_network(found: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(one["network"] for one in found))
    return [COLOURS[names.index(one["network"])] for one in found]


@as_png
def curves(rows: Rows) -> Any:
    """Costs of training and test, and test accuracy, after each pass; a line a network and framework, the mean of the seeds."""
    figure = new_figure(14, 4.4)
    axes = figure.subplots(1, 3)
    names = list(dict.fromkeys(row["entry"] for row in rows))
    panels = {
        "train_costs": "training cost (nats)",
        "test_costs": "test cost (nats)",
        "test_accuracies": "test accuracy (%)",
    }
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for (name, framework), group in grouped(rows).items():
            values = np.mean([row[key] for row in group], axis=0) * (100 if key == "test_accuracies" else 1)
            label = f"{name}, {FRAMEWORKS[framework]}"
            colour = COLOURS[names.index(name) % len(COLOURS)]
            axis.plot(
                range(1, len(values) + 1), values, "o" + LINES[framework], color=colour, markersize=4, label=label
            )
        axis.set(title=title, xlabel="passes")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


@as_png
def labelled(images: Array, truths: Sequence[str], guesses: Mapping[str, Sequence[str]]) -> Any:
    """uint8 [n,3,H,W], four a row: above each what it is, below what each network takes it for, green where it is right."""
    columns = min(4, len(images))
    lines = -(-len(images) // columns)
    height = 2.9 + 0.2 * len(guesses)
    figure = new_figure(3.1 * columns, height * lines + 0.1)
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.08)  # between the last guess and the next row's titles
    figure.suptitle("Test images: what they are, and what each network takes them for")
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(f"{number + 1}: {truths[number]}", fontsize=12, fontweight="bold")
        for line, (network, labels) in enumerate(guesses.items()):
            colour = RIGHT if labels[number] == truths[number] else WRONG
            text = f"{network}: {labels[number]}"
            axis.annotate(
                text,
                (0.5, 0),
                (0, -6 - 13 * line),
                "axes fraction",
                "offset points",
                ha="center",
                va="top",
                fontsize=9,
                color=colour,
            )
    return figure


@as_png
def bars(classes: Sequence[str], groups: Mapping[str, Sequence[float | None]]) -> Any:
    """Accuracy (0 to 1) of each class, a bar for each of the `groups`."""
    figure = new_figure(12, 4.2)
    axis = figure.subplots()
    width = 0.8 / len(groups)
    for number, (name, values) in enumerate(groups.items()):
        places = np.arange(len(classes)) + (number + 0.5) * width - 0.4
        axis.bar(
            places, [100 * (value or 0) for value in values], width, label=name, color=COLOURS[number % len(COLOURS)]
        )
    axis.set_xticks(range(len(classes)), classes)
    axis.set(ylabel="accuracy (%)", ylim=(0, 100))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(groups), frameon=False)
    return figure


@as_png
def worth(found: Sequence[Mapping[str, Any]], told: Mapping[str, str]) -> Any:
    """How far accuracy is away from the whole's without each part: a bar a part and framework, a dot a seed."""
    parts = list(dict.fromkeys(one["without"] for one in found))[::-1]
    frameworks = list(dict.fromkeys(one["framework"] for one in found))
    figure = new_figure(10, 0.6 + 0.45 * len(parts))
    axis = figure.subplots()
    width = 0.8 / len(frameworks)
    for number, framework in enumerate(frameworks):
        own = [one for one in found if one["framework"] == framework]
        places = [parts.index(one["without"]) - (number - (len(frameworks) - 1) / 2) * width for one in own]
        means = [float(np.mean(one["change_points"])) for one in own]
        axis.barh(places, means, 0.9 * width, color=COLOURS[number], alpha=0.7, label=FRAMEWORKS[framework])
        for place, one in zip(places, own, strict=True):
            changes = one["change_points"]
            axis.plot(changes, [place] * len(changes), ".", color="black", markersize=4)
    axis.set_yticks(range(len(parts)), [told[part].partition(":")[0] for part in parts])
    axis.axvline(0, color="black", linewidth=0.8)
    # Linear up to five points, logarithmic beyond: one part may be worth a hundred times another.
    low, high = (limit([0.0, *(c for one in found for c in one["change_points"])]) for limit in (min, max))
    if max(-low, high) > 5:
        axis.set_xscale("symlog", linthresh=5, linscale=3)
        axis.set_xlim(1.1 * low - 0.2, 1.1 * high + 0.2)
        axis.set_xticks([tick for tick in (-100, -50, -20, -10, *range(-5, 6), 10, 20, 50, 100) if low <= tick <= high])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axis.set_xlabel("change of test accuracy without it (points)")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    if len(frameworks) > 1:
        figure.legend(loc="outside lower center", ncols=len(frameworks), frameon=False)
    return figure


@as_png
def times(found: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Any:
    """Seconds of every step, and their means as lines: a panel a kind of step."""
    kinds = list(dict.fromkeys(kind for rows in found.values() for kind in rows))
    figure = new_figure(6 * len(kinds), 4)
    axes = figure.subplots(1, len(kinds), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for (framework, rows), colour in zip(found.items(), COLOURS, strict=False):
            seconds = rows.get(kind, [])
            label = f"{FRAMEWORKS[framework]}: {np.mean(seconds):.4f} ± {np.std(seconds):.4f} s"
            axis.plot(range(1, len(seconds) + 1), seconds, ".", color=colour, markersize=4, alpha=0.6)
            axis.axhline(float(np.mean(seconds)), color=colour, label=label)
        axis.set(title=kind, xlabel="step", ylabel="seconds a batch", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return figure
