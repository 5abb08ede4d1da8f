"""A program that plants the catalogue's model faults in pairs of modules, compares them like users' models, and prints the results.

The reference is the PyTorch module of the fault's network, the candidate the Paddle layer with the fault. It runs in its own process,
because it loads both frameworks.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch  # noqa: F401 - in one process Paddle 2.6 must come second

import paddle  # isort: skip

import parity
from parity.backend.registry import make_backend
from parity.compare.step_inputs import RunInputs
from parity.data import shapes10
from parity.errors import InputError
from parity.network.network import Network
from parity.selftest.catalogue import FAULTS
from parity.selftest.fault import Fault
from parity.selftest.subject import BRANCHED, CHAIN, RESIDUAL, subject
from parity.weights.canonical_state import State, initialise

AREAS = ("layers", "bn", "pooling", "dropout")
"""The areas of faults in a model itself, not in its data, weights, loss or optimizer."""


OUTSIDE = ("count_padding", "invert_mask", "flatten_for")
"""Patches that need a trainer, or have an effect only with a trainer's masks or with a smaller batch."""


def planted(fault: Fault) -> RunInputs | None:
    """The run inputs of the candidate for a fault; None if the fault is not in the model, or is planted in the trainer."""
    check = subject(shapes10.load(None, lambda line: None), fault.recipe, made=fault.network)
    given = fault.change(check)(check.run_inputs())
    outside = [place for place, *_ in given.patches if place.rpartition(":")[2] in OUTSIDE]
    if fault.area not in AREAS or outside or (given.network == fault.network and not given.patches):
        return None
    return given


def candidate(given: RunInputs, state: State) -> paddle.nn.Layer:
    """The Paddle layer with the fault. Arrays that only it has get fresh values."""
    fresh = initialise(given.network, 0)
    own = {name: state[name] if name in state and state[name].shape == a.shape else a for name, a in fresh.items()}
    model: paddle.nn.Layer = parity.build(given.network, "paddle", own)
    side = SimpleNamespace(model=model, backend=make_backend("paddle"), dtype="float64", _tensor=paddle.to_tensor)
    for place, *words in given.patches:
        module, _, function = place.partition(":")
        getattr(importlib.import_module(module), function)(side, *words)
    return model


def compared(network: Network, state: State, make: Any) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((8, *network.input_shape)).astype(np.float32)
    try:
        model = parity.build(network, "torch", state)
        outcome = parity.compare_models(model, make, [x], steps=2, loss="cross_entropy")
    except InputError as error:
        return {"verdict": "error", "sentence": str(error)}
    first = outcome.first
    return {"verdict": outcome.verdict, "sentence": outcome.sentence(), "layer": first and first.layer}


def main() -> None:
    found = {}
    for fault in [FAULTS[name] for name in sys.argv[1:] or FAULTS]:
        given = planted(fault)
        if given is not None:
            state = {name: array.astype(np.float32) for name, array in subject_state(fault.network).items()}
            found[fault.name] = compared(fault.network, state, lambda given=given, state=state: candidate(given, state))
        print(fault.name, file=sys.stderr)
    for network in (CHAIN, BRANCHED, RESIDUAL):
        state = subject_state(network)
        found[network.name] = compared(network, state, parity.build(network, "paddle", state))
    print(json.dumps(found))


def subject_state(network: Network) -> State:
    made = subject(shapes10.load(None, lambda line: None), made=network).state
    assert made
    return made


if __name__ == "__main__":
    main()
