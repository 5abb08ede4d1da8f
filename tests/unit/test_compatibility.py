"""Networks, data sets and recipes that do not fit: the message names what fits, and what it names does fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from parity import data
from parity.data import Dataset
from parity.errors import InputError
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Recipe
from parity.training.compatibility import check_compatible


def blank(name: str) -> Dataset:
    """Return four black pictures of each part, with the shape and the classes of the data set `name`."""
    images, labels = np.zeros((4, *data.SHAPES[name]), np.uint8), np.zeros(4, np.int64)
    return Dataset(name, data.CLASSES[name], images, labels, images, labels)


CASES = {
    ("mnist_cnn", "cifar10", "quick"): "choose --network vgg16_bn_drop",
    ("mnist_cnn", "cifar10", "mnist"): "choose --data mnist or mnist10k, or --network vgg16_bn_drop",
    ("mnist_fc", "mnist", "adam"): "choose another --recipe",
    ("vgg_mini@0.25", "mnist", "quick"): "choose --data cifar10 or shapes10, or --network mnist_fc",
    ("vgg_d", "cifar10", "quick"): "choose --data folder:DIR, or --network vgg_d@1x32+classes10",
    ("alexnet@0.25", "shapes10", "adam"): "choose --data folder:DIR, or --network vgg16_bn_drop",
    ("tf_vgg16", "cifar10", "distorted"): "choose --data folder:DIR, or --network tf_vgg16+classes10",
    ("vgg_mini@0.5x64", "cifar10", "quick"): "choose --data folder:DIR, or --network vgg_mini@0.5x32",
    ("vgg_mini", "cifar10", "distorted"): "choose --network vgg_mini@1x24",
    ("lenet+classes5", "shapes10", "quick"): "choose --data folder:DIR, or --network lenet+classes5+classes10",
}
"""Network, data set and recipe that do not fit -> what the message proposes."""


def refusal(network: str, dataset: str, recipe: Recipe | None, trained: bool = True) -> str:
    with pytest.raises(InputError) as caught:
        check_compatible(articles.get_network(network), blank(dataset), recipe, trained=trained)
    message = str(caught.value)
    assert "\n" not in message
    return message.rpartition("; ")[2]


@pytest.mark.parametrize("names", CASES, ids=" ".join)
def test_the_message_names_what_fits(names: tuple[str, str, str]) -> None:
    network, dataset, recipe = names
    assert refusal(network, dataset, presets.get_recipe(recipe)) == CASES[names]


@pytest.mark.parametrize("names", CASES, ids=" ".join)
def test_what_it_names_does_fit(names: tuple[str, str, str]) -> None:
    network, dataset, recipe = articles.get_network(names[0]), names[1], presets.get_recipe(names[2])
    words = CASES[names].replace(",", "").split()
    for flag, value in pairwise(words):
        if flag in ("--data", "or") and value in data.SHAPES:
            check_compatible(network, blank(value), recipe)
        if flag == "--network":
            made = articles.get_network(value)
            own = presets.recipe_for(made, "quick")
            try:
                check_compatible(made, blank(dataset), recipe)
            except InputError:  # a network of another architecture has its own recipe
                check_compatible(made, blank(dataset), replace(own, batch_size=4))


def test_weights_that_are_only_tested_get_a_data_set_and_no_network() -> None:
    assert refusal("mnist_cnn", "cifar10", None, trained=False) == "choose --data mnist or mnist10k"


@pytest.mark.parametrize("name", ["cifar10", "shapes10", "mnist10k"])
def test_the_shapes_are_those_of_the_data_sets(name: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue("real_cifar10") if name == "cifar10" else data.load(name)
    assert dataset.train_images.shape[1:] == data.SHAPES[name]
    assert set(data.SHAPES) == set(data.CLASSES) == set(data.DATASETS)
