"""Optimizers of both frameworks are read as data: how two of them differ, and the state that they keep for a parameter."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from helpers.paths import TESTS
from parity.recipe.optimizer_description import Clip, OptimizerDescription, list_differences

DIFFERENCES = {
    "sgd": [],
    "momentum": [],
    "momentum of 0": [],
    "adam": [],
    "adamw": [],
    "adam decoupled": [
        "decoupled weight decay: PyTorch 0.1, Paddle none at all 3 parameters",
        "weight decay added to the gradient (coupled): PyTorch none, Paddle 0.1 at all 3 parameters",
    ],
    "groups": [],
    "rate of a group": [],
    "group ignored": [
        "learning rate: PyTorch 0.05, Paddle 0.1 at weight",
        "weight decay added to the gradient (coupled): PyTorch 0.1, Paddle none at bias, norm",
    ],
    "own regulariser": [],
    "own regulariser of another kind": [
        "weight decay added to the gradient (coupled): PyTorch 0.01, Paddle none at bias",
        "L1 decay added to the gradient: PyTorch none, Paddle 0.5 at bias",
    ],
    "clip": [
        "clipping of gradients: PyTorch clips nothing, Paddle clips the norm of all gradients to 1",
        "left out of clipping: PyTorch no, Paddle yes at norm",
    ],
    "left out": ["only PyTorch's optimizer has the parameters norm"],
    "rmsprop": ["place of eps: PyTorch outside the square root, Paddle inside the square root at all 3 parameters"],
    "adagrad": [],
    "somebody's own": ["optimizer: PyTorch Own, Paddle SGD"],
}
SLOTS = {
    "momentum": ["velocity"],
    "adam": ["moment1", "moment2", "updates"],
    "adamw": ["moment1", "moment2", "updates"],
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    program = [sys.executable, str(TESTS / "helpers" / "described_optimizers.py")]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("case", DIFFERENCES)
def test_two_optimizers_differ_in_what_they_do_and_not_in_how_they_are_spelled(
    found: dict[str, dict[str, Any]], case: str
) -> None:
    assert found[case]["differences"] == DIFFERENCES[case]
    if not DIFFERENCES[case]:  # Paddle's momentum kernel rounds its scalars to float32
        assert max(found[case]["errors"].values()) < 1e-6
    else:
        assert found[case]["errors"]["weights"] > 1e-5


@pytest.mark.parametrize("case", SLOTS)
def test_the_state_of_a_parameter_has_the_same_slots(found: dict[str, dict[str, Any]], case: str) -> None:
    assert found[case]["slots"] == [SLOTS[case], SLOTS[case]]
    assert set(found[case]["errors"]) == {*SLOTS[case], "weights"}


def test_numbers_are_the_same_in_float32_and_clips_are_named() -> None:
    one = OptimizerDescription("sgd", "SGD", {"a": {"rate": 0.1}}, Clip("global norm", 1.0))
    two = OptimizerDescription("sgd", "SGD", {"a": {"rate": 0.10000000149011612}}, Clip("global norm", 1.0, True))
    assert list_differences(one, two) == [
        "clipping of gradients: PyTorch clips the norm of all gradients to 1, "
        "Paddle clips the norm of each group's gradients to 1"
    ]
    assert list_differences(one, one, ("A", "B")) == []
