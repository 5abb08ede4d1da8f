"""The stage `onnx` of a check starts from trained weights, and continues if an exporter fails."""

from __future__ import annotations

import resource
from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.backend.worker import Worker
from parity.compare.check import Check, run_check
from parity.compare.step_inputs import RunInputs
from parity.onnx.comparison import compare_through_onnx
from parity.selftest.changes import perturbed
from parity.selftest.subject import subject
from parity.weights.canonical_state import State


@pytest.fixture(scope="module")
def check() -> Check:
    return replace(subject(data.load("cifar10").limit(64, 1)), stages=("onnx",))


@pytest.fixture
def torch_first(workers: dict[str, Worker]) -> dict[str, Worker]:
    """The two sides: PyTorch is the reference, and faults are planted in Paddle."""
    return {name: workers[name] for name in ("torch", "paddle")}


def test_a_failing_exporter_is_a_difference_and_the_rest_is_still_compared(
    check: Check, torch_first: dict[str, Worker]
) -> None:
    paddle = torch_first["paddle"]._process.pid
    soft, hard = resource.prlimit(paddle, resource.RLIMIT_FSIZE)
    resource.prlimit(paddle, resource.RLIMIT_FSIZE, (100, hard))
    try:
        # Only Paddle's exporter needs files here.
        outcome = run_check(check, torch_first, onnx=compare_through_onnx)
    finally:
        resource.prlimit(paddle, resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.first is not None and "export of paddle: its exporter failed, " in outcome.first.tensor
    stage = outcome.summaries()["onnx"]
    assert stage["verdict"] == "different" and stage["compared"] > 100


@pytest.mark.slow
def test_fresh_weights_are_trained_before_they_are_exported(check: Check, torch_first: dict[str, Worker]) -> None:
    seen: list[State] = []

    def look(run_inputs: RunInputs) -> RunInputs:
        seen.append(run_inputs.state)
        return run_inputs

    fresh = replace(check, state=None)
    assert run_check(fresh, torch_first, look, onnx=compare_through_onnx).verdict == "equal"
    start = fresh.run_inputs("float32").state
    assert not start["bn1.variance"].any() and not start["bn1.mean"].any()
    assert np.all(seen[-1]["bn1.variance"] > 0) and np.all(seen[-1]["bn1.mean"] != 0)
    assert run_check(check, torch_first, look, onnx=compare_through_onnx).verdict == "equal"
    assert all(np.array_equal(seen[-1][name], array) for name, array in check.run_inputs("float32").state.items())


@pytest.mark.parametrize(
    ("framework", "where"),
    [
        ("paddle", "conv3:output:1e-6"),
        ("torch", "drop1:output:1e-2"),
        pytest.param("torch", "conv3:output:1e-6", marks=pytest.mark.slow),
        pytest.param("paddle", "drop1:output:1e-2", marks=pytest.mark.slow),
    ],
)
def test_an_error_in_a_layers_output_is_found_there(
    framework: str, where: str, check: Check, workers: dict[str, Worker]
) -> None:
    pair = {name: workers[name] for name in sorted(workers, key=lambda name: name == framework)}
    outcome = run_check(check, pair, perturbed(where, check.network), onnx=compare_through_onnx)
    assert outcome.first and outcome.first.layer == where.partition(":")[0], outcome.first
    assert "exporter failed" not in outcome.summaries()["onnx"]["worst"]
