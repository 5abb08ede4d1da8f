"""Batch norms that one model has folded into its convolutions: inference is compared, with the weights of the folded layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.errors import InputError
from parity.pairs import mapping
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "input_models_torch.py:", "input_models_paddle.py:"


def compare(compare_pair: ComparePair, torch: str, paddle: str, **more: Any) -> PairOutcome:
    return compare_pair(TORCH + torch, PADDLE + paddle, "4,3,8,8", **more)


def where(outcome: PairOutcome) -> tuple[str, str]:
    assert outcome.first, outcome.sentence()
    return outcome.first.phase, outcome.first.tensor


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("torch", "paddle"), [("Norms", "Folded"), ("Folded", "Norms")])
def test_folded_batch_norms_are_equal_in_inference(
    compare_pair: ComparePair, torch: str, paddle: str, dtype: str
) -> None:
    outcome = compare(compare_pair, torch, paddle, dtype=dtype, isolate=True)
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.to_json()["not_run"] == ["forward", "backward", "update", "trajectory"]
    name = "Paddle" if paddle == "Folded" else "PyTorch"
    said = f"batch norms that {name}'s model has folded into other layers, at one + norm1, two + norm2, head + norm3: only inference"
    assert any(line.startswith(said) for line in outcome.explained)
    assert outcome.stages["eval"].compared >= 7  # inputs and outputs of three layers, and the model's output


def test_a_batch_norm_that_both_have_is_compared(compare_pair: ComparePair) -> None:
    equal = compare(compare_pair, "Norms", "Folded(kept=1e-5)")
    assert equal.verdict == "equal" and equal.pairing.folded == ["one + norm1", "head + norm3"]
    other = compare(compare_pair, "Norms", "Folded(kept=1e-3)")
    assert where(other) == ("eval", "norm2:output")
    assert (
        other.first and other.first.cause == "eps of BatchNorm: PyTorch 1e-05, Paddle 0.001 at norm2 (Paddle: scaled)"
    )


def test_a_mistake_behind_a_folded_layer_is_found(compare_pair: ComparePair) -> None:
    assert where(compare(compare_pair, "Norms", "Folded(factor=1.000001)")) == ("eval", "two:input")


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        ("Norms", "Folded(bare=1)", "only PyTorch has norm1.bias"),
        ("Norms", "Folded(bare=2)", "only PyTorch has two.bias"),
        ("Folded(bare=1)", "Norms", "only Paddle has norm1.bias"),
        ("Folded(bare=2)", "Norms", "only Paddle has two.bias"),
    ],
)
def test_a_folded_layer_without_a_bias_is_found(compare_pair: ComparePair, torch: str, paddle: str, said: str) -> None:
    outcome = compare(compare_pair, torch, paddle)
    assert where(outcome) == ("eval", "one:output" if "norm1" in said else "two:output")
    assert outcome.differences == [said]


def checkpoints(eps: float, dtype: str) -> dict[str, dict[str, np.ndarray]]:
    """Weights of Norms, and of Folded: those of Norms folded with `eps` in `dtype`."""
    random = np.random.default_rng(0)
    torch, paddle = {}, {}
    names = {"one": "first", "two": "second", "head": "last"}
    for number, (layer, shape) in enumerate({"one": (4, 3, 3, 3), "two": (5, 4, 3, 3), "head": (6, 5)}.items(), 1):
        norm = f"norm{number}"
        torch[f"{layer}.weight"] = random.standard_normal(shape)
        if layer != "one":
            torch[f"{layer}.bias"] = random.standard_normal(shape[0])
        torch |= {f"{norm}.{name}": random.standard_normal(shape[0]) for name in ("weight", "bias", "running_mean")}
        torch[f"{norm}.weight"][1] = 0.0  # as after pruning
        torch[f"{norm}.running_var"] = random.uniform(0.5, 2, shape[0])
        own = {name: array.astype(np.float32).astype(dtype) for name, array in torch.items()}
        factor = own[f"{norm}.weight"] / np.sqrt(own[f"{norm}.running_var"] + np.float32(eps).astype(dtype))
        weight = (own[f"{layer}.weight"].T * factor).T
        bias = (own.get(f"{layer}.bias", 0) - own[f"{norm}.running_mean"]) * factor + own[f"{norm}.bias"]
        paddle |= {f"{names[layer]}.weight": weight.T if layer == "head" else weight, f"{names[layer]}.bias": bias}
    return {"torch": {name: array.astype(np.float32) for name, array in torch.items()}, "paddle": paddle}


@pytest.mark.parametrize(
    ("folded", "dtype", "verdict"),
    [("float64", "float64", "equal"), ("float32", "float32", "equal"), ("float32", "float64", "different")],
)
def test_a_folded_checkpoint_is_compared_with_its_original(
    compare_pair: ComparePair, folded: str, dtype: str, verdict: str
) -> None:
    outcome = compare(compare_pair, "Norms", "Folded", start=checkpoints(1e-5, folded), dtype=dtype)
    assert outcome.verdict == verdict, outcome.sentence()
    if outcome.first:
        assert (
            outcome.first.cause == "one file's batch norms were folded in float32, which rounds; pass --dtype float32"
        )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_folding_with_another_eps_is_found(compare_pair: ComparePair, dtype: str) -> None:
    outcome = compare(compare_pair, "Norms", "Folded", start=checkpoints(1e-3, dtype), dtype=dtype)
    assert where(outcome) == ("start", "one.weight")


def test_a_checkpoint_of_the_folded_model_is_copied(compare_pair: ComparePair) -> None:
    start = {"paddle": checkpoints(1e-5, "float64")["paddle"]}
    assert compare(compare_pair, "Norms", "Folded", start=start).verdict == "equal"


def test_training_alone_is_refused_and_no_map_is_written(compare_pair: ComparePair, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only inference can be equal: pass --stages eval"):
        compare(compare_pair, "Norms", "Folded", stages=("update",))
    outcome = compare(compare_pair, "Norms", "Folded", stages=("eval",))
    with pytest.raises(InputError, match=r"no map says that one \+ norm1 is one layer on the other side"):
        mapping.save(tmp_path / "map.json", outcome.pairing)
