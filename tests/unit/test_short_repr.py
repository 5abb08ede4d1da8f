"""A `repr` fits three lines, whatever its object holds."""

from __future__ import annotations

import numpy as np
import pytest

from parity import data
from parity.compare.check import Check
from parity.network.articles import NETWORKS
from parity.network.network import Network
from parity.recipe.presets import RECIPES
from parity.recipe.recipe import Recipe
from parity.short_repr import LINES, counted


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_a_network_shows_its_name_shape_and_size(network: Network) -> None:
    assert len(repr(network)) <= LINES
    assert network.name in repr(network)
    assert f"{network.trainable_count:,}" in repr(network)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_shows_what_differs_from_the_defaults(recipe: Recipe) -> None:
    assert len(repr(recipe)) <= LINES
    assert repr(recipe).startswith(f"Recipe(name={recipe.name!r}")


def test_a_check_and_its_inputs_show_arrays_by_shape() -> None:
    check = Check(NETWORKS["googlenet"], RECIPES["fast"], data.load("shapes10"))
    inputs = Check(NETWORKS["lenet"], RECIPES["article"], data.load("shapes10")).run_inputs()
    assert len(repr(check)) <= LINES and len(repr(inputs)) <= LINES
    step = next(inputs.steps())
    assert len(repr(step)) <= LINES
    assert f"images={step.images.dtype}[128, 3, 32, 32]" in repr(step)
    assert step.images.dtype == np.float64


def test_a_number_is_spelled_with_its_noun() -> None:
    assert (counted(1, "step"), counted(200, "epoch")) == ("1 step", "200 epochs")
