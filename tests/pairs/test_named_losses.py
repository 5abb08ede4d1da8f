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
from parity.pairs.named_losses import minimize, name_loss

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
        (
            lambda z, y: -(y * (z.sigmoid() + 1e-3).log() + (1 - y) * (1 - z.sigmoid() + 1e-3).log()).sum(),
            "binary cross-entropy of probabilities plus 0.001",
        ),
        (
            lambda z, y: F.binary_cross_entropy(z.sigmoid().clamp(0.3, 0.7), y),
            "binary cross-entropy of probabilities that are clipped near 0 and 1, at less than 0.33",
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


SCORES, LABELS = RANDOM.standard_normal((3, 5, 7)), RANDOM.integers(1, 7, (3, 5))
LABELS[1, 3:] = LABELS[2, 2:] = 0


def cross_entropy(z: Any, y: Any, **more: Any) -> Any:
    return F.cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=0, **more)


def focal(z: Any, y: Any, gamma: float, reduce: Callable[[Any], Any] = torch.mean) -> Any:
    each = cross_entropy(z, y, reduction="none")[y.flatten() != 0]
    return reduce((1 - (-each).exp()) ** gamma * each)


def by_sample(z: Any, y: Any) -> Any:
    return (cross_entropy(z, y, reduction="none").reshape(y.shape).sum(1) / (y != 0).sum(1)).mean()


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (
            lambda z, y: cross_entropy(z, y) + focal(z, y, 2),
            lambda z, y: cross_entropy(z, y) + focal(z, y, 1.5),
            "loss of the labels: PyTorch focal loss of gamma 2 (mean) plus cross-entropy (mean), Paddle focal loss of gamma 1.5 (mean) "
            "plus cross-entropy (mean)",
        ),
        (
            lambda z, y: cross_entropy(z, y) + focal(z, y, 2),
            lambda z, y: cross_entropy(z, y) + focal(z, y, 2, torch.sum),
            "loss of the labels: PyTorch focal loss of gamma 2 (mean) plus cross-entropy (mean), Paddle focal loss of gamma 2 (sum) plus "
            "cross-entropy (mean)",
        ),
        (
            cross_entropy,
            lambda z, y: 0.25 * focal(z, y, 2),
            "loss of the labels: PyTorch cross-entropy (mean), Paddle focal loss of gamma 2 (mean, times 0.25)",
        ),
        (
            cross_entropy,
            by_sample,
            "loss of the labels: PyTorch cross-entropy (mean), Paddle averages over the labels of each sample first (mean)",
        ),
        (
            lambda z, y: cross_entropy(z, y, label_smoothing=0.1),
            lambda z, y: cross_entropy(z / 0.9, y, label_smoothing=0.1),
            "temperature: PyTorch's loss divides the scores by 1, Paddle's by 0.9",
        ),
        (
            lambda z, y: cross_entropy(z / 0.07, y),
            lambda z, y: cross_entropy(z / 0.1, y),
            "temperature: PyTorch's loss divides the scores by 0.07, Paddle's by 0.1",
        ),
        (
            cross_entropy,
            lambda z, y: cross_entropy(z, y) + 1e-3 * (z.logsumexp(-1) ** 2).mean(),
            "Paddle's loss is that of PyTorch plus 0.001 times the mean of the squares of the logsumexp of the output (z-loss)",
        ),
        (
            cross_entropy,
            lambda z, y: cross_entropy(z, y) + 0.1 * (z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean(),
            "Paddle's loss is that of PyTorch minus 0.1 times the mean of the entropies of the output's softmax",
        ),
        (
            lambda z, y: 0.5 * cross_entropy(z, y),
            lambda z, y: 0.4 * cross_entropy(z, y),
            "reduction of the loss: PyTorch averages over the 10 labels that are not ignored, and divides by 2, Paddle averages over the "
            "10 labels that are not ignored, times 0.4",
        ),
    ],
)
def test_losses_of_labels_are_named(ours: Callable[..., Any], theirs: Callable[..., Any], text: str) -> None:
    losses, gradients = {}, {}
    for side, loss in (("torch", ours), ("paddle", theirs)):
        z = torch.tensor(SCORES, requires_grad=True)
        value = loss(z, torch.tensor(LABELS))
        value.backward()
        assert z.grad is not None
        losses[side], gradients[side] = value.item(), {"": z.grad.numpy()}
    cause = find_loss_cause(LossEvidence(losses, {"": SCORES}, gradients, [LABELS]))
    assert cause and cause.sentence == text


def test_the_smallest_value_is_found() -> None:
    assert abs(minimize(lambda x: abs(x - 1.2345678), -3.0, 3.0) - 1.2345678) < 1e-9
