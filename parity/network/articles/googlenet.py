"""GoogLeNet (Szegedy et al. 2014) with its auxiliary heads, and a small network of naive Inception blocks (the fifth article)."""

from __future__ import annotations

from parity.network.initialisers import XAVIER
from parity.network.network import Network
from parity.network.nodes import (
    LRN,
    Auxiliary,
    AvgPool,
    Branches,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    Node,
    Nodes,
    ReLU,
)

BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Filters: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj (table 1)."""

POOLED = ("3b", "4e")
"""The blocks that a pool follows."""

HEADS = {"4a": "aux1", "4d": "aux2"}
"""The blocks whose output an auxiliary head takes -> the head's name."""

CLASSES = 1000


def googlenet() -> Network:
    """For 3x224x224: pools that round up, global average pool, dropout 0.4; 6,998,552 parameters without the auxiliary heads.

    The paper does not name an initialiser; this network uses Glorot's, as is usual.
    """
    nodes: list[Node] = [
        *_conv("conv1_7x7", 64, 7, stride=2),
        _pool("pool1"),
        LRN("lrn1"),
        *_conv("conv2_reduce", 64, 1),
        *_conv("conv2_3x3", 192, 3),
        LRN("lrn2"),
        _pool("pool2"),
    ]
    for block, filters in BLOCKS.items():
        nodes.append(inception(f"inception_{block}", *filters))
        if block in HEADS:
            nodes.append(_head(HEADS[block]))
        if block in POOLED:
            nodes.append(_pool(f"pool{block[0]}"))
    nodes += [AvgPool("avgpool", 7, 1), Flatten("flatten"), Dropout("drop", 0.4), Linear("fc", CLASSES, init=XAVIER)]
    return Network("googlenet", (3, 224, 224), tuple(nodes), source="arXiv 1409.4842, table 1 and section 5")


def googlenet_naive() -> Network:
    """For 3x32x32: a convolution and two naive Inception blocks, whose pools pass all channels on (figure 2a)."""
    nodes = (
        *_conv("conv1_3x3", 64, 3),
        MaxPool("pool1"),
        naive_inception("inception_2a", 32, 64, 16),
        MaxPool("pool2"),
        naive_inception("inception_3a", 64, 128, 32),
        AvgPool("avgpool", 8, 1),
        Flatten("flatten"),
        Linear("fc", 10, init=XAVIER),
    )
    return Network(
        "googlenet_naive", (3, 32, 32), nodes, source="arXiv 1409.4842, figure 2a, for CIFAR-10 (sizes: ours)"
    )


def inception(name: str, one: int, reduce3: int, three: int, reduce5: int, five: int, proj: int) -> Branches:
    """The Inception block with dimension reductions (figure 2b)."""
    branches: tuple[Nodes, ...] = (
        _conv(f"{name}_1x1", one, 1),
        (*_conv(f"{name}_3x3_reduce", reduce3, 1), *_conv(f"{name}_3x3", three, 3)),
        (*_conv(f"{name}_5x5_reduce", reduce5, 1), *_conv(f"{name}_5x5", five, 5)),
        (MaxPool(f"{name}_pool", 3, 1, padding=1), *_conv(f"{name}_pool_proj", proj, 1)),
    )
    return Branches(name, branches)


def naive_inception(name: str, one: int, three: int, five: int) -> Branches:
    """The Inception block without dimension reductions (figure 2a)."""
    pool = MaxPool(f"{name}_pool", 3, 1, padding=1)
    convs = ((f"{name}_1x1", one, 1), (f"{name}_3x3", three, 3), (f"{name}_5x5", five, 5))
    return Branches(name, (*(_conv(*conv) for conv in convs), (pool,)))


def _conv(name: str, filters: int, kernel: int, stride: int = 1) -> Nodes:
    return Conv(name, filters, kernel, stride, kernel // 2, init=XAVIER), ReLU(f"{name}_relu")


def _pool(name: str) -> MaxPool:
    return MaxPool(name, 3, 2, ceil=True)


def _head(name: str) -> Auxiliary:
    """An auxiliary head: average pool 5x5 with stride 3, conv 128 of 1x1, fc 1024, dropout 0.7; loss weight 0.3."""
    nodes = (
        AvgPool(f"{name}_pool", 5, 3),
        *_conv(f"{name}_conv", 128, 1),
        Flatten(f"{name}_flatten"),
        Linear(f"{name}_fc1", 1024, init=XAVIER),
        ReLU(f"{name}_relu"),
        Dropout(f"{name}_drop", 0.7),
        Linear(f"{name}_fc2", CLASSES, init=XAVIER),
    )
    return Auxiliary(name, nodes, 0.3)
