"""The objective of TensorFlow's timing is half the sum of the squared class scores; its gradients are numpy's, and nothing is updated."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from helpers import numpy_network as reference
from helpers.compared import compare
from helpers.layer_cases import BATCH, CASES, batch, network, weights
from helpers.numpy_network import slopes
from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.network.nodes import Dropout
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State

BOUND = 1e-12
PLAIN = Optimizer("momentum", rate=0.125)


@cache
def expected(case: str) -> tuple[float, Record]:
    """The objective and its gradients in numpy; auxiliary heads do not contribute."""
    net = CASES[case]
    own, (images, _, masks) = weights(net), batch(net)
    values = reference.outputs(net, own, images, masks)

    def half_square(state: State, changed: str) -> np.ndarray:
        scores = reference.outputs(net, state, images, masks, None, values, changed)[net.nodes[-1].name]
        return np.asarray((scores**2).sum() / 2)

    found = {
        f"gradient/{name}": slopes(
            lambda moved, name=name: half_square(own | {name: moved}, name.partition(".")[0]), own[name]
        )
        for name, parameter in net.parameters.items()
        if parameter.trainable
    }
    return float((values[net.nodes[-1].name] ** 2).sum() / 2), {
        name: slope for name, slope in found.items() if slope.any()
    }


@pytest.mark.parametrize("case", CASES)
def test_the_objective_and_its_gradients_equal_numpys(case: str, worker: Worker) -> None:
    net, (value, gradients) = CASES[case], expected(case)
    images, _, masks = batch(net)
    worker.start(net, PLAIN, weights(net), "float64")
    found, loss = worker.l2_gradients(images, masks)
    assert len(gradients) >= 2
    assert loss == pytest.approx(value, rel=BOUND)
    assert [str(difference) for difference in compare(gradients, found, BOUND) if not difference.equal] == []


def test_nothing_is_updated(worker: Worker) -> None:
    net = next(iter(CASES.values()))
    worker.start(net, PLAIN, weights(net), "float64")
    before = worker.state()
    worker.l2_gradients(batch(net)[0], batch(net)[2])
    after = worker.state()
    assert {name: array.tobytes() for name, array in after.items()} == {n: a.tobytes() for n, a in before.items()}


def test_without_masks_the_framework_draws_new_ones_each_time(worker: Worker) -> None:
    net = network((20, 8, 8), Dropout("drop", 0.5))
    worker.start(net, PLAIN, weights(net), "float64")
    images = np.random.default_rng(0).uniform(1, 2, (BATCH, *net.input_shape))
    values = {worker.l2_gradients(images, {})[1] for _ in range(3)}
    assert len(values) == 3


@pytest.mark.parametrize("what", ["predict", "l2_gradients"])
def test_every_call_is_timed_in_the_worker(what: str, worker: Worker) -> None:
    net = next(iter(CASES.values()))
    worker.start(net, PLAIN, weights(net), "float32")
    seconds = worker.seconds(what, batch(net)[0], 4)
    assert len(seconds) == 4 and all(0 < second < 60 for second in seconds)
