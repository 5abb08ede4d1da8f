"""The third article's CIFAR-10 runs: `Net` and the small VGG, accuracy of each class, and eight test images with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.experiments import pictures
from parity.experiments.study import Entry, Extent, Report, Study
from parity.experiments.tables import Rows, grouped, percent, speed, table
from parity.network import articles
from parity.recipe import presets

SHOWN = 8
"""The number of test images in the picture: the first ones."""

ARTICLE = Extent("cifar10", 10)


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Return accuracies, accuracies of each class (over all seeds together), and images with the predictions of the first seed."""
    dataset = datasets[rows[0]["seed"]]
    groups = grouped(rows)
    truths = [dataset.classes[label] for label in dataset.test_labels[: min(SHOWN, rows[0]["test_images"])]]
    guesses = {
        _called(key): [dataset.classes[label] for label in group[0]["predicted"][: len(truths)]]
        for key, group in groups.items()
    }
    return make_report(
        rows, dataset, {key: per_class(group, datasets) for key, group in groups.items()}, truths, guesses
    )


def make_report(
    rows: Rows,
    dataset: Dataset,
    classes: Mapping[tuple[str, str], Sequence[float | None]],
    truths: Sequence[str],
    guesses: Mapping[str, Sequence[str]],
) -> Report:
    """Return the report on accuracies of `classes` by network and framework, and on `guesses` for images of the classes `truths`."""
    named = {_called(key): found for key, found in classes.items()}
    head = ("network", "framework", "epochs", "training images", "test accuracy", "training time", "images/s")
    lines = table(head, [_accuracies(key, group) for key, group in grouped(rows).items()], 2)
    cells = [(label, *(_percent(found[n]) for found in named.values())) for n, label in enumerate(dataset.classes)]
    lines += ["", *table(("accuracy of class", *named), cells)]
    taken = [(f"{n + 1}: {truth}", *(guess[n] for guess in guesses.values())) for n, truth in enumerate(truths)]
    lines += ["", *table(("test image", *guesses), taken, 1 + len(guesses))]
    drawn = {
        "pictures.png": pictures.labelled(dataset.test_images[: len(truths)], truths, guesses),
        "classes.png": pictures.classes(dataset.classes, classes),
    }
    return Report("\n".join(lines), drawn, {"classes": named, "pictures": {"true": truths, "predicted": guesses}})


def _accuracies(key: tuple[str, str], group: Rows) -> tuple[str, ...]:
    amount = (str(group[0]["epochs"]), f"{group[0]['train_images']:,}")
    return (key[0], FRAMEWORKS[key[1]], *amount, percent(row["test_accuracy"] for row in group), *speed(group))


def per_class(group: Rows, datasets: Mapping[int, Dataset]) -> list[float | None]:
    """Return the accuracy of each class (0 to 1) over all rows of `group` together; None for a class without test images."""
    labels = np.concatenate([datasets[row["seed"]].test_labels[: row["test_images"]] for row in group])
    guesses = np.concatenate([np.array(row["predicted"]) for row in group])
    right = [guesses[labels == label] == label for label in range(len(datasets[group[0]["seed"]].classes))]
    return [float(one.mean()) if len(one) else None for one in right]


def _called(key: tuple[str, str]) -> str:
    return f"{key[0]}, {FRAMEWORKS[key[1]]}"


def _percent(value: Any) -> str:
    return "no images" if value is None else f"{value:.1%}"


STUDY = Study(
    "cifar",
    "third article (2018): Net and a small VGG on CIFAR-10, ten epochs each",
    (
        Entry("cifar_net", articles.get_network("cifar_net"), presets.get_recipe("cifar_net"), ARTICLE, ARTICLE),
        Entry("vgg_mini", articles.get_network("vgg_mini"), presets.get_recipe("adam"), ARTICLE, Extent("cifar10", 1)),
    ),
    report,
    predicts=True,
)
