"""The recipes of the articles and of this project. To add one, add an entry to `RECIPES`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from parity.errors import InputError, suggest
from parity.files.strict_json import parse_json, read_text
from parity.network.articles.resnet import DEPTHS, PLAIN_DEPTHS
from parity.network.network import Network
from parity.recipe.optimizer import Group, Optimizer
from parity.recipe.recipe import Augmentation, Preprocessing, Recipe, Schedule, read_recipe

CIFAR10_STATISTICS = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""Channel means and standard deviations of the third article. Its deviations are means over images, as in many scripts."""

WHITENED = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Channel means and standard deviations of all pixels of CIFAR-10's training images, for `parity.weights.whitening`."""

CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)

MNIST = Optimizer("momentum", rate=0.01, momentum=0.5)
MNIST_STATISTICS = Preprocessing(mean=(0.1307,), std=(0.3081,))
MNIST_SOURCE = "third article (2018): MNIST, SGD 0.01, momentum 0.5, batch 64"

VGG = Recipe(
    "vgg",
    Optimizer("momentum", rate=0.01, momentum=0.9, weight_decay=5e-4),
    epochs=74,
    batch_size=256,
    schedule=Schedule("discexp", factor=0.1, every=23_710_000),
    preprocessing=Preprocessing(mean=(0.485, 0.456, 0.406), std=(1 / 255,) * 3, crop=224),
    augmentation=Augmentation(crop=224, flip=True, scale_low=256, scale_high=512),
    source="arXiv 1409.1556, section 3.1: 370,000 updates (the rate dropped three times as the validation stalled; here evenly), "
    "scale jitter; without the random colour shift",
)

FAST = Recipe(
    "fast",
    Optimizer(
        "momentum",
        rate=1.5,
        momentum=0.85,
        nesterov=True,
        weight_decay=0.00133,
        groups=(
            Group("conv*.weight", 1 / 8, 0.0, muon=3, momentum=0.6),
            Group("*.beta", 64.0, 1 / 64),
            Group("fc.weight", 1 / 64, 64.0),
        ),
        label_smoothing=0.2,
    ),
    epochs=9,
    batch_size=1024,
    schedule=Schedule("one_cycle", warmup=0.0),
    preprocessing=WHITENED,
    augmentation=Augmentation(crop_padding=2, flip=True, fill="reflect", alternate=True),
    divisor="batch_size",
    source="after airbench94 (Jordan 2024, arXiv 2404.00498), whose rates are of the summed cost, per 1,024 images; kernels by Muon "
    "(Jordan 2024, https://kellerjordan.github.io/posts/muon)",
)

RESNET = Recipe(
    "resnet",
    Optimizer("momentum", rate=0.1, momentum=0.9, weight_decay=1e-4),
    epochs=164,  # of 391 updates: the whole number of epochs that is nearest to 64,000 updates
    batch_size=128,
    schedule=Schedule("multi_step", factor=0.1, drops=(0.5, 0.75)),
    preprocessing=CIFAR10_STATISTICS,
    augmentation=CROP_AND_FLIP,
    source="arXiv 1512.03385, section 4.2: the rate divided by 10 after 32,000 and 48,000 of 64,000 updates (here after 32,062 and 48,093 "
    "of 64,124); channel means and deviations instead of the mean of each pixel",
)

# `vgg-parity runs` averages runs of equal recipes. `source` is a part of them, so its old words (pass for epoch) stay.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "article",
            Optimizer("momentum", rate=0.1, momentum=0.9, weight_decay=2e-4, velocity_holds_rate=True),
            epochs=200,
            batch_size=128,
            schedule=Schedule("discexp", factor=0.1, every=5_000_000),
            divisor="batch_size",
            source="first article (2017): lr 0.1/128, L2 0.0002*128, momentum 0.9, discexp; PaddlePaddle 0.11 sums gradients",
        ),
        Recipe(
            "quick",
            Optimizer("momentum", rate=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4),
            epochs=1,
            batch_size=128,
            schedule=Schedule("one_cycle", warmup=0.3),
            preprocessing=CIFAR10_STATISTICS,
            augmentation=Augmentation(flip=True),
            source="ours: minutes on two CPU cores",
        ),
        Recipe(
            "adam",
            Optimizer("adam", rate=1e-3),
            epochs=10,
            batch_size=128,
            preprocessing=CIFAR10_STATISTICS,
            augmentation=CROP_AND_FLIP,
            source="third article (2018): Adam 1e-3, random crop 32 with padding 4, horizontal flip",
        ),
        Recipe(
            "cifar_net",
            Optimizer("adam", rate=1e-3),
            epochs=10,
            batch_size=64,
            preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            source="third article (2018): Net for CIFAR-10, Adam 1e-3, batch 64, mean and deviation 0.5",
        ),
        Recipe("mnist", MNIST, 1, 64, preprocessing=MNIST_STATISTICS, source=f"{MNIST_SOURCE}, one pass"),
        Recipe(
            "mnist_permuted",
            MNIST,
            1,
            64,
            preprocessing=replace(MNIST_STATISTICS, permutation=0),
            source=f"{MNIST_SOURCE}, one fixed random order of the pixels",
        ),
        Recipe(
            "distorted",
            Optimizer("momentum", rate=0.01, momentum=0.9),
            epochs=10,
            batch_size=128,
            preprocessing=Preprocessing(crop=24, standardise=True),
            augmentation=Augmentation(crop=24, flip=True, brightness=63.0, contrast_low=0.2, contrast_high=1.8),
            source="TensorFlow's cifar10.distorted_inputs, which feeds the first article's twin (optimizer: ours, it only times)",
        ),
        VGG,
        replace(
            VGG,
            name="slim",
            optimizer=replace(VGG.optimizer, groups=(Group("*.bias", weight_decay=0.0),)),
            preprocessing=replace(VGG.preprocessing, crop=0),
            augmentation=Augmentation(flip=True),
            source="tf.slim's vgg.py: L2 of 5e-4 on weights only (the rest: vgg, of pictures as they are)",
        ),
        FAST,
        replace(FAST, name="article-accuracy", epochs=5, source="ours: fast, as short as passes the article's 89.11%"),
        Recipe(
            "best",
            Optimizer(
                "momentum",
                rate=0.025,
                momentum=0.9,
                nesterov=True,
                weight_decay=5e-4,
                groups=(Group("conv*.weight", 4.0, 0.0, muon=3, momentum=0.6),),
                label_smoothing=0.1,
            ),
            epochs=5,
            batch_size=512,
            schedule=Schedule("one_cycle", warmup=0.0),
            preprocessing=WHITENED,
            augmentation=Augmentation(crop_padding=4, flip=True, fill="reflect", alternate=True),
            source="ours: a VGG16 in the passes that an hour of two CPU cores has room for; kernels by Muon, as in fast",
        ),
        RESNET,
    )
}

OF = {
    "tf_vgg16": "distorted",
    "tf_vgg16_logits": "distorted",
    "slim_vgg16": "slim",
    "cifar_net": "cifar_net",
    "vgg_fast": "fast",
    "vgg16_bn": "best",
    "mnist_fc": "mnist",
    "mnist_cnn": "mnist",
    **{f"resnet{depth}{shortcut}": "resnet" for depth in DEPTHS for shortcut in ("", "_b")},
    **{f"plain{depth}": "resnet" for depth in PLAIN_DEPTHS},
}
"""Network -> the recipe of its article or project, if it needs that recipe."""


FOR = {"fast": "vgg_fast", "article-accuracy": "vgg_fast@0.5", "best": "vgg16_bn", "resnet": "resnet20"}
"""Recipe -> the network that it was made for; training uses it unless --network names another."""


def get_recipe(name: str) -> Recipe:
    """Return the recipe called `name`, or the recipe in the file `name` if that ends in .json. `InputError` lists the known names."""
    if name.endswith(".json"):
        return read_recipe_file(Path(name))
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{suggest(name, RECIPES)}; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def read_recipe_file(path: Path) -> Recipe:
    """Read a recipe from its JSON file, or from the config.json of a run. `InputError` if it cannot be read."""
    text = read_text(path, "a recipe's JSON, or a run's config.json")
    try:
        found = parse_json(text, "recipe")
        experiment = found.get("experiment", {"recipe": found})
        return read_recipe(experiment.get("recipe") if isinstance(experiment, dict) else experiment)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def recipe_for(network: Network, otherwise: str = "article") -> Recipe:
    """Return the recipe in `OF` of `network`, or of the network that it is a cousin of; else the recipe called `otherwise`."""
    return RECIPES[OF.get(re.split("[@+]", network.name)[0], otherwise)]
