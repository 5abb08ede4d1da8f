"""The networks in which faults are planted: small, with every kind of node, and checked as every network is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.compare.check import Check, make_check
from parity.compare.default_inputs import random_state
from parity.compare.verdicts import TRAINING
from parity.data import Dataset
from parity.network.articles.vgg_bn_drop import V2_BATCH_NORM, V2_DROPOUT
from parity.network.network import Network
from parity.network.nodes import (
    LRN,
    Add,
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
    Multiply,
    Node,
    Nodes,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)
from parity.network.windows import SAME
from parity.recipe.presets import CIFAR10_STATISTICS, RECIPES
from parity.recipe.recipe import Recipe
from parity.weights.canonical_state import State

BATCH = 8
"""Images per step; the last step of an epoch has half as many."""


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
    """What a chain lacks: uneven padding, response normalisation, branches of equal width, an auxiliary head, tanh and log-softmax."""

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
    """Return a depthwise block as in MobileNet.

    Nothing after `norm2` depends on the scale of the output of `norm1`, so the terms of the gradient of its gamma cancel but for eps.
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


def residual() -> Network:
    """Return four residual blocks, each with another shortcut or main path.

    The shortcuts are the identity, subsampling with channels of zeros (A), and a 1x1 convolution (B). B changes no shape, so the network
    also runs without it. The last block is an inverted residual with squeeze and excitation. Its input comes from a batch norm: no layer
    before the block needs that tensor for its own gradient.
    """

    def conv(name: str, norm: str, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Nodes:
        return Conv(name, filters, kernel, stride, kernel // 2, groups, bias=False), BatchNorm(norm)

    def block(name: str, filters: int, stride: int, shortcut: Nodes) -> Nodes:
        main = (
            *conv(f"{name}_conv1", f"{name}_bn1", filters, stride=stride),
            ReLU(f"{name}_relu1"),
            *conv(f"{name}_conv2", f"{name}_bn2", filters),
        )
        return Add(f"{name}_add", (main, shortcut)), ReLU(f"{name}_relu2")

    gate = (
        GlobalAvgPool("block4_squeeze"),
        Linear("block4_fc1", 4),
        ReLU("block4_relu"),
        Linear("block4_fc2", 16),
        Sigmoid("block4_gate"),
    )
    inverted = (
        *conv("block4_expand", "block4_bn1", 16, 1),
        SiLU("block4_silu1"),
        *conv("block4_depthwise", "block4_bn2", 16, groups=16),
        SiLU("block4_silu2"),
        Multiply("block4_scale", ((), gate)),
        *conv("block4_project", "block4_bn3", 8, 1),
    )
    nodes = (
        *conv("conv", "bn", 8, stride=2),
        ReLU("relu"),
        *block("block1", 8, 1, ()),
        *block("block2", 12, 2, (AvgPool("block2_subsample", 1, 2), PadChannels("block2_pad", 12))),
        *block("block3", 12, 1, conv("block3_down", "block3_down_bn", 12, 1)),
        *conv("narrow", "narrow_bn", 8, 1),
        Add("block4_add", (inverted, ())),
        GlobalAvgPool("pool"),
        Linear("fc", 10),
    )
    return Network("residual", (3, 32, 32), nodes, source="ours: one of every node of a residual block")


CHAIN, BRANCHED, DEPTHWISE, RESIDUAL = network(), branched(), depthwise(), residual()


def state(seed: int = 0, made: Network = CHAIN) -> State:
    """Return the starting weights of a check without a hard image: no array is constant, no statistic is trivial."""
    return random_state(made, seed)


ADAM_WITH_DECAY = replace(
    RECIPES["adam"], name="adam_with_decay", optimizer=replace(RECIPES["adam"].optimizer, weight_decay=0.01)
)
"""Weight decay is L2, as in `torch.optim.Adam`."""

OWN = {recipe.name: recipe for recipe in (ADAM_WITH_DECAY,)}
"""Recipes for planted faults, besides the public ones."""


def recipe(name: str = "article") -> Recipe:
    """Return the recipe with a small batch and normalisation."""
    return replace((RECIPES | OWN)[name], batch_size=BATCH, preprocessing=CIFAR10_STATISTICS)


def subject(
    dataset: Dataset, recipe_name: str = "article", seed: int = 0, dtype: str = "float64", made: Network = CHAIN
) -> Check:
    """Return the check that every fault must fail and every innocent change must pass, with default inputs (`make_check`)."""
    return make_check(made, recipe(recipe_name), dataset, dtype=dtype, seed=seed, stages=TRAINING)


def remade(check: Check, **changed: Any) -> Check:
    """Return `check` with some fields changed, and inputs that fit them."""
    names = ("network", "recipe", "dataset", "dtype", "seed", "stages", "steps")
    return make_check(**{name: getattr(check, name) for name in names} | changed)
