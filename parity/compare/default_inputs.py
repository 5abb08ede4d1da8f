"""The default inputs of a check: they show in a few steps the faults that long training would show.

Fresh weights, an unchanged recipe and a few images hide faults. Biases are zero, statistics are alike, the schedule never drops, and the
second epoch never begins. docs/parity.md lists what each part can show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.data.random_streams import stream
from parity.network.network import Network
from parity.network.nodes import AvgPool, Conv, Dropout, Flatten, GlobalAvgPool, Linear, LogSoftmax
from parity.recipe.optimizer import Group
from parity.recipe.presets import CROP_AND_FLIP
from parity.recipe.recipe import Augmentation, Recipe
from parity.weights.canonical_state import State, initialise

STEPS = 6
"""Steps of a check: three epochs of one and a half batches. The learning rate drops at the start of the second and third epoch."""

RESUMED = 4
"""The step before which the sides save and load their state, in the middle of the second epoch."""

DROPS = (0.35, 0.6)
"""The shares of these steps after which a schedule `multi_step` drops: the learning rate of steps 3 and 5 is the first that is lower."""

RANGES = {
    "bias": (0.0, 0.2),
    "beta": (-0.5, 0.5),
    "gamma": (0.5, 1.5),
    "mean": (-0.5, 0.5),
    "variance": (0.5, 1.5),
}
"""Kind of array -> the range that it is drawn from; weights keep their own initialiser.

Biases are positive. With negative ones, ReLUs of small networks without batch norm may pass nothing, which hides faults behind them.
"""

HARD_SCORE = -100.0
"""The bias of one class: an image of it has a loss of 100 nats. A side that clips a logarithm, at 64 nats or at 1e-12, then differs."""

GROUPS = (Group("*.gamma", 2.0, 0.5), Group("*.bias", 0.5, 2.0))
"""Groups of the optimizer if the recipe has none: factors of learning rate and weight decay."""

BEFORE_SCORES = (LogSoftmax, Dropout, Flatten, AvgPool, GlobalAvgPool)
"""Nodes that may come between the last bias and the class scores."""


def random_state(network: Network, seed: int) -> State:
    """Return fresh weights of `network` from `seed` in which no bias, gamma, beta or running statistic is constant or equals another."""
    state = initialise(network, seed)
    for name, array in state.items():
        kind = name.partition(".")[2]
        if kind in RANGES:
            drawn = stream(seed, "start of a check", name).uniform(*RANGES[kind], array.shape)
            state[name] = drawn.astype(np.float32)
    return state


def make_images_hard(state: State, network: Network, label: int) -> State:
    """Return `state` with a bias of `HARD_SCORE` for the class `label`, at the output and in every auxiliary head that ends in a bias."""
    changed = dict(state)
    for end in (network.output, *network.heads):
        name = f"{_last_with_bias(network, end)}.bias"
        if name in changed and label < len(changed[name]):
            changed[name] = changed[name].copy()
            changed[name][label] = HARD_SCORE
    return changed


def _last_with_bias(network: Network, layer: str) -> str:
    """Return the layer whose bias is added to the scores of `layer` unchanged; "" if there is none."""
    while layer:
        where = network.layers[layer]
        if isinstance(where.node, Linear | Conv):
            return layer
        if not isinstance(where.node, BEFORE_SCORES) or len(where.sources) > 1:
            return ""
        (layer,) = where.sources
    return ""


def squeeze_schedule(recipe: Recipe, steps: int) -> Recipe:
    """Return `recipe` with a schedule of drops squeezed into `steps` steps, so that the learning rate drops twice."""
    if recipe.schedule.kind == "multi_step":
        return replace(recipe, schedule=replace(recipe.schedule, drops=DROPS))
    if recipe.schedule.kind != "discexp" or steps < 2:
        return recipe
    return replace(recipe, schedule=replace(recipe.schedule, every=max(1, steps * recipe.batch_size // 3)))


def add_what_is_missing(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Return `recipe` with the augmentation and the parameter groups that it lacks, and sentences on what was added."""
    added = []
    if recipe.augmentation == Augmentation():
        recipe = replace(recipe, augmentation=CROP_AND_FLIP)
        added.append("images are cropped and flipped")
    if not recipe.optimizer.groups:
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, groups=GROUPS))
        added.append("gammas and biases have their own learning rate and weight decay")
    return recipe, added


def count_images(steps: int, batch: int) -> int:
    """Return the number of training images for `steps` steps: three epochs in six steps, each with a last batch of half the size."""
    short = batch // 2 if batch >= 4 else 0
    return batch * max(1, steps // 6) + short


def resumed_step(steps: int) -> int:
    """Return the step before which the sides save and load their state; 0 if there is only one step."""
    return min(RESUMED, steps) if steps > 1 else 0
