"""Max-pool ties: which elements a comparison leaves out, and which it never leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.judged_records import judge_records
from parity import data
from parity.backend.worker import Worker
from parity.compare.check import Check, run_check
from parity.compare.pool_ties import find_pool_ties
from parity.compare.verdicts import EQUAL
from parity.network.network import Network
from parity.network.nodes import GELU, Auxiliary, AvgPool, Branches, Conv, Flatten, Linear, MaxPool, Node, ReLU
from parity.network.windows import SAME
from parity.recipe import presets
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import changed
from parity.weights.canonical_state import initialise

POOLS = [
    MaxPool("pool"),
    MaxPool("pool", 3, 3),
    MaxPool("pool", 3, 2, ceil=True),
    MaxPool("pool", 3, 1, padding=1),
    MaxPool("pool", 2, 2, padding=SAME),
]
RELU, FORWARD, BACKWARD = "relu", "forward/relu", "backward/relu"


def network(pool: MaxPool) -> Network:
    nodes: tuple[Node, ...] = (ReLU(RELU), pool, Flatten("flatten"), Linear("fc", 10))
    return Network("pooled", (3, 7, 7), nodes)


def tied(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays that are equal but for rounding, with many equally large elements."""
    draws = np.random.default_rng(seed)
    plain = draws.integers(1, 3, (2, 3, 7, 7)).astype(float)
    first, second = (plain * (1 + draws.integers(0, 2, plain.shape) * 2.0**-52) for _ in range(2))
    return first, second


def gradients(workers: dict[str, Worker], made: Network, inputs: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """The gradient before the pool in PyTorch on the first input, and in Paddle on the second."""
    gradient = np.random.default_rng(1).normal(size=(2, *made.layers["pool"].output))
    found = []
    for worker, x in zip(workers.values(), inputs, strict=True):
        worker.start(made, Optimizer("momentum", 0.1), initialise(made, 0))
        found.append(worker.isolate("pool", [x], [x], None, gradient)["backward/pool.0"])
    return found


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.size}/{pool.stride},{pool.padding},{pool.ceil}")
def test_gradients_of_two_sides_differ_only_at_ties(workers: dict[str, Worker], pool: MaxPool) -> None:
    made, inputs = network(pool), tied(0)
    a, b = gradients(workers, made, inputs)
    chosen = find_pool_ties(made, RELU, {FORWARD: inputs[0]}, {FORWARD: inputs[1]})
    assert chosen is not None and 0 < chosen.sum() < chosen.size
    parted = np.abs(a - b) > 1e-12
    assert parted.any() and not (parted & ~chosen).any()


def test_elements_that_are_equally_large_on_both_sides_are_no_tie() -> None:
    made, (first, _) = network(MaxPool("pool")), tied(0)
    assert find_pool_ties(made, RELU, {FORWARD: first}, {FORWARD: first.copy()}) is None
    # The gradient goes to the first of four or to the last: this is a difference between the sides.
    level, one, other = (np.zeros((1, 3, 7, 7)) for _ in range(3))
    one[..., ::2, ::2], other[..., 1::2, 1::2] = 1, 1
    records = {"one": {FORWARD: level, BACKWARD: one}, "other": {FORWARD: level, BACKWARD: other}}
    assert list(judge_records(made, records)[1]) == [BACKWARD]


@pytest.mark.parametrize("what", ["average", "not recorded", "another shape", "not a number", "no pool behind"])
def test_there_are_no_ties_without_a_maximum(what: str) -> None:
    first, second = tied(0)
    pool = AvgPool("pool") if what == "average" else MaxPool("pool")
    if what == "another shape":
        second = second[:1]
    if what == "not a number":
        second = np.full_like(second, np.nan)
    records = {FORWARD: first}, {} if what == "not recorded" else {FORWARD: second}
    assert find_pool_ties(network(pool), "pool" if what == "no pool behind" else RELU, *records) is None


def test_only_ties_in_the_gradient_before_the_pool_are_left_out(
    workers: dict[str, Worker],
) -> None:
    made, inputs = network(MaxPool("pool")), tied(0)
    a, b = gradients(workers, made, inputs)
    chosen = find_pool_ties(made, RELU, {FORWARD: inputs[0]}, {FORWARD: inputs[1]})
    assert chosen is not None
    wrong = b.copy()
    wrong[np.nonzero(~chosen & (b != 0))[0][0]] *= 1 + 1e-6
    for name, other, equal in ((BACKWARD, b, True), (BACKWARD, wrong, False), ("backward/pool", b, False)):
        records = {"one": {FORWARD: inputs[0], name: a}, "other": {FORWARD: inputs[1], name: other}}
        outcome, different = judge_records(made, records)
        assert list(different) == ([] if equal else [name])
        assert bool(outcome.explained) == (name == BACKWARD)


def test_gradients_are_compared_completely_if_only_zeros_would_remain() -> None:
    nodes = (ReLU(RELU), MaxPool("pool"), Flatten("flatten"), Linear("fc", 10))
    small, (one, other), (a, b) = (
        Network("small", (1, 2, 2), nodes),
        *(tuple(np.full((1, 1, 2, 2), value) for _ in range(2)) for value in (1.0, 0.0)),
    )
    one[..., 0, 0] += 2.0**-52
    other[..., 1, 1] += 2.0**-52
    a[..., 0, 0], b[..., 1, 1] = 1.0, -7.0
    chosen = find_pool_ties(small, RELU, {FORWARD: one}, {FORWARD: other})
    assert chosen is not None and chosen.sum() == 2
    records = {"one": {FORWARD: one, BACKWARD: a}, "other": {FORWARD: other, BACKWARD: b}}
    outcome, different = judge_records(small, records)
    assert (list(different), outcome.explained) == ([BACKWARD], [])


def test_ties_in_the_far_tail_of_gelu_are_reported_and_equal(workers: dict[str, Worker]) -> None:
    # There 1 + erf(x) is zero or one rounding error, different in each framework: rounding decides which of four is the largest.
    nodes = (Conv("conv", 8), GELU("gelu"), MaxPool("pool"), Flatten("flatten"), Linear("fc", 10))
    made = Network("tail", (3, 32, 32), nodes)
    recipe = changed(presets.get_recipe("adam"), batch_size=8, optimizer=Optimizer("momentum", 0.01, 0.9))
    state = {name: array.astype(float) for name, array in initialise(made, 0).items()}
    state["conv.bias"][:4] = -8.2
    check = Check(
        made, recipe, data.load("shapes10").limit(32, 1), 3, stages=("forward", "backward", "update"), state=state
    )
    outcome = run_check(check, workers)
    assert outcome.verdict == EQUAL
    assert any("max-pool ties in gelu" in sentence for sentence in outcome.explained)


@pytest.mark.parametrize(
    ("name", "times", "equal"), [("conv.weight", 2.0, True), ("conv.weight", 100.0, False), ("head.weight", 2.0, False)]
)
def test_tensors_behind_a_tie_may_differ_by_its_share_of_the_gradient(
    name: str, times: float, equal: bool, workers: dict[str, Worker]
) -> None:
    head = Auxiliary(
        "aux", (Flatten("head_flatten"), Linear("head", 10))
    )  # their gradients do not come through the pool
    nodes: tuple[Node, ...] = (Conv("conv", 3), head, ReLU(RELU), MaxPool("pool"), Flatten("flatten"), Linear("fc", 10))
    made, inputs = Network("pooled", (3, 7, 7), nodes), tied(0)
    a, b = gradients(workers, made, inputs)
    share = float(np.linalg.norm(a - b) / np.linalg.norm(a))
    weight = np.random.default_rng(2).normal(size=(3, 3, 3, 3))
    records = {
        "one": {FORWARD: inputs[0], BACKWARD: a, f"gradient/{name}": weight},
        "other": {FORWARD: inputs[1], BACKWARD: b, f"gradient/{name}": weight * (1 + times * share)},
    }
    outcome, different = judge_records(made, records)
    assert list(different) == ([] if equal else [f"gradient/{name}"])
    assert len(outcome.explained) == 1


def test_a_tie_is_found_before_the_end_of_branches() -> None:
    one: tuple[Node, ...] = (Conv("left", 2, 1, padding=0), ReLU("left_relu"))
    other: tuple[Node, ...] = (Conv("right", 3, 1, padding=0), ReLU("right_relu"))
    nodes = (Branches("both", (one, other)), MaxPool("pool"), Flatten("flatten"), Linear("fc", 10))
    made = Network("branched", (3, 4, 4), nodes)
    first, second = (np.ones((1, 5, 4, 4)) for _ in range(2))
    first[0, 3, 0, 0] += 2.0**-52
    second[0, 3, 1, 1] += 2.0**-52
    records = [
        {"forward/both": x, "forward/left_relu": x[:, :2], "forward/right_relu": x[:, 2:], "forward/right": x[:, 2:]}
        for x in (first, second)
    ]
    assert find_pool_ties(made, "left_relu", *records) is None
    for layer in ("right_relu", "right"):
        found = find_pool_ties(made, layer, *records)
        assert found is not None and np.argwhere(found).tolist() == [[0, 1, 0, 0], [0, 1, 1, 1]]
