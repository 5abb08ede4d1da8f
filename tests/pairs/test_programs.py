"""Models trained by the user's own losses, optimizers and batches: equal pairs, what is refused, and what a first divergence names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.pair_models import ComparePair
from parity.backend.registry import make_backend
from parity.backend.user_program import UserProgram
from parity.errors import InputError
from parity.pairs.causes_of_programs import (
    LossEvidence,
    OptimizerEvidence,
    find_average_cause,
    find_clipping_cause,
    find_loss_cause,
    infer_clipping,
)
from parity.pairs.compare_models import compare_models
from parity.pairs.outcome import PairOutcome
from parity.pairs.programs import Program, find_names, split_batches, take_batches
from parity.recipe.optimizer_description import Clip, OptimizerDescription

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


LOSS = """
import numpy as np
import {side} as framework
from {side}.nn.functional import nll_loss
weights = framework.to_tensor(np.arange(1.0, 11.0)) if "{side}" == "paddle" else framework.arange(1.0, 11.0, dtype=framework.float64)
def loss(scores, labels):
    return nll_loss(scores, labels, {arguments})
"""


@pytest.mark.parametrize(
    "arguments", ["ignore_index=1", "ignore_index=1, reduction='sum'", "ignore_index=1, weight=weights"]
)
def test_labels_that_a_negative_log_likelihood_ignores_do_no_harm(
    compare_pair: ComparePair, arguments: str, tmp_path: Path
) -> None:
    losses = {}
    for side in SIDES:
        (tmp_path / f"loss_{side}.py").write_text(LOSS.format(side=side, arguments=arguments))
        losses[side] = f"{tmp_path}/loss_{side}.py:loss"
    labels = np.array([1, 1, 2, 3, 1, 4])
    given = Program(losses, program().optimizer, targets=[[labels]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=4, program=given)
    assert outcome.verdict == "equal", outcome.sentence()


AVERAGED = {
    "torch": """
import torch
class Training:
    def __init__(self, model):
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), 0.01)
        self.averages = {{name: weight.detach().clone() for name, weight in model.named_parameters()}}
    def step(self):
        self.optimizer.step()
        for name, weight in self.model.named_parameters():
            self.averages[name].mul_({kept}).add_(weight.detach(), alpha=1 - {kept})
""",
    "paddle": """
import copy
import paddle
class Training:
    def __init__(self, model):
        self.model, self.optimizer = model, paddle.optimizer.AdamW(0.01, parameters=model.parameters())
        self.averages = copy.deepcopy(model)
    @paddle.no_grad()
    def step(self):
        self.optimizer.step()
        for average, weight in zip(self.averages.parameters(), self.model.parameters()):
            average.set_value({kept} * average + (1 - {kept}) * weight)
""",
}


def compare_training(
    compare_pair: ComparePair, folder: Path, texts: dict[str, str], losses: dict[str, str] | None = None, **program: Any
) -> tuple[PairOutcome, str]:
    """Compare the trainings of two files; return the first divergence as well, "" if there is none."""
    optimizers = {}
    for side, text in texts.items():
        (folder / f"training_{side}.py").write_text(text)
        optimizers[side] = f"{folder}/training_{side}.py:Training"
    given = Program(losses or {side: f"{side}_impl.training:image_loss" for side in SIDES}, optimizers, **program)
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=4, program=given)
    return outcome, outcome.first.sentence() if outcome.first else ""


@pytest.mark.parametrize("kept", [0.9, 0.99])
def test_averages_of_weights_are_compared(compare_pair: ComparePair, kept: float, tmp_path: Path) -> None:
    texts = {"torch": AVERAGED["torch"].format(kept=0.9), "paddle": AVERAGED["paddle"].format(kept=kept)}
    outcome, first = compare_training(compare_pair, tmp_path, texts, targets=[[LABELS]])
    if kept == 0.9:
        assert outcome.verdict == "equal" and not outcome.differences, outcome.sentence()
        # Of each of 8 parameters: weight, two moments, count, average. And all weights together.
        assert outcome.verdicts.stages["update"].compared == 41
    else:
        assert first.startswith("step 1, state, layer conv1, tensor average.conv1.weight"), first
        assert "the average of weights keeps 0.9 of its old value in PyTorch, 0.99 in Paddle" in first


def test_averages_that_differ_from_the_second_step_are_named(compare_pair: ComparePair, tmp_path: Path) -> None:
    texts = {"torch": AVERAGED["torch"].format(kept=0.9), "paddle": AVERAGED["paddle"].format(kept="self.kept()")}
    texts["paddle"] = (
        texts["paddle"]
        .replace("def step", "taken = 0\n    @paddle.no_grad()\n    def step")
        .replace("self.kept()", "(0.9 if self.taken < 2 else 0.99)")
        .replace("self.optimizer.step()", "self.optimizer.step()\n        self.taken += 1")
        .replace("@paddle.no_grad()\n    taken", "taken")
    )
    _, first = compare_training(compare_pair, tmp_path, texts, targets=[[LABELS]])
    assert first.startswith("step 2, state, layer conv1, tensor average.conv1.weight"), first
    assert "the average of weights keeps 0.9 of its old value in PyTorch, 0.99 in Paddle" in first


ACCUMULATED = {
    "torch": """
import torch
class Training:
    def __init__(self, model):
        self.optimizer, self.done = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), 0
        self.parameters = list(model.parameters())
    def zero_grad(self):
        if self.done % 2 == 0:
            self.optimizer.zero_grad()
    def step(self):
        self.done += 1
        if self.done % 2 == 0:
            for parameter in self.parameters:
                parameter.grad /= 2
            self.optimizer.step()
""",
    "paddle": """
import paddle
class Training:
    def __init__(self, model):
        self.optimizer, self.done = paddle.optimizer.Momentum(0.05, 0.9, parameters=model.parameters()), 0
    def clear_grad(self):
        if self.done % 2 == 0:
            self.optimizer.clear_grad()
    def step(self):
        self.done += 1
        if self.done % 2 == 0:
            for parameter in self.optimizer._parameter_list:
                paddle.assign(parameter.grad / 2, parameter.grad)
            self.optimizer.step()
""",
}


@pytest.mark.parametrize("fault", [None, *SIDES])
def test_gradients_are_accumulated_over_two_steps(compare_pair: ComparePair, fault: str | None, tmp_path: Path) -> None:
    texts, batches = dict(ACCUMULATED), {"inputs": [[IMAGES], [IMAGES[::-1]]], "targets": [[LABELS], [LABELS]]}
    if fault:
        texts[fault] = texts[fault].replace("grad / 2", "grad").replace("grad /= 2", "grad /= 1")
    outcome, first = compare_training(compare_pair, tmp_path, texts, **batches)
    if not fault:
        assert outcome.verdict == "equal" and not outcome.differences, outcome.sentence()
        losses = [row["loss"]["torch"] for row in outcome.trajectory]
        assert losses[0] != losses[2] and losses[1] != losses[3]  # the weights have moved after two steps
    else:
        said = {side: "clips nothing" if side == fault else "divides all gradients by 2" for side in SIDES}
        assert first.startswith("step 2, clipped, layer conv1"), first
        assert f"PyTorch {said['torch']}, Paddle {said['paddle']}" in first


@pytest.mark.parametrize("fault", SIDES)
def test_a_loss_without_the_steps_of_an_accumulation_is_named(
    compare_pair: ComparePair, fault: str, tmp_path: Path
) -> None:
    texts, losses = dict(ACCUMULATED), {}
    for side in SIDES:
        texts[side] = texts[side].replace("grad / 2", "grad").replace("grad /= 2", "grad /= 1")
        divided = "" if side == fault else " / 2"
        (tmp_path / f"halved_{side}.py").write_text(
            f"from {side}_impl.training import image_loss\ndef loss(*given): return image_loss(*given){divided}\n"
        )
        losses[side] = f"{tmp_path}/halved_{side}.py:loss"
    _, first = compare_training(compare_pair, tmp_path, texts, losses, targets=[[LABELS]])
    said = {side: "" if side == fault else ", and divides by 2" for side in SIDES}
    whole = "averages over all 6 labels"
    assert first.startswith("step 1, loss")
    assert f"reduction of the loss: PyTorch {whole}{said['torch']}, Paddle {whole}{said['paddle']}" in first


def test_averages_that_only_one_program_has_are_named(compare_pair: ComparePair, tmp_path: Path) -> None:
    texts = {"torch": AVERAGED["torch"].format(kept=0.9), "paddle": AVERAGED["paddle"].format(kept=0.9)}
    texts["paddle"] = texts["paddle"].replace("self.averages", "self.shadow")
    outcome, _ = compare_training(compare_pair, tmp_path, texts, targets=[[LABELS]])
    assert outcome.differences[0].startswith("averages of weights: only PyTorch's program has those of conv1.weight")


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
        (lambda g: {n: x / 7 for n, x in g.items()}, "divides all gradients by 7"),
        (lambda g: {n: x * 1024 for n, x in g.items()}, "multiplies all gradients by 1024"),
        (lambda g: {n: x / 8.3 for n, x in g.items()}, "clips the sum of the absolute values of all gradients to 1"),
        (lambda g: {n: x / 7.3 * 1.4 for n, x in g.items()}, "clips the norm of all gradients to 0.959096"),
        (
            lambda g: {"a": g["a"] / np.sqrt(9.01), "b": g["b"] / 4, "c": g["c"] / np.sqrt(9.01)},
            "clips the norm of each group's gradients to 1",
        ),
        (
            lambda g: {"a": g["a"] / 6, "b": g["b"] / 8, "c": g["c"] / 2},
            "divides all gradients by 2 and clips the norm of each gradient to 0.5",
        ),
    ],
)
def test_clipping_is_read_off_the_gradients(used: Callable[[Any], Any], text: str) -> None:
    assert str(infer_clipping(BEFORE, used(BEFORE))) == text


def clipped_by_hand(g: dict[str, np.ndarray], eps: float) -> dict[str, np.ndarray]:
    """Half of the gradients, clipped by their norm to 1."""
    size = np.linalg.norm(np.concatenate(list(g.values()))) / 2
    return {name: array / 2 / (size + eps) for name, array in g.items()}


def test_clipping_that_adds_to_the_norm_is_named() -> None:
    used = {"torch": clipped_by_hand(BEFORE, 0), "paddle": clipped_by_hand(BEFORE, 1e-6)}
    described = dict.fromkeys(used, OptimizerDescription("sgd", "SGD", {name: {} for name in BEFORE}))
    cause = find_clipping_cause(OptimizerEvidence(described, dict.fromkeys(used, BEFORE), used), "a")
    assert cause and cause.sentence
    assert cause.sentence.startswith("Paddle's program adds 1e-06 to the norm of all gradients, PyTorch's does not")
    used["paddle"] = clipped_by_hand(BEFORE, 1e-4)
    cause = find_clipping_cause(OptimizerEvidence(described, dict.fromkeys(used, BEFORE), used), "a")
    assert cause and cause.sentence and "clips the norm of all gradients to 0.99996" in cause.sentence


def test_gradients_divided_after_clipping_are_named() -> None:
    size = np.linalg.norm(np.concatenate(list(BEFORE.values())))
    used = {
        side: {n: x * limit / size for n, x in BEFORE.items()} for side, limit in (("torch", 0.3), ("paddle", 0.3 / 8))
    }
    described = dict.fromkeys(used, OptimizerDescription("sgd", "SGD", {name: {} for name in BEFORE}))
    evidence = OptimizerEvidence(described, dict.fromkeys(used, BEFORE), used)
    cause = find_clipping_cause(evidence, "a")
    assert (
        cause
        and cause.sentence
        and cause.sentence.endswith("to 0.0375; or Paddle clips to 0.3, and divides by 8 afterwards")
    )
    described["paddle"] = replace(described["paddle"], clip=Clip("global norm", 0.0375))
    cause = find_clipping_cause(evidence, "a")
    assert cause and cause.sentence and cause.sentence.endswith("to 0.0375")


def test_an_average_without_the_new_weight_is_named() -> None:
    start, after = {"a": np.zeros(3)}, {"a": np.ones(3)}
    averages = {"torch": {"a": {"average": 0.1 * after["a"]}}, "paddle": {"a": {"average": start["a"]}}}
    sides = dict.fromkeys(SIDES, OptimizerDescription("sgd", "SGD"))
    evidence = OptimizerEvidence(sides, {}, {}, start, dict.fromkeys(SIDES, after), averages)
    cause = find_average_cause(evidence, "a")
    assert cause and cause.sentence
    assert cause.sentence.startswith("only Paddle's average of weights does not take the new weight")


def test_a_change_that_is_no_clipping_has_no_name() -> None:
    assert infer_clipping(BEFORE, {name: array + 1 for name, array in BEFORE.items()}) is None
    found = infer_clipping(BEFORE, {name: array / np.sqrt(25.01) for name, array in BEFORE.items()})
    assert found and found.clip == Clip("global norm", 1.0)


def gradient(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """The gradient of the weighted sum of cross-entropies."""
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    one = np.eye(scores.shape[-1])[labels] * (1 - smoothing) + smoothing / scores.shape[-1]
    return weights[:, None] * (p - one)


def gradient_by_class(weights: np.ndarray, smoothing: float) -> np.ndarray:
    """The gradient of PyTorch's cross-entropy, in which the term of each class has its weight."""
    z = torch.from_numpy(SCORES).requires_grad_()
    y, w = torch.from_numpy(CLASSES), torch.from_numpy(weights)
    torch.nn.functional.cross_entropy(z, y, w, label_smoothing=smoothing).backward()
    assert z.grad is not None
    return z.grad.numpy()


def gradient_behind_a_softmax(smoothing: float) -> np.ndarray:
    z = torch.from_numpy(SCORES).requires_grad_()
    torch.nn.functional.cross_entropy(z.softmax(-1), torch.from_numpy(CLASSES), label_smoothing=smoothing).backward()
    assert z.grad is not None
    return z.grad.numpy()


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
        (gradient(SCORES, CLASSES, MEAN) * 0.5, "Paddle averages over all 8 labels, and divides by 2"),
        (None, "only PyTorch's loss uses the output of the model"),
    ],
)  # fmt: skip
def test_a_loss_is_explained_by_the_gradients_of_its_outputs(theirs: np.ndarray | None, text: str) -> None:
    ours = gradient(SCORES, CLASSES, MEAN)
    found = {"torch": {"": ours}, "paddle": {} if theirs is None else {"": theirs}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": SCORES}, found, [CLASSES]))
    assert cause and text in (cause.sentence or "")


@pytest.mark.parametrize(
    ("factor", "text"),
    [(1 + 3e-8, "times 1 + 3.0e-08"), (1 - 2e-9, "times 1 - 2.0e-09"), (1 + 1e-4, "times 1.0001"), (-1.0, "times -1")],
)
def test_a_factor_near_one_is_not_called_one(factor: float, text: str) -> None:
    gradients = RANDOM.standard_normal((8, 5))
    found = {"torch": {"": gradients}, "paddle": {"": factor * gradients}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": factor}, {"": SCORES}, found, []))
    assert cause and (cause.sentence or "").endswith(f"Paddle's loss and its gradient are PyTorch's {text}"), cause


WEIGHTS = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
BY_SAMPLE = (0.9 * WEIGHTS + 0.1 * WEIGHTS.mean())[CLASSES]


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        (gradient_by_class(WEIGHTS, 0.2), "label smoothing: PyTorch 0.1, Paddle 0.2"),
        (
            gradient(SCORES, CLASSES, MEAN, 0.1),
            "weights of the classes (relative to the first): PyTorch 0: 1, 1: 2, 2: 0.5, 3: 1 and 1 more, Paddle equal",
        ),
        (
            gradient(SCORES, CLASSES, BY_SAMPLE / BY_SAMPLE.sum(), 0.1),
            "weights of the classes with label smoothing: PyTorch multiplies each class's term by its weight, Paddle multiplies each "
            "sample by the weight of its smoothed label",
        ),
        (
            gradient_behind_a_softmax(0.1),
            "only Paddle's loss applies a softmax to the outputs before that of the cross-entropy",
        ),
        (
            gradient_by_class(WEIGHTS, 0.1) - 0.3 * SCORES,
            "loss is that of PyTorch minus 6 times the mean of the squares of the output",
        ),
    ],
)
def test_weights_and_label_smoothing_are_told_apart(theirs: np.ndarray, text: str) -> None:
    found = {"torch": {"": gradient_by_class(WEIGHTS, 0.1)}, "paddle": {"": theirs}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 2.0}, {"": SCORES}, found, [CLASSES]))
    assert cause and text in (cause.sentence or ""), cause


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
    assert cause and cause.sentence == (
        "reduction of the loss: PyTorch averages over all 8 labels, times 0.4, Paddle averages over all 8 labels, times 0.3"
    )


def test_a_loss_of_no_labels_is_explained_by_a_factor_or_a_constant() -> None:
    ours = RANDOM.standard_normal((4, 3))
    both = {"torch": {"": ours}, "paddle": {"": ours * 12}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 12.0}, {"": ours}, both, []))
    assert cause and cause.sentence == (
        "Paddle's loss and its gradient are PyTorch's times 12, the size of the output: reduction"
    )
    same = {"torch": {"": ours}, "paddle": {"": ours}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 1.5}, {"": ours}, same, []))
    assert (
        cause
        and cause.sentence
        == "the losses differ by 0.5, and their gradients are equal: one adds a constant, or limits its value"
    )
    ignoring = {"torch": {"": ours}, "paddle": {"": ours * (np.arange(4) != 2)[:, None]}}
    cause = find_loss_cause(LossEvidence({"torch": 1.0, "paddle": 1.0}, {"": ours}, ignoring, []))
    assert cause and cause.sentence == (
        "the values of the losses are equal, their gradients are not: only Paddle's loss ignores the samples 2"
    )


def test_the_ratio_of_two_numbers_explains_no_loss() -> None:
    ours, number = RANDOM.standard_normal((4, 3)), np.ones(1)
    theirs = {"0": ours + RANDOM.standard_normal((4, 3)), "1": 3 * number}
    found = {"torch": {"0": ours, "1": number}, "paddle": theirs}
    evidence = LossEvidence({"torch": 1.0, "paddle": 2.0}, {"0": ours, "1": number}, found, [])
    assert find_loss_cause(evidence) is None
    cause = find_loss_cause(replace(evidence, losses={"torch": 1.0, "paddle": 1.0}))
    assert cause and cause.generic and cause.sentence and cause.sentence.endswith("may be detached")
    found["torch"], found["paddle"] = {"0": ours}, {"0": ours, "1": 0 * number}
    cause = find_loss_cause(evidence)
    assert (
        cause and cause.sentence and cause.sentence.startswith("the losses differ by 1, and their gradients are equal")
    )
    found["torch"], found["paddle"] = {"0": ours, "1": number}, {"0": ours, "1": 3 * number}
    cause = find_loss_cause(evidence)
    assert cause and cause.sentence == "output 1: Paddle's gradient of the loss is PyTorch's times 3"


PROBABILITIES = """
import {side} as framework
from {side}.nn import functional
def loss(scores, labels):
    scores, one = {scale} * scores, functional.one_hot(labels, 10)
    p = {p}
    return -(one * framework.log(p{added}) + (1 - one) * framework.log(1 - p)).mean()
"""


@pytest.mark.parametrize("added", ["", " + 1e-6"])
@pytest.mark.parametrize(
    ("rough", "scale", "spelled"),
    [
        ("torch", 8, "0.5 * (1 + framework.tanh(scores / 2))"),
        ("paddle", 7, "1 - 1 / (1 + framework.exp(scores))"),
    ],
)
def test_a_loss_that_loses_digits_in_itself_has_the_tolerance_of_its_rounding(
    compare_pair: ComparePair, rough: str, scale: int, spelled: str, added: str, tmp_path: Path
) -> None:
    """One minus a probability near 1 has few digits. So have the probability near 0 that one plus a tangent gives, and gradients."""
    losses = {}
    for side in SIDES:
        p = spelled if side == rough else "functional.sigmoid(scores)"
        text = PROBABILITIES.format(side=side, scale=scale, p=p, added=added if side == "paddle" else "")
        (tmp_path / f"lost_{side}.py").write_text(text)
        losses[side] = f"{tmp_path}/lost_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=3, program=given)
    assert (outcome.verdict == "different") == bool(added), outcome.sentence()
    assert any("rounding in Paddle's loss" in text for text in outcome.explained) == (rough == "paddle" and not added)


SCALED = """
def loss(scores, labels):
    p = (scores - scores.min()) / (scores.max() - scores.min())
    if (p > 1).any():
        raise ValueError("p is above 1")
    return (p * p).sum()
"""


def test_a_loss_of_a_twin_is_rounded_only_within_its_domain(compare_pair: ComparePair, tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(SCALED)
    given = Program(dict.fromkeys(SIDES, f"{tmp_path}/scaled.py:loss"), program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=2, program=given)
    assert outcome.verdict == "equal", outcome.sentence()


BINARY = """
from {side}.nn import functional
def loss(scores, labels):
    return functional.binary_cross_entropy(functional.sigmoid(200 * scores), functional.one_hot(labels, 10){cast})
"""


def test_the_limits_of_a_binary_cross_entropy_are_equal(compare_pair: ComparePair, tmp_path: Path) -> None:
    losses = {}
    for side in SIDES:
        text = BINARY.format(side=side, cast=".to(scores)" if side == "torch" else "")
        (tmp_path / f"binary_{side}.py").write_text(text)
        losses[side] = f"{tmp_path}/binary_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=1, program=given)
    assert outcome.verdict == "equal", outcome.sentence()


class Counting:
    """A loss that grows with each of its calls."""

    calls = 0

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.calls * scores.sum()


def test_a_model_and_its_twin_do_not_share_what_a_loss_keeps() -> None:
    loss, scores, backend = Counting(), torch.ones(3, requires_grad=True), make_backend("torch")
    programs = [UserProgram(backend, loss, None) for _ in range(2)]
    for one in programs:
        one.convert("float64")
    assert [one.compute_loss(scores, [], torch.nn.Identity()).item() for one in programs * 2] == [3, 3, 6, 6]
    assert loss.calls == 0


DRAWING = {
    "torch": "scores[torch.randperm(6)] + torch.randn(6, 10), labels",
    "paddle": "scores[paddle.randperm(6)] + paddle.randn([6, 10]), labels",
}


@pytest.mark.parametrize("factor", [1, 2])
def test_losses_draw_the_same_random_numbers(compare_pair: ComparePair, factor: int, tmp_path: Path) -> None:
    losses = {}
    for side in SIDES:
        text = f"return {factor if side == 'paddle' else 1} * cross_entropy({DRAWING[side]})"
        code = f"import {side}\nfrom {side}.nn.functional import cross_entropy\ndef loss(scores, labels):\n    {text}\n"
        (tmp_path / f"drawing_{side}.py").write_text(code)
        losses[side] = f"{tmp_path}/drawing_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=3, program=given)
    assert outcome.verdict == ("equal" if factor == 1 else "different"), outcome.sentence()
    assert factor == 1 or "times 2" in outcome.sentence()


GAUSSIAN = "from {side}.nn import functional as F\ndef loss(scores, labels):\n    return "
GAUSSIAN += "F.gaussian_nll_loss(scores[:, :5], 0 * scores[:, :5], F.softplus(scores[:, 5:]))\n"


def test_paddle_gives_the_variance_of_a_gaussian_loss_no_gradient(compare_pair: ComparePair, tmp_path: Path) -> None:
    """See docs/differences.md."""
    for side in SIDES:
        (tmp_path / f"gaussian_{side}.py").write_text(GAUSSIAN.format(side=side))
    losses = {side: f"{tmp_path}/gaussian_{side}.py:loss" for side in SIDES}
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=1, program=given)
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("backward", "(output)")
    assert "a part of one loss may be detached" in outcome.sentence()
    worst = outcome.verdicts.stages["forward"].worst
    assert worst and worst.error < 1e-12


COMPILED = """
import {side}
{decorator}
def loss(scores, labels):
    return {side}.nn.functional.cross_entropy(scores, labels)
"""


def test_a_compiled_loss_is_compared(compare_pair: ComparePair, tmp_path: Path) -> None:
    losses = {}
    for side, decorator in zip(SIDES, ('@torch.compile(backend="eager")', ""), strict=True):
        (tmp_path / f"compiled_{side}.py").write_text(COMPILED.format(side=side, decorator=decorator))
        losses[side] = f"{tmp_path}/compiled_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=2, program=given)
    assert outcome.verdict == "equal", outcome.sentence()


IN_FLOAT32 = {
    "equal": "functional.cross_entropy(scores, labels)",
    "label smoothing: PyTorch 0, Paddle 0.1": "functional.cross_entropy(scores, labels, label_smoothing=0.1)",
    "the losses differ by 1, and their gradients are equal": "functional.cross_entropy(scores, labels) + 1",
    "the loss is not finite in Paddle": "functional.cross_entropy(scores, labels) + float('inf')",
}


@pytest.mark.parametrize("named", IN_FLOAT32)
def test_losses_are_compared_in_float32(compare_pair: ComparePair, named: str, tmp_path: Path) -> None:
    losses = {}
    for side, name in zip(SIDES, ("equal", named), strict=True):
        code = f"from {side}.nn import functional\ndef loss(scores, labels):\n    return {IN_FLOAT32[name]}\n"
        (tmp_path / f"float32_{side}.py").write_text(code)
        losses[side] = f"{tmp_path}/float32_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=2, program=given, dtype="float32")
    assert outcome.verdict == ("equal" if named == "equal" else "different")
    assert named == "equal" or (outcome.first and outcome.first.phase == "loss" and named in outcome.sentence())


UNKNOWN = "import {side}\nfrom {side}.nn.functional import cross_entropy\ndef loss(scores, labels):\n    "
UNKNOWN += "return cross_entropy(scores, labels) + {side}.log1p({factor} * scores * scores).mean()\n"


def test_the_functions_of_losses_are_named_where_no_formula_explains_them(
    compare_pair: ComparePair, tmp_path: Path
) -> None:
    losses = {}
    for side, factor in zip(SIDES, (0.5, 0.3), strict=True):
        (tmp_path / f"unknown_{side}.py").write_text(UNKNOWN.format(side=side, factor=factor))
        losses[side] = f"{tmp_path}/unknown_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=1, program=given)
    assert outcome.first and outcome.first.phase == "loss"
    assert "multiply(0.5) in PyTorch, multiply(0.3) in Paddle, in the loss" in outcome.sentence()


OPTIMIZERS = {
    "torch": "import torch\ndef make(model):\n    return torch.optim.SGD(model.parameters(), 0.01, 0.9)\n",
    "paddle": "import paddle\ndef make(model):\n    return paddle.optimizer.Momentum(0.02, 0.9, model.parameters())\n",
}


def test_a_setting_of_the_optimizers_is_named_in_float32(compare_pair: ComparePair, tmp_path: Path) -> None:
    for side, code in OPTIMIZERS.items():
        (tmp_path / f"optimizer_{side}.py").write_text(code)
    optimizers = {side: f"{tmp_path}/optimizer_{side}.py:make" for side in SIDES}
    given = Program(program().loss, optimizers, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=1, program=given, dtype="float32")
    assert outcome.first and outcome.first.phase == "update"
    assert outcome.first.cause == "learning rate: PyTorch 0.01, Paddle 0.02 at all 8 parameters"


PENALTY = """
from {side}.nn.functional import cross_entropy
def loss(scores, labels, model):
    return cross_entropy(scores, labels) + sum({share} * (w * w).sum() for w in model.parameters() if w.ndim > 1)
"""


@pytest.mark.parametrize("share", [0.01, 0.02])
def test_a_loss_may_take_the_model_for_a_penalty_on_weights(
    compare_pair: ComparePair, share: float, tmp_path: Path
) -> None:
    losses = {}
    for side in SIDES:
        code = PENALTY.format(side=side, share=share if side == "paddle" else 0.01)
        (tmp_path / f"penalty_{side}.py").write_text(code)
        losses[side] = f"{tmp_path}/penalty_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=2, program=given)
    assert outcome.verdict == ("equal" if share == 0.01 else "different"), outcome.sentence()


IN_FLOAT64 = """
from {side}.nn.functional import cross_entropy
def loss(scores, labels):
    return cross_entropy({scores}, labels)
"""


@pytest.mark.parametrize("spelled", [("scores.float()", "scores.astype('float32')"), ("scores.float()", "scores")])
def test_losses_that_ask_for_float32_are_compared_in_float64(
    compare_pair: ComparePair, spelled: tuple[str, str], tmp_path: Path
) -> None:
    losses = {}
    for side, scores in zip(SIDES, spelled, strict=True):
        (tmp_path / f"narrow_{side}.py").write_text(IN_FLOAT64.format(side=side, scores=scores))
        losses[side] = f"{tmp_path}/narrow_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=2, program=given)
    assert outcome.verdict == "equal", outcome.sentence()


GROWING = """
from {side}.nn.functional import cross_entropy
calls = 0
def loss(scores, labels):
    global calls
    calls += 1
    return cross_entropy(scores, labels) * (1 + {share} * calls)
"""


def test_what_a_loss_keeps_counts_as_no_rounding(compare_pair: ComparePair, tmp_path: Path) -> None:
    losses = {}
    for side, share in zip(SIDES, (1e-9, 2e-9), strict=True):
        (tmp_path / f"growing_{side}.py").write_text(GROWING.format(side=side, share=share))
        losses[side] = f"{tmp_path}/growing_{side}.py:loss"
    given = Program(losses, program().optimizer, targets=[[LABELS]])
    outcome = compare_pair(*NETWORK.values(), inputs=[IMAGES], steps=1, program=given)
    assert outcome.verdict == "different", outcome.explained


NORMALISED = """
from {side} import nn
class Net({base}):
    def __init__(self):
        super().__init__()
        self.bn, self.fc = nn.{norm}(4), nn.Linear(4, 3)
    def forward(self, x):
        before, self.bn.{momentum} = self.bn.{momentum}, {share}
        y = self.fc(self.bn(x))
        self.bn.{momentum} = before
        return y
def loss(scores, labels):
    return nn.functional.cross_entropy(scores, labels)
"""


def test_running_statistics_may_be_the_first_difference_of_a_program(compare_pair: ComparePair, tmp_path: Path) -> None:
    words = {"torch": ("nn.Module", "BatchNorm1d", "momentum"), "paddle": ("nn.Layer", "BatchNorm1D", "_momentum")}
    for side, (base, norm, momentum) in words.items():
        code = NORMALISED.format(
            side=side, base=base, norm=norm, momentum=momentum, share=0.4 if side == "torch" else 0.5
        )
        (tmp_path / f"normalised_{side}.py").write_text(code)
    files = {side: f"{tmp_path}/normalised_{side}.py" for side in SIDES}
    given = Program({side: f"{file}:loss" for side, file in files.items()}, targets=[[np.arange(6) % 3]])
    x = np.random.default_rng(0).standard_normal((6, 4))
    outcome = compare_pair(*(f"{file}:Net" for file in files.values()), inputs=[x], steps=1, program=given)
    assert outcome.first and outcome.first.phase == "statistics", outcome.sentence()
