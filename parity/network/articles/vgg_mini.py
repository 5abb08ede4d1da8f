"""The small VGG of the third article (2018): eight convolutions with batch norm, one linear layer."""

from __future__ import annotations

from itertools import groupby

from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import Network
from parity.network.nodes import AvgPool, BatchNorm, Conv, Flatten, Linear, MaxPool, Node, ReLU

PLAN: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


def vgg_mini() -> Network:
    """Convolutions with the filters of `PLAN` ("M" is a pool), batch norm, ReLU, and PyTorch's initialisers; 9,231,114 parameters."""
    nodes: list[Node] = []
    runs = groupby(PLAN, key=lambda entry: isinstance(entry, int))
    groups = [[int(filters) for filters in run] for convolutions, run in runs if convolutions]
    for g, group in enumerate(groups, start=1):
        for i, filters in enumerate(group, start=1):
            nodes += [
                Conv(f"conv{g}_{i}", filters, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM),
                BatchNorm(f"bn{g}_{i}"),
                ReLU(f"relu{g}_{i}"),
            ]
        nodes.append(MaxPool(f"pool{g}"))
    nodes += [
        AvgPool("avgpool", size=1, stride=1),
        Flatten("flatten"),
        Linear("fc", 10, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM),
    ]
    return Network(
        "vgg_mini", (3, 32, 32), tuple(nodes), source="third article of the set (2018): VGG-like net for CIFAR-10"
    )
