"""AlexNet (Krizhevsky et al. 2012), and its cousin for CIFAR-10."""

from __future__ import annotations

from parity.network.initialisers import ONES, ZEROS, Init
from parity.network.network import Network
from parity.network.nodes import LRN, Conv, Dropout, Flatten, Linear, MaxPool, Node, ReLU

GAUSS = Init("normal", 0.01)
"""The initialiser of all weights. The biases of conv 2, 4 and 5 and of the hidden linear layers start at 1, the others at 0 (section 5)."""


def alexnet() -> Network:
    """For 3x227x227, with two groups in conv 2, 4 and 5, LRN and overlapping pools; 60,965,224 parameters."""
    convs = (
        Conv("conv1", 96, 11, stride=4, padding=0, init=GAUSS),
        Conv("conv2", 256, 5, padding=2, groups=2, init=GAUSS, bias_init=ONES),
        Conv("conv3", 384, 3, init=GAUSS),
        Conv("conv4", 384, 3, groups=2, init=GAUSS, bias_init=ONES),
        Conv("conv5", 256, 3, groups=2, init=GAUSS, bias_init=ONES),
    )
    nodes = (*_features(convs), *_classifier(4096, 4096, 1000))
    return Network("alexnet", (3, 227, 227), nodes, source="Krizhevsky, Sutskever and Hinton 2012, section 3")


def alexnet_cifar() -> Network:
    """For 32x32: conv 64 and 192 of 5x5, 384, 256 and 256 of 3x3, fc 1024, 1024, 10."""
    sizes = ((64, 5), (192, 5), (384, 3), (256, 3), (256, 3))
    convs = tuple(
        Conv(
            f"conv{number}",
            filters,
            kernel,
            padding=kernel // 2,
            init=GAUSS,
            bias_init=ZEROS if number in (1, 3) else ONES,
        )
        for number, (filters, kernel) in enumerate(sizes, start=1)
    )
    nodes = (*_features(convs), *_classifier(1024, 1024, 10))
    return Network("alexnet_cifar", (3, 32, 32), nodes, source="Krizhevsky, Sutskever and Hinton 2012, for CIFAR-10")


def _features(convs: tuple[Conv, ...]) -> list[Node]:
    """Convolutions with ReLU: an LRN follows the first two, and a pool of 3x3 with stride 2 follows the first two and the last."""
    nodes: list[Node] = []
    for number, conv in enumerate(convs, start=1):
        nodes += [conv, ReLU(f"relu{number}")]
        if number <= 2:
            nodes.append(LRN(f"lrn{number}"))
        if number in (1, 2, len(convs)):
            nodes.append(MaxPool(f"pool{number}", 3, 2))
    return nodes


def _classifier(*units: int) -> list[Node]:
    """Linear layers with dropout 0.5 after both hidden ones, whose outputs inference multiplies by 0.5 (section 4.2)."""
    nodes: list[Node] = [Flatten("flatten")]
    for number, count in enumerate(units[:-1], start=6):
        nodes += [Linear(f"fc{number}", count, init=GAUSS, bias_init=ONES), ReLU(f"relu{number}")]
        nodes.append(Dropout(f"drop{number}", 0.5, "downscale_in_infer"))
    return [*nodes, Linear("fc8", units[-1], init=GAUSS)]
