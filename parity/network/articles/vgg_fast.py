"""A small VGG for training fast: whitened input, pools before batch norms, GELU, convolutions that start as the identity."""

from __future__ import annotations

from parity.network.initialisers import Init
from parity.network.network import Network
from parity.network.nodes import GELU, BatchNorm, Conv, Flatten, Linear, MaxPool, Node

FILTERS = (64, 256, 256)
WHITE = 24
"""Filters of the first convolution: the principal directions of 2x2 patches of images, and their negatives."""

SCALE = 1 / 8
"""The scale of the class scores at the start.

airbench94 multiplies the class scores by a factor instead. A factor of 1/8 behind the layer equals weights that start 1/8 as large and
are trained with 1/64 of the learning rate. 1/8 is exact, as a power of two.
"""

DIRAC = Init("uniform", 1.0, "in", dirac=True)


def vgg_fast() -> Network:
    """A frozen whitening convolution, then three blocks of two convolutions; gamma is frozen at 1; 1,971,352 trained parameters."""
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
