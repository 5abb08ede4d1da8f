"""Which known step an optimizer takes, from the first update of a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import distance

FIT = 3e-7
"""Largest relative error at which a step explains an update: settings are rounded to float32."""


def name_step(moved: Array, start: Array, gradient: Array, settings: Mapping[str, float]) -> str | None:
    """Return the step that explains how far a weight moved in the first update, in words; None if none does.

    `moved` is the weight before the update, `start`, minus the one after it. `settings` have canonical names, see
    `parity.recipe.optimizer_description.LABELS`; a decay of which nothing else is known is `weight_decay`.
    """
    # A check rounds the settings of an optimizer to float32, but not those that its code holds elsewhere.
    rounded = {key: float(np.float32(value)) for key, value in settings.items()}
    return _name(moved, start, gradient, rounded) or _name(moved, start, gradient, settings)


def _name(moved: Array, start: Array, gradient: Array, known: Mapping[str, float]) -> str | None:
    rate = known.get("rate", 0.0)
    decays = dict.fromkeys(known[key] for key in ("decoupled_decay", "decay", "weight_decay") if known.get(key))
    for words, step in _steps(gradient, known):
        if distance(moved, rate * step) <= FIT:
            return words
    for decay in decays:
        for words, step in _steps(gradient + decay * start, known):
            if distance(moved, rate * step) <= FIT:
                return f"{words}, with the weight decay added to the gradient"
        for words, step in _steps(gradient, known):
            after = start - rate * step
            kinds = {
                "with decoupled weight decay": rate * decay * start,
                "with decoupled weight decay after the step": rate * decay * after,
                "with decoupled weight decay that the learning rate does not scale": decay * start,
            }
            for how, shrunk in kinds.items():
                if distance(moved, rate * step + shrunk) <= FIT:
                    return f"{words}, {how}"
    return None


def _steps(g: Array, settings: Mapping[str, float]) -> Iterator[tuple[str, Array]]:
    """Yield the first steps for a learning rate of 1, in words and as arrays."""
    eps = settings.get("eps", 1e-8)
    c1, c2 = 1 - settings.get("beta1", 0.9), 1 - settings.get("beta2", 0.999)
    size, momentum = np.abs(g), settings.get("momentum", 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "Adam", g / (size + eps)
        yield "Adam without bias correction", c1 * g / (np.sqrt(c2) * size + eps)
        yield "Adam with bias correction of the first moment only", g / (np.sqrt(c2) * size + eps)
        yield "Adam with eps inside the square root", g / np.sqrt(size**2 + eps)
        yield "Adam with eps scaled by the bias correction", g / (size + eps / np.sqrt(c2))
    yield "gradient descent or momentum", g
    yield "Nesterov momentum", (1 + momentum) * g
    yield "momentum whose gradient is multiplied by 1 - momentum", (1 - momentum) * g
    yield "the sign of the gradient", np.sign(g)
