"""Small networks that test one node each, with weights, images and masks for them."""

from __future__ import annotations

import numpy as np

from parity.backend.child_process import Record
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
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
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)
from parity.weights.canonical_state import State

BATCH, CLASSES = 3, 3
DIVISOR = 7
"""float32 cannot hold 1/7, so that a loss that is scaled in float32 differs."""


def network(shape: tuple[int, ...], *nodes: Node) -> Network:
    """A network of a 1x1 convolution, which makes the gradient of the next input visible, `nodes` and the class scores."""
    entry = Conv("entry", shape[0], 1, padding=0, bias=False)
    flat = () if any(isinstance(node, Flatten | GlobalAvgPool) for node in nodes) else (Flatten("flatten"),)
    return Network("made", shape, (entry, *nodes, *flat, Linear("scores", CLASSES)))


MAP, WIDE = (4, 5, 6), (2, 7, 8)
CASES = {
    "conv of 3x3, padded": network(MAP, Conv("node", 3)),
    "conv with groups, stride, padding": network(MAP, Conv("node", 6, 3, stride=2, padding=1, groups=2)),
    "conv of every channel alone": network(MAP, Conv("node", 8, 2, padding=0, groups=4)),
    "conv without bias": network(MAP, Conv("node", 3, 2, stride=3, padding=1, bias=False)),
    "conv of 5x5 with padding 2": network(MAP, Conv("node", 2, 5, padding=2)),
    "conv of 2x2, padded by 1": network(MAP, Conv("node", 3, 2, padding=1)),
    "conv of 2x2, padded by 2": network(MAP, Conv("node", 3, 2, padding=2)),
    "conv of 3x3, padded by 2": network(MAP, Conv("node", 3, 3, padding=2)),
    "conv of 3x3, not padded": network(MAP, Conv("node", 3, 3, padding=0)),
    "conv of 1x1": network(MAP, Conv("node", 5, 1, padding=0)),
    "linear": network((4, 2, 3), Flatten("flat"), Linear("node", 5)),
    "linear, square": network((4, 1, 2), Flatten("flat"), Linear("node", 8)),
    "linear without bias": network((4, 1, 2), Flatten("flat"), Linear("node", 8, bias=False)),
    "batch norm of maps": network(MAP, BatchNorm("node", decay=0.7, eps=0.01)),
    "batch norm of vectors": network((8, 1, 2), Flatten("flat"), BatchNorm("node", variance="biased")),
    "ReLU": network(MAP, ReLU("node")),
    "GELU": network(MAP, GELU("node")),
    "batch norm, frozen": network(MAP, BatchNorm("node", frozen=True)),
    "conv, frozen": network(MAP, Conv("node", 3, frozen=True)),
    "max pool, rounded down": network(MAP, MaxPool("node")),
    "max pool, rounded up": network((2, 5, 7), MaxPool("node", ceil=True)),
    "max pool that overlaps": network(WIDE, MaxPool("node", 3, 2, ceil=True)),
    "max pool with padding": network(WIDE, MaxPool("node", 3, 2, padding=1)),
    "max pool with padding, rounded up": network(WIDE, MaxPool("node", 3, 2, padding=1, ceil=True)),
    "max pool with gaps": network(WIDE, MaxPool("node", 2, 3)),
    "average pool": network(MAP, AvgPool("node")),
    "average pool, rounded up": network((2, 5, 7), AvgPool("node", ceil=True)),
    "average pool with padding": network(WIDE, AvgPool("node", 3, 2, padding=1)),
    "average pool with padding, rounded up": network(WIDE, AvgPool("node", 3, 2, padding=1, ceil=True)),
    "dropout that scales in inference": network(MAP, Dropout("node", 0.3, "downscale_in_infer")),
    "dropout that scales in training": network(MAP, Dropout("node", 0.3, "upscale_in_train")),
    "dropout of vectors": network(MAP, Flatten("flat"), Dropout("node", 0.3, "downscale_in_infer")),
    "flatten": network((3, 2, 4), Flatten("flat")),
    "conv of 3x3 by 2, same": network((2, 6, 7), Conv("node", 3, 3, stride=2, padding="same")),
    "conv of 4x4, same": network((2, 5, 6), Conv("node", 3, 4, padding="same")),
    "conv of 3x3 by 2, same, in groups": network((4, 6, 8), Conv("node", 6, 3, stride=2, padding="same", groups=2)),
    "conv of 2x2 by 3, same": network((2, 7, 6), Conv("node", 2, 2, stride=3, padding="same", bias=False)),
    "max pool, same": network((2, 5, 7), MaxPool("node", padding="same")),
    "max pool of 3x3 by 2, same": network((2, 6, 7), MaxPool("node", 3, 2, padding="same")),
    "max pool of 3x3, same": network((2, 4, 5), MaxPool("node", 3, 1, padding="same")),
    "average pool, same": network((2, 5, 7), AvgPool("node", padding="same")),
    "average pool of 3x3 by 2, same": network((2, 6, 7), AvgPool("node", 3, 2, padding="same")),
    "average pool over all": network((3, 5, 5), AvgPool("node", 5, 1)),
    "mean of maps": network((3, 5, 7), GlobalAvgPool("node")),
    "LRN": network((7, 3, 2), LRN("node", alpha=0.3)),
    "LRN of an even size": network((5, 2, 3), LRN("node", size=4, k=0.7, alpha=0.5, beta=0.6)),
    "LRN wider than the channels": network((3, 2, 2), LRN("node", size=9, k=1.0, alpha=0.2, beta=1.3)),
    "LRN of single channels": network((3, 2, 2), LRN("node", size=1, k=1.0, alpha=0.2)),
    "tanh": network(MAP, Tanh("node")),
    "log-softmax": network(MAP, Flatten("flat"), Linear("fc", 4), LogSoftmax("node")),
    "branches": network(
        (3, 4, 5),
        Branches(
            "node",
            (
                (Conv("one", 2, 1, padding=0, bias=False), BatchNorm("norm")),
                (Conv("reduce", 2, 1, padding=0), Tanh("squash"), Conv("three", 3)),
                (MaxPool("peak", 3, 1, padding=1), Branches("inner", ((Tanh("left"),), (Dropout("right", 0.3),)))),
            ),
        ),
        LRN("lrn", size=3, alpha=0.2),
    ),
    "branches of vectors": network(
        (2, 2, 2), Flatten("flat"), Branches("node", ((Linear("a", 2),), (Linear("b", 3),)))
    ),
    "SiLU": network(MAP, SiLU("node")),
    "sigmoid": network(MAP, Sigmoid("node")),
    "channels of zeros after": network(MAP, PadChannels("node", 7)),
    "channels of zeros before": network(MAP, PadChannels("node", 7, "before")),
    "channels of zeros around": network(MAP, PadChannels("node", 7, "around")),
    "channels of zeros, none": network(MAP, PadChannels("node", 4)),
    "sum with the identity": network(MAP, Add("node", ((), (Conv("a", 4, bias=False), BatchNorm("b"))))),
    "sum with the identity of the image": Network(
        "made",
        MAP,
        (Add("node", ((Conv("entry", 4, 1, padding=0, bias=False),), ())), Flatten("f"), Linear("scores", 3)),
    ),
    "sum of three": network(
        MAP, Add("node", ((Conv("a", 3),), (Conv("b", 3, 1, padding=0),), (Tanh("c"), Conv("d", 3))))
    ),
    "sum of vectors": network((2, 2, 2), Flatten("flat"), Add("node", ((), (Linear("a", 8), Tanh("b"))))),
    "sum before a batch norm": network(
        MAP,
        Add("node", ((Conv("a", 4, bias=False),), (GELU("b"), Conv("c", 4, bias=False)))),
        BatchNorm("norm"),
        ReLU("relu"),
    ),
    "product of maps": network(MAP, Multiply("node", ((Conv("a", 4), Sigmoid("b")), ()))),
    "product of maps and a vector": network(
        MAP, Multiply("node", ((), (GlobalAvgPool("squeeze"), Linear("excite", 4), Sigmoid("gate"))))
    ),
    "product of a vector, a map and a vector": network(
        MAP,
        Multiply(
            "node",
            (
                (GlobalAvgPool("m1"), Linear("l1", 3)),
                (Conv("a", 3),),
                (GlobalAvgPool("m2"), Linear("l2", 3), Tanh("t")),
            ),
        ),
    ),
    "product of vectors": network(
        (2, 2, 2), Flatten("flat"), Multiply("node", ((Linear("a", 5),), (Linear("b", 5), Tanh("c"))))
    ),
    "identity beside a branch": network(MAP, Branches("node", ((), (Conv("a", 2),)))),
    "a residual block with shortcut A": network(
        WIDE,
        Add(
            "node",
            (
                (
                    Conv("a", 4, 3, 2, bias=False),
                    BatchNorm("an"),
                    ReLU("ar"),
                    Conv("b", 4, bias=False),
                    BatchNorm("bn"),
                ),
                (AvgPool("halved", 1, 2), PadChannels("wider", 4)),
            ),
        ),
        ReLU("relu"),
    ),
    "auxiliary heads": network(
        (2, 4, 5),
        Conv("conv", 3),
        Auxiliary("aux1", (AvgPool("mean"), Flatten("flat1"), Dropout("drop", 0.3), Linear("scores1", CLASSES)), 0.3),
        Branches(
            "block",
            ((Conv("a", 2),), (Tanh("b"), Auxiliary("aux2", (Flatten("flat2"), Linear("scores2", CLASSES)), 0.7))),
        ),
        ReLU("relu"),
    ),
    "a net with all of them": network(
        (4, 6, 5),
        Conv("conv", 6, groups=2, bias=False),
        BatchNorm("norm", decay=0.7),
        ReLU("relu"),
        Dropout("drop", 0.3, "downscale_in_infer"),
        MaxPool("peak", 3, 2, ceil=True),
        AvgPool("mean", 2, 1),
    ),
}


def weights(net: Network) -> State:
    """Random trainable parameters and statistics, without special values."""
    random = np.random.default_rng(5)
    low = {"variance": 0.5}
    return {name: random.uniform(low.get(name.split(".")[1], -1), 1.5, p.shape) for name, p in net.parameters.items()}


def copying(net: Network) -> State:
    """`weights` with which the convolution `entry` copies its input."""
    return weights(net) | {"entry.weight": np.eye(net.input_shape[0])[:, :, None, None]}


def batch(net: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Record]:
    """Images with positive numbers, labels and dropout masks."""
    random = np.random.default_rng(seed)
    images = random.uniform(0.1, 1.0, (BATCH, *net.input_shape))
    masks = {name: random.random((BATCH, *shape)) >= rate for name, (shape, rate) in net.dropouts.items()}
    return images, random.integers(CLASSES, size=BATCH), masks
