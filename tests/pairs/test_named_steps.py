"""The step that an optimizer takes is named from the first update of a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parity.pairs.named_steps import name_step

RANDOM = np.random.default_rng(0)
START, GRADIENT = RANDOM.standard_normal((2, 4, 3))
SETTINGS = {"rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4, "momentum": 0.9}
RATE = SETTINGS["rate"]


def adam(g: Any) -> Any:
    return RATE * g / (np.abs(g) + 1e-4)


@pytest.mark.parametrize(
    ("settings", "move", "text"),
    [
        ({}, lambda w, g: adam(g), "Adam"),
        ({}, lambda w, g: RATE * 0.1 * g / (0.001**0.5 * np.abs(g) + 1e-4), "Adam without bias correction"),
        ({}, lambda w, g: RATE * g / np.sqrt(g**2 + 1e-4), "Adam with eps inside the square root"),
        ({}, lambda w, g: RATE * g / (np.abs(g) + 1e-4 / 0.001**0.5), "Adam with eps scaled by the bias correction"),
        ({"decay": 0.1}, lambda w, g: adam(g + 0.1 * w), "Adam, with the weight decay added to the gradient"),
        ({"weight_decay": 0.1}, lambda w, g: adam(g) + RATE * 0.1 * w, "Adam, with decoupled weight decay"),
        (
            {"weight_decay": 0.1},
            lambda w, g: adam(g) + RATE * 0.1 * (w - adam(g)),
            "Adam, with decoupled weight decay after the step",
        ),
        (
            {"weight_decay": 0.1},
            lambda w, g: adam(g) + 0.1 * w,
            "Adam, with decoupled weight decay that the learning rate does not scale",
        ),
        ({}, lambda w, g: RATE * g, "gradient descent or momentum"),
        ({}, lambda w, g: RATE * 1.9 * g, "Nesterov momentum"),
        ({}, lambda w, g: RATE * 0.1 * g, "momentum whose gradient is multiplied by 1 - momentum"),
        ({}, lambda w, g: RATE * np.sign(g), "the sign of the gradient"),
        ({}, lambda w, g: RATE * g**3, None),
    ],
)
def test_a_first_update_names_the_step(settings: dict[str, float], move: Callable[..., Any], text: str | None) -> None:
    assert name_step(move(START, GRADIENT), START, GRADIENT, SETTINGS | settings) == text
