"""A deep network without shortcuts multiplies rounding: a one-ULP twin shows it to the check, which still finds small errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from parity.backend.worker import Worker
from parity.compare.check import Check, make_check, run_check
from parity.compare.tolerances import MULTIPLIED, ONE_STEP, TWIN
from parity.data import shapes10
from parity.network import articles
from parity.recipe.presets import RECIPES
from parity.selftest import changes

NETWORK = articles.get_network("plain56@0.125")
TRAINING = ("forward", "backward", "update", "trajectory")


@pytest.fixture(scope="module")
def deep() -> Check:
    recipe = replace(RECIPES["article"], batch_size=8)
    return make_check(NETWORK, recipe, shapes10.load(None, lambda line: None), stages=TRAINING, steps=6)


@pytest.fixture(scope="module")
def three(workers: dict[str, Worker]) -> Iterator[dict[str, Worker]]:
    with Worker("torch", threads=1) as twin:
        yield {"torch": workers["torch"], "paddle": workers["paddle"], "twin": twin}


def test_rounding_that_a_deep_network_multiplies_is_no_difference(deep: Check, three: dict[str, Worker]) -> None:
    lines: list[str] = []
    outcome = run_check(deep, three, say=lines.append)
    assert outcome.verdict == "chaotic but equal", outcome.first and outcome.first.sentence()
    assert lines.count("again, with every tensor of the one-ULP twin") == 1
    assert max(row["error"] for row in outcome.trajectory) > ONE_STEP["float64"], "else nothing was multiplied"
    *earlier, last = outcome.trajectory
    assert all(row["twin"] <= MULTIPLIED for row in earlier) and last["twin"] > MULTIPLIED
    assert "later steps are not compared" in outcome.explained[-1] and last["step"] < deep.steps


def test_without_a_twin_nothing_excuses_a_difference(deep: Check, three: dict[str, Worker]) -> None:
    outcome = run_check(deep, {name: three[name] for name in ("torch", "paddle")})
    assert outcome.first and outcome.first.phase == "forward" and outcome.first.error < 100 * ONE_STEP["float64"]


@pytest.mark.parametrize(
    "layer",
    ["block2_9_bn2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("block1_2_bn1", "block3_9_bn2"))],
)
def test_a_small_error_is_found_at_its_layer_all_the_same(layer: str, deep: Check, three: dict[str, Worker]) -> None:
    error = (
        1e-8  # the farthest twin of this network has an error of 1e-11 in a step, and the sides up to TWIN times that
    )
    lines: list[str] = []
    outcome = run_check(deep, three, changes.perturbed(f"{layer}:output:{error}", NETWORK), say=lines.append)
    assert outcome.first and (outcome.first.phase, outcome.first.layer) == ("forward", layer)
    assert outcome.first.error == pytest.approx(error, rel=0.1) and outcome.first.bound < error / TWIN
    assert lines[1:2] == ["again, with every tensor of the one-ULP twin"], "it was judged with the twin's rounding"
