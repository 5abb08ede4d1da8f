"""A side that raises an error gives a verdict with its place; a twin with the reference's fault excuses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.backend.child_process import WorkerFailed
from parity.backend.worker import Worker
from parity.compare.check import Check, run_check
from parity.onnx.comparison import compare_through_onnx
from parity.selftest import changes as c
from parity.selftest.catalogue import FAULTS
from parity.selftest.subject import subject


@pytest.fixture(scope="module")
def check() -> Check:
    return subject(data.load("shapes10"))


@pytest.fixture(scope="module")
def torch_first(workers: dict[str, Worker]) -> dict[str, Worker]:
    return {name: workers[name] for name in ("torch", "paddle")}


@pytest.fixture(scope="module")
def with_twin(torch_first: dict[str, Worker]) -> Iterator[dict[str, Worker]]:
    with Worker("torch", threads=1) as twin:
        yield torch_first | {"twin 1": twin}


FAILING = ("axis_squeezed", "pool_missing", "backward_fails", "update_fails", "threads_fail")


@pytest.mark.parametrize("name", FAILING)
def test_a_side_that_raises_an_error_gives_a_verdict_with_its_place(
    name: str, framework: str, check: Check, torch_first: dict[str, Worker]
) -> None:
    fault = FAULTS[name]
    outcome = run_check(check, torch_first, fault.change(check), onnx=compare_through_onnx, planted=framework)
    first = outcome.first
    assert first and (first.phase, first.layer) == (fault.phase, fault.layer)
    assert first.wrong == {"torch": "PyTorch", "paddle": "Paddle"}[framework]
    assert "fails" in (first.cause or "")
    assert len((first.cause or "").splitlines()) == 1
    assert ".py(" not in (first.cause or "")  # Paddle appends the stack to some errors
    assert any("nothing more is compared" in text for text in outcome.explained)


def test_the_check_fails_if_both_sides_raise_errors(check: Check, torch_first: dict[str, Worker]) -> None:
    with pytest.raises(WorkerFailed, match=r"no gradient of fc2\.weight"):
        run_check(check, torch_first, common=c.patch("raise_in_backward", "fc2.weight")(check))


def test_an_error_in_the_onnx_stage_only_gives_a_verdict(check: Check, torch_first: dict[str, Worker]) -> None:
    alone = replace(check, stages=("onnx",))
    change = c.patch("squeeze", "relu_fc1", "0")(check)
    first = run_check(alone, torch_first, change, onnx=compare_through_onnx).first
    assert first and (first.phase, first.layer, first.wrong) == ("onnx", "relu_fc1", "Paddle")
    assert first.cause and first.cause.startswith("Paddle fails, PyTorch does not: ")


@pytest.mark.parametrize("name", ["threads_exchange_masks", "threads_average_gradients"])
def test_the_unwatched_run_of_a_twin_excuses_no_fault_of_its_framework(
    name: str, check: Check, with_twin: dict[str, Worker]
) -> None:
    fault = FAULTS[name]
    outcome = run_check(check, with_twin, fault.change(check), planted="torch")
    assert outcome.first and outcome.first.phase == fault.phase
    assert outcome.first.wrong == "PyTorch"


def test_a_twin_that_is_far_in_the_first_step_excuses_nothing(check: Check, with_twin: dict[str, Worker]) -> None:
    """The twin computes something else, as if its framework drew random numbers; the candidate has the same error."""

    def other(worker: Worker) -> Worker:
        start = worker.start

        def begin(network, settings, state, *arguments, **named):  # type: ignore[no-untyped-def]
            moved = {name: array * (1 + 1e-3) if name == "fc3.weight" else array for name, array in state.items()}
            start(network, settings, moved, *arguments, **named)

        worker.start = begin  # type: ignore[method-assign]
        return worker

    with Worker("torch", threads=1) as twin:
        workers = {name: with_twin[name] for name in ("torch", "paddle")} | {"twin 1": other(twin)}
        outcome = run_check(replace(check, stages=("update",)), workers, c.settings(weight_decay=3e-4)(check))
    assert outcome.first and outcome.first.tensor == "conv1.weight"


def test_an_output_that_is_changed_in_place_is_recorded_before(check: Check, framework: str) -> None:
    with Worker(framework, threads=1) as worker:
        given = check.run_inputs()
        worker.start(given.network, given.optimizer, given.state)
        step = next(given.steps())
        fields = (step.images, step.labels, step.masks, step.rate, step.divisor, ("forward",))
        plain, *_ = worker.step(*fields)
        worker.start(given.network, given.optimizer, given.state)
        worker.patch("parity.selftest.worker_patches:relu_in_place", "relu1")
        in_place, *_ = worker.step(*fields)
    assert (plain["forward/bn1"] < 0).any()
    assert np.array_equal(plain["forward/bn1"], in_place["forward/bn1"])
    assert np.array_equal(plain["forward/relu1"], in_place["forward/relu1"])
