"""Shared by the tests of ONNX graphs: networks with weights, and their exports."""

from __future__ import annotations

import numpy as np

from parity.backend.worker import Worker
from parity.data.random_streams import stream
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
    Linear,
    LogSoftmax,
    MaxPool,
    ReLU,
    Tanh,
)
from parity.onnx import operators
from parity.recipe import presets
from parity.selftest.subject import network, state
from parity.weights.canonical_state import State, initialise

CHAIN = operators.operators(network(), state())

WITHOUT_BIAS = Network(
    "without_bias",
    (3, 6, 6),
    (
        Conv("conv1", 4, bias=False),
        ReLU("relu"),
        Conv("conv2", 4, bias=False),
        BatchNorm("bn"),
        Flatten("flatten"),
        Linear("fc", 5, bias=False),
    ),
)
BRANCHES = Network(
    "branches",
    (3, 9, 9),
    (
        Conv("conv", 4, 3, 2, padding="same"),
        Tanh("tanh"),
        MaxPool("uneven", 2, 2, padding="same"),
        Branches(
            "concat",
            (
                (Conv("one", 2, 1, padding=0), BatchNorm("bn"), ReLU("relu")),
                (MaxPool("peak", 3, 1, padding="same"), Conv("two", 2, 1, padding=0), Dropout("drop", 0.5)),
                (Dropout("scaled", 0.25, "downscale_in_infer"),),
            ),
        ),
        Auxiliary("auxiliary", (Flatten("side_flat"), Linear("side_fc", 5), LogSoftmax("side_log"))),
        Flatten("flatten"),
        Linear("fc", 5),
        LogSoftmax("log_softmax"),
    ),
)
"""A network that is no chain: with branches, an auxiliary head and asymmetric padding."""
FEW = Network("few", (2, 4, 4), (LRN("norm", 5, 1.5, 0.1, 0.7), LRN("all", 9), Flatten("flatten"), Linear("fc", 3)))
"""A network with LRN windows that are wider than the number of channels."""

NORMALISED = Network("normalised", (7, 4, 4), (LRN("norm", 4, 1.5, 0.1, 0.7), Flatten("flatten"), Linear("fc", 3)))
ROUNDED_UP = Network(
    "rounded_up",
    (2, 8, 9),
    (
        MaxPool("peak", 3, 2, 1, ceil=True),
        AvgPool("mean", 3, 3, ceil=True),
        MaxPool("last", 2, 1, 1, ceil=True),
        Flatten("flatten"),
        Linear("fc", 3),
    ),
)
"""A network with pools whose last windows extend beyond the image, or end exactly with it."""


def weights_of(net: Network) -> State:
    """Weights as after some training: no statistic has its start value."""
    if net == network():
        return state()
    fresh = initialise(net, 0)
    for name, array in fresh.items():
        if name.endswith((".mean", ".variance", ".gamma", ".beta")):
            fresh[name] = stream(1, name).uniform(0.5, 1.5, array.shape).astype(np.float32)
    return fresh


EXPORTS: dict[tuple[Worker, Network], bytes] = {}
"""The results of `raw_export`."""


def raw_export(worker: Worker, net: Network) -> bytes:
    """What `worker` exports of `net`, exported once for all tests. The worker holds the model afterwards."""
    worker.start(net, presets.get_recipe("article").optimizer, weights_of(net), "float32")
    key = (worker, net)
    if key not in EXPORTS:
        EXPORTS[key] = worker.export()
    return EXPORTS[key]
