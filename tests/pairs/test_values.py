"""Verdicts rest on results: other tensors inside make no difference, and every planted error is found and named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.pairs.alignment import returned
from parity.pairs.inputs import take_inputs
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "value_models_torch.py:", "value_models_paddle.py:"


def compare(compare_pair: ComparePair, torch: str, paddle: str, *shapes: str, **more: object) -> PairOutcome:
    return compare_pair(TORCH + torch, PADDLE + paddle, *shapes, **more)


def assert_equal(outcome: PairOutcome, explained: str = "") -> None:
    assert outcome.verdict == "equal", outcome.sentence()
    for stage in ("eval", "forward", "backward", "update", "trajectory"):
        assert outcome.stages[stage].compared > 0
    if explained:
        assert any(line.startswith(explained) for line in outcome.explained), outcome.explained


SHAPES = "tensors of two shapes, compared in one shape: "


@pytest.mark.parametrize(
    ("name", "shape", "inner"),
    [
        ("Places", "3,5,6", "places:output ([5, 6] and [3, 5, 6])"),
        ("Bordered", "2,3,7,6", "conv:input ([2, 5, 9, 8] and [2, 5, 7, 6])"),
        ("Causal", "2,3,9", "conv:input ([2, 3, 9] and [2, 3, 11]), conv:output ([2, 5, 11] and [2, 5, 9])"),
        ("Turned", "2,5,6", "a:input ([5, 2, 6] and [2, 5, 6]), a:output ([5, 2, 7] and [2, 5, 7])"),
    ],
)
def test_an_inner_tensor_of_another_shape_is_compared_and_shown(
    compare_pair: ComparePair, name: str, shape: str, inner: str
) -> None:
    assert_equal(compare(compare_pair, name, name, shape), SHAPES + inner)


def test_padding_before_a_layer_or_inside_of_it_is_no_difference(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Bordered", "Bordered", "2,3,7,6")
    assert_equal(outcome, "padding of Conv2d: PyTorch 0, Paddle 1 at conv: the input of one model is larger by as much")
    assert outcome.differences == []


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        ("mode='reflect'", "", "PyTorch pads by reflect before conv, and Paddle by zeros inside of it"),
        ("mode='replicate'", "", "PyTorch pads by replicate before conv, and Paddle by zeros inside of it"),
        ("value=0.001", "", "PyTorch pads by the value 0.001 before conv, and Paddle by zeros inside of it"),
        (
            "pads=[0, 2, 1, 1]",
            "",
            "PyTorch pads by zeros (1 and 1, 0 and 2 at the ends of its axes) before conv, and Paddle by",
        ),
        ("", "mode='reflect'", "PyTorch pads by zeros before conv, and Paddle by reflect inside of it"),
    ],
)
def test_padding_by_other_numbers_before_a_layer_is_named(
    compare_pair: ComparePair, torch: str, paddle: str, said: str
) -> None:
    first = compare(compare_pair, f"Bordered({torch})", f"Bordered({paddle})", "2,3,7,6", stages=("eval",)).first
    assert first and first.tensor == "conv:output" and said in str(first.cause)
    assert "padding of Conv2d: PyTorch 0" not in first.sentence()


def test_the_same_padding_of_another_mode_before_a_layer_is_equal(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Bordered(mode='reflect')", "Bordered('reflect')", "2,3,7,6"))


@pytest.mark.parametrize(
    ("flaw", "error", "said"),
    [
        ("factor=1.000001", 1e-6, "only Paddle calls multiply(1.000001) in the model itself"),
        ("kinked=True", 0.5, "only Paddle calls relu in the model itself"),
    ],
)
def test_a_flaw_before_a_padded_layer_is_not_lost_behind_the_padding(
    compare_pair: ComparePair, flaw: str, error: float, said: str
) -> None:
    first = compare(compare_pair, "Bordered", f"Bordered({flaw})", "2,3,7,6", stages=("eval",)).first
    assert first and first.tensor == "conv:input" and said in first.sentence()
    assert error / 3 < first.error < error * 3


def test_a_running_mean_that_is_zero_but_for_rounding_is_no_difference(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Centred", "Centred", "6,6"))
    shapes = {"first.weight": (8, 6), "first.bias": 8, "turn.weight": (8, 8), "last.weight": (3, 8), "last.bias": 3}
    shapes |= {f"{norm}.running_{what}": 8 for norm in ("free", "norm") for what in ("mean", "var")}
    shapes |= {f"norm.{what}": 8 for what in ("weight", "bias")}
    draw = np.random.default_rng(0)
    state = {name: draw.uniform(0.5, 1.5, shape) * draw.choice([-1, 1], shape) for name, shape in shapes.items()}
    state |= {name: abs(array) for name, array in state.items() if name.endswith("var")}
    state["norm.running_mean"] *= 1e-17  # what training leaves there
    assert_equal(compare_pair(TORCH + "Centred", PADDLE + "Centred", "6,6", start={"torch": state}))
    first = compare_pair(TORCH + "Centred", PADDLE + "Centred(0.1)", "6,6", start={"torch": state}).first
    assert first and (first.phase, first.tensor) == ("statistics", "free.mean")


def test_gradients_before_the_batch_mean_of_a_batch_norm_are_judged_by_their_terms(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Averaged", "Averaged", "6,3,5")
    assert_equal(outcome)
    assert {"first.weight", "first.bias", "free.weight", "free.bias", "second.weight", "second.bias"} <= {
        name.replace("gamma", "weight").replace("beta", "bias") for name in outcome.zero_gradients
    }
    first = compare(compare_pair, "Averaged", "Averaged(1.000001)", "6,3,5").first
    assert first and (first.phase, first.tensor) == ("backward", "norm:output")


def test_axes_in_another_order_are_equal_where_they_have_one_length(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Turned", "Turned", "4,4,6")
    assert_equal(outcome, "tensors of two shapes, compared in one shape: a:input ([4, 4, 6], axes in two orders), ")


def test_a_factor_at_another_place_is_equal(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Moved", "Moved", "4,6")
    assert_equal(outcome, "inner tensors differ, and no output, gradient or update does: b:input (error 6.7e-01)")


def test_integers_and_booleans_keep_their_dtype(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Indexed", "Indexed", "3,4,6"))


def test_activations_of_other_kinds_are_named_beside_layers_that_only_one_side_has(compare_pair: ComparePair) -> None:
    torch = "torch.nn:Sequential(Linear(6, 8), ReLU6(), Linear(8, 3))"
    paddle = "paddle.nn:Sequential(Linear(6, 8), ReLU(), Flatten(1), Linear(8, 3))"
    outcome = compare_pair(torch, paddle, "4,6")
    assert outcome.verdict == "equal" and outcome.differences == ["kind of layer: PyTorch ReLU6, Paddle ReLU at 1"]


def test_activations_of_two_names_are_equal_where_they_compute_the_same(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Activated('Hardtanh', 0.0, 6.0)", "Activated('ReLU6')", "4,6")
    assert_equal(outcome)
    assert outcome.differences == ["kind of layer: PyTorch hardtanh, Paddle ReLU6 at act"]


def test_a_layer_where_the_other_model_has_a_function_decides_nothing(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Swapped", "Swapped", "4,6"))


def test_a_gradient_of_its_own_is_equal(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Cubed", "Cubed", "4,6"))


def test_dropout_that_drops_nothing_is_equal_in_every_mode(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Dropped(0.0)", "Dropped(0.0)", "4,6")
    assert_equal(outcome)
    assert outcome.differences == []


PLANTED: dict[str, tuple[str, str, str, str, str, str | None]] = {
    "first place": (
        "Places", "Places(1)", "3,5,6", "eval", "places:output",
        "the whole numbers that go into places differ at 15 of 15 places: 0 in PyTorch, 1 in Paddle at [0, 0]",
    ),
    "padding mode": ("Bordered", "Bordered('reflect')", "2,3,7,6", "eval", "conv:output",
        "padding of Conv2d: PyTorch pads by zeros before conv, and Paddle by reflect inside of it",
    ),
    "padding": ("Causal", "Causal(True)", "2,3,9", "eval", "conv:input", "conv:input has shape [2, 3, 11] in Paddle"),
    "scale": ("Turned", "Turned(1.0000001)", "2,5,6", "eval", "b:input", None),
    "factor": ("Moved", "Moved(3.0000001)", "4,6", "eval", "b:input", None),
    "index": (
        "Indexed", "Indexed(2)", "3,4,6", "eval", "table:output",
        "the whole numbers that go into table differ at 1 of 4 places: 3 in PyTorch, 2 in Paddle at [3]",
    ),
    "clipped": (
        "Activated('ReLU6')", "Activated('ReLU')", "4,6", "eval", "act:output",
        "kind of layer: PyTorch ReLU6, Paddle ReLU at act",
    ),
    "gradient": (
        "Cubed", "Cubed(1.5)", "4,6", "backward", "before:output",
        "Paddle's gradient of before:output is PyTorch's times 0.5; the backward passes begin to differ between before and after",
    ),
    "scaled": (
        "Dropped(0.25)", "Dropped(0.25)", "4,6", "eval", "drop:output",
        "mode of Dropout: PyTorch upscale_in_train, Paddle downscale_in_infer at drop",
    ),
    "scaled by a function": (
        "Dropped(0.25)", "Dropped(0.25, True)", "4,6", "eval", "head:input",
        "only Paddle has dropout of the mode downscale_in_infer, at (the model itself) (p = 0.25): ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_error_is_found_and_named(compare_pair: ComparePair, fault: str) -> None:
    torch, paddle, shape, phase, tensor, cause = PLANTED[fault]
    outcome = compare(compare_pair, torch, paddle, shape)
    first = outcome.first
    assert outcome.verdict == "different"
    assert first is not None
    assert (first.step, first.phase, first.tensor) == (1, phase, tensor), first.sentence()
    assert cause is None or (first.cause or "").startswith(cause), first.sentence()


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("True", "the input of attend has its axes in another order: [5, 3, 8] in PyTorch, [3, 5, 8] in Paddle, and batch first is True"),
        ("False, False", "batch first of MultiheadAttention: PyTorch False, Paddle True at attend"),
    ],
)  # fmt: skip
def test_attention_along_another_axis_is_named(compare_pair: ComparePair, torch: str, said: str) -> None:
    first = compare(compare_pair, f"Attended({torch})", "Attended", "3,5,8", stages=("eval",)).first
    assert first and first.tensor == "attend:output" and (first.cause or "").startswith(said), first
    assert_equal(compare(compare_pair, "Attended(True, False)", "Attended", "3,5,8"))


def test_tensors_without_the_axis_of_the_batch_are_compared_also_where_they_differ(compare_pair: ComparePair) -> None:
    first = compare(compare_pair, "Places", "Places(1)", "3,5,6", stages=("eval",)).first
    assert first and first.tensor == "places:output" and 0.1 < first.error < 10


def test_an_input_of_another_size_is_followed_to_its_padding(compare_pair: ComparePair) -> None:
    first = compare(compare_pair, "Halved(0, 1, 0, 1)", "Halved(1, 1, 1, 1)", "2,3,8,8", stages=("eval",)).first
    assert first and first.tensor == "conv:output"
    assert "the input of conv has shape [2, 4, 9, 9] in PyTorch, [2, 4, 10, 10] in Paddle" in first.sentence()
    assert "pad((0, 1, 0, 1)" in first.sentence() and "[1, 1, 1, 1]" in first.sentence()


def test_shapes_of_an_input_that_only_one_side_pads_are_shown(compare_pair: ComparePair) -> None:
    first = compare(compare_pair, "Bordered", "Bordered(padding=0)", "2,3,7,6", stages=("eval",)).first
    assert first and first.tensor == "conv:input"
    assert "conv:input has shape [2, 5, 7, 6] in Paddle, [2, 5, 9, 8] in PyTorch" in first.sentence()
    assert "only PyTorch calls pad" in first.sentence()


# Random numbers

RANDOM = {
    "floor": "floor",
    "bernoulli": "bernoulli",
    "in place": "bernoulli",
    "like": "like",
    "range": "range",
    "integers": "integers",
    "gumbel": "gumbel",
}
"""PyTorch's way to draw -> Paddle's."""


@pytest.mark.parametrize("how", RANDOM)
def test_both_sides_draw_the_same_numbers(compare_pair: ComparePair, how: str) -> None:
    outcome = compare(compare_pair, f"Random({how!r})", f"Random({RANDOM[how]!r})", "6,6")
    assert_equal(outcome, "random numbers: both sides use the same ones, at (the model itself)")
    assert outcome.differences == []


def test_a_comparison_with_a_probability_and_bernoulli_are_equal(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Random('floor')", "Random('bernoulli')", "6,6")
    assert_equal(outcome)
    assert outcome.differences == []


def test_a_factor_of_its_own_and_a_dropout_are_equal(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Random('floor')", "Random('dropout')", "6,6")
    assert_equal(outcome)
    assert outcome.differences[0].startswith("dropout in training: PyTorch drops nothing, Paddle drops at")


def test_inference_draws_the_same_numbers_too(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Random('like', True)", "Random('like', True)", "6,6"))


def test_another_probability_is_named_and_no_call_beside_it(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Random('bernoulli')", "Random('rarer')", "40,6", steps=2)
    said = "probability of bernoulli in training: PyTorch 0.75 at (the model itself), Paddle 0.5 at (the model itself)"
    assert outcome.differences == [said] and outcome.first and outcome.first.phase == "forward"
    assert outcome.sentence().endswith(said)


def test_a_number_that_one_side_makes_a_tensor_is_an_argument(compare_pair: ComparePair) -> None:
    first = compare(compare_pair, "Random('floor')", "Random('rarer floor')", "40,6", steps=2).first
    assert first and "add(0.75) in PyTorch, add(0.5) in Paddle" in first.sentence()
    assert "to_tensor" not in first.sentence()


@pytest.mark.parametrize(("wrong", "cause"), [("wider", None), ("unscaled", "the input of head is ")])
def test_a_wrong_use_of_random_numbers_is_found(compare_pair: ComparePair, wrong: str, cause: str | None) -> None:
    outcome = compare(compare_pair, "Random('floor')", f"Random({wrong!r})", "200,6", steps=2)
    first = outcome.first
    assert first and (first.phase, first.tensor) == ("forward", "head:input"), outcome.sentence()


def test_numbers_that_only_one_side_draws_are_named(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Random('like')", "Random('floor')", "6,6", steps=2)
    assert outcome.differences == [
        "random numbers in training: PyTorch draws at (the model itself) (48 uniform), (the model itself) (48 normal), "
        "Paddle draws at (the model itself) (6 uniform)"
    ]


# Narrower dtypes

INSIDE = "float32 inside both models, at norm, the model itself after key, last: the check computes in float64 there"


def test_float32_inside_both_models_is_named_and_equal(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Islands", "Islands", "3,4,6")
    assert_equal(outcome, INSIDE)
    assert outcome.stages["backward"].worst and outcome.stages["backward"].worst.error < 1e-13


@pytest.mark.parametrize("planted", ["times=1.000001", "times=1.0000000001", "eps=1.1e-5"])
def test_a_small_error_beside_float32_is_found(compare_pair: ComparePair, planted: str) -> None:
    outcome = compare(compare_pair, "Islands", f"Islands({planted})", "3,4,6")
    assert outcome.verdict == "different"
    where = "last:output" if planted.startswith("eps") else "head:input"
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("eval", where), outcome.sentence()


@pytest.mark.parametrize(
    ("torch", "paddle", "tensor", "cause"),
    [
        ("'float32', ''", "'float32', 'float32'", "last:input", "only Paddle computes in float32, at the model itself after key"),
        ("'float32', 'float32'", "'', 'float32'", "norm:output", "only PyTorch computes in float32, at norm, last"),
        ("'', ''", "'', 'float32'", "last:input", "only Paddle computes in float32, at the model itself after key"),
        ("'float32', ''", "'', 'float32'", "norm:output", "only PyTorch computes in float32, at norm, last and only Paddle "),
        ("'', 'bfloat16'", "'', ''", "last:input", "only PyTorch computes in bfloat16, at the model itself after key"),
    ],
)  # fmt: skip
def test_float32_on_one_side_is_the_cause(
    compare_pair: ComparePair, torch: str, paddle: str, tensor: str, cause: str
) -> None:
    outcome = compare(compare_pair, f"Islands({torch})", f"Islands({paddle})", "3,4,6", steps=2)
    first = outcome.first
    assert first and first.tensor == tensor, outcome.sentence()
    assert (first.cause or "").startswith(cause), first.cause


@pytest.mark.parametrize("stages", [("eval",), ("eval", "forward", "backward", "update")])
def test_a_table_in_float32_may_be_computed_at_another_place(
    compare_pair: ComparePair, stages: tuple[str, ...]
) -> None:
    outcome = compare(compare_pair, "Tables", "Tables", "3,4,5", stages=stages)
    assert outcome.verdict == "equal", outcome.sentence()
    assert (
        "constants in float32 inside both models, at table in PyTorch: the check computes in float64 there"
        in outcome.explained
    )


@pytest.mark.parametrize(
    ("torch", "paddle", "cause"),
    [
        ("Tables", "Tables(times=1.000001)", "times 1.000001"),
        ("Tables", "Tables('float64')", "only PyTorch computes in float32, at table"),
        ("Tables('float64')", "Tables", "only Paddle computes in float32, at blocks.0, "),
    ],
)
def test_a_small_error_beside_such_a_table_and_float32_on_one_side_are_found(
    compare_pair: ComparePair, torch: str, paddle: str, cause: str
) -> None:
    first = compare(compare_pair, torch, paddle, "3,4,5", steps=2).first
    assert first and first.tensor == "blocks.0.out:input" and cause in (first.cause or ""), first


def test_a_float32_buffer_may_be_computed_in_forward_on_the_other_side(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Tables(is_buffer=True)", "Tables", "3,4,5")
    start = "constants in float32: PyTorch's model makes table.rates in float32 at the start, and Paddle's in forward: "
    assert_equal(outcome, start)


@pytest.mark.parametrize("stages", [("eval",), ("eval", "forward", "backward", "update")])
def test_both_models_may_make_float32_tables_at_other_stages(
    compare_pair: ComparePair, stages: tuple[str, ...]
) -> None:
    outcome = compare(compare_pair, "Tables(is_buffer=True)", "Tables(stored=500)", "3,4,5", stages=stages)
    assert outcome.verdict == "equal", outcome.sentence()
    start = "constants in float32: Paddle's model makes blocks.0.table, blocks.1.table in float32 at the start, and PyTorch's too: "
    assert any(line.startswith(start) for line in outcome.explained), outcome.explained


@pytest.mark.parametrize(
    "planted", ["times=1.000001", "base=100.0001", "times=1.000001, stored=500", "base=100.0001, stored=500"]
)
def test_a_small_error_beside_such_a_buffer_is_found(compare_pair: ComparePair, planted: str) -> None:
    first = compare(compare_pair, "Tables(is_buffer=True)", f"Tables({planted})", "3,4,5", steps=2).first
    assert first and (first.phase, first.tensor) == ("eval", "blocks.0.out:input"), first


@pytest.mark.parametrize(
    ("planted", "widen", "verdict"),
    [("", ("torch", "paddle"), "equal"), ("", ("torch",), "different"), (", times=1.000001", ("torch", "paddle"), "different")],
)  # fmt: skip
def test_widening_shows_whether_float32_on_one_side_is_the_only_difference(
    compare_pair: ComparePair, planted: str, widen: tuple[str, ...], verdict: str
) -> None:
    models = "Islands('float32', '')", f"Islands('', 'float32'{planted})"
    outcome = compare(compare_pair, *models, "3,4,6", widen=widen, steps=2)
    assert outcome.verdict == verdict, outcome.sentence()
    inside = [line for line in outcome.explained if line.startswith("float32 inside P")]
    assert [line.endswith(": the check computes in float64 there") for line in inside] == [True, "paddle" in widen]


def test_a_float32_comparison_has_a_float64_reference_without_float32_inside(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Islands", "Islands", "3,4,6", dtype="float32", stages=("eval", "forward"))
    assert outcome.verdict == "equal", outcome.sentence()


def test_a_hard_sigmoid_is_equal_in_both_spellings(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Hard", "Hard", "4,6")
    assert_equal(outcome, "float32 scalars: hard sigmoids round 1/6, and the check uses 1/6 on both sides, at hard")
    assert outcome.differences == []


@pytest.mark.parametrize("slope", [0.16667, 0.2])
def test_another_slope_of_a_hard_sigmoid_is_found(compare_pair: ComparePair, slope: float) -> None:
    first = compare(compare_pair, "Hard", f"Hard({slope})", "4,6", steps=2).first
    assert first and (first.phase, first.tensor) == ("eval", "head:input")


SCALED = (
    "selu", "other selu", "softshrink", "softplus", "elu", "celu", "leaky_relu", "hardtanh", "hardshrink", "thresholded_relu", "rrelu",
    "stanh", "logit", "label_smooth",
)  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
def test_scalars_that_float32_does_not_hold_are_equal(compare_pair: ComparePair, kind: str) -> None:
    outcome = compare(compare_pair, f"Scaled({kind!r})", f"Scaled({kind!r})", "4,6", steps=2)
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize("kind", ["softshrink", "softplus"])
def test_another_such_scalar_is_found(compare_pair: ComparePair, kind: str) -> None:
    first = compare(compare_pair, f"Scaled({kind!r}, 0.3000003)", f"Scaled({kind!r})", "4,6", steps=2).first
    assert first and (first.phase, first.layer) == ("eval", "act"), first


@pytest.mark.parametrize("torch", [False, True])
@pytest.mark.parametrize(("kind", "shape"), [("layer", "4,6"), ("group", "4,6,6"), ("instance", "4,6,6")])
def test_a_norm_written_by_hand_is_equal_to_that_of_the_framework(
    compare_pair: ComparePair, kind: str, shape: str, torch: bool
) -> None:
    models = f"Normalised({kind!r}, {torch})", f"Normalised({kind!r}, {not torch})"
    outcome = compare(compare_pair, *models, shape, steps=3)
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize("planted", ["1.001e-5", "1e-6", "1e-5, 1.000001"])
def test_another_eps_or_factor_of_a_norm_written_by_hand_is_found(compare_pair: ComparePair, planted: str) -> None:
    models = "Normalised('layer', False)", f"Normalised('layer', True, {planted})"
    first = compare(compare_pair, *models, "4,6", steps=2).first
    assert first and (first.phase, first.tensor) == ("eval", "norm:output"), first


def test_zero_gradients_of_a_layer_are_judged_by_that_of_its_output(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "without_effect", "without_effect", "4,3,6,5"))


def test_batch_norms_of_one_channel_are_equal(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "one_channel", "one_channel", "4,1,6,5"))


def test_a_single_number_as_output_is_equal(compare_pair: ComparePair) -> None:
    assert_equal(compare(compare_pair, "Mean", "Mean", "4,6"))


# Inputs by name

NAMED = (
    "--torch-input",
    "mask=2,5:2",
    "--paddle-input",
    "attention=2,5:2",
    "--input",
    "shift=2,5,6",
    "--input-shape",
    "2,5:7",
)


def run_command(*more: str, paddle: str = "Named") -> tuple[dict[str, Any], str]:
    """Return the JSON and the messages of `vgg-parity compare` for the models Named."""
    folder = Path(__file__).parents[1] / "helpers"
    models = ("--torch", f"{folder / TORCH[:-1]}:Named", "--paddle", f"{folder / PADDLE[:-1]}:{paddle}")
    command = [sys.executable, "-m", "parity", "compare", *models, *more, "--steps", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads((done.stdout.splitlines() or ["{}"])[-1]), done.stderr


def test_inputs_are_given_by_name_and_outputs_have_other_names() -> None:
    found, _ = run_command(*NAMED)
    assert found["verdict"] == "equal", found
    # What words makes, what head takes and makes, and two outputs; the integers that words takes are not compared.
    assert found["stages"]["eval"]["compared"] == 5


def test_an_error_in_an_input_by_name_is_found() -> None:
    first = run_command(*NAMED, paddle="Named(1.5)")[0]["first_divergence"]
    assert (first["phase"], first["tensor"]) == ("eval", "head:input")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((*NAMED, "--input", "shift=2,5,6"), "gives this name twice"),
        ((*NAMED, "--input", "mask=2,5:2"), "'mask' is given twice"),
        ((*NAMED, "--input", "2,5"), "has no name: write NAME=SHAPE"),
        ((*NAMED, "--input", "a b=2,5"), "'a b' is no name of an argument"),
        (NAMED[:4], "the torch model failed in forward at the model itself: TypeError"),
        ((), "and --input NAME=4,7 for each argument by name"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(more: tuple[str, ...], said: str) -> None:
    assert said in run_command(*more)[1]


def test_an_input_of_one_side_is_not_passed_to_the_other() -> None:
    arrays, names, _ = take_inputs(
        (2, 3), None, 0, {"both": {"a": "2"}, "torch": {"b": "3", "c": "4"}, "paddle": {"d": "5", "e": "4"}}
    )
    assert [array.shape for array in arrays] == [(2, 3), (2,), (3,), (5,), (4,)]
    assert names == {"torch": ["", "a", "b", None, "c"], "paddle": ["", "a", None, "d", "e"]}


def test_outputs_match_by_name_and_the_others_in_order() -> None:
    one, two = np.zeros(2), np.zeros(3)
    assert returned({"a": one, "b": two}, {"c": two, "a": one}) == [("a", "a"), ("b", "c")]
    assert returned({"a": one, "b": two}, {"a": one, "c": two, "d": one}) == [("a", "a")]
    assert returned({"a": one, "b": two}, {"c": two, "d": one}) == [("a", "c"), ("b", "d")]


@pytest.mark.parametrize(("name", "shape"), [("Bordered", "2,3,7,6"), ("Causal", "2,3,9")])
def test_a_layer_that_takes_another_shape_does_not_run_alone(compare_pair: ComparePair, name: str, shape: str) -> None:
    rows = compare(compare_pair, name, name, shape, stages=("eval",), isolate=True).isolated
    assert rows and {row["verdict"] for row in rows} == {"equal"}
    assert "conv" not in [row["layer"] for row in rows]


@pytest.mark.parametrize(
    ("paddle", "stages", "said"),
    [
        ("Places", None, "all weights together are not compared, and nothing measures how rounding grows"),
        ("Places", ("eval",), "nothing measures how rounding grows"),
        ("Places(first=1)", None, "rounding that the models multiply counts as a difference"),
    ],
)
def test_a_verdict_without_twins_says_what_it_lacks(
    compare_pair: ComparePair, pair_workers: dict[str, Any], paddle: str, stages: tuple[str, ...] | None, said: str
) -> None:
    two = {side: pair_workers[side] for side in ("torch", "paddle")}
    more = {"stages": stages} if stages else {}
    outcome = compare(compare_pair, "Places", paddle, "3,5,6", workers=two, **more)
    assert outcome.sentence().endswith(f"; without twins (--twins 0), {said}")
