"""The function of a loss is named from the gradient of the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import paddle  # isort: skip - in one process Paddle 2.6 must come second
import paddle.nn.functional as PF

from parity.pairs.causes_of_programs import LossEvidence, find_loss_cause
from parity.pairs.named_losses import name_loss

RANDOM = np.random.default_rng(0)
OUTPUT, TARGET = RANDOM.standard_normal(9), np.array([0.0, 1, 1, 0, 1, 0, 0, 1, 1])


def gradient(loss: Callable[..., Any]) -> Any:
    outputs = torch.tensor(OUTPUT, requires_grad=True)
    loss(outputs, torch.tensor(TARGET)).backward()
    assert outputs.grad is not None
    return outputs.grad.numpy()


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (F.mse_loss, "mean squared error"),
        (F.l1_loss, "absolute error"),
        (F.binary_cross_entropy_with_logits, "binary cross-entropy of logits"),
        (lambda z, y: F.binary_cross_entropy(z.sigmoid(), y), "binary cross-entropy of logits"),
        (lambda z, y: F.mse_loss(z.sigmoid(), y), "squared error of probabilities"),
        (
            lambda z, y: F.binary_cross_entropy_with_logits(z.sigmoid(), y),
            "binary cross-entropy of logits behind one more sigmoid",
        ),
        (
            lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(2.5)),
            "binary cross-entropy of logits with pos_weight 2.5",
        ),
        (
            lambda z, y: ((z[:, None] - y) ** 2).mean(),
            "squared error of each output and all targets, whose shapes broadcast",
        ),
        (lambda z, y: (z**4).mean(), None),
    ],
)
def test_a_loss_is_named(loss: Callable[..., Any], text: str | None) -> None:
    assert name_loss(gradient(loss), OUTPUT, [np.arange(3), TARGET]) == text
    assert name_loss(gradient(loss)[:, None], OUTPUT[:, None], [TARGET.astype(np.int64)]) == text


def test_pos_weight_in_paddle_on_the_cpu_is_named() -> None:
    outputs = paddle.to_tensor(OUTPUT, stop_gradient=False)
    weight = paddle.to_tensor([2.5], dtype="float64")
    PF.binary_cross_entropy_with_logits(outputs, paddle.to_tensor(TARGET), pos_weight=weight).backward()
    found = name_loss(outputs.grad.numpy(), OUTPUT, [TARGET])
    is_old = paddle.__version__.startswith("2.")
    assert found == "binary cross-entropy of logits with pos_weight 2.5" + (
        " as Paddle 2.6 uses it on the CPU" if is_old else ""
    )


def test_two_functions_are_named_by_output() -> None:
    one, two = gradient(F.binary_cross_entropy_with_logits), gradient(F.mse_loss)
    found = {"torch": {"": one}, "paddle": {"": two}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": OUTPUT}, found, [TARGET]))
    assert cause and cause.sentence == (
        "function of the loss: PyTorch binary cross-entropy of logits, Paddle mean squared error"
    )
    found = {"torch": {"0": one, "1": two}, "paddle": {"0": one, "1": 0.4 * two}}
    both = {"0": OUTPUT, "1": OUTPUT}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, both, found, [TARGET]))
    assert cause and cause.sentence == "output 1: Paddle's gradient of the loss is PyTorch's times 0.4"
