"""Models of bfloat16 and float16: compared in their own dtype, against float64, within what one-ULP twins of that dtype explain."""

from __future__ import annotations

import pytest

from helpers.pair_models import ComparePair
from parity.errors import InputError
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome

SHAPES = {"Mlp": "8,16", "Conv": "4,3,12,12", "Block": "3,9:50", "Spaced": "4,6", "Shifted": "16,8"}


def compare(
    compare_pair: ComparePair,
    name: str,
    mistake: str = "",
    dtypes: tuple[str, str] = ("bfloat16", "bfloat16"),
    **more: object,
) -> PairOutcome:
    """Compare a model with itself, or with a `mistake` in the Paddle model; by default, the models choose the dtype."""
    torch, paddle = (
        f"dtype_models_{side}.py:make(name='{name}', dtype='{dtype}'"
        for side, dtype in zip(("torch", "paddle"), dtypes, strict=True)
    )
    return compare_pair(f"{torch})", f"{paddle}{mistake and ', ' + mistake})", SHAPES[name], **{"dtype": None, **more})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["Mlp", "Conv", "Block"])
def test_equal_models_are_equal_in_their_own_dtype(compare_pair: ComparePair, name: str, dtype: str) -> None:
    outcome = compare(compare_pair, name, dtypes=(dtype, dtype))
    assert (outcome.verdict, outcome.dtype, outcome.first) == ("equal", dtype, None), outcome.sentence()
    ulp = {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
    for stage in ("eval", "forward", "backward", "update"):
        worst = outcome.stages[stage].worst
        assert outcome.stages[stage].compared > 10 and worst and ulp <= worst.bound < 30 * ulp
        assert worst.error < worst.bound / 2  # nearer than the farthest twin; twice as far would be a false alarm
    assert outcome.to_json()["not_run"] == ["trajectory"] and outcome.how["twins"] == 8
    assert any(line.startswith(f"{dtype}: both models compute in it") for line in outcome.explained)


@pytest.mark.parametrize(
    ("name", "mistake", "tensor"),
    [
        ("Mlp", "act='relu'", "eval/b:input"),
        ("Mlp", "factor=1.1", "eval/b:input"),
        ("Conv", "act='erf'", "eval/fc:input"),
        ("Conv", "momentum=0.1", "statistics/bn1.mean"),
        ("Block", "scale=0.125", "eval/out:input"),
        ("Block", "mask=0.0", "eval/out:input"),
        ("Block", "offset=1", "eval/places:output"),
    ],
)
def test_a_mistake_larger_than_rounding_is_found_at_its_place(
    compare_pair: ComparePair, name: str, mistake: str, tensor: str
) -> None:
    outcome = compare(compare_pair, name, mistake)
    assert (outcome.verdict, outcome.dtype) == ("different", "bfloat16")
    assert outcome.first and f"{outcome.first.phase}/{outcome.first.tensor}" == tensor


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_constant_that_a_norm_takes_off_again_does_not_decide(compare_pair: ComparePair, dtype: str) -> None:
    dtypes = (dtype, dtype) if dtype != "float64" else ("float32", "float32")
    outcome = compare(compare_pair, "Shifted", "shift=0.5", dtypes=dtypes)
    assert (outcome.verdict, outcome.dtype) == ("equal", dtype), outcome.sentence()
    assert any(line.startswith("inner tensors differ, and no output") for line in outcome.explained)


def test_a_mistake_smaller_than_rounding_shows_in_float64_only(compare_pair: ComparePair) -> None:
    assert compare(compare_pair, "Mlp", "act='tanh'").verdict == "equal"
    exact = compare(compare_pair, "Mlp", "act='tanh'", dtype="float64")
    assert (exact.verdict, exact.dtype) == ("different", "float64")
    assert exact.first and exact.first.tensor == "b:input"


def test_one_side_in_float32_is_named_and_compared_in_float64(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Mlp", dtypes=("bfloat16", "float32"))
    assert (outcome.verdict, outcome.dtype) == ("equal", "float64")
    assert outcome.differences == ["dtype of weights: PyTorch bfloat16, Paddle float32 at a, norm, b"]


def test_batch_norms_that_one_side_keeps_in_float32_are_named(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Conv", "keep='bn'")
    assert (outcome.verdict, outcome.dtype) == ("equal", "bfloat16"), outcome.sentence()
    assert "dtype of weights: PyTorch bfloat16, Paddle float32 at bn1, bn2" in outcome.differences


def test_models_of_float32_are_compared_in_float64_or_in_a_dtype_that_is_given(compare_pair: ComparePair) -> None:
    both = ("float32", "float32")
    assert compare(compare_pair, "Mlp", dtypes=both, stages=("eval",)).dtype == "float64"
    outcome = compare(compare_pair, "Mlp", dtypes=both, dtype="bfloat16")
    worst = outcome.stages["forward"].worst
    assert (outcome.verdict, outcome.dtype) == ("equal", "bfloat16") and worst and worst.error > 1e-3


def test_layers_alone_are_compared_in_the_dtype_of_the_models(compare_pair: ComparePair) -> None:
    rows = compare(compare_pair, "Conv", stages=("eval",), isolate=True).isolated
    assert rows and {row["verdict"] for row in rows} == {"equal"}


# Refusals


def test_a_kernel_that_is_missing_is_named(compare_pair: ComparePair) -> None:
    said = "in forward at the model itself: no kernel of `linspace` computes in bfloat16 here: pass --dtype float64"
    with pytest.raises(InputError, match=said):
        compare(compare_pair, "Spaced")


def test_without_a_twin_nothing_runs_in_float64(
    compare_pair: ComparePair, pair_workers: dict[str, ModelWorker]
) -> None:
    sides = {side: pair_workers[side] for side in ("torch", "paddle")}
    with pytest.raises(
        InputError, match="in bfloat16 needs a twin, which runs in float64: leave out --twins 0, or pass --dtype"
    ):
        compare(compare_pair, "Mlp", workers=sides)
