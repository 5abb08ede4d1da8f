"""Networks for the tests: two that together hold every kind of node, and a hypothesis strategy that generates valid networks."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import strategies as st

from parity.errors import InputError
from parity.network import articles
from parity.network.initialisers import FAN_IN_UNIFORM, XAVIER
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
    Init,
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

EVERY_KIND = Network(
    "every_kind",
    (4, 9, 7),
    (
        Conv("conv", 8, kernel=3, stride=1, padding=1, groups=2),
        BatchNorm("norm"),
        ReLU("relu"),
        MaxPool("peak", size=2, stride=2, ceil=True),
        AvgPool("mean", size=2, stride=1, padding=1),
        Dropout("drop", 0.25),
        Flatten("flat"),
        Linear("fc", 5, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM),
    ),
    source="made for the tests",
)
BRANCHED = Network(
    "branched",
    (3, 7, 6),
    (
        Conv(
            "stem", 6, kernel=3, stride=2, padding="same", init=Init("truncated", 0.1), bias_init=Init("constant", 0.1)
        ),
        LRN("lrn", size=3, k=1.0, alpha=0.5, beta=0.75),
        Tanh("tanh"),
        Branches(
            "block",
            (
                (Conv("one", 3, 1, padding=0, init=XAVIER),),
                (Conv("reduce", 2, 1, padding=0), ReLU("relu"), Conv("three", 4, 3), GELU("gelu")),
                (MaxPool("top", 3, 1, padding="same"), Branches("inner", ((Conv("left", 1),), (Conv("right", 2),)))),
            ),
        ),
        Auxiliary(
            "aux",
            (
                AvgPool("aux_mean", 3, 2, "same"),
                GlobalAvgPool("aux_flat"),
                Dropout("aux_drop", 0.25),
                Linear("aux_fc", 5),
            ),
            0.3,
        ),
        PadChannels("pad", 20, "around"),
        Add("sum", ((), (Conv("residue", 20, 3, bias=False), SiLU("silu")))),
        Multiply("scale", ((), (GlobalAvgPool("squeeze"), Linear("excite", 20), Sigmoid("gate")))),
        BatchNorm("bn"),
        Flatten("flat"),
        Linear("fc", 5),
        LogSoftmax("scores"),
    ),
    source="made for the tests: what is not in a chain",
)
NETWORKS = [
    *articles.NETWORKS.values(),
    *(articles.get_network(f"{name}@0.25") for name in articles.NETWORKS),
    EVERY_KIND,
    BRANCHED,
]
"""Every network of the project, full and shrunk, and the two above."""


def kinds(nodes: tuple[Node, ...]) -> list[str]:
    """Layer name -> kind of its node."""
    return [type(node).__name__ for node in nodes]


@st.composite
def generated(draw: st.DrawFn) -> Network:
    """A valid network of up to eight layers on images, a Flatten, and up to four layers on vectors."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12)))
    scale = st.floats(0, 10, allow_subnormal=False)
    inits = st.builds(Init, st.sampled_from(["normal", "uniform", "constant"]), scale, st.sampled_from(["none", "in"]))
    name, nodes, here = iter(range(99)), [], shape
    shared = {
        BatchNorm: lambda n: st.builds(
            BatchNorm,
            st.just(n),
            st.floats(0.01, 0.99),
            st.floats(1e-6, 1),
            st.sampled_from(["biased", "unbiased"]),
            st.sampled_from([0.0, 1.0]),
        ),
        ReLU: lambda n: st.builds(ReLU, st.just(n)),
        Tanh: lambda n: st.builds(Tanh, st.just(n)),
        Dropout: lambda n: st.builds(
            Dropout, st.just(n), st.floats(0.01, 0.99), st.sampled_from(["downscale_in_infer", "upscale_in_train"])
        ),
    }
    size = st.integers(1, 3)
    image: dict[type, Callable[[str], st.SearchStrategy[Node]]] = shared | {
        Conv: lambda n: st.builds(
            Conv,
            st.just(n),
            st.integers(1, 4).map(lambda k: k * 2),
            st.integers(1, 3),
            size,
            st.sampled_from([0, 1, "same"]),
            st.sampled_from([1, 2] if here[0] % 2 == 0 else [1]),
            st.booleans(),
            inits,
            inits,
        ),
        LRN: lambda n: st.builds(LRN, st.just(n), size, st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 2)),
        Branches: lambda n: st.builds(
            lambda *own: Branches(n, tuple((Conv(f"{n}_{i}", k),) for i, k in enumerate(own))), size, size
        ),
        MaxPool: lambda n: st.builds(MaxPool, st.just(n), size, size, st.sampled_from([0, "same"]), st.booleans()),
        AvgPool: lambda n: st.builds(AvgPool, st.just(n), size, size, st.just(0), st.booleans()),
    }
    vector = shared | {Linear: lambda n: st.builds(Linear, st.just(n), st.integers(1, 9), st.booleans(), inits, inits)}
    for layers, stage in ((draw(st.integers(0, 8)), image), (draw(st.integers(1, 4)), vector)):
        for _ in range(layers):
            kind = draw(st.sampled_from(sorted(stage, key=str)))
            node = draw(stage[kind](f"{kind.__name__.lower()}_{next(name)}"))
            try:
                here = node.output(here)
            except InputError:
                continue
            nodes.append(node)
        if stage is image:
            nodes.append(Flatten("flatten"))
            here = (math.prod(here),)
    words = st.text(st.characters().filter(str.isprintable), max_size=9)
    return Network(draw(words), shape, tuple(nodes), draw(words))
