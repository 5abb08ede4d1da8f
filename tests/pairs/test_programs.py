"""Models trained by the user's own losses, optimizers and batches: equal pairs, what is refused, and what a first divergence names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.errors import InputError
from parity.pairs.causes_of_programs import LossEvidence, find_loss_cause, infer_clipping
from parity.pairs.compare_models import compare_models
from parity.pairs.programs import Program, find_names, split_batches, take_batches
from parity.recipe.optimizer_description import Clip

SIDES = ("torch", "paddle")
NETWORK = {side: f"{side}_impl.training:make_network" for side in SIDES}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((6, 1, 28, 28))
LABELS = RANDOM.integers(0, 10, 6)


def program(loss: str = "image_loss", optimizer: str = "make_momentum", **more: Any) -> Program:
    texts = [{side: f"{side}_impl.training:{name}" for side in SIDES} for name in (loss, optimizer)]
    return Program(*texts, targets=[[LABELS]], **more)


# Equal programs


@pytest.mark.parametrize("optimizer", ["make_momentum", "Training"])
def test_the_same_program_in_both_frameworks_is_equal(compare_pair: ComparePair, optimizer: str) -> None:
    batches = [[IMAGES], [IMAGES[::-1]]]
    outcome = compare_pair(
        *NETWORK.values(), inputs=[IMAGES], steps=4, program=program(optimizer=optimizer, inputs=batches)
    )
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.differences == []
    # Weights alone are 8 tensors: velocities are compared, too, and Adam's moments, counts and clipped gradients.
    assert outcome.verdicts.stages["update"].compared == {"make_momentum": 17, "Training": 41}[optimizer]
    losses = [row["loss"]["torch"] for row in outcome.trajectory]
    assert len(set(losses)) == 4


def test_steps_go_through_the_batches_in_turn(compare_pair: ComparePair) -> None:
    still = {"torch": "torch.optim:SGD(lr=0.0)", "paddle": "paddle.optimizer:SGD(learning_rate=0.0)"}
    batches = [[IMAGES], [IMAGES * 2]]
    given = Program(program().loss, still, inputs=batches, targets=[[LABELS], [LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=4, program=given)
    assert outcome.verdict == "equal", outcome.sentence()
    losses = [row["loss"]["torch"] for row in outcome.trajectory]
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[1] == pytest.approx(losses[3], rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32"])
def test_a_program_is_compared_in_float32(compare_pair: ComparePair, dtype: str) -> None:
    outcome = compare_pair(
        *NETWORK.values(),
        inputs=[IMAGES],
        steps=1,
        program=program(),
        dtype=dtype,
        stages=("eval", "forward", "backward", "update"),
    )
    assert outcome.verdict == "equal", outcome.sentence()


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"torch_loss": "torch.nn:MSELoss()"}, "--torch-loss is given without --paddle-loss"),
        ({"paddle_optimizer": "paddle.optimizer:SGD"}, "--paddle-optimizer is given without --torch-optimizer"),
        ({"torch_loss": "a:b c", "paddle_loss": "a:b"}, "'a:b c' is not MODULE:FACTORY"),
        (
            {"torch_loss": len, "paddle_loss": len},
            "the torch loss is an object of this process, and the torch model a text",
        ),
        ({"loss_inputs": ["labels"]}, "no array 'labels' for --loss-input; there are no batches: write NAME=SHAPE"),
        (
            {"loss_inputs": {"labels": "6:10"}},
            "--loss-input needs losses that take it: pass --torch-loss and --paddle-loss",
        ),
        ({"batches": "nowhere.npz", "input_shape": None}, "cannot read nowhere.npz"),
        ({"batches": [{"x": IMAGES}]}, "the batches hold the inputs: leave out --inputs, --input-shape and --input"),
        ({"batches": [], "input_shape": None}, "there are no batches: pass FILE.npz"),
        ({"batches": [IMAGES], "input_shape": None}, "batch 0 is of type ndarray: it should map names to arrays"),
        ({"batches": [{"x": IMAGES}, {"y": IMAGES}], "input_shape": None}, "batch 1 has the arrays y, and batch 0 x"),
        (
            {"batches": [{"x": IMAGES, "labels": LABELS}], "input_shape": None},
            "the batches have 'labels', and no model has an argument of that name. If it is for the loss, pass --torch-loss",
        ),
        ({"batches": 3, "input_shape": None}, "the batches are of type int: pass FILE.npz"),
        ({"batches": np.zeros, "input_shape": None}, "the batches cannot be made: TypeError: "),
        ({"batches": (1 // n for n in [0]), "input_shape": None}, "the batches cannot be made: ZeroDivisionError: "),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    given = {"input_shape": (6, 1, 28, 28), "torch": NETWORK["torch"], "paddle": NETWORK["paddle"], **arguments}
    with pytest.raises(InputError) as error:
        compare_models(**given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loss", "optimizer", "message"),
    [
        ("numpy:zeros", "make_momentum", "the torch model failed in the loss: "),
        ("builtins:len", "make_momentum", "the torch side: the loss returns a int, not a tensor"),
        ("torch.nn:CrossEntropyLoss(reduction='none')", "make_momentum", "the loss returns a tensor of shape [6]"),
        ("torch.nn:Nothing", "make_momentum", "torch.nn"),
        (None, "builtins:str", "the factory of the optimizer makes a str: return an optimizer, (optimizer, scheduler)"),
        (None, "torch.optim:SGD(rate=1)", "the torch model failed in the optimizer: TypeError: "),
    ],
)
def test_a_loss_or_an_optimizer_that_fails_is_named(
    compare_pair: ComparePair, loss: str | None, optimizer: str, message: str
) -> None:
    given = program()
    losses = dict(given.loss) | ({"torch": loss} if loss else {})
    optimizers = dict(given.optimizer) | ({"torch": optimizer} if ":" in optimizer else {})
    targets: list[list[Any]] = [] if loss == "builtins:len" else [[LABELS]]
    if loss == "builtins:len":
        losses["paddle"] = "builtins:len"
    with pytest.raises(InputError) as error:
        compare_pair(*NETWORK.values(), inputs=[IMAGES], program=Program(losses, optimizers, targets=targets))
    assert message in str(error.value)


# Batches


def test_the_first_axis_of_a_file_is_the_step(tmp_path: Path) -> None:
    file = tmp_path / "batches.npz"
    np.savez(file, x=np.zeros((3, 4, 5)), labels=np.zeros((3, 4), np.int64), weight=np.ones((3, 4)))
    found = take_batches(file, 2, ".")
    assert [{name: array.shape for name, array in batch.items()} for batch in found] == [
        {"x": (4, 5), "labels": (4,), "weight": (4,)}
    ] * 2
    names, inputs, targets = split_batches(found, [], True, 0)
    assert (names, len(inputs[0]), len(targets[0])) == (["x", "weight"], 2, 1)
    assert split_batches(found, ["weight", "labels"], True, 0)[0] == ["x"]
    assert split_batches(found, [], False, 0)[0] == ["x", "labels", "weight"]
    assert split_batches(found, {"noise": "4,5", "labels": None}, True, 0)[2][0][1].shape == (4, 5)
    np.savez(file, x=np.zeros((3, 4)), y=np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"they differ in it: x \[3, 4\], y \[2, 4\]"):
        take_batches(file, 2, ".")


def test_arrays_are_passed_by_name_where_forward_has_the_name() -> None:
    assert find_names(["x", "mask"], {"torch": ["x", "mask"], "paddle": ["input", "mask"]}) == {
        "torch": ["x", "mask"],
        "paddle": ["", "mask"],
    }


# Causes


BEFORE = {"a": np.array([2.4, 1.8]), "b": np.array([0.0, 4.0]), "c": np.array([0.1, 0.0])}


@pytest.mark.parametrize(
    ("used", "text"),
    [
        (lambda g: g, "clips nothing"),
        (lambda g: {n: x / np.sqrt(25.01) for n, x in g.items()}, "clips the norm of all gradients to 1"),
        (
            lambda g: {n: x / max(1.0, float(np.linalg.norm(x))) for n, x in g.items()},
            "clips the norm of each gradient to 1",
        ),
        (lambda g: {n: np.clip(x, -1, 1) for n, x in g.items()}, "clips each number to 1"),
        (lambda g: {"a": g["a"] / 5, "b": g["b"] / 5, "c": g["c"]}, "clips the norm of all gradients to 1, except c"),
        (lambda g: {n: x / 7 for n, x in g.items()}, "multiplies all by 0.142857"),
        (lambda g: {n: x * 1024 for n, x in g.items()}, "multiplies all by 1024"),
        (lambda g: {n: x / 8.3 for n, x in g.items()}, "clips the sum of the absolute values of all gradients to 1"),
        (lambda g: {n: x / 7.3 * 1.4 for n, x in g.items()}, "clips the norm of all gradients to 0.959096"),
        (
            lambda g: {"a": g["a"] / np.sqrt(9.01), "b": g["b"] / 4, "c": g["c"] / np.sqrt(9.01)},
            "clips the norm of each group's gradients to 1",
        ),
    ],
)
def test_clipping_is_read_off_the_gradients(used: Callable[[Any], Any], text: str) -> None:
    assert str(infer_clipping(BEFORE, used(BEFORE))) == text


def test_a_change_that_is_no_clipping_has_no_name() -> None:
    assert infer_clipping(BEFORE, {name: array + 1 for name, array in BEFORE.items()}) is None
    found = infer_clipping(BEFORE, {name: array / np.sqrt(25.01) for name, array in BEFORE.items()})
    assert found and found.clip == Clip("global norm", 1.0)


def gradient(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """The gradient of the weighted sum of cross-entropies."""
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    one = np.eye(scores.shape[-1])[labels] * (1 - smoothing) + smoothing / scores.shape[-1]
    return weights[:, None] * (p - one)


SCORES, CLASSES = RANDOM.standard_normal((8, 5)), np.array([0, 1, 2, 3, 4, 0, 1, 2])
MEAN = np.full(8, 1 / 8)
CLASS_WEIGHTS = np.array([1.0, 2.0, 3.0, 1.0, 1.0])[CLASSES]


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        (gradient(SCORES, CLASSES, np.ones(8)), "reduction of the loss: PyTorch averages over all 8 labels, Paddle sums over the labels"),
        (gradient(SCORES, CLASSES, MEAN, 0.1), "label smoothing: PyTorch 0, Paddle 0.1"),
        (gradient(SCORES, CLASSES, (CLASSES != 0) / 6), "ignore_index of the loss: PyTorch ignores no label, Paddle ignores label 0; "
            "reduction of the loss: PyTorch averages over all 8 labels, Paddle averages over the 6 labels that are not ignored"),
        (gradient(SCORES, CLASSES, CLASS_WEIGHTS / 13), "(relative to the first): PyTorch equal, Paddle 0: 1, 1: 2, 2: 3, 3: 1"),
        (gradient(SCORES, CLASSES, MEAN * 0.5), "multiplies the sum over the labels by 0.0625"),
        (None, "only PyTorch's loss uses the output of the model"),
    ],
)  # fmt: skip
def test_a_loss_is_explained_by_the_gradients_of_its_outputs(theirs: np.ndarray | None, text: str) -> None:
    ours = gradient(SCORES, CLASSES, MEAN)
    found = {"torch": {"": ours}, "paddle": {} if theirs is None else {"": theirs}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": SCORES}, found, [CLASSES]))
    assert cause and text in (cause.sentence or "")


def test_the_divisor_of_weighted_labels_is_named() -> None:
    found = {
        "torch": {"": gradient(SCORES, CLASSES, CLASS_WEIGHTS / 14)},
        "paddle": {"": gradient(SCORES, CLASSES, CLASS_WEIGHTS / 8)},
    }
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": SCORES}, found, [CLASSES]))
    assert cause and cause.sentence == (
        "reduction of the loss: PyTorch divides by the sum of the weights of the labels, Paddle does not: they add up to 1.75"
    )
    found = {side: {"": gradient(SCORES, CLASSES, MEAN * factor)} for side, factor in (("torch", 0.4), ("paddle", 0.3))}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": SCORES}, found, [CLASSES]))
    assert cause and cause.sentence == "reduction of the loss: Paddle's loss is PyTorch's times 0.75"


def test_a_loss_of_no_labels_is_explained_by_a_factor_or_a_constant() -> None:
    ours = RANDOM.standard_normal((4, 3))
    both = {"torch": {"": ours}, "paddle": {"": ours * 12}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 12.0}, {"": ours}, both, []))
    assert cause and cause.sentence == (
        "Paddle's loss and its gradient are PyTorch's times 12, the size of the output: reduction"
    )
    same = {"torch": {"": ours}, "paddle": {"": ours}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 1.5}, {"": ours}, same, []))
    assert cause and cause.sentence == "the losses differ by 0.5, which depends on no output: their gradients are equal"
    ignoring = {"torch": {"": ours}, "paddle": {"": ours * (np.arange(4) != 2)[:, None]}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 1.0}, {"": ours}, ignoring, []))
    assert cause and cause.sentence == (
        "the values of the losses are equal, their gradients are not: only Paddle's loss ignores the samples 2"
    )
