"""Comparison of two models: every kind of layer, every hazard, and planted errors, each found and named at its layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.compare.relu_kinks import by_rounding
from parity.compare.tolerances import MOVED, TWIN
from parity.errors import InputError
from parity.modules import layer_kinds
from parity.pairs.model_source import ModelStep
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.recipe.optimizer import Optimizer

KINDS = {
    "Linear": "4,6",
    "Conv1d": "4,6,9",
    "Conv2d": "4,6,9,9",
    "Conv3d": "2,6,5,5,5",
    "ConvTranspose1d": "4,6,9",
    "ConvTranspose2d": "4,6,5,5",
    "ConvTranspose3d": "2,6,3,3,3",
    "BatchNorm1d": "5,6",
    "BatchNorm2d": "4,6,3,3",
    "BatchNorm3d": "2,6,2,3,3",
    "LayerNorm": "4,6",
    "GroupNorm": "4,6,3,3",
    "InstanceNorm2d": "4,6,3,3",
    "Embedding": "4,7:6",
    "PReLU": "4,6,3,3",
    "LSTM": "4,5,6",
    "GRU": "4,5,6",
    "RNN": "4,5,6",
    "AvgPool2d": "4,6,8,8",
    "AvgPool2d_exclusive": "4,6,9,9",
    "AdaptiveAvgPool2d": "4,6,7,7",
    "LeakyReLU": "4,6",
    "ELU": "4,6",
    "Dropout2d": "4,6,3,3",
    "GELU": "4,6",
}
IMAGE = "4,3,12,12"


def assert_equal(outcome: PairOutcome, *stages: str) -> None:
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.first is None
    assert outcome.differences == []
    for stage in stages or ("eval", "forward", "backward", "update", "trajectory"):
        assert outcome.stages[stage].compared > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_every_kind_is_mapped_and_equal(compare_pair: ComparePair, kind: str) -> None:
    outcome = compare_pair(f"OneKind({kind!r})", f"OneKind({kind!r})", KINDS[kind])
    weights = bool(outcome.pairing.arrays)
    assert_equal(outcome, "eval", "forward", "backward", *(("update", "trajectory") if weights else ()))
    assert weights == (
        kind not in {"AvgPool2d", "AvgPool2d_exclusive", "AdaptiveAvgPool2d", "LeakyReLU", "ELU", "Dropout2d", "GELU"}
    )


def test_a_network_with_functions_and_both_kinds_of_dropout_is_equal(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Net", "Net", IMAGE)
    assert_equal(outcome)
    assert outcome.pairing.how == "names"
    assert outcome.zero_gradients == ["conv1.bias", "conv2.bias"]
    assert [row["step"] for row in outcome.trajectory] == [1, 2, 3]
    assert all(row["error"] <= row["twin"] < 1e-15 for row in outcome.trajectory)
    for row in outcome.trajectory:
        assert row["bound"] == pytest.approx(TWIN * row["twin"] + MOVED * row["moved"], rel=1e-6)
    moved = [row["moved"] for row in outcome.trajectory]
    assert 1e-8 < moved[0] < moved[1] < moved[2] < 1e-3  # small, and 1e8 times the error of the sides


def test_the_farthest_of_several_twins_counts(compare_pair: ComparePair, pair_workers: dict[str, ModelWorker]) -> None:
    with ModelWorker("torch", threads=1) as second, ModelWorker("torch", threads=1) as third:
        one, two, three = (
            compare_pair("Net", "Net", IMAGE, workers=pair_workers | more, optimizer=Optimizer("momentum", 0.1), seed=2)
            for more in (
                {},
                {"twin": second, "twin 2": third},
                {"twin": second, "twin 2": third, "twin 3": pair_workers["twin"]},
            )
        )
    assert [outcome.to_json()["twins"] for outcome in (one, two, three)] == [1, 2, 3]
    assert one.trajectory[0]["error"] == two.trajectory[0]["error"] == three.trajectory[0]["error"]
    far = [outcome.trajectory[-1]["twin"] for outcome in (one, two, three)]
    assert far[0] > 0 and far == sorted(far)  # each has the twins of the one before, and one more


def test_average_pools_without_padding_may_count_it_or_not(compare_pair: ComparePair) -> None:
    torch, paddle = "torch.nn:AvgPool2d(2)", "paddle.nn:AvgPool2D(2)"
    assert compare_pair(torch, paddle, "2,3,4,4").differences == []
    (said,) = compare_pair("torch.nn:AvgPool2d(2, 2, 1)", "paddle.nn:AvgPool2D(2, 2, 1)", "2,3,4,4").differences
    assert said.startswith("count include pad of AvgPool2d: PyTorch True, Paddle False")


def test_what_the_check_neutralises_is_reported(compare_pair: ComparePair) -> None:
    said = "\n".join(compare_pair("Net", "Net", IMAGE).explained)
    assert "running variance: PyTorch uses the unbiased batch variance and Paddle the biased one" in said
    assert "(n/(n-1) = 1.0017 to 1.007), at bn1, bn2" in said
    assert (
        "Paddle's kernels round eps 1e-05 of BatchNorm to 9.999999747378752e-06, and the check uses 1e-05 on both sides"
        in said
    )
    assert "dropout: both sides use the same masks, at (the model itself), drop" in said


def test_separate_projections_match_the_packed_ones_of_attention(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Attention", "Attention", "4,5,8")
    assert_equal(outcome)
    assert outcome.pairing.arrays["attention.key.weight"] == {
        "torch": "attention.in_proj_weight[1/3]",
        "paddle": "attention.k_proj.weight.T",
    }
    assert outcome.zero_gradients == ["attention.key.bias"]


def test_two_inputs_several_outputs_repeated_and_unused_layers_are_equal(compare_pair: ComparePair) -> None:
    outcome = compare_pair("TwoInputs", "TwoInputs", "3,4:11", "3,4,5")
    assert_equal(outcome)
    assert outcome.explained == [
        "no gradient on either side, since training does not use them: unused.bias, unused.weight"
    ]
    # What words makes, what inner and act take and make in two calls each, and three outputs.
    assert outcome.stages["eval"].compared == 1 + 2 * 2 + 2 * 2 + 3


def test_numbers_in_forward_have_the_precision_of_their_tensors(compare_pair: ComparePair) -> None:
    assert_equal(compare_pair("Numbers", "Numbers", "4,6"))


def test_a_shape_may_hold_tensors_beside_numbers(compare_pair: ComparePair) -> None:
    assert_equal(compare_pair("ClassToken", "ClassToken", "4,3,6"))


def test_shared_weights_are_equal(compare_pair: ComparePair) -> None:
    assert_equal(compare_pair("Tied", "Tied", "4,6"))


def test_weights_that_only_one_side_shares_are_named(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Tied", "Tied(tied=False)", "4,6")
    assert outcome.first and outcome.first.phase == "gradient"
    assert outcome.first.cause == "shared with another layer: second.weight (in PyTorch only)"


def test_a_head_that_only_one_side_ties_is_named(compare_pair: ComparePair) -> None:
    outcome = compare_pair("TiedHead", "TiedHead", "4,5:9")
    assert outcome.first
    assert (outcome.first.phase, outcome.first.layer) == ("gradient", "head")
    assert outcome.first.cause == "shared with another layer: head.weight (in PyTorch only)"


def test_a_factory_may_be_an_existing_model(compare_pair: ComparePair) -> None:
    assert_equal(compare_pair("READY", "READY", "4,6"))


def test_layers_with_other_names_are_matched_by_order(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Renamed", "Renamed", "4,3,6,6")
    assert_equal(outcome)
    assert outcome.pairing.how == "order of execution"
    assert outcome.pairing.partner("torch") == {"stem.0": "_conv_a", "stem.2": "_conv_b", "head": "classifier"}


OWN_KIND = {
    "name": "Mix",
    "classes": {"torch": ["pair_models_torch.Mix"], "paddle": ["pair_models_paddle.Blend"]},
    "arrays": {"matrix": {"torch": "matrix", "paddle": "table.T"}},
}


def test_a_file_adds_a_kind_of_layer(compare_pair: ComparePair, tmp_path: Path) -> None:
    matched = compare_pair("Own", "Own", "4,6")  # by shapes: the arrays of own classes have any names
    assert matched.pairing.arrays == {"mix.matrix": {"torch": "mix.matrix", "paddle": "mix.table.T"}}
    (tmp_path / "kinds.json").write_text(json.dumps([OWN_KIND]))
    kinds = layer_kinds.read_kinds(tmp_path / "kinds.json")
    outcome = compare_pair("Own", "Own", "4,6", kinds=kinds)
    assert_equal(outcome)
    assert (outcome.pairing.pairs[0][0].kind, matched.pairing.pairs[0][0].kind) == ("Mix", "mix")  # valid for one call


@pytest.mark.parametrize("text", ["{}x", "[1]", '[{"name": "a"}]', '[{"name": "a", "classes": {"torch": []}}]'])
def test_a_file_that_holds_no_kinds_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "kinds.json").write_text(text)
    with pytest.raises(InputError, match="holds no kinds of layers"):
        layer_kinds.read_kinds(tmp_path / "kinds.json")


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "projection"])
def test_every_loss_and_optimizer_is_equal_on_both_sides(compare_pair: ComparePair, loss: str) -> None:
    optimizer = (
        Optimizer("adam", 0.001)
        if loss == "cross_entropy"
        else Optimizer("momentum", 0.1, weight_decay=1e-3, nesterov=True)
    )
    assert_equal(compare_pair("Chain", "Chain", "4,6", loss=loss, optimizer=optimizer))


def test_models_are_chaotic_but_equal_where_rounding_decides_at_a_kink(compare_pair: ComparePair) -> None:
    settings: dict[str, object] = {"optimizer": Optimizer("momentum", 0.01), "steps": 4}
    assert_equal(compare_pair("Kinked", "Kinked", "8,64", **settings))
    outcome = compare_pair("Kinked", f"Kinked(shift=1e-20, times={1 + 2**-52})", "8,64", **settings)
    assert (outcome.verdict, outcome.first) == ("chaotic but equal", None)
    assert [row["step"] for row in outcome.trajectory] == [1, 2]  # later steps are not compared
    (said,) = (line for line in outcome.explained if "rounding" in line)
    assert said.startswith(
        "step 2: ReLU kinks in relu: rounding decides whether 512 elements pass. The sides differ there by up to 1.0e-20"
    )
    assert outcome.to_json()["stages"]["trajectory"]["verdict"] == "chaotic but equal"


def test_rounding_decides_only_within_what_rounding_can_do() -> None:
    x, crossed = np.array([0.0, 1.0, 2.0, 3.0]), np.array([True, False, False, False])
    near, twin = np.add(x, [1e-16, 2e-16, 0, 0]), np.add(x, [0, 0, 4e-16, 0])
    assert by_rounding(x, near, crossed, [x, twin])
    assert not by_rounding(x, near, crossed, [])  # without a twin, the size of rounding is unknown
    assert not by_rounding(x, near, crossed, [twin[:3]])
    assert not by_rounding(
        x, np.add(x, [1e-14, 2e-16, 0, 0]), crossed, [twin + 1]
    )  # far from zero, among others that are near
    assert not by_rounding(x, np.add(x, [1e-14, 1e-14, 0, 0]), crossed, [twin])  # all far, and not the twin
    assert not by_rounding(x, np.add(x, [np.nan, 2e-16, 0, 0]), crossed, [twin])


@pytest.mark.parametrize("planted", ["shift=1e-6", "times=1.000001", "shift=1e-20, times=1.000001"])
def test_a_true_difference_stays_different_when_numbers_cross_kinks(compare_pair: ComparePair, planted: str) -> None:
    outcome = compare_pair("Kinked", f"Kinked({planted})", "8,64", optimizer=Optimizer("momentum", 0.01), steps=4)
    assert outcome.verdict == "different"
    assert outcome.first and outcome.first.step == 2
    assert "rounding" not in " ".join(outcome.explained)


def test_models_are_equal_where_rounding_decides_a_maximum_before_a_pool(
    compare_pair: ComparePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = ("eval", "forward", "backward")
    outcome = compare_pair("Tailed", "Tailed", "16,3,32,32", stages=stages)
    assert outcome.verdict == "equal", outcome.sentence()
    assert any("step 1: max-pool ties in gelu: rounding decides whether" in line for line in outcome.explained)
    monkeypatch.setattr(ModelStep, "ties", lambda *_: None)
    outcome = compare_pair("Tailed", "Tailed", "16,3,32,32", stages=stages)
    (line,) = (
        line for line in outcome.explained if "inner tensors differ" in line
    )  # the gradient of the input is equal
    assert "gelu:output" in line


# Planted errors

PLANTED = {
    "eps": ("Net", "Net(eps=1e-3)", "eval", "bn2", "bn2:output", "eps of BatchNorm: PyTorch 1e-05, Paddle 0.001 at bn2"),
    "momentum": (
        "Net", "Net(momentum=0.8)", "statistics", "bn2", "bn2.mean",
        "momentum (weight of the old value) of BatchNorm: PyTorch 0.9, Paddle 0.8 at bn2",
    ),
    "padding": ("Net", "Net(padding=0)", "eval", "conv2", "conv2:output", "padding of Conv2d: PyTorch 1, Paddle 0 at conv2"),
    "dropout": ("Net", "Net(p=0.5)", "forward", "drop", "drop:output", "p of Dropout: PyTorch 0.4, Paddle 0.5 at drop"),
    "bias": ("Net", "Net(bias=False)", "eval", "conv1", "conv1:output", "only PyTorch has conv1.bias"),
    "exchanged": (
        "Chain", "Chain('bac')", "eval", "a", "a:input",
        "the input of a is the model's input in PyTorch and relu(the output of b) in Paddle",
    ),
    "no relu": (
        "Chain", "Chain(relu=False)", "eval", "b", "b:input",
        "the input of b is relu(the output of a) in PyTorch and the output of a in Paddle",
    ),
    "detached": (
        "Chain", "Chain(detached=True)", "gradient", "a", "a.bias", "no gradient in Paddle: it is not used there, or not trained",
    ),
    "padding index": (
        "Words(0)", "Words(None)", "gradient", "embed", "embed.weight",
        "padding idx of Embedding: PyTorch 0, Paddle -1 at embed",
    ),
    "float32": (
        "Single", "Single", "eval", "out", "out:input",
        "only Paddle computes in float32, at the model itself after fc",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_error_is_found_at_its_layer_with_its_cause(compare_pair: ComparePair, fault: str) -> None:
    torch, paddle, phase, layer, tensor, cause = PLANTED[fault]
    outcome = compare_pair(torch, paddle, {"Net": IMAGE, "Words(0)": "4,6:5"}.get(torch, "4,6"))
    first = outcome.first
    assert outcome.verdict == "different"
    assert first is not None
    assert (first.step, first.phase, first.layer, first.tensor, first.cause) == (1, phase, layer, tensor, cause)
    marked = [line for line in outcome.tree.splitlines() if "<-- first divergence" in line]
    assert [line.split()[0] for line in marked] == [layer, layer]


def test_a_square_weight_that_is_not_transposed_is_named(compare_pair: ComparePair, tmp_path: Path) -> None:
    wrong = {"layers": [], "arrays": {"b.weight": {"torch": "b.weight", "paddle": "b.weight"}}}
    first = compare_pair("Chain", "Chain", "4,6", given=wrong).first
    assert first and (first.layer, first.tensor) == ("b", "b:output")
    assert first.cause == "the square weight is transposed in Paddle"


def test_isolation_tells_a_layers_own_error_from_an_inherited_one(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Net", "Net(eps=1e-3)", IMAGE, isolate=True)
    assert outcome.isolated
    (bn2,) = [row for row in outcome.isolated if row["verdict"] == "different"]
    assert (bn2["layer"], bn2["forward"] > 1e-5, bn2["backward"] > 1e-5) == ("bn2", True, True)
    assert len(outcome.isolated) == 8


@pytest.mark.parametrize(("model", "shapes"), [("Attention", ("4,5,8",)), ("TwoInputs", ("3,4:11", "3,4,5"))])
def test_equal_layers_are_equal_when_they_run_alone(
    compare_pair: ComparePair, model: str, shapes: tuple[str, ...]
) -> None:
    rows = compare_pair(model, model, *shapes, stages=("eval",), isolate=True).isolated
    assert rows and {row["verdict"] for row in rows} == {"equal"}


def test_a_head_that_only_training_uses_is_a_difference_and_the_rest_is_compared(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Auxiliary", "Auxiliary", "4,6")
    assert outcome.verdict == "different"
    assert outcome.first is None
    assert outcome.differences == ["only PyTorch has auxiliary (Linear [3, 5]), which inference does not call"]
    assert outcome.stages["eval"].compared == 5


def test_in_float32_both_sides_are_within_rounding_of_float64(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Net", "Net", IMAGE, dtype="float32")
    assert outcome.verdict == "equal", outcome.sentence()
    for stage in ("eval", "forward", "backward"):
        assert outcome.stages[stage].compared > 10
        worst = outcome.stages[stage].worst
        assert worst and 1e-8 < worst.error < worst.bound < 1e-3
    assert outcome.to_json()["not_run"] == ["trajectory"]


def test_a_float32_trajectory_is_compared_with_its_twin(
    compare_pair: ComparePair, pair_workers: dict[str, ModelWorker]
) -> None:
    how: dict[str, object] = {"dtype": "float32", "optimizer": Optimizer("momentum", 0.1), "steps": 5}
    with ModelWorker("torch", threads=1) as second:
        workers = pair_workers | {"twin 2": second}
        same = compare_pair("Net", "Net", IMAGE, workers=workers, **how)
        other = compare_pair("Kinked", "Kinked(times=1.01)", "8,64", workers=workers, **how)
    assert_equal(same)
    assert list(same.stages) == ["eval", "forward", "backward", "update", "trajectory"]
    assert [row["step"] for row in same.trajectory] == [1, 2, 3, 4, 5]
    assert all(0 < row["error"] < 1e-5 and 0 < row["twin"] < 1e-5 < row["moved"] for row in same.trajectory)
    assert (other.verdict, [row["step"] for row in other.trajectory]) == ("different", [1, 2])
    assert other.first and other.first.sentence().startswith("step 2, update, tensor weights: error")


def test_in_float32_an_eps_of_1e_4_is_more_than_rounding(compare_pair: ComparePair) -> None:
    first = compare_pair("Net", "Net(eps=1e-4)", IMAGE, dtype="float32").first
    assert first and (first.tensor, first.cause) == (
        "bn2:output",
        "eps of BatchNorm: PyTorch 1e-05, Paddle 0.0001 at bn2",
    )


# Refusals


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        (
            "Fails",
            "Chain",
            "the torch model failed in forward at layer body.1: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        ("Chain", "Fails", "the paddle model failed in forward at layer body.1: "),
        (
            "value_models_torch.py:Random('poisson')",
            "value_models_paddle.py:Random('poisson')",
            r"model draws random numbers at the model itself by a function that the check does not replace",
        ),
        ("Chain", "Renamed", "the paddle model failed in forward at layer _conv_a: "),
        ("Auxiliary", "Chain", "different architectures: they diverge at the beginning, where PyTorch has body"),
        ("Nowhere", "Chain", "pair_models_torch.py has no 'Nowhere'"),
        ("Chain", "nowhere:Chain", "there is no module 'nowhere'"),
        ("no_file.py:Chain", "Chain", "there is no file .*no_file.py"),
        ("Chain(1 + x)", "Chain", "with plain values"),
        ("Chain(list(width))", "Chain", "with plain values"),
        ("Chain(Nothing(width=8))", "Chain", "pair_models_torch.py has no 'Nothing'"),
        ("builtins:dict", "Chain", "builtins:dict makes a dict, not a torch.nn.modules.module.Module"),
        ("Chain(width=8)", "Chain", r"Chain\(width=8\) cannot be made: TypeError"),
    ],
)
def test_an_unusable_model_is_reported_in_one_line(
    compare_pair: ComparePair, torch: str, paddle: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as problem:
        compare_pair(torch, paddle, "4,6")
    assert "\n" not in str(problem.value)


def test_random_numbers_in_training_do_not_prevent_a_check_of_inference(compare_pair: ComparePair) -> None:
    torch, paddle = (f"value_models_{side}.py:Random('poisson')" for side in ("torch", "paddle"))
    assert_equal(compare_pair(torch, paddle, "4,6", stages=("eval",)), "eval")


# Maps


def test_a_map_resolves_an_ambiguous_match(compare_pair: ComparePair) -> None:
    given = {"layers": [{"torch": "one", "paddle": "left"}, {"torch": "two", "paddle": "right"}]}
    outcome = compare_pair("Branches", "Branches", "4,6", given=given, stages=("eval",))
    assert outcome.pairing.partner("torch") == {"one": "left", "two": "right", "middle": "head"}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([{"torch": "x", "paddle": "a"}], "the torch model has no layer 'x'"),
        ([{"torch": "a", "paddle": "a"}, {"torch": "b", "paddle": "a"}], "names the paddle layer 'a' twice"),
    ],
)
def test_a_map_with_unknown_or_repeated_layers_is_refused(
    compare_pair: ComparePair, layers: list[dict[str, str]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        compare_pair("Chain", "Chain", "4,6", given={"layers": layers})


def test_the_weights_of_either_side_can_be_the_start(compare_pair: ComparePair) -> None:
    rng = np.random.default_rng(0)
    own = {
        f"{layer}.{name}": rng.standard_normal((6, 6) if name == "weight" else 6)
        for layer in "abc"
        for name in ("weight", "bias")
    }
    assert_equal(compare_pair("Chain", "Chain", "4,6", start={"torch": own}))
    assert_equal(compare_pair("Chain", "Chain", "4,6", start={"paddle": own}))
    del own["b.bias"]
    with pytest.raises(InputError, match=r"the weights for the paddle model lack b\.bias \(1 in all\)"):
        compare_pair("Chain", "Chain", "4,6", start={"paddle": own})


def test_the_outcome_is_plain_json(compare_pair: ComparePair) -> None:
    found = json.loads(json.dumps(compare_pair("Chain", "Chain", "4,6").to_json()))
    assert (found["verdict"], found["mapping"]["layers"], found["not_run"]) == ("equal", 3, [])
    assert set(found["lanes"]) == {"torch", "paddle"}
