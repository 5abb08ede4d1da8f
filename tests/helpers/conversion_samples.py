"""Shared by the tests of conversion: a small network, and weights that show any change of a bit."""

from __future__ import annotations

import numpy as np

from parity.network import articles
from parity.weights.canonical_state import State

NAME = "vgg16_bn_drop@0.03125"
NETWORK = articles.get_network(NAME)
SUFFIXES = {"paddle": ".pdparams", "torch": ".pt"}


def special(dtype: str = "float32") -> State:
    """Random numbers, including special values that arithmetic would change."""
    random, tiny = np.random.default_rng(3), {"float32": 1e-45, "float64": 5e-324}[dtype]
    state = {name: random.standard_normal(p.shape).astype(dtype) for name, p in NETWORK.parameters.items()}
    for array in state.values():
        array.ravel()[:4] = [np.nan, -np.inf, -0.0, tiny]
    return state


def bits(state: State) -> dict[str, bytes]:
    return {name: f"{array.dtype}{array.shape}".encode() + array.tobytes() for name, array in state.items()}
