"""The stage `onnx` of a check: five ways to compute one inference agree, and what parts is found at its layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.check import Check, run
from parity.closure import BATCHES, TRAINED_STEPS, inputs, trained
from parity.faults import changes
from parity.faults.subject import network, subject
from parity.recipe import Preprocessing
from parity.worker import Worker

ONNX = ("onnx",)


@pytest.fixture(scope="module")
def check() -> Check:
    return replace(subject(data.load("cifar10").limit(64, 1)), stages=ONNX)


def test_all_five_agree_and_every_pair_was_compared(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run(check, workers)
    assert outcome.verdict == "equal", outcome.first
    stage = outcome.stages()["onnx"]
    # Every operator of both exports on every party and pair, the scores of every batch, and onnx.reference against both sides.
    layers, operators, kinds = len(network().nodes), len(network().nodes), len(BATCHES) + 1
    assert stage["compared"] == 10 * (operators + kinds) + 4 * operators
    assert layers == operators
    assert 0 < stage["max_error"] <= stage["bound"] < 1e-4


def test_a_fresh_network_is_compared_after_some_training(check: Check, workers: dict[str, Worker]) -> None:
    fresh = replace(check, state=None)
    state = trained(workers["torch"], fresh.feed("float32"))
    decay = 0.9**TRAINED_STEPS
    assert all(array.dtype == np.float32 for array in state.values())
    # The article's running variance starts at 0; ten updates leave it at 65% of what the batches have.
    assert np.all(state["bn1.variance"] > 0) and np.all(state["bn1.mean"] != 0) and decay < 0.5
    assert run(fresh, workers).verdict == "equal"


def test_the_pictures_are_of_every_batch_size_and_the_extremes(check: Check) -> None:
    found = inputs(check.dataset, Preprocessing())
    assert {name: len(images) for name, images in found.items()} == {
        "1": 1, "2": 2, "7": 7, "128": 128, "extremes": 4
    }  # fmt: skip
    black, white, grey, pixel = found["extremes"]
    assert not black.any() and np.all(white == 1) and len(np.unique(grey)) == 1 and np.count_nonzero(pixel) == 3


@pytest.mark.parametrize(
    ("planted", "layer"), [("conv3:weight:1e-4", "conv3"), ("bn2:variance:1e-3", "bn2"), ("fc1:bias:1e-3", "fc1")]
)
def test_another_weight_is_found_at_its_layer(
    planted: str, layer: str, check: Check, workers: dict[str, Worker]
) -> None:
    outcome = run(check, workers, changes.perturbed(planted, network()))
    assert outcome.verdict == "different"
    assert outcome.first is not None and (outcome.first.phase, outcome.first.layer) == ("onnx", layer)


def test_an_export_that_computes_something_else_is_no_export_of_the_network(
    check: Check, workers: dict[str, Worker]
) -> None:
    outcome = run(check, workers, changes.perturbed("conv3:output:1e-3", network()))
    assert outcome.verdict == "different"
    assert outcome.first is not None and "export of torch: layer bn3: the export has Mul" in outcome.first.tensor


def test_another_eps_is_found_in_the_export_of_the_side_that_has_it(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run(check, workers, changes.node("bn2", eps=1e-3)(check))
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.layer == "bn2"


def test_in_float32_checks_the_stage_is_the_same(check: Check, workers: dict[str, Worker]) -> None:
    assert run(replace(check, dtype="float32"), workers).verdict == "equal"
