"""The experiments' pictures, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.experiments.tables import Rows, grouped
from parity.report.plots import LINES, as_png, new_figure, style_of

RIGHT, WRONG = ("#1f7a4d", "\u2713"), ("#b03a4a", "\u2717")
"""Colour and mark of a right and of a wrong prediction."""

LARGE = 10.0
"""Points. Parts of an ablation that are worth more have a panel of their own, so that the others can be read."""

NETWORK_STYLES = (("#9b3f6b", "^", 1.2), ("#2c7a7b", "o", 1.2), ("#9b3f6b", "v", 2.6), ("#2c7a7b", "D", 2.6))
"""Colour, marker and line width of the networks of `errors`. No framework has one of these colours."""

Values = Sequence[float | None]


@as_png
def grid(rows: Sequence[Array], labels: Sequence[str], title: str) -> Any:
    """Return grey images, rows of [n,H,W] from 0 to 1, with a label in front of each row."""
    widest = max(len(row) for row in rows)
    figure = new_figure(1.0 * widest + 1, 1.05 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), widest, squeeze=False)
    for line, row, label in zip(axes, rows, labels, strict=False):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


@as_png
def changes(found: Sequence[Mapping[str, Any]]) -> Any:
    """Return accuracies on original and permuted pixels: a panel for each network and framework, the mean in a band over the seeds."""
    figure = new_figure(2.9 * len(found), 4.2)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)
    for axis, one in zip(axes[0], found, strict=True):
        colour, marker = style_of(one["framework"])
        pairs = 100 * np.array([one["plain"], one["permuted"]])
        axis.fill_between([0, 1], pairs.min(1), pairs.max(1), color=colour, alpha=0.2, linewidth=0)
        axis.plot([0, 1], pairs.mean(1), f"{marker}-", color=colour, linewidth=2, markersize=8)
        mean = np.mean(one["change_points"])
        axis.set_title(f"{one['network']}, {FRAMEWORKS[one['framework']]}\n{mean:+.1f} points", fontsize=10)
        axis.set_xticks([0, 1], ["as they are", "permuted"])
        axis.set(xlim=(-0.3, 1.3), xlabel="pixels")
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("test accuracy (%)")
    seeds = len(found[0]["plain"])
    figure.suptitle(
        f"Markers: mean of {seeds} seeds; band: smallest to largest" if seeds > 1 else "One seed", fontsize=10
    )
    return figure


@as_png
def curves(rows: Rows) -> Any:
    """Return loss of training and test, and test accuracy, after each epoch.

    A line is a network in a framework: the mean of its seeds, in a band from the smallest to the largest.
    """
    figure = new_figure(14, 4.8)
    axes = figure.subplots(1, 3)
    names = list(dict.fromkeys(row["entry"] for row in rows))
    panels = {
        "train_costs": ("Training loss", "loss (nats per image)"),
        "test_costs": ("Test loss", "loss (nats per image)"),
        "test_accuracies": ("Test accuracy", "accuracy (%)"),
    }
    for axis, (key, (title, unit)) in zip(axes, panels.items(), strict=True):
        for (name, framework), group in grouped(rows).items():
            values = np.array([row[key] for row in group]) * (100 if key == "test_accuracies" else 1)
            colour, marker = style_of(framework)
            epochs = range(1, values.shape[1] + 1)
            if len(group) > 1:
                axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            axis.plot(
                epochs,
                values.mean(0),
                linestyle=LINES[names.index(name) % len(LINES)],
                marker=marker,
                color=colour,
                markersize=7,
                fillstyle="none",  # so that equal curves of both frameworks are both seen
                label=f"{name}, {FRAMEWORKS[framework]}",
            )
        axis.set(title=title, xlabel="epochs", ylabel=unit)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9, handlelength=4
    )
    return figure


@as_png
def errors(rows: Rows) -> Any:
    """Return training error (dashed) and test error (solid) of each epoch: a panel for each framework, a marker for each network.

    A line is the mean of the seeds, in a band from the smallest to the largest.
    """
    from matplotlib.lines import Line2D

    frameworks = list(dict.fromkeys(row["framework"] for row in rows))
    names = list(dict.fromkeys(row["entry"] for row in rows))
    styles = {name: NETWORK_STYLES[number % len(NETWORK_STYLES)] for number, name in enumerate(names)}
    figure = new_figure(max(8.5, 1 + 5.5 * len(frameworks)), 5.4)
    axes = figure.subplots(1, len(frameworks), sharey=True, squeeze=False)[0]
    for (name, framework), group in grouped(rows).items():
        axis, (colour, marker, width) = axes[frameworks.index(framework)], styles[name]
        for line, percents in (
            ("--", 100 * np.array([row["train_errors"] for row in group])),
            ("-", 100 - 100 * np.array([row["test_accuracies"] for row in group])),
        ):
            epochs = range(1, percents.shape[1] + 1)
            if len(group) > 1:
                axis.fill_between(epochs, percents.min(0), percents.max(0), color=colour, alpha=0.15, linewidth=0)
            shown = max(1, len(epochs) // 20)
            axis.plot(
                epochs,
                percents.mean(0),
                line,
                marker=marker,
                markevery=shown,
                color=colour,
                linewidth=width,
                markersize=6,
            )
    for axis, framework in zip(axes, frameworks, strict=True):
        axis.set(title=FRAMEWORKS[framework], xlabel="epochs")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("error (%)")
    first, seeds = rows[0], len({row["seed"] for row in rows})
    drawn = f"lines: mean of {seeds} seeds; band: smallest to largest" if seeds > 1 else "one seed"
    figure.suptitle(
        f"{first['data']}, {first['train_images']:,} training images, recipe {first['recipe']}; {drawn}", fontsize=10
    )
    networks = {row["entry"]: row["network"] for row in rows}
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=width, markersize=6, label=networks[name])
        for name, (colour, marker, width) in styles.items()
    ]
    handles += [
        Line2D([], [], color="black", linestyle=line, label=label)
        for line, label in (("--", "training, mean over the epoch"), ("-", "test, after the epoch"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=4)
    return figure


@as_png
def labelled(images: Array, truths: Sequence[str], guesses: Mapping[str, Sequence[str]]) -> Any:
    """Return uint8 images [n,3,H,W], four a row: above each its class, below it what each network predicts, green if right."""
    columns = min(4, len(images))
    lines = -(-len(images) // columns)
    height = 2.9 + 0.2 * len(guesses)
    figure = new_figure(3.1 * columns, height * lines + 0.1)
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.08)  # between the last guess and the next row's titles
    figure.suptitle("Test images with their class, and what each network predicts")
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(f"{number + 1}: {truths[number]}", fontsize=12, fontweight="bold")
        for line, (network, labels) in enumerate(guesses.items()):
            colour, mark = RIGHT if labels[number] == truths[number] else WRONG
            text = f"{mark} {network}: {labels[number]}"
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
def classes(names: Sequence[str], groups: Mapping[tuple[str, str], Values]) -> Any:
    """Return the accuracy (0 to 1) of each class: a panel for each network, a marker for each framework."""
    networks = list(dict.fromkeys(network for network, _ in groups))
    frameworks = list(dict.fromkeys(framework for _, framework in groups))
    figure = new_figure(12, 0.8 + 2.7 * len(networks))
    axes = figure.subplots(len(networks), 1, sharex=True, squeeze=False)[:, 0]
    for (network, framework), values in groups.items():
        axis, number = axes[networks.index(network)], frameworks.index(framework)
        shift = 0.2 * (number - (len(frameworks) - 1) / 2)
        known = [(place + shift, 100 * value) for place, value in enumerate(values) if value is not None]
        colour, marker = style_of(framework)
        for place, percent in known:
            axis.plot([place, place], [0, percent], color=colour, alpha=0.4, linewidth=2)
        places, percents = zip(*known, strict=True) if known else ((), ())
        label = FRAMEWORKS[framework]
        axis.plot(places, percents, marker, color=colour, markersize=8, linestyle="", label=label)
    for axis, network in zip(axes, networks, strict=True):
        axis.set(title=network, ylabel="test accuracy (%)", ylim=(0, 105))
        axis.set_xticks(range(len(names)), names)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("class")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(frameworks), frameon=False)
    return figure


@as_png
def worth(found: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Any:
    """Return how accuracy changes without each part: a bar for each part and framework, a marker for each seed.

    Parts that are worth more than `LARGE` points have a panel of their own. Every axis is linear.
    """
    parts = list(dict.fromkeys(one["without"] for one in found))
    large = {one["without"] for one in found if max(map(abs, one["change_points"])) > LARGE}
    panels = [group for group in ([p for p in parts if p in large], [p for p in parts if p not in large]) if group]
    figure = new_figure(10, 0.9 + 0.5 * len(panels) + 0.45 * len(parts))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(group) + 0.6 for group in panels])[:, 0]
    for axis, group in zip(axes, panels, strict=True):
        _worths(axis, [one for one in found if one["without"] in group], group[::-1], labels)
        if len(panels) > 1:
            size = f"more than {LARGE:g} points" if group[0] in large else f"at most {LARGE:g} points (another scale)"
            axis.set_title(f"Changes of {size}", fontsize=10)
    axes[-1].set_xlabel("change of test accuracy without the part (percentage points)")
    seeds = max(len(one["change_points"]) for one in found)
    drawn = axes[0].get_legend_handles_labels()
    title = f"bar: mean of {seeds} seeds; marker: one seed" if seeds > 1 else "one seed"
    figure.legend(*drawn, title=title, loc="outside lower center", ncols=len(drawn[0]), frameon=False)
    return figure


def _worths(axis: Any, found: Sequence[Mapping[str, Any]], parts: Sequence[str], labels: Mapping[str, str]) -> None:
    frameworks = list(dict.fromkeys(one["framework"] for one in found))
    width = 0.8 / len(frameworks)
    for number, framework in enumerate(frameworks):
        own = [one for one in found if one["framework"] == framework]
        places = [parts.index(one["without"]) - (number - (len(frameworks) - 1) / 2) * width for one in own]
        means = [float(np.mean(one["change_points"])) for one in own]
        colour, marker = style_of(framework)
        axis.barh(places, means, 0.9 * width, color=colour, alpha=0.5, label=FRAMEWORKS[framework])
        for place, one in zip(places, own, strict=True):
            changes = one["change_points"]
            axis.plot(changes, [place] * len(changes), marker, color=colour, markeredgecolor="black", markersize=5)
    axis.set_yticks(range(len(parts)), [labels[part].partition(":")[0] for part in parts])
    axis.set_ylim(-0.7, len(parts) - 0.3)
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, -0.03 * high), max(high, -0.03 * low))  # zero is never at the edge
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)


@as_png
def times(found: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Any:
    """Return the seconds of every step, with their means as lines: a panel for each kind of step."""
    kinds = list(dict.fromkeys(kind for rows in found.values() for kind in rows))
    figure = new_figure(6.5 * len(kinds), 4.4)
    axes = figure.subplots(1, len(kinds), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for framework, rows in found.items():
            colour, marker = style_of(framework)
            seconds = rows.get(kind, [])
            label = f"{FRAMEWORKS[framework]}: {np.mean(seconds):.4f} ± {np.std(seconds):.4f} s"
            axis.plot(range(1, len(seconds) + 1), seconds, marker, color=colour, markersize=3, alpha=0.6, label=label)
            axis.axhline(float(np.mean(seconds)), color=colour)
        axis.set(title=kind, xlabel="timed step", ylabel="time of a batch (seconds)")
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(title="mean ± standard deviation; line: mean", loc="upper right", markerscale=2)
    figure.suptitle(title)
    return figure
