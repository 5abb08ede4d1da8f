"""The first article's comparison: LeNet, AlexNet and a VGG on CIFAR-10, a few epochs of one recipe."""

from __future__ import annotations

from collections.abc import Mapping

from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.experiments import pictures
from parity.experiments.study import Entry, Extent, Report, Study
from parity.experiments.tables import Rows, grouped, percent, speed, table
from parity.network import articles
from parity.recipe import presets

NETWORKS = ("lenet", "alexnet_cifar", "vgg_mini")
ARTICLE, USUAL = Extent("cifar10", 5), Extent("cifar10", 5, 5_000, 2_000)


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Return accuracy after every epoch, size and speed of each network."""
    last = max(row["epochs"] for row in rows)
    head = [
        "network",
        "framework",
        "parameters",
        "multiply-adds",
        *(f"epoch {n + 1}" for n in range(last)),
        "training time",
        "images/s",
    ]
    cells = []
    for (name, framework), group in grouped(rows).items():
        network = articles.get_network(group[0]["network"])
        after = [percent(row["test_accuracies"][number] for row in group) for number in range(group[0]["epochs"])]
        after += [""] * (last - len(after))
        sizes = (f"{network.trainable_count:,}", f"{network.multiply_adds / 1e6:.1f} M")
        cells.append((name, FRAMEWORKS[framework], *sizes, *after, *speed(group)))
    text = [*table(head, cells, 2), "", "Accuracy on the test images after each epoch."]
    return Report("\n".join(text), {"curves.png": pictures.curves(rows)}, {})


STUDY = Study(
    "classics",
    "first article (2017): LeNet, AlexNet and VGG compared on CIFAR-10, five epochs each of the same recipe (adam)",
    tuple(Entry(name, articles.get_network(name), presets.get_recipe("adam"), ARTICLE, USUAL) for name in NETWORKS),
    report,
)
