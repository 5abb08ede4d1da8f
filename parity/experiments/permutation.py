"""The third article's MNIST study: what networks lose when all images have their pixels in one random order.

A fully connected network does not know which pixels are neighbours, so it should lose nothing. A convolutional network relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.data.batches import preprocess
from parity.data.random_streams import stream
from parity.experiments import pictures
from parity.experiments.study import Entry, Extent, Report, Study
from parity.experiments.tables import Rows, counted, percent, spread, table
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Preprocessing

TEST_SHARE, SPLIT = 0.2, "mnist10k"
"""The share of each class of the data set `SPLIT` that is tested on."""

FC_POINTS, CNN_POINTS = 2.0, 5.0
"""Percentage points. The fully connected network's mean change must stay below the first; the CNN must lose at least the second."""

LEAST_SEEDS = 5
"""With fewer seeds there is no verdict: the fully connected network's change has a standard deviation of 1.5 points."""

NETWORKS = {"fc": "mnist_fc", "cnn": "mnist_cnn"}

PERMUTED = "_permuted"
"""Suffix of an entry that is trained on permuted pixels."""

ARTICLE, USUAL = Extent("mnist", 1), Extent(SPLIT, 7)
"""One epoch of 60,000 digits; 7 epochs of 8,000 digits have about as many updates."""


def split(dataset: Dataset, seed: int) -> Dataset:
    """Return `SPLIT`'s 10,000 digits, shuffled and split anew for each seed: 8,000 and 2,000, with the same proportion of each class.

    Return other data sets as they are.
    """
    if dataset.name != SPLIT:
        return dataset
    images = np.concatenate([dataset.train_images, dataset.test_images])
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    random = stream(seed, "split")
    order = random.permutation(len(labels))
    tested = np.zeros(len(labels), bool)  # by place in `order`
    for label, count in enumerate(_test_counts(np.bincount(labels, minlength=len(dataset.classes)))):
        tested[np.flatnonzero(labels[order] == label)[:count]] = True
    # Shuffled once more: the classes of which few are tested come first among the others.
    train, test = random.permutation(order[~tested]), random.permutation(order[tested])
    return replace(
        dataset,
        name=f"{SPLIT}, split {seed}",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )


def _test_counts(counts: Array) -> Array:
    """Return how many digits of each class are tested on: `TEST_SHARE`. The largest remainders are rounded up, so that the sum is right."""
    exact = counts * TEST_SHARE
    whole: Array = np.floor(exact).astype(int)
    up = np.argsort(whole - exact, kind="stable")[: round(counts.sum() * TEST_SHARE) - whole.sum()]
    whole[up] += 1
    return whole


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Return accuracies on original and permuted pixels, their change within each seed, and whether the article's finding holds."""
    found = [
        _change(rows, name, framework) for name in NETWORKS for framework in dict.fromkeys(r["framework"] for r in rows)
    ]
    cells = [
        (
            one["network"],
            FRAMEWORKS[one["framework"]],
            percent(one["plain"]),
            percent(one["permuted"]),
            spread(one["change_points"], "+.2f"),
        )
        for one in found
    ]
    lines = table(
        ("network", "framework", "accuracy, pixels as they are", "accuracy, permuted", "change in points"), cells, 2
    )
    seeds = list(datasets)
    verdicts, failed = _verdicts(found, whole and len(seeds) >= LEAST_SEEDS)
    first, amounts = datasets[seeds[0]], rows[0]
    own = ["weights", "batches", "permutation", *(["split"] if first.name.startswith(SPLIT) else [])]
    lines += [
        "",
        *verdicts,
        "",
        f"Mean ± standard deviation over {counted(len(seeds), 'seed')}. Each seed has its own {', '.join(own)}.",
        "Each change is taken within one seed.",
        f"{amounts['train_images']:,} training digits, {amounts['test_images']:,} test digits, {counted(amounts['epochs'], 'epoch')}.",
    ]
    order = next(r["permutation"] for r in rows if r["permutation"] is not None)
    drawn = {"digits.png": digits(first, order), "accuracy.png": pictures.changes(found)}
    return Report("\n".join(lines), drawn, {"changes": found, "verdicts": verdicts}, failed)


def _change(rows: Rows, name: str, framework: str) -> dict[str, Any]:
    """Return accuracies of the network `name` in `framework` by seed, plain and permuted, and the change by the permutation."""
    plain, permuted = (
        {r["seed"]: r["test_accuracy"] for r in rows if (r["entry"], r["framework"]) == (entry, framework)}
        for entry in (name, name + PERMUTED)
    )
    return {
        "network": NETWORKS[name],
        "framework": framework,
        "seeds": list(plain),
        "plain": list(plain.values()),
        "permuted": list(permuted.values()),
        "change_points": [100 * (permuted[seed] - plain[seed]) for seed in plain],
    }


def _verdicts(found: list[dict[str, Any]], judged: bool) -> tuple[list[str], str]:
    """Return a sentence for each network and framework, and the sentences of those that do not hold."""
    if not judged:
        return [f"Not judged: that needs the usual amount of training and at least {LEAST_SEEDS} seeds."], ""
    lines, failed = [], []
    for one in found:
        mean = float(np.mean(one["change_points"]))
        fully = one["network"] == NETWORKS["fc"]
        holds = abs(mean) < FC_POINTS if fully else -mean >= CNN_POINTS
        wanted = f"a change below {FC_POINTS:g} points" if fully else f"a loss of at least {CNN_POINTS:g} points"
        side = f"{one['network']} in {FRAMEWORKS[one['framework']]}"
        line = f"{side}: mean change {mean:+.2f} points; expected {wanted}: {'holds' if holds else 'DOES NOT HOLD'}."
        lines.append(f"- {line}")
        failed += [] if holds else [line]
    return lines, " ".join(failed)


def digits(dataset: Dataset, permutation: int) -> bytes:
    """Return the first digit of each class, below it the same digit with permuted pixels; then the second digits."""
    labels = dataset.test_labels
    firsts = [np.flatnonzero(labels == label)[:2] for label in range(len(dataset.classes))]
    rows = []
    for number in range(2):
        some = dataset.test_images[:][[found[number] for found in firsts if len(found) > number]]
        if len(some):
            rows += [
                preprocess(some, Preprocessing())[:, 0],
                preprocess(some, Preprocessing(permutation=permutation))[:, 0],
            ]
    title = "Two digits of each class, as they are and with their pixels in one random order"
    return pictures.grid(rows, ["as they are", "permuted"] * 2, title)


STUDY = Study(
    "permutation",
    "third article (2018): MNIST, a fully connected and a convolutional network, pixels as they are and in one random order",
    tuple(
        Entry(name + suffix, articles.get_network(network), presets.get_recipe(recipe), ARTICLE, USUAL)
        for name, network in NETWORKS.items()
        for suffix, recipe in (("", "mnist"), (PERMUTED, "mnist_permuted"))
    ),
    report,
    seeds=10,
    threads=1,
    split=split,
)
