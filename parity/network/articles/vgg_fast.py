"""A small VGG for training fast: whitened input, pools before batch norms, GELU, convolutions that start as the identity."""

from __future__ import annotations

from parity.network.initialisers import Init
from parity.network.network import Network
from parity.network.nodes import GELU, BatchNorm, Conv, Flatten, Linear, MaxPool, Node

FILTERS = (64, 256, 256)
WHITE = 24
"""Filters of the first convolution: the principal directions of its 2x2 patches, and their negatives."""

SCALE = 1 / 8
"""Of the class scores at the start. Ours is a power of two, and in the weight; with 1/64 of the rate this is a factor behind the layer."""

DIRAC = Init("uniform", 1.0, "in", dirac=True)


def vgg_fast() -> Network:
    """Three blocks of two convolutions behind a frozen one that whitens; gamma is 1, only beta is trained; 1,971,352 trained parameters."""
    nodes: list[Node] = [Conv("white", WHITE, 2, padding=0, init=Init("whitening", 1.0), frozen=True), GELU("gelu0")]
    for g, filters in enumerate(FILTERS, start=1):
        for i in (1, 2):
            nodes.append(Conv(f"conv{g}_{i}", filters, bias=False, init=DIRAC))
            if i == 1:
                nodes.append(MaxPool(f"pool{g}"))
            nodes += [BatchNorm(f"bn{g}_{i}", decay=0.6, eps=1e-12, frozen=True), GELU(f"gelu{g}_{i}")]
    nodes += [
        MaxPool("pool4", 3, 3),
        Flatten("flatten"),
        Linear("fc", 10, bias=False, init=Init("uniform", SCALE, "in")),
    ]
    return Network("vgg_fast", (3, 32, 32), tuple(nodes), source="after airbench94 (Jordan 2024, arXiv 2404.00498)")
