"""The networks of the VGG paper (Simonyan and Zisserman 2014, table 1) for 224x224 and for CIFAR-10, and tf.slim's VGG16.

A, B, D and E also exist with batch norm, which the paper does not have. torchvision and paddle.vision call these 11, 13, 16 and 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.network.initialisers import MSRA, XAVIER, ZEROS, Init
from parity.network.network import Network
from parity.network.nodes import LRN, BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, Node, ReLU

FILTERS = (64, 128, 256, 512, 512)

KERNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "a": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "a_lrn": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "b": ((3, 3),) * 5,
    "c": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "d": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "e": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
    "b_5x5": ((5,),) * 5,
}
"""The kernels of every block's convolutions. `b_5x5` is the paper's shallow counterpart of B: one 5x5 for each pair of 3x3."""

CLASSIFIER, CLASSIFIER_BIAS = Init("normal", 0.005), Init("constant", 0.1)
"""The classifier's initialisers in the fourth article."""

NORMED = ("a", "b", "d", "e")
"""The letters that also exist with batch norm: `vgg_a_bn` and so on."""

SLIM = Init("truncated", 0.01)


def vgg(letter: str) -> Network:
    """The paper's network for 224x224: fc 4096, 4096, 1000, with ReLU and dropout 0.5 after the first two.

    Convolutions use Glorot's initialiser, which the paper names as an alternative to pre-training. The classifier uses those of the fourth
    article.
    """
    head = _classifier((4096, 4096, 1000), CLASSIFIER, CLASSIFIER_BIAS)
    nodes = (*_convolutions(KERNELS[letter], XAVIER, letter == "a_lrn"), *head)
    return Network(f"vgg_{letter}", (3, 224, 224), nodes, source=f"arXiv 1409.1556, table 1: {letter}")


def vgg_bn(letter: str) -> Network:
    """`vgg` with a batch norm after every convolution: vgg11, 13, 16 and 19 with batch norm in torchvision and paddle.vision."""
    plain = vgg(letter)
    nodes = (node for one in plain.nodes for node in (one, *_norm(one)))
    return Network(f"{plain.name}_bn", plain.input_shape, tuple(nodes), source=f"{plain.source}, with batch norm")


def vgg_cifar(letter: str) -> Network:
    """The same convolutions for 32x32 with a small head: fc 512, 10."""
    head = _classifier((512, 10), CLASSIFIER, CLASSIFIER_BIAS)
    nodes = (*_convolutions(KERNELS[letter], XAVIER, letter == "a_lrn"), *head)
    source = f"arXiv 1409.1556, table 1: {letter}, for CIFAR-10 (head: ours)"
    return Network(f"vgg_{letter}_cifar", (3, 32, 32), nodes, source=source)


def vgg16_bn() -> Network:
    """D's convolutions with batch norm instead of biases, and one linear layer: what is usually called VGG16 for CIFAR-10."""
    nodes: list[Node] = []
    for node in _convolutions(KERNELS["d"], MSRA):
        nodes += [replace(node, bias=False) if isinstance(node, Conv) else node, *_norm(node)]
    nodes += [Flatten("flatten"), Linear("fc", 10)]
    source = "arXiv 1409.1556, table 1: d, with batch norm and fc 10 alone, as is usual for CIFAR-10"
    return Network("vgg16_bn", (3, 32, 32), tuple(nodes), source=source)


def slim_vgg16() -> Network:
    """tf.slim's `vgg_16`: D with truncated normal weights. The article forgets to flatten before the first fc; this network flattens."""
    nodes = (*_convolutions(KERNELS["d"], SLIM), *_classifier((4096, 4096, 1000), SLIM, ZEROS))
    return Network("slim_vgg16", (3, 224, 224), nodes, source="tf.slim: vgg16, truncated_normal_initializer(0.0, 0.01)")


def _convolutions(blocks: Sequence[Sequence[int]], init: Init, lrn: bool = False) -> list[Node]:
    nodes: list[Node] = []
    for b, (filters, kernels) in enumerate(zip(FILTERS, blocks, strict=True), start=1):
        for i, kernel in enumerate(kernels, start=1):
            nodes += [Conv(f"conv{b}_{i}", filters, kernel, padding=kernel // 2, init=init), ReLU(f"relu{b}_{i}")]
            if lrn and b == i == 1:
                nodes.append(LRN("lrn1"))
        nodes.append(MaxPool(f"pool{b}"))
    return nodes


def _norm(node: Node) -> tuple[BatchNorm, ...]:
    return (BatchNorm(node.name.replace("conv", "bn")),) if isinstance(node, Conv) else ()


def _classifier(units: Sequence[int], init: Init, bias: Init) -> list[Node]:
    nodes: list[Node] = [Flatten("flatten")]
    for number, count in enumerate(units[:-1], start=6):
        nodes += [Linear(f"fc{number}", count, init=init, bias_init=bias)]
        nodes += [ReLU(f"relu{number}"), Dropout(f"drop{number}")]
    return [*nodes, Linear(f"fc{5 + len(units)}", units[-1], init=init, bias_init=bias)]
