"""The recipes of the articles and ours. To add one: an entry in `RECIPES`."""

from __future__ import annotations

from parity.errors import InputError
from parity.recipe import Augmentation, Optimizer, Preprocessing, Recipe, Schedule

CIFAR10_STATISTICS = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""Channel means and deviations as the third article has them (the deviations are means of per-image ones, as in many scripts)."""

CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)

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
    )
}


def get(name: str) -> Recipe:
    """The recipe called `name`; `InputError` lists the known names."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
