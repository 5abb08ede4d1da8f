"""Scalars that float32 does not hold cause no false alarm, wherever the framework's kernels round them, and hide no flaw."""

from __future__ import annotations

import pytest
import torch

from helpers.pair_models import ComparePair
from parity.pairs.outcome import PairOutcome

KINDS = (
    "elu", "celu", "leaky_relu", "hardtanh", "hardsigmoid", "selu", "dropout", "average", "in place", "huber", "pad", "scale", "power",
    "addmm", "norm", "small norm", "distance", "bilinear", "corners", "by factor", "bicubic", "local",
)  # fmt: skip
HELD = ("celu", "hardsigmoid", "dropout")


def compare(compare_pair: ComparePair, torch: str, paddle: str, shape: str) -> PairOutcome:
    return compare_pair(f"exact_models_torch.py:{torch}", f"exact_models_paddle.py:{paddle}", shape, steps=2)


@pytest.mark.parametrize("kind", KINDS)
def test_scalars_are_equal(compare_pair: ComparePair, kind: str) -> None:
    outcome = compare(compare_pair, f"Computed({kind!r})", f"Computed({kind!r})", "2,3,6,7")
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize("kind", HELD)
def test_functions_in_a_dict_are_equal(compare_pair: ComparePair, kind: str) -> None:
    models = [f"Computed({kind!r}, in_dict=True)"] * 2
    outcome = compare(compare_pair, models[0], models[1], "2,3,6,7")
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("hardsigmoid", "selu", "dropout", "average")])
def test_another_scalar_is_found(compare_pair: ComparePair, kind: str) -> None:
    outcome = compare(compare_pair, f"Computed({kind!r})", f"Computed({kind!r}, 0.1000001)", "2,3,6,7")
    assert outcome.first and outcome.first.phase == "eval", outcome.sentence()
    assert outcome.first.tensor in ("head:input", "act:output"), outcome.sentence()


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [("False", "by hand"), ("True", "layer"), ("True", "old layer"), ("False", "layer"), ("True", "by hand")],
)
def test_a_batch_norm_written_by_hand_is_equal(compare_pair: ComparePair, torch: str, paddle: str) -> None:
    outcome = compare(compare_pair, f"Batched({torch})", f"Batched({paddle!r})", "5,6")
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize(
    ("planted", "phase"),
    [("eps=0.1000001", "eval"), ("momentum=0.1000001", "update"), ("times=1.000001", "eval")],
)
def test_a_flaw_of_a_batch_norm_written_by_hand_is_found(compare_pair: ComparePair, planted: str, phase: str) -> None:
    outcome = compare(compare_pair, f"Batched(True, {planted})", "Batched('layer')", "5,6")
    assert outcome.first and outcome.first.phase == phase, outcome.sentence()


@pytest.mark.parametrize("full_graph", [True, False])
def test_scalars_in_a_static_graph_are_equal(compare_pair: ComparePair, full_graph: bool) -> None:
    kinds = [kind for kind in KINDS if kind != "dropout"]  # a model that draws trains uncompiled
    kinds.append("masked")  # numbers that float32 cannot reach
    outcome = compare(compare_pair, f"Together({kinds})", f"static_together({kinds}, {full_graph})", "2,3,6,7")
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize("kind", ["scale", "bilinear"])
def test_another_scalar_in_a_static_graph_is_found(compare_pair: ComparePair, kind: str) -> None:
    outcome = compare(compare_pair, f"Computed({kind!r})", f"static_computed({kind!r}, 0.1000001)", "2,3,6,7")
    assert outcome.first and outcome.first.phase == "eval", outcome.sentence()


def test_a_batch_norm_in_a_static_graph_is_equal(compare_pair: ComparePair) -> None:
    outcome = compare(compare_pair, "Batched(False, 1e-5)", "static(1e-5)", "5,6")
    assert outcome.verdict == "equal", outcome.sentence()
    said = (
        "Paddle's kernels round eps 1e-05 of BatchNorm to 9.999999747378752e-06, and the check rounds it on both sides"
    )
    assert any(said in line for line in outcome.explained), outcome.explained


def test_global_statistics_are_as_in_inference() -> None:
    assert torch  # before Paddle
    import paddle

    from helpers import exact_models_paddle
    from parity.pairs.replaced_functions import Replaced

    class Running:
        variance, rounds = "biased", False

    paddle.seed(0)
    paddle.set_default_dtype("float64")
    layer = exact_models_paddle.Batched("fixed")
    x = paddle.rand([5, 6])
    layer.eval()
    expected = layer(x).numpy()
    replaced = Replaced.of("paddle")
    replaced.enter()
    try:
        replaced.running = Running()  # type: ignore[assignment]
        replaced.replace()
        layer.train()
        found = layer(x).numpy()
    finally:
        replaced.leave()
        paddle.set_default_dtype("float32")
    assert abs(found - expected).max() < 1e-8
    assert (layer.norm._mean.numpy() == 0).all() and (layer.norm._variance.numpy() == 1).all()
