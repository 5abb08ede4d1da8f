"""What each part of the recipe `fast` and of its network is worth: the same run without that part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.experiments import pictures
from parity.experiments.study import Entry, Extent, Report, Study
from parity.experiments.tables import Rows, counted, grouped, percent, spread, table
from parity.network import articles
from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, MaxPool, Node, edited
from parity.recipe import presets
from parity.recipe.recipe import Recipe, Schedule

NETWORK = "vgg_fast@0.25"
"""The network that is trained. All runs of the whole `vgg_fast` would take a day on two cores."""

FULL, USUAL = Extent("cifar10", 9), Extent("cifar10", 3)

JITTER = {"brightness": 9.0, "contrast_low": 0.87, "contrast_high": 1.13}
"""Brightness and contrast of Hiverge (October 2025, https://www.hiverge.ai/blog/cifar-speedrun).

Its brightness is 0.14 of a channel's deviation, which is nine of 255 grey levels. Its contrast scales the distance to the mean of all
pictures, ours that to the channel's mean of the picture.
"""

WHOLE = "whole"
"""The entry with every part."""


def _nodes(change: Callable[[Node], Node]) -> Callable[[Network], Network]:
    return lambda network: replace(network, nodes=edited(network.nodes, change))


def _learned(node: Node) -> Node:
    return replace(node, init=FAN_IN_UNIFORM, frozen=False) if isinstance(node, Conv) and node.frozen else node


def _random(node: Node) -> Node:
    return replace(node, init=replace(node.init, dirac=False)) if isinstance(node, Conv) else node


def _scaled(node: Node) -> Node:
    return replace(node, frozen=False) if isinstance(node, BatchNorm) else node


def _pools_last(network: Network) -> Network:
    """Move every pool that is between a convolution and its batch norm behind the GELU that follows."""
    nodes = list(network.nodes)
    for place, node in enumerate(network.nodes[:-2]):
        if isinstance(node, MaxPool) and isinstance(network.nodes[place + 1], BatchNorm):
            nodes[place : place + 3] = [*network.nodes[place + 1 : place + 3], node]
    return replace(network, nodes=tuple(nodes))


def _optimizer(**fields: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, optimizer=replace(recipe.optimizer, **fields))


def _augmentation(**fields: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, augmentation=replace(recipe.augmentation, **fields))


def _ungrouped(names: str) -> Callable[[Recipe], Recipe]:
    def without(recipe: Recipe) -> Recipe:
        return _optimizer(groups=tuple(group for group in recipe.optimizer.groups if group.names != names))(recipe)

    return without


NETWORK_PARTS: dict[str, Callable[[Network], Network]] = {
    "whitening": _nodes(_learned),
    "identity": _nodes(_random),
    "gelu": lambda network: replace(network.with_activation("relu"), name=network.name),
    "silu": lambda network: replace(network.with_activation("silu"), name=network.name),
    "frozen_scales": _nodes(_scaled),
    "pool_before_norm": _pools_last,
}
RECIPE_PARTS: dict[str, Callable[[Recipe], Recipe]] = {
    "muon": _ungrouped("conv*.weight"),
    "rate_of_shifts": _ungrouped("*.beta"),
    "nesterov": _optimizer(nesterov=False),
    "smoothing": _optimizer(label_smoothing=0.0),
    "weight_decay": _optimizer(weight_decay=0.0),
    "schedule": lambda recipe: replace(recipe, schedule=Schedule()),
    "alternation": _augmentation(alternate=False),
    "flips": _augmentation(flip=False, alternate=False),
    "crops": _augmentation(crop_padding=0),
    "reflection": _augmentation(fill="zeros"),
    "jitter": _augmentation(**JITTER),
}
"""Part -> function that returns the network or recipe without it."""

INSTEAD = {
    WHOLE: "nothing",
    "whitening": "whitening filters: a first convolution that starts at random and is trained",
    "identity": "filters that start as the identity: filters that start at random",
    "gelu": "GELU: ReLU",
    "silu": "GELU: SiLU",
    "frozen_scales": "frozen scales of the batch norms: trained scales",
    "pool_before_norm": "pools before the batch norms: pools after the GELU",
    "muon": "Muon for the convolution kernels: Nesterov momentum",
    "rate_of_shifts": "64 times the learning rate for batch-norm shifts: the learning rate of the weights",
    "nesterov": "Nesterov momentum: plain momentum",
    "smoothing": "label smoothing",
    "weight_decay": "weight decay",
    "schedule": "learning-rate decay: a constant learning rate",
    "alternation": "alternating flips: flips at random",
    "flips": "flips",
    "crops": "crops",
    "reflection": "mirrored edges around crops: black edges",
    "jitter": "unchanged colours: random brightness and contrast",
}
"""Part -> what is left out, and what replaces it."""


def entries() -> tuple[Entry, ...]:
    """Return the whole recipe, and the recipe without each part in turn."""
    network, recipe = articles.get_network(NETWORK), presets.get_recipe("fast")
    without: dict[str, tuple[Network, Recipe]] = {WHOLE: (network, recipe)}
    without |= {name: (change(network), recipe) for name, change in NETWORK_PARTS.items()}
    without |= {name: (network, change(recipe)) for name, change in RECIPE_PARTS.items()}
    return tuple(Entry(name, net, how, FULL, USUAL) for name, (net, how) in without.items())


def report(rows: Rows, datasets: Mapping[int, Dataset], whole: bool) -> Report:
    """Return accuracy without each part and its change against the whole, within each seed. The part that is worth most comes first."""
    accuracies = {key: {row["seed"]: row["test_accuracy"] for row in group} for key, group in grouped(rows).items()}
    found: list[dict[str, Any]] = [
        {
            "without": name,
            "framework": framework,
            "accuracies": list(own.values()),
            "change_points": [100 * (own[seed] - accuracies[WHOLE, framework][seed]) for seed in own],
        }
        for (name, framework), own in accuracies.items()
    ]
    found.sort(key=lambda one: (one["without"] != WHOLE, float(np.mean(one["change_points"]))))
    cells = [
        (
            INSTEAD[one["without"]],
            FRAMEWORKS[one["framework"]],
            percent(one["accuracies"]),
            "" if one["without"] == WHOLE else spread(one["change_points"], "+.2f"),
        )
        for one in found
    ]
    lines = table(("left out: what replaces it", "framework", "test accuracy", "change in points"), cells, 2)
    first = rows[0]
    tested = "held-back training images" if first.get("hold_out") else "test images"
    lines += [
        "",
        f"`{NETWORK}`, {counted(first['epochs'], 'epoch')}, "
        f"{first['train_images']:,} training images, {first['test_images']:,} {tested}.",
        f"Mean ± standard deviation over {counted(len(datasets), 'seed')}. Each change is taken within one seed.",
    ]
    drawn = {"worth.png": pictures.worth([one for one in found if one["without"] != WHOLE], INSTEAD)}
    return Report("\n".join(lines), drawn, {"changes": found})


STUDY = Study(
    "ablation",
    "ours: what each part of the recipe fast is worth, on CIFAR-10 with a narrow vgg_fast, trained again without that part",
    entries(),
    report,
    needed=(WHOLE,),
    against="the whole recipe",
)
