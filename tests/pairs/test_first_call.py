"""The first function call that differs: flaws planted at one call of one block are named at that call in that block."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.modules.function_names import spoken_name
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.recipe.optimizer import Optimizer

TORCH, PADDLE = "call_models_torch.py:", "call_models_paddle.py:"
IMAGE, IDS = "2,3,8,8", "2,5:20"


def compare(compare_pair: ComparePair, torch: str, paddle: str, shape: str, *stages: str) -> PairOutcome:
    return compare_pair(TORCH + torch, PADDLE + paddle, shape, stages=stages or ("eval",))


def cause_of(outcome: PairOutcome) -> str:
    assert outcome.first
    return outcome.first.sentence()


@pytest.mark.parametrize(("model", "shape"), [("Residual", IMAGE), ("Encoder", IDS)])
def test_models_that_spell_the_same_calls_in_other_ways_are_equal(
    compare_pair: ComparePair, model: str, shape: str
) -> None:
    assert compare(compare_pair, model, model, shape).verdict == "equal"


@pytest.mark.parametrize(
    ("flaw", "at", "place", "said"),
    [
        (
            "gelu",
            3,
            "units.4.conv1:input",
            "between units.3.norm2 and units.4.conv1 PyTorch calls add, relu; Paddle calls add, gelu: "
            "in units.3 PyTorch calls relu, and Paddle calls gelu",
        ),
        (
            "scale",
            2,
            "units.3.conv1:input",
            "between units.2.norm2 and units.3.conv1 PyTorch calls add, relu; Paddle calls multiply, add, relu: "
            "only Paddle calls multiply(0.999) in units.2",
        ),
        (
            "missing",
            1,
            "units.1.conv2:input",
            "between units.1.norm1 and units.1.conv2 PyTorch calls relu; Paddle calls nothing: only PyTorch calls relu in units.1",
        ),
        (
            "shortcut",
            3,
            "units.4.conv1:input",
            "add in units.3 takes the output of units.2 in PyTorch, and the output of add in units.2 in Paddle",
        ),
        (
            "pool",
            0,
            "drop:input",
            "between units.4.norm2 and drop PyTorch calls add, relu, max_pool2d, flatten; "
            "Paddle calls add, relu, avg_pool2d, flatten: in the model itself PyTorch calls max_pool2d",
        ),
    ],
)
def test_a_flaw_between_two_layers_is_named_at_its_call(
    compare_pair: ComparePair, flaw: str, at: int, place: str, said: str
) -> None:
    outcome = compare(compare_pair, "Residual", f"Residual({flaw!r}, {at})", IMAGE)
    assert outcome.first
    assert outcome.first.tensor == place
    assert said in cause_of(outcome)


def test_a_result_without_a_gradient_is_recorded(pair_workers: dict[str, ModelWorker]) -> None:
    worker, x = pair_workers["paddle"], np.random.default_rng(0).standard_normal((4, 3))
    worker.open("paddle.nn:BatchNorm(3)", Optimizer("momentum", 0.1), 0, "", ())
    worker.compute_in("float64")
    results = [origin for call in worker.run([x], True, functions=[]).functions for origin in call["outputs"]]
    outputs = worker.run([x], True, functions=results).outputs
    gradients = worker.backward({name: np.ones_like(array) for name, array in outputs.items()})
    assert len(results) > 1
    assert set(gradients) == {"input/0", f"backward/{results[0]}"}


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("scale", "divide(2.0) in PyTorch, divide(3.0) in Paddle, in attention.1 returns different tensors"),
        (
            "mask",
            "in attention.1 PyTorch calls invert, masked_fill(-inf), and Paddle calls full_like(-2.0), expand, where",
        ),
        ("axis", "softmax(-1) in PyTorch, softmax(1) in Paddle, in attention.1 returns different tensors"),
        ("gelu", "gelu(approximate=True) in Paddle, in the model itself returns different tensors"),
    ],
)
def test_a_flaw_in_attention_is_named_at_its_call(compare_pair: ComparePair, flaw: str, said: str) -> None:
    outcome = compare(compare_pair, "Encoder", f"Encoder({flaw!r}, 1)", IDS)
    assert said in cause_of(outcome)


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        ("Additive", "Additive(1, 3.0)", "divide(2.0) in PyTorch, divide(3.0) in Paddle, in the model itself"),
        ("Additive", "Additive(0)", "triu(1) in PyTorch, triu(0) in Paddle, in the model itself"),
        ("Additive(0)", "Additive(0)", "full((4, 4), -inf) in PyTorch, full([4, 4], -1000000000.0) in Paddle"),
    ],
)
def test_another_number_in_a_mask_is_named_only_where_it_matters(
    compare_pair: ComparePair, torch: str, paddle: str, said: str
) -> None:
    assert compare(compare_pair, "Additive", "Additive", "2,4,8").verdict == "equal"
    assert said in cause_of(compare(compare_pair, torch, paddle, "2,4,8"))


@pytest.mark.parametrize(
    ("model", "flawed", "said"),
    [
        (
            "Last",
            "Last('relu')",
            "between first and last PyTorch calls multiply, relu6, getitem; Paddle calls multiply, relu, getitem",
        ),
        ("Last", "Last('slice')", "getitem((:, 1:)) in PyTorch, getitem((:, :-1)) in Paddle, in the model itself"),
        (
            "Whole",
            "Whole(0.4)",
            "PyTorch calls multiply(0.5), matmul in attention, and Paddle calls matmul, multiply(0.4)",
        ),
    ],
)
def test_a_layer_on_one_side_and_functions_on_the_other_are_compared_by_their_calls(
    compare_pair: ComparePair, model: str, flawed: str, said: str
) -> None:
    assert compare(compare_pair, model, model, "2,5,8").verdict == "equal"
    assert said in cause_of(compare(compare_pair, model, flawed, "2,5,8"))


def test_a_flaw_in_training_only_is_found_with_the_same_dropout_masks(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Residual", "Residual('scale', 4)", IMAGE, "forward")
    assert outcome.first
    assert outcome.first.phase == "forward"
    assert "only Paddle calls multiply(0.999) in units.4" in cause_of(outcome)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "OwnGradient",
            "Paddle's gradient of first:output is PyTorch's times 0.5; the backward passes begin to differ between first and last: "
            "the backward of Square (a torch.autograd.Function in PyTorch, a PyLayer in Paddle) in the model itself returns different",
        ),
        ("Detached", "between first and last: only Paddle detaches an input of multiply in the model itself"),
        ("DetachedBranch", "between first and branch: only Paddle detaches an input of linear in branch"),
        (
            "Kink",
            "between first and last: the backward of leaky_relu(0.1) in the model itself returns different gradients",
        ),
    ],
)
def test_a_wrong_gradient_is_placed_at_the_function_that_computes_it(
    compare_pair: ComparePair, model: str, said: str
) -> None:
    outcome = compare(compare_pair, model, model, "4,6", "forward", "backward")
    assert [outcome.stages[stage].summary()["verdict"] for stage in ("forward", "backward")] == ["equal", "different"]
    assert said in cause_of(outcome)


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (
            "Chance(0.8)",
            "probability of bernoulli in training: PyTorch 0.9 at (the model itself), Paddle 0.8 at (the model itself)",
        ),
        ("Chance(0.9, 0.8)", "less_than(0.9) in PyTorch, less_than(0.8) in Paddle"),
    ],
)
def test_a_probability_that_shows_in_a_later_step_is_named(compare_pair: ComparePair, port: str, said: str) -> None:
    assert compare_pair(TORCH + "Chance", PADDLE + "Chance", "2,6", steps=10).verdict == "equal"
    outcome = compare_pair(TORCH + "Chance", PADDLE + port, "2,6", steps=10)
    assert outcome.first and (outcome.first.step > 1, outcome.first.phase) == (True, "forward")
    assert said in cause_of(outcome)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Gated", "the backward passes begin to differ between first and gate"),
        ("Gated('input')", "(model):input/0"),
        ("Gated('ones')", "no gradient in Paddle: it is not used there, or not trained"),
    ],
)
def test_the_call_that_keeps_a_gradient_from_a_layer_is_named(compare_pair: ComparePair, model: str, said: str) -> None:
    cause = cause_of(compare(compare_pair, model, model, "4,6", "backward", "update"))
    assert said in cause and "only Paddle detaches an input of reshape in the model itself" in cause


def test_the_trees_mark_the_function_whose_gradient_is_wrong(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "OwnGradient", "OwnGradient", "4,6", "backward")
    mark = "<-- first divergence"
    model = ["  first Linear", f"  Square (function)    {mark}", "  last Linear"]
    assert outcome.tree.splitlines() == ["PyTorch", *model, "Paddle", *model]
    outcome = compare(compare_pair, "Detached", "Detached", "4,6", "backward")
    assert outcome.tree.count(f"  first Linear    {mark}, in the gradient of its output") == 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "Dropped",
            "at eval/drop:output (mode of Dropout: PyTorch upscale_in_train, Paddle downscale_in_infer at drop",
        ),
        (
            "DroppedByFunction",
            "at eval/last:input (dropout(0.2) in PyTorch, dropout(0.2, mode='downscale_in_infer') in",
        ),
    ],
)
def test_the_headline_names_a_much_larger_error_behind_the_first_one(
    compare_pair: ComparePair, model: str, said: str
) -> None:
    outcome = compare(compare_pair, model, model, "4,8")
    assert outcome.first
    assert outcome.first.tensor == "norm:output"
    assert outcome.first.error < 1e-7
    assert f"the largest error is 2.00e-01, {said}" in outcome.sentence()


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (("__mul__", "mul_", "__rmul__", "multiply"), "multiply"),
        (("cat", "concat"), "concat"),
        (("permute", "transpose", "T"), "transpose"),
        (("relu_", "relu"), "relu"),
        (("astype", "to", "cast"), "cast"),
    ],
)
def test_both_frameworks_names_of_a_function_are_one(names: tuple[str, ...], name: str) -> None:
    assert {spoken_name(one) for one in names} == {name}


def test_a_call_that_takes_another_weight_names_both(compare_pair: ComparePair) -> None:
    names = {"torch": [""], "paddle": [""]}  # as `take_inputs` returns them
    outcome = compare_pair(TORCH + "Exchanged", PADDLE + "Exchanged", "4,6", stages=("eval",), names=names)
    assert "multiply in the model itself takes one in PyTorch, and two in Paddle" in cause_of(outcome)


def test_a_flaw_before_an_output_with_another_name_is_named(compare_pair: ComparePair) -> None:
    assert compare(compare_pair, "Named", "Named", "4,6").verdict == "equal"
    outcome = compare(compare_pair, "Named", "Named(0.999)", "4,6")
    assert "tensor (output).pooled" in cause_of(outcome)
    assert cause_of(outcome).endswith(
        "Paddle calls tanh, multiply: only Paddle calls multiply(0.999) in the model itself"
    )


def test_a_gradient_that_is_zero_on_one_side_is_never_the_largest_error(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Normed", "Normed", "4,6", "forward", "backward")
    assert outcome.first
    assert outcome.first.tensor == "norm:output"
    assert not outcome.verdicts.largest
    errors = {row["layer"]: row["errors"] for row in outcome.layers()}
    assert 1e-3 < errors["first"]["gradient"] < 10
    assert outcome.stages["backward"].worst
    assert outcome.stages["backward"].worst.error < 10


@pytest.mark.parametrize("shape", ["2,3,6,6", "2,3,4,4"])
def test_axes_in_another_order_around_a_layer_are_no_divergence(compare_pair: ComparePair, shape: str) -> None:
    assert compare(compare_pair, "Channels", "Channels", shape, "eval", "forward", "backward").verdict == "equal"
    outcome = compare(compare_pair, "Channels", "Channels('gelu')", shape)
    assert "tensor last:input" in cause_of(outcome)
    assert "in the model itself PyTorch calls relu, and Paddle calls gelu" in cause_of(outcome)
    outcome = compare(compare_pair, "Channels", "Channels(eps=2e-6)", shape)
    assert "layer norm (candidate: norm.ln), tensor norm:output" in cause_of(outcome)
    assert outcome.first
    assert 1e-8 < outcome.first.error < 1e-4


def test_a_transpose_that_is_forgotten_between_layers_of_one_width_is_named(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Turned", "Turned", "2,4,4")
    assert "tensor last:input" in cause_of(outcome)
    assert "only PyTorch calls transpose(1, 2) in the model itself" in cause_of(outcome)


@pytest.mark.parametrize(
    ("model", "flawed", "said"),
    [
        ("Rooted", "Rooted(epsilon=1e-5)", "cause: add(1e-06) in PyTorch, add(1e-05) in Paddle, in norm returns"),
        ("Rooted", "Rooted(scale=1.000001)", "only Paddle calls multiply(1.000001) in norm"),
        (
            "Centred",
            "Centred",
            "kind of layer: PyTorch LayerNorm, Paddle rootnorm at norm; in norm PyTorch calls layer_norm;",
        ),
    ],
)
def test_a_flaw_in_a_class_with_another_name_is_named_at_its_call(
    compare_pair: ComparePair, model: str, flawed: str, said: str
) -> None:
    if model == "Rooted":
        assert compare(compare_pair, model, model, "4,6").verdict == "equal"
    assert said in cause_of(compare(compare_pair, model, flawed, "4,6"))


@pytest.mark.parametrize(
    ("model", "flawed", "shape", "said"),
    [
        (
            "Biased",
            "Biased(hidden=9.0)",
            "4,6",
            "add in the model itself takes the constant mask in PyTorch, and a constant in Paddle, which differ at 2 of 6 places: "
            "-9 in PyTorch, 9 in Paddle at [0, 1]",
        ),
        (
            "Biased",
            "Biased(scale=3.0)",
            "4,6",
            "multiply(2) in PyTorch, multiply(3.0) in Paddle, in the model itself returns",
        ),
        (
            "Positions",
            "Positions(3)",
            "2,5,6",
            "the whole numbers that go into table differ at 10 of 10 places: 0 in PyTorch, 3 in Paddle at [0, 0]",
        ),
        ("", "Projected", "2,5,8", "likely cause: only PyTorch has attention.out_proj.bias"),
        ("", "Rotated", "4,6", "in the model itself PyTorch calls add, and Paddle calls subtract"),
        (
            "",
            "Divided",
            "4,6",
            "divide(0.9) in PyTorch, divide(0.8) in Paddle, in the model itself takes the output of tanh",
        ),
    ],
)
def test_the_call_that_is_named_takes_equal_inputs_unless_it_says_which_differ(
    compare_pair: ComparePair, model: str, flawed: str, shape: str, said: str
) -> None:
    if model:
        assert compare(compare_pair, model, model, shape).verdict == "equal"
    assert said in cause_of(compare(compare_pair, flawed.partition("(")[0], flawed, shape))


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (
            "rows",
            "add in the model itself takes the output of rows with shape [3, 1, 6] in PyTorch, [1, 3, 6] in Paddle",
        ),
        (
            "index",
            "getitem (Paddle: gather) in the model itself takes the constant index in PyTorch, and the constant chosen in Paddle, "
            "which differ at 6 of 9 places: 1 in PyTorch, 3 in Paddle at [1]",
        ),
    ],
)
def test_rows_and_columns_of_a_square_that_are_exchanged_are_named(
    compare_pair: ComparePair, flaw: str, said: str
) -> None:
    cause = cause_of(compare(compare_pair, "Grid", f"Grid({flaw!r})", "2,6,3,3"))
    assert f": {said}" in cause
    assert "only" not in cause
