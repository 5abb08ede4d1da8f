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
from parity.pairs.loss_terms import list_term_differences
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


MAPS = RANDOM.standard_normal((2, 3, 6, 6))
MASKS, CLASSES = RANDOM.integers(0, 2, MAPS.shape).astype(np.float64), RANDOM.integers(-1, 3, (2, 6, 6))
CLASSES[0, 0, 0] = -1


def dice(z: Any, y: Any, smooth: float = 1.0, axes: Any = (0, 2, 3), squares: bool = False, p: Any = None) -> Any:
    p = z.sigmoid() if p is None else p
    total = (p**2 + y**2 if squares else p + y).sum(axes)
    return (1 - (2 * (p * y).sum(axes) + smooth) / (total + smooth)).mean()


def jaccard(z: Any, y: Any) -> Any:
    overlap, total = ((x).sum((0, 2, 3)) for x in (z.sigmoid() * y, z.sigmoid() + y))
    return (1 - (overlap + 1) / (total - overlap + 1)).mean()


def binary(z: Any, y: Any, **more: Any) -> Any:
    return F.binary_cross_entropy_with_logits(z, y, **more)


def sigmoid_focal(z: Any, y: Any, gamma: float = 2.0, alpha: float = 0.25, ignored: bool = True) -> Any:
    one = torch.stack([y == k for k in range(3)], 1).to(z)
    p = z.sigmoid() * one + (1 - z.sigmoid()) * (1 - one)
    each = (alpha * one + (1 - alpha) * (1 - one)) * (1 - p) ** gamma * -p.log()
    return (each * (y >= 0)[:, None] if ignored else each).sum() / 7


def distilled(z: Any, teacher: Any, y: Any, temperature: float, factor: float = 1.0) -> Any:
    soft = [x.log_softmax(1) for x in (z / temperature, teacher / temperature)]
    return (
        F.cross_entropy(z, y, ignore_index=-1) + factor * F.kl_div(*soft, reduction="sum", log_target=True) / y.numel()
    )


ONE, EACH = "twice the overlap over the sum of probabilities and labels", "one for each class"


@pytest.mark.parametrize(
    ("ours", "theirs", "targets", "text"),
    [
        (
            lambda z, y: binary(z, y) + dice(z, y),
            lambda z, y: binary(z, y) + dice(z, y, 1e-5),
            (MASKS,),
            "smoothing of the Dice loss: PyTorch 1, Paddle 1e-05",
        ),
        (
            lambda z, y: binary(z, y) + dice(z, y),
            lambda z, y: binary(z, y) + dice(z, y, axes=(2, 3)),
            (MASKS,),
            f"Dice loss: PyTorch {ONE}, {EACH}, Paddle {ONE}, one for each sample and class",
        ),
        (
            dice,
            lambda z, y: dice(z, y, squares=True),
            (MASKS,),
            f"Dice loss: PyTorch {ONE}, {EACH}, Paddle twice the overlap over the sum of squares, {EACH}",
        ),
        (
            dice,
            jaccard,
            (MASKS,),
            f"Dice loss: PyTorch {ONE}, {EACH}, Paddle overlap over union (Jaccard), {EACH}",
        ),
        (
            dice,
            lambda z, y: dice(z, y, p=z),
            (MASKS,),
            f"Dice loss: PyTorch {ONE}, {EACH}, Paddle {ONE}, of outputs that are no probabilities, {EACH}",
        ),
        (
            lambda z, y: binary(z, y, weight=torch.tensor([1, 2, 0.5])[:, None, None]) + dice(z, y),
            lambda z, y: binary(z.sigmoid(), y) + dice(z, y),
            (MASKS,),
            "binary cross-entropy: PyTorch of the outputs, Paddle of the outputs behind one more sigmoid",
        ),
        (
            lambda z, y: binary(z, y, weight=torch.tensor([1, 2, 0.5])[:, None, None]) + dice(z, y),
            lambda z, y: binary(z, y) + 0.5 * dice(z, y),
            (MASKS,),
            "weights of classes of the binary cross-entropy: PyTorch 1, 2, 0.5, Paddle none; "
            "factor of the Dice loss: PyTorch 1, Paddle 0.5",
        ),
        (
            lambda z, y: binary(z, y, pos_weight=torch.tensor(2.0)) + dice(z, y),
            lambda z, y: binary(z, y, pos_weight=torch.tensor(3.0)) + dice(z, y),
            (MASKS,),
            "pos_weight of the binary cross-entropy: PyTorch 2, Paddle 3",
        ),
        (
            sigmoid_focal,
            lambda z, y: sigmoid_focal(z, y, 1.5, 0.75),
            (CLASSES,),
            "gamma of the focal loss: PyTorch 2, Paddle 1.5; alpha of the focal loss: PyTorch 0.25, Paddle 0.75",
        ),
        (
            sigmoid_focal,
            lambda z, y: sigmoid_focal(z, y, ignored=False),
            (CLASSES,),
            "ignored labels: PyTorch -1, Paddle none",
        ),
        (
            sigmoid_focal,
            lambda z, y: sigmoid_focal(z.sigmoid(), y),
            (CLASSES,),
            "focal loss: PyTorch of the outputs, Paddle of the outputs behind one more sigmoid",
        ),
        (
            lambda z, t, y: distilled(z, t, y, 4, 16),
            lambda z, t, y: distilled(z, t, y, 4),
            (MAPS[::-1].copy(), CLASSES),
            "factor of the distillation: PyTorch mean times 16 (the squared temperature times 1), Paddle mean times 1 (the squared "
            "temperature times 0.0625)",
        ),
        (
            F.smooth_l1_loss,
            lambda z, y: F.smooth_l1_loss(z, y, beta=0.5),
            (MASKS,),
            "beta (where it becomes linear) of the loss of the differences: PyTorch 1, Paddle 0.5",
        ),
        (
            lambda z, y: F.smooth_l1_loss(z[0], y[0]),
            lambda z, y: F.l1_loss(z[0], y[0]),
            (MASKS,),
            "loss of the differences: PyTorch smooth L1, Paddle absolute",
        ),
    ],
)
def test_the_terms_of_a_sum_are_named(
    ours: Callable[..., Any], theirs: Callable[..., Any], targets: tuple[Any, ...], text: str
) -> None:
    losses, gradients = {}, {}
    for side, loss in (("torch", ours), ("paddle", theirs)):
        z = torch.tensor(MAPS, requires_grad=True)
        value = loss(z, *map(torch.tensor, targets))
        value.backward()
        assert z.grad is not None
        losses[side], gradients[side] = value.item(), {"": z.grad.numpy()}
    cause = find_loss_cause(LossEvidence(losses, {"": MAPS}, gradients, targets))
    assert cause and cause.sentence == text


def test_small_gradients_with_another_factor_are_seen_with_much_rounding() -> None:
    z = MAPS - 6  # the gradients of negative targets are small
    gradients = {}
    for side, alpha in (("torch", 0.25), ("paddle", 0.75)):
        outputs = torch.tensor(z, requires_grad=True)
        sigmoid_focal(outputs, torch.tensor(CLASSES), alpha=alpha).backward()
        assert outputs.grad is not None
        gradients[side] = {"": outputs.grad.numpy()}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 3.0}, {"": z}, gradients, [CLASSES], 5e-4))
    assert cause and cause.sentence == "alpha of the focal loss: PyTorch 0.25, Paddle 0.75"


def test_terms_that_are_not_known_are_not_named() -> None:
    gradients = [RANDOM.standard_normal(MAPS.shape) for _ in range(2)]
    assert list_term_differences((gradients[0], gradients[1]), MAPS, [MASKS, CLASSES, MAPS[::-1]], 0.0) == []


def test_a_factor_of_two_counts_is_a_fraction_and_is_said_once() -> None:
    g = {"torch": {"0": MAPS, "1": MASKS}, "paddle": {"0": MAPS * 49 / 110, "1": MASKS * 49 / 110}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {}, g, []))
    assert cause and cause.sentence == "Paddle's gradient of the loss is PyTorch's times 0.4454545 = 49/110"
    g["paddle"] = {"0": MAPS, "1": 0 * MASKS}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {}, g, []))
    assert cause and cause.sentence == "only PyTorch's loss uses the output 1"


def test_the_smallest_value_is_found() -> None:
    assert abs(minimize(lambda x: abs(x - 1.2345678), -3.0, 3.0) - 1.2345678) < 1e-9


def test_the_terms_of_losses_need_finite_scores_and_bounded_memory() -> None:
    """A masked class has the score -inf. An output of many classes has many unknown weights."""
    scores, labels = RANDOM.standard_normal((64, 5)), RANDOM.integers(0, 4, 64)
    scores[:, 4] = -np.inf
    g = (RANDOM.standard_normal((64, 5)), RANDOM.standard_normal((64, 5)))
    with np.errstate(invalid="ignore"):
        assert list_term_differences(g, scores, [labels], 0.0) == []
    wide = np.broadcast_to(np.ones(1), (10**4, 10**4))
    assert list_term_differences((wide, wide), wide, [np.zeros(10**4, int)], 0.0) == []
