"""The third article's MNIST study: what networks lose when all images have their pixels in one other, random order.

A fully connected network does not know which pixels are neighbours, so it should lose nothing; a convolutional one lives on it.
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
from parity.experiments.tables import Rows, percent, spread, table
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Preprocessing

TEST_SHARE, SPLIT = 0.2, "mnist10k"
"""Of each class of the data set `SPLIT`, what is tested on."""

FC_POINTS, CNN_POINTS = 2.0, 5.0
"""The mean change of the fully connected network's accuracy stays below the first, the mean loss of the other's reaches the second."""

LEAST_SEEDS = 5
"""Of which a mean is judged: one seed's change of the fully connected network scatters by 1.5 points."""

NETWORKS = {"fc": "mnist_fc", "cnn": "mnist_cnn"}

PERMUTED = "_permuted"
"""Behind the name of a network: as it is trained on permuted pixels."""

ARTICLE, USUAL = Extent("mnist", 1), Extent(SPLIT, 7)
"""One pass over 60,000 digits; 7 over 8,000 are about as many updates."""


def split(dataset: Dataset, seed: int) -> Dataset:
    """`SPLIT`'s 10,000 digits, for each seed shuffled and parted anew: 8,000 and 2,000, each class in the same proportion.

    Other data sets as they are.
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
    """How many of each class are tested on: `TEST_SHARE`, rounded so that the whole is right (the largest remainders are rounded up)."""
    exact = counts * TEST_SHARE
    whole: Array = np.floor(exact).astype(int)
    up = np.argsort(whole - exact, kind="stable")[: round(counts.sum() * TEST_SHARE) - whole.sum()]
    whole[up] += 1
    return whole


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Accuracies with the pixels as they are and permuted, their change within each seed, and whether it is what the article says."""
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
    lines = table(("network", "framework", "accuracy, pixels as they are", "permuted", "change in points"), cells, 2)
    seeds = list(datasets)
    verdicts, failed = _verdicts(found, whole and len(seeds) >= LEAST_SEEDS)
    first, amounts = datasets[seeds[0]], rows[0]
    own = ["weights", "batches", "permutation", *(["split"] if first.name.startswith(SPLIT) else [])]
    lines += [
        "",
        f"Mean ± standard deviation over {len(seeds)} seed{'s' * (len(seeds) > 1)}, each with its own {', '.join(own)}; "
        f"a change is within one seed. "
        f"{amounts['train_images']:,} digits to learn from, {amounts['test_images']:,} to test, passes: {amounts['epochs']}.",
        "",
    ]
    order = next(r["permutation"] for r in rows if r["permutation"] is not None)
    drawn = {"digits.png": digits(first, order), "accuracy.png": pictures.changes(found)}
    return Report("\n".join(lines + verdicts), drawn, {"changes": found, "verdicts": verdicts}, failed)


def _change(rows: Rows, name: str, framework: str) -> dict[str, Any]:
    """Accuracies of the network `name` in `framework` by seed, plain and permuted, and what the permutation changes."""
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
    """A sentence a network and framework, and what did not hold."""
    if not judged:
        return [f"Not judged: other than the usual amount was trained, or with fewer than {LEAST_SEEDS} seeds."], ""
    lines, failed = [], []
    for one in found:
        mean = float(np.mean(one["change_points"]))
        fully = one["network"] == NETWORKS["fc"]
        holds = abs(mean) < FC_POINTS if fully else -mean >= CNN_POINTS
        wanted = (
            f"a mean change below {FC_POINTS:g} points" if fully else f"a mean loss of {CNN_POINTS:g} points or more"
        )
        line = f"{one['network']} in {FRAMEWORKS[one['framework']]}: {mean:+.2f} points; {wanted}: {'holds' if holds else 'DOES NOT HOLD'}."
        lines.append(f"- {line}")
        failed += [] if holds else [line]
    return lines, " ".join(failed)


def digits(dataset: Dataset, permutation: int) -> bytes:
    """The first digit of each class, below it the same with its pixels in the order of `permutation`; then the next ones."""
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
    return pictures.grid(rows, ["as they are", "permuted"] * 2)


STUDY = Study(
    "permutation",
    "third article (2018): MNIST, a fully connected network against a convolutional one, pixels as they are and in one random order",
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
