"""Local response normalisation follows its paper's formula, number by number, and its gradient follows central differences."""

from __future__ import annotations

import numpy as np
import pytest

from parity.backend.worker import Worker
from parity.network.network import Network
from parity.network.nodes import LRN, Flatten, Linear
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import initialise

BOUND = 1e-12
SHAPE = (2, 7, 2, 3)
STEP = 2.0**-17
"""About the cube root of float64's epsilon, where the rounding error and the truncation error are about equal."""


def formula(a: np.ndarray, n: int, k: float, alpha: float, beta: float) -> np.ndarray:
    """b_i(x, y) = a_i(x, y) / (k + alpha * sum of a_j(x, y)^2, j from max(0, i - n/2) to min(N - 1, i + n/2)) ^ beta, section 3.3."""
    images, maps, height, width = a.shape
    b = np.empty_like(a)
    for image in range(images):
        for i in range(maps):
            for x in range(height):
                for y in range(width):
                    total = 0.0
                    for j in range(max(0, i - n // 2), min(maps - 1, i + n // 2) + 1):
                        total += a[image, j, x, y] ** 2
                    b[image, i, x, y] = a[image, i, x, y] / (k + alpha * total) ** beta
    return b


CASES = {
    "as published": LRN("node"),
    "alpha that acts": LRN("node", 5, 2.0, 0.25, 0.75),
    "n = 3": LRN("node", 3, 1.0, 0.5, 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_normalisation_is_the_papers_formula_and_its_gradient(case: str, worker: Worker) -> None:
    node, random = CASES[case], np.random.default_rng(0)
    scalars = (node.size, node.k, node.alpha, node.beta)  # rounded to float32, as both sides have them
    scale = 60.0 if case == "as published" else 2.0
    a, slope = random.uniform(-scale, scale, SHAPE), random.uniform(-1, 1, SHAPE)
    network = Network("one", SHAPE[1:], (node, Flatten("flatten"), Linear("scores", 2)))
    worker.start(network, Optimizer("momentum", rate=0.1), initialise(network, 0))
    record = worker.isolate("node", [a], [a], None, slope)
    wanted = formula(a, *scalars)
    assert np.linalg.norm(wanted - a / node.k**node.beta) > 0.05 * np.linalg.norm(wanted), "the sum counts"
    for phase in ("forward", "eval"):
        assert np.linalg.norm(record[f"{phase}/node"] - wanted) <= BOUND * np.linalg.norm(wanted)

    def difference(place: tuple[int, ...], step: float) -> float:
        moved = [a.copy(), a.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (formula(m[place[0]][None], *scalars)[0] for m in moved)
        return float((slope[place[0]] * (up - down)).sum() / (2 * step))

    step = STEP * scale
    for place in np.ndindex(*SHAPE):
        near, far = difference(place, step), difference(place, 2 * step)
        # The truncation error is a third of `far - near`. The rounding error is one for each term of the sum, divided by the step.
        allowed = abs(far - near) + 8 * np.finfo(float).eps * np.abs(slope[place[0]] * wanted[place[0]]).sum() / step
        assert allowed < 1e-8
        assert record["backward/node.0"][place] == pytest.approx(near, rel=0, abs=allowed)
