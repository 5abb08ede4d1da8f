"""Plain and residual networks of two depths (arXiv 1512.03385, section 4.2): does the deeper one have the higher training error?

The paper calls this degradation. More layers should never raise the training error, since a layer could learn the identity. Plain networks
of 56 layers have a higher training error than those of 20 layers; with shortcuts, they have not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.experiments import pictures
from parity.experiments.study import Entry, Extent, Report, Study
from parity.experiments.tables import Rows, counted, grouped, percent, table, wrapped
from parity.network import articles
from parity.recipe import presets

DEPTHS = (20, 56)
KINDS = {"plain": "plain", "resnet": "residual"}
"""Name of a network without its depth -> the word for it."""

ARTICLE, USUAL = Extent("cifar10", 164), Extent("cifar10", 8, 10_000, 2_000, width=0.25)

LEAST_RATIO = 1.1
"""The training error of the deeper network over that of the other, from which on it counts as degradation.

In the short run of docs/experiments/residual, the training errors of a network in PaddlePaddle and in PyTorch differ by up to 6%.
"""


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Return training and test error of each network, and whether the deeper network has the higher training error."""
    cells = [
        (
            group[0]["network"],
            FRAMEWORKS[framework],
            f"{articles.get_network(group[0]['network']).trainable_count:,}",
            percent(row["train_errors"][-1] for row in group),
            percent(1 - row["test_accuracy"] for row in group),
        )
        for (_, framework), group in grouped(rows).items()
    ]
    lines = table(("network", "framework", "parameters", "training error", "test error"), cells, 2)
    found = [
        _change(rows, kind, framework) for framework in dict.fromkeys(r["framework"] for r in rows) for kind in KINDS
    ]
    verdicts = [_verdict(one, found) for one in found]
    first = rows[0]
    lines += [
        "",
        *(line for verdict in verdicts for line in wrapped(verdict)),
        "",
        "The training error is the share of wrong predictions during the last epoch: on cropped and flipped images, while the",
        "weights change. The test error is measured after the last epoch.",
        f"It counts as degradation if the training error with {DEPTHS[1]} layers is at least {LEAST_RATIO:g} times that with {DEPTHS[0]}.",
        f"{counted(first['epochs'], 'epoch')}, {first['train_images']:,} training images, {first['test_images']:,} test images, "
        f"{counted(len(datasets), 'seed')}.",
    ]
    return Report("\n".join(lines), {"errors.png": pictures.errors(rows)}, {"changes": found, "verdicts": verdicts})


def _change(rows: Rows, kind: str, framework: str) -> dict[str, Any]:
    """Return the last training errors (0 to 1) of both depths by seed, and what depth changes."""
    errors = {
        depth: [r["train_errors"][-1] for r in rows if (r["entry"], r["framework"]) == (f"{kind}{depth}", framework)]
        for depth in DEPTHS
    }
    shallow, deep = (errors[depth] for depth in DEPTHS)
    points = [100 * (after - before) for before, after in zip(shallow, deep, strict=True)]
    return {"kind": kind, "framework": framework, "shallow": shallow, "deep": deep, "change_points": points}


def _verdict(one: Mapping[str, Any], found: list[dict[str, Any]]) -> str:
    """Return a sentence or two on the degradation of the networks `one`, one of those `found`."""
    shallow, deep = DEPTHS
    points = float(np.mean(one["change_points"]))
    degraded = np.mean(one["deep"]) >= LEAST_RATIO * np.mean(one["shallow"])
    plain = next(
        float(np.mean(other["change_points"]))
        for other in found
        if (other["kind"], other["framework"]) == ("plain", one["framework"])
    )
    if one["kind"] == "plain":
        shown = "This run shows degradation." if degraded else "This run does not show degradation."
    elif not degraded:
        shown = "With shortcuts, this run does not show degradation."
    elif points < plain:
        shown = f"With shortcuts, the degradation is smaller than the {plain:.2f} points of the plain networks."
    else:
        shown = "Shortcuts do not reduce the degradation in this run."
    return (
        f"{FRAMEWORKS[one['framework']]}, {KINDS[one['kind']]} networks: the training error is {percent(one['deep'])} with {deep} layers "
        f"and {percent(one['shallow'])} with {shallow}, a difference of {points:+.2f} points. {shown}"
    )


STUDY = Study(
    "residual",
    "He et al. 2015 (arXiv 1512.03385): plain and residual networks of 20 and 56 layers on CIFAR-10, and their training errors",
    tuple(
        Entry(f"{kind}{depth}", articles.get_network(f"{kind}{depth}"), presets.get_recipe("resnet"), ARTICLE, USUAL)
        for depth in DEPTHS
        for kind in KINDS
    ),
    report,
    threads=1,
    against="the paper",
)
