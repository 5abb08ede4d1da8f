"""Vanishing gradients: the tolerance allows their rounding, and nothing else passes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from helpers.judged_records import judge_records
from parity import data
from parity.backend.worker import Worker
from parity.compare import training_source
from parity.compare.cancellation import Inherited, magnifications
from parity.compare.cancelled_terms import CancelledTerms
from parity.compare.check import Check, run_check
from parity.compare.program import Program, run_in_lockstep
from parity.compare.relative_error import norm, relative_l2
from parity.compare.step_inputs import StepInput
from parity.compare.tolerances import ALIKE, LARGEST
from parity.compare.training_source import known_zero_gradients
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    Node,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)
from parity.recipe.optimizer import Optimizer
from parity.selftest import changes
from parity.selftest.subject import DEPTHWISE, network, state, subject

NETWORK = Network("two", (1, 1, 3), (Flatten("flatten"), Linear("fc1", 4), ReLU("relu"), Linear("fc2", 3)))
LABELS = np.array([0, 1])


def record(residual: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
    """One step of two images with the `residual` softmax - one-hot [2,3], divided by 2."""
    return {"backward/fc2": residual / 2, **{name.replace("_", "/", 1): array for name, array in more.items()}}


FRESH = np.array([[-2 / 3, 1 / 3, 1 / 3], [1 / 3, -2 / 3, 1 / 3]])
FITTED = 1e-9 * np.array([[-2.0, 1.0, 1.0], [1.0, -2.0, 1.0]])


def test_images_that_are_not_fitted_magnify_nothing() -> None:
    assert magnifications(NETWORK, record(FRESH), LABELS, 2) == {}


def test_fitted_images_magnify_by_the_size_of_their_residual() -> None:
    found = magnifications(NETWORK, record(FITTED), LABELS, 2)
    assert found["backward/fc2"] == pytest.approx(1 / np.sqrt(6e-18), rel=1e-6)
    assert found["gradient/fc2.bias"] == found["backward/fc2"]


def test_one_fitted_image_among_others_excuses_nothing() -> None:
    # The part of the fitted image is as large as that of the other: the factor is at most the square root of their number.
    found = magnifications(NETWORK, record(np.stack([FITTED[0], FRESH[1]])), LABELS, 2)
    assert 1 < max(found.values()) < 2


def test_a_gradient_that_comes_from_the_fitted_image_alone_is_magnified() -> None:
    mixed = record(np.stack([FITTED[0], FRESH[1]]), forward_relu=np.array([[1.0, 0, 0, 2], [0, 0, 0, 0]]))
    found = magnifications(NETWORK, mixed, LABELS, 2)
    assert max(found["backward/fc2"], found["gradient/fc2.bias"]) < 2
    assert found["gradient/fc2.weight"] == pytest.approx(1 / np.sqrt(6e-18), rel=1e-6)


def test_in_earlier_layers_every_image_counts_by_its_part() -> None:
    mixed = np.stack([FITTED[0], FRESH[1]])
    alone = record(mixed, backward_relu=np.array([[1e-9, 0, 0, 0], [0, 0, 0, 0]]))
    assert magnifications(NETWORK, alone, LABELS, 2)["backward/relu"] > 1e8
    both = record(mixed, backward_relu=np.array([[1e-9, 0, 0, 0], [1.0, 0, 0, 0]]))
    assert magnifications(NETWORK, both, LABELS, 2)["backward/relu"] < 2


def test_a_batch_norm_mixes_the_images() -> None:
    nodes = (*NETWORK.nodes[:2], BatchNorm("bn"), *NETWORK.nodes[2:])
    mixed = record(
        np.stack([FITTED[0], FRESH[1]]),
        backward_bn=np.array([[1e-9, 0, 0, 0], [0, 0, 0, 0]]),  # the other image's units are all off
        backward_fc1=np.array([[1e-9, 0, 0, 0], [1e-9, 0, 0, 0]]),
    )
    found = magnifications(replace(NETWORK, nodes=nodes), mixed, LABELS, 2)
    assert found["gradient/bn.gamma"] == found["backward/bn"] > 1e8
    assert found["backward/fc1"] == pytest.approx(found["backward/bn"])


def test_the_loss_of_fitted_images_is_a_difference_of_large_scores() -> None:
    scores = np.array([[30.0, 0, 0], [0, 30.0, 0]])
    found = magnifications(NETWORK, {"forward/fc2": scores, "loss/cost": np.array([6e-12])}, LABELS, 2)
    assert found == {"loss/cost": pytest.approx(1e13), "loss/loss": pytest.approx(1e13)}


@pytest.mark.parametrize("value", [0.0, 1e-300])
def test_a_tolerance_stays_finite_if_all_terms_cancel(value: float) -> None:
    found = magnifications(
        NETWORK, record(value * FITTED) | {"forward/fc2": FRESH, "loss/cost": np.zeros(1)}, LABELS, 2
    )
    assert all(np.isfinite(1e-12 * factor) and factor <= LARGEST for factor in found.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_never_excused(value: float) -> None:
    broken = record(np.full((2, 3), value)) | {"forward/fc2": FRESH, "loss/cost": np.array([value])}
    assert magnifications(NETWORK, broken, LABELS, 2) == {}


def test_slots_keep_the_rounding_of_magnified_gradients_and_forget_it() -> None:
    name = "update/optimizer.velocity.fc1.weight"
    kept = Inherited(Optimizer("momentum", 0.1, momentum=0.5))
    kept.forget("fc1.weight", 1.0)
    assert kept.held(name) == 0  # no gradient vanishes: nothing is excused
    kept.add("fc1.weight", np.ones(4), np.ones(4) + 1e-6)
    assert kept.held(name) == pytest.approx(2e-6, rel=1e-6)
    kept.forget("fc1.weight", 10.0)
    assert kept.held(name) == pytest.approx(1e-5, rel=1e-6)
    assert kept.held("update/fc1.weight") == kept.held("update/optimizer.velocity.fc2.weight") == 0
    kept.move("fc1.weight", 1e-9)
    assert kept.held("update/fc1.weight") == 1e-9


@pytest.fixture(scope="module")
def fitted() -> Check:
    """A check whose images are all of one class that the network is sure of: every gradient is rounding."""
    made = subject(data.load("cifar10").limit(64, 1))
    dataset = replace(made.dataset, train_labels=np.zeros_like(made.dataset.train_labels))
    bias = np.where(np.arange(10) == 0, 25, 0).astype(np.float32)
    return replace(made, dataset=dataset, state=state() | {"fc3.bias": bias})


def test_vanishing_gradients_are_equal(fitted: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(fitted, workers)
    assert outcome.verdict == "equal", outcome.first


def test_without_the_rule_vanishing_gradients_would_be_different(
    fitted: Check, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_source, "magnifications", lambda *_: {})
    outcome = run_check(fitted, workers)
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.phase in ("loss", "backward")


def test_an_error_beside_vanishing_gradients_is_still_found(fitted: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(fitted, workers, changes.perturbed("conv2:weight:1e-9", network()))
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.layer == "conv2"


# ------------------------------------------------------------------------------------------------------- terms that cancel


def conv(name: str, filters: int = 8, kernel: int = 3, groups: int = 1, bias: bool = False) -> Conv:
    return Conv(name, filters, kernel, padding=kernel // 2, groups=groups, bias=bias)


FRONT = (conv("a", bias=True), BatchNorm("bn"))
BACK = (conv("b", groups=8), BatchNorm("bn_b"))
GATE = (GlobalAvgPool("squeeze"), Linear("excite", 8), Sigmoid("gate"))

CANCELLING: dict[str, tuple[Node, ...]] = {
    "norm, norm": (*FRONT, BatchNorm("bn_b"), ReLU("relu")),
    "norm, 1x1, norm": (*FRONT, conv("b", 16, 1), BatchNorm("bn_b"), ReLU("relu")),
    "norm, depthwise 1x1, norm": (*FRONT, conv("b", 8, 1, groups=8, bias=True), BatchNorm("bn_b")),
    "norm, ReLU, depthwise, norm": (*FRONT, ReLU("relu"), *BACK, ReLU("relu_b")),
    "two filters a channel": (*FRONT, ReLU("relu"), conv("b", 16, groups=8), BatchNorm("bn_b")),
    "dropout": (*FRONT, ReLU("relu"), Dropout("drop", 0.5), *BACK),
    "maximum": (*FRONT, ReLU("relu"), MaxPool("pool"), BatchNorm("bn_b")),
    "average": (*FRONT, ReLU("relu"), AvgPool("pool"), BatchNorm("bn_b")),
    "branches": (
        *FRONT,
        ReLU("relu"),
        Branches("both", (BACK, (conv("c", 8, 1, groups=8), BatchNorm("bn_c")))),
        ReLU("relu_b"),
    ),
    "linear": (Flatten("flat"), Linear("a", 16), BatchNorm("bn"), BatchNorm("bn_b"), ReLU("relu")),
    "sum with the identity": (*FRONT, ReLU("relu"), Add("sum", ((), (conv("b", groups=8),))), BatchNorm("bn_b")),
    "product": (*FRONT, ReLU("relu"), Multiply("both", ((conv("b", groups=8),), ())), BatchNorm("bn_b")),
    "channels of zeros": (*FRONT, ReLU("relu"), PadChannels("pad", 12), BatchNorm("bn_b"), ReLU("relu_b")),
}
"""Networks in which a batch norm cancels the effect of a gamma, a beta or a kernel before it, except for eps."""

OTHERS: dict[str, tuple[Node, ...]] = {
    "two channels a group": (*FRONT, ReLU("relu"), conv("b", groups=4), BatchNorm("bn_b")),
    "GELU": (*FRONT, GELU("gelu"), *BACK),
    "tanh": (*FRONT, Tanh("tanh"), *BACK),
    "SiLU": (*FRONT, SiLU("silu"), *BACK),
    "squeeze and excitation": (*FRONT, ReLU("relu"), Multiply("scale", ((), GATE)), BatchNorm("bn_b")),
    "linear, norm": (Flatten("flat"), Linear("a", 16), BatchNorm("bn"), ReLU("relu")),
}
"""Similar networks in which nothing cancels."""


def small(name: str, recipe: str = "article") -> Check:
    nodes = (CANCELLING | OTHERS)[name]
    flat = any(isinstance(node, Flatten) for node in nodes)
    end = (Linear("fc", 10),) if flat else (GlobalAvgPool("mean"), Linear("fc", 10))
    made = Network("small", (3, 32, 32), (*nodes, *end))
    return replace(subject(data.load("cifar10").limit(64, 1), recipe), network=made, state=None)


@pytest.fixture(scope="module")
def twin() -> Iterator[dict[str, Worker]]:
    """A worker that runs a one-ULP twin of Paddle."""
    with Worker("paddle", threads=1) as worker:
        yield {"twin": worker}


@pytest.mark.parametrize("recipe", ["article", pytest.param("quick", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CANCELLING | OTHERS)
def test_gradients_whose_terms_cancel_are_equal(
    name: str, recipe: str, workers: dict[str, Worker], twin: dict[str, Worker]
) -> None:
    outcome = run_check(small(name, recipe), workers | twin)
    assert outcome.verdict == "equal", outcome.first


@pytest.mark.slow
@pytest.mark.parametrize("name", CANCELLING | OTHERS)
def test_adams_amplification_of_cancelling_terms_is_no_difference(
    name: str, workers: dict[str, Worker], twin: dict[str, Worker]
) -> None:
    outcome = run_check(small(name, "adam"), workers | twin)
    assert outcome.verdict != "different", outcome.first


@pytest.mark.parametrize("name", CANCELLING)
def test_without_the_rule_cancelling_terms_would_be_different(
    name: str, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_source.TrainingStep, "cancellation", lambda *_: 1.0)
    assert run_check(small(name), workers).verdict == "different"


Recorded = tuple[Check, dict[str, np.ndarray], StepInput]


@pytest.fixture(scope="module")
def depthwise(workers: dict[str, Worker]) -> Recorded:
    """A step of the network with a depthwise block."""
    check = replace(subject(data.load("cifar10").limit(64, 1)), network=DEPTHWISE, state=None)
    step = next(run_in_lockstep({"torch": Program(workers["torch"], check.run_inputs())}, 1, check.phases))
    return check, {name: np.array(array) for name, array in step.records["torch"].items()}, step.inputs["torch"]


def test_only_cancelling_terms_are_magnified(depthwise: Recorded) -> None:
    check, found, _ = depthwise
    terms = CancelledTerms(check.network, found)
    above = {name for name in found if terms.magnification(name) > 1}
    assert above - {f"gradient/{name}" for name in check.network.zero_gradients} == {"gradient/norm1.gamma"}


def test_a_magnification_is_that_of_the_summed_terms(depthwise: Recorded) -> None:
    check, found, _ = depthwise
    x, dy = found["forward/expand"], found["backward/norm1"]
    axes = (0, 2, 3)
    normalised = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    size = norm(found["gradient/norm1.gamma"])
    assert relative_l2(found["gradient/norm1.gamma"], (dy * normalised).sum(axes)) < 1e-6
    expected = ALIKE * norm(dy * normalised) / size
    assert CancelledTerms(check.network, found).magnification("gradient/norm1.gamma") == pytest.approx(expected)


def test_kernels_and_inputs_count_every_product_once(depthwise: Recorded) -> None:
    check, found, _ = depthwise
    for layer, groups in (("expand", 1), ("depthwise", 8)):
        node = check.network.layers[layer].node
        assert isinstance(node, Conv)
        x = found["input/images"] if layer == "expand" else found["forward/relu"]
        dy, pad = found[f"backward/{layer}"], node.kernel // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (node.kernel, node.kernel), (2, 3))  # type: ignore[call-overload]
        squares = [
            np.einsum("nfyx,ncyxij->", b**2, a**2)
            for a, b in zip(np.split(windows, groups, 1), np.split(dy, groups, 1), strict=True)
        ]
        terms = CancelledTerms(check.network, found)
        assert terms._terms_of_parameter(layer, "weight") == pytest.approx(np.sqrt(np.sum(squares)))


def test_gradients_before_a_magnified_one_inherit_its_factor(depthwise: Recorded) -> None:
    check, found, _ = depthwise
    # The batch norm removes the two directions of this gradient, so nothing of it remains before the batch norm.
    x = found["forward/depthwise"]
    vanished = found | {"backward/norm2": 3.0 + 0 * x, "backward/depthwise": 1e-9 * found["backward/depthwise"]}
    terms = CancelledTerms(check.network, vanished)
    behind = terms.magnification("backward/depthwise")
    assert behind > 1e6
    assert terms.magnification("backward/relu") == terms.magnification("backward/norm1") == behind
    assert terms.magnification("gradient/norm1.beta") >= behind
    assert terms.magnification("gradient/norm2.gamma") >= terms.magnification("backward/norm2") == 1


def is_equal(depthwise: Recorded, name: str, error: float) -> bool:
    """Whether `name` is equal if the second side has this absolute `error`, in numbers of the size of the terms."""
    check, first, step_input = depthwise
    terms = CancelledTerms(check.network, first)
    wrong = first[name] + error * terms.magnification(name) * norm(first[name]) / np.sqrt(first[name].size)
    _, different = judge_records(check.network, {"one": first, "other": first | {name: wrong}}, step_input)
    return different == {}


@pytest.mark.parametrize("name", ["gradient/norm1.gamma", "gradient/norm1.beta", "backward/norm1", "update/norm1.mean"])
def test_an_error_beyond_the_rounding_of_the_terms_is_different(name: str, depthwise: Recorded) -> None:
    assert is_equal(depthwise, name, 0.9e-12)
    assert not is_equal(depthwise, name, 1.1e-12)


def test_cancelling_terms_never_excuse_nan_and_infinity(depthwise: Recorded) -> None:
    check, first, step_input = depthwise
    name = "gradient/norm1.gamma"
    broken = first | {name: np.full_like(first[name], np.nan)}
    assert name in judge_records(check.network, {"one": first, "other": broken}, step_input)[1]


def test_an_error_beside_terms_that_cancel_is_still_found(workers: dict[str, Worker]) -> None:
    check = replace(subject(data.load("cifar10").limit(64, 1)), network=DEPTHWISE, state=None)
    for change, where in (
        (changes.perturbed("depthwise:weight:1e-9", DEPTHWISE), ("start", "depthwise")),
        (changes.node("norm2", eps=2e-5)(check), ("eval", "norm2")),
        (changes.settings(weight_decay=0.0)(check), ("update", "expand")),
    ):
        first = run_check(check, workers, change).first
        assert first and (first.phase, first.layer) == where, first


def test_the_zero_gradients_of_a_dead_layer_are_equal() -> None:
    nodes = (Flatten("flat"), Linear("fc", 4), BatchNorm("bn"), Linear("fc2", 3))
    dead = {"gradient/fc.weight": np.zeros((4, 3)), "gradient/fc.bias": np.zeros(4)}
    assert known_zero_gradients(replace(NETWORK, nodes=nodes), dead, dead) == {"gradient/fc.bias": (0.0, 0.0)}
