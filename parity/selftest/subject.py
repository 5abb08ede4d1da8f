"""What the faults are planted in: two small networks with every kind of node, trained for four steps that show every habit of a recipe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.compare.check import Check
from parity.compare.verdicts import TRAINING
from parity.data import Dataset
from parity.data.random_streams import stream
from parity.network.articles.vgg_bn_drop import V2_BATCH_NORM, V2_DROPOUT
from parity.network.network import Network
from parity.network.nodes import (
    LRN,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    LogSoftmax,
    MaxPool,
    Node,
    ReLU,
    Tanh,
)
from parity.network.windows import SAME
from parity.recipe.presets import CIFAR10_STATISTICS, CROP_AND_FLIP, RECIPES
from parity.recipe.recipe import Recipe, Schedule, changed
from parity.weights.canonical_state import State, initialise

BATCH, IMAGES, STEPS = 8, 20, 4
"""Batches of 8, 8 and 4 images, then the next pass."""


def network() -> Network:
    """Convolutions with batch norm, ReLU and dropout, all poolings, square linear layers behind a 2x2 map."""
    nodes: list[Node] = []
    for number, after in enumerate(
        (MaxPool("pool1", 3, 2, ceil=True), None, AvgPool("pool3", 3, 2, padding=1), MaxPool("pool4")), start=1
    ):
        nodes += [
            Conv(f"conv{number}", 8, stride=2 if number == 3 else 1),
            replace(V2_BATCH_NORM, name=f"bn{number}"),
            ReLU(f"relu{number}"),
            Dropout(f"drop{number}", 0.3, V2_DROPOUT),
            *([after] if after else []),
        ]
    nodes += [
        Flatten("flatten"),
        Linear("fc1", 32),
        replace(V2_BATCH_NORM, name="bn_fc1"),
        ReLU("relu_fc1"),
        Dropout("drop_fc1", 0.5, V2_DROPOUT),
        Linear("fc2", 32),
        Linear("fc3", 10),
    ]
    return Network("porting", (3, 32, 32), tuple(nodes), source="ours: one of every node of a chain")


def branched() -> Network:
    """What a chain does not have: uneven padding, response normalisation, branches of as many channels, a head; tanh and log-softmax."""

    def conv(name: str, kernel: int) -> tuple[Node, ...]:
        return Conv(name, 4, kernel, padding=kernel // 2), ReLU(f"{name}_relu")

    branches = (
        conv("one", 1),
        (*conv("reduce", 1), *conv("three", 3)),
        (MaxPool("peak", 3, 1, padding=1), *conv("proj", 1)),
    )
    head = (AvgPool("aux_pool", 5, 3), Flatten("aux_flatten"), Linear("aux_fc", 10))
    nodes = (
        Conv("conv", 8, 5, stride=2, padding=SAME),
        Tanh("tanh"),
        LRN("lrn"),
        MaxPool("pool", 3, 2, padding=SAME),
        Branches("inception", branches),
        Auxiliary("aux", head),
        AvgPool("avgpool", 8, 1),
        Flatten("flatten"),
        Linear("fc", 10),
        LogSoftmax("log_softmax"),
    )
    return Network("branching", (3, 32, 32), nodes, source="ours: one of every node that a chain does not have")


def depthwise() -> Network:
    """A depthwise block as of MobileNet.

    Nothing behind `norm2` depends on the scale of what `norm1` makes: the terms of the gradient of its gamma cancel but for eps.
    """
    nodes = (
        Conv("expand", 8, 1, padding=0),
        BatchNorm("norm1"),
        ReLU("relu"),
        Conv("depthwise", 8, groups=8, bias=False),
        BatchNorm("norm2"),
        GlobalAvgPool("pool"),
        Linear("fc", 10),
    )
    return Network("depthwise", (3, 32, 32), nodes, source="ours: a gradient whose terms cancel")


CHAIN, BRANCHED, DEPTHWISE = network(), branched(), depthwise()


def state(seed: int = 0, made: Network = CHAIN) -> State:
    """Weights as after some training: no array is constant, no statistic is trivial."""
    fresh = initialise(made, seed)
    ranges = {
        "beta": (-0.5, 0.5),
        "bias": (-0.5, 0.5),
        "gamma": (0.5, 1.5),
        "mean": (-0.5, 0.5),
        "variance": (0.5, 1.5),
    }
    for name, array in fresh.items():
        kind = name.partition(".")[2]
        if kind in ranges:
            fresh[name] = stream(seed, "subject", name).uniform(*ranges[kind], array.shape).astype(np.float32)
    return fresh


def recipe(name: str = "article") -> Recipe:
    """The recipe with a small batch, augmentation and normalisation; the article's rate drops at step 2."""
    chosen = replace(RECIPES[name], batch_size=BATCH, augmentation=CROP_AND_FLIP, preprocessing=CIFAR10_STATISTICS)
    return changed(chosen, schedule=Schedule("discexp", every=2 * BATCH) if name == "article" else None)


def subject(
    dataset: Dataset, recipe_name: str = "article", seed: int = 0, dtype: str = "float64", made: Network = CHAIN
) -> Check:
    """The check that every fault must fail and every innocent change must pass."""
    few = dataset.limit(IMAGES, 1)
    return Check(made, recipe(recipe_name), few, STEPS, dtype, seed, TRAINING, state(seed, made))
