"""The stage `onnx` of a check starts from trained weights, and goes on where an exporter fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parity import data
from parity.check import Check, run
from parity.faults import changes
from parity.faults.subject import subject
from parity.feed import Feed
from parity.weights import State
from parity.worker import Worker


@pytest.fixture(scope="module")
def check() -> Check:
    return replace(subject(data.load("cifar10").limit(64, 1)), stages=("onnx",))


@pytest.fixture
def torch_first(workers: dict[str, Worker]) -> dict[str, Worker]:
    """PyTorch is the reference, Paddle what faults are planted in."""
    return {name: workers[name] for name in ("torch", "paddle")}


def test_an_exporter_that_fails_is_the_only_difference_where_everything_computes_alike(
    check: Check, torch_first: dict[str, Worker]
) -> None:
    # A forward that is wrapped trips the exporter up, and in inference the wrapped layer does what it always does.
    outcome = run(check, torch_first, changes.patch("never_training", "bn1")(check))
    assert outcome.first is not None and "export of paddle: its exporter failed, " in outcome.first.tensor
    different = [name for name in outcome.stages()["onnx"] if name == "different"]
    assert outcome.verdict == "different" and not different
    assert outcome.stages()["onnx"]["compared"] > 100


def test_fresh_weights_are_trained_before_they_are_exported(check: Check, torch_first: dict[str, Worker]) -> None:
    seen: list[State] = []

    def look(feed: Feed) -> Feed:
        seen.append(feed.state)
        return feed

    fresh = replace(check, state=None)
    assert run(fresh, torch_first, look).verdict == "equal"
    start = fresh.feed("float32").state
    assert not start["bn1.variance"].any() and not start["bn1.mean"].any()
    assert np.all(seen[-1]["bn1.variance"] > 0) and np.all(seen[-1]["bn1.mean"] != 0)
    assert run(check, torch_first, look).verdict == "equal"
    assert all(np.array_equal(seen[-1][name], array) for name, array in check.feed("float32").state.items())
