"""Optimizers as users write them: several in one program, other spellings, and what differs between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import torch

from helpers.pair_models import ComparePair
from parity.backend.registry import implementation
from parity.errors import InputError
from parity.pairs.outcome import PairOutcome
from parity.pairs.programs import Program

FILES = {side: f"program_models_{side}.py" for side in ("torch", "paddle")}
RANDOM = np.random.default_rng(0)
ROWS, LABELS = RANDOM.standard_normal((4, 6)), RANDOM.integers(0, 5, 4)


def compare(compare_pair: ComparePair, torch: str, paddle: str = "", steps: int = 4, **more: Any) -> PairOutcome:
    losses = {side: f"{file}:{more.get('loss', 'loss')}" for side, file in FILES.items()}
    optimizers = {"torch": f"{FILES['torch']}:{torch}", "paddle": f"{FILES['paddle']}:{paddle or torch}"}
    program = Program(losses, optimizers, targets=[[LABELS]])
    return compare_pair(*(f"{file}:Net" for file in FILES.values()), inputs=[ROWS], steps=steps, program=program)


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        ("momentum", "all_at_once"),
        ("rate_in_a_tensor", ""),
        ("two_with_schedules", ""),
        ("TwoInAnObject", ""),
        ("plateau", ""),
        ("renamed", "adam"),
        ("averaged", ""),
        ("RateByHand", ""),
        ("Copied", ""),
        ("rates_of_groups", ""),
    ],
)
def test_other_spellings_are_equal(compare_pair: ComparePair, torch: str, paddle: str) -> None:
    outcome = compare(compare_pair, torch, paddle)
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.differences == []
    assert outcome.verdicts.stages["update"].compared > 4  # the state, too


@pytest.mark.parametrize(
    ("torch", "paddle", "text"),
    [
        ("two_with_schedules", "TwoInAnObject", "optimizer: PyTorch AdamW and SGD, Paddle AdamW"),
        ("plateau", "momentum", "learning rate: PyTorch 0.002, Paddle 0.02 at all 4 parameters"),
        (
            "uncorrected",
            "adam",
            "optimizer: PyTorch Uncorrected, Paddle AdamW; the step: PyTorch takes that of Adam without bias correction, Paddle that of "
            "Adam, with decoupled weight decay",
        ),
        (
            "rate_in_velocity",
            "decayed_with_schedule",
            "different at step 3, update, layer inner, tensor inner.weight: ",
        ),
        (
            "rate_in_velocity",
            "decayed_with_schedule",
            "optimizer: PyTorch RateInVelocity, Paddle Momentum; the velocity of PyTorch contains the learning rate, that of Paddle",
        ),
        (
            "adagrad",
            "",
            "likely cause: sum of squares at the beginning: PyTorch 0.1, Paddle none at all 4 parameters",
        ),
        ("averaged", "kept_longer", "likely cause: keep: PyTorch 0.9, Paddle 0.95 at all 4 parameters"),
    ],
)
def test_other_programs_are_named(compare_pair: ComparePair, torch: str, paddle: str, text: str) -> None:
    outcome = compare(compare_pair, torch, paddle)
    assert outcome.verdict == "different"
    assert text in outcome.sentence()


def test_a_clipping_that_no_gradient_reaches_is_said(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "adam", "clipped")
    assert outcome.verdict == "equal", outcome.sentence()
    words = "Paddle's optimizer clips the norm of all gradients to 1000"
    assert outcome.explained == [f"clipping is not compared, since it changes no gradient here: {words}"]


def test_soft_labels_may_add_up_to_one_but_for_rounding(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "momentum", loss="soft_loss")
    assert outcome.verdict == "equal", outcome.sentence()


def test_settings_in_attributes_are_rounded(framework: str) -> None:
    layer = torch.nn.Linear(2, 2) if framework == "torch" else paddle.nn.Linear(2, 2)
    make = {"torch": torch.optim.SGD, "paddle": lambda weights: paddle.optimizer.SGD(0.1, weights)}[framework]
    optimizer: Any = make(layer.parameters())
    optimizer.own, optimizer.both = 0.1, (0.9, 0.999)
    with implementation(framework, "optimizer_steps").rounded_scalars(optimizer):
        assert (optimizer.own, optimizer.both) == (np.float32(0.1), (np.float32(0.9), np.float32(0.999)))


def test_the_state_of_an_optimizer_with_a_name_is_compared(compare_pair: ComparePair) -> None:
    counts = [
        compare(compare_pair, "adam", name).verdicts.stages["update"].compared for name in ("adam", "with_a_name")
    ]
    assert counts[0] == counts[1]


def test_an_object_without_an_optimizer_is_refused(compare_pair: ComparePair) -> None:
    with pytest.raises(InputError, match=r"makes a Net: return an optimizer, \(optimizer, scheduler\), or an object"):
        compare(compare_pair, "nothing", "momentum")


def test_programs_that_never_call_their_optimizers_are_refused(compare_pair: ComparePair) -> None:
    with pytest.raises(InputError, match="no optimizer takes a step in 4 steps: if gradients are accumulated"):
        compare(compare_pair, "Idle")
    assert "only Paddle's program calls its optimizer" in compare(compare_pair, "Idle", "momentum").sentence()
