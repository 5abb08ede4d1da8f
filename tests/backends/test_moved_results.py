"""The numbers that operators compute can be moved by one unit in the last place, in both frameworks."""

from __future__ import annotations

import importlib

import numpy as np
import torch

from parity.arrays import Array
from parity.backend.registry import implementation, make_backend
from parity.modules.moved_numbers import MovedNumbers
from parity.pairs.replaced_functions import Replaced


def test_what_operators_compute_moves_and_what_they_copy_stays(framework: str) -> None:
    """Sums, quotients and logarithms round. Views, copies and numbers that float32 holds do not."""
    backend, moving = make_backend(framework), implementation(framework, "moved_results").moving_results
    functions = importlib.import_module(framework)
    x, third = np.array([[0.1, 0.2], [0.3, 3.0]]), 1 / 3

    def compute() -> list[Array]:
        tensor, one = (backend.from_numpy(array, "cpu") for array in (x, np.ones((2, 2))))
        computed = [tensor + third, tensor / 3, functions.log(tensor), tensor @ tensor, third - tensor]
        copied = [tensor.reshape([4]), tensor[0], functions.concat([tensor, tensor]), one + one, tensor]
        return [backend.to_numpy(y) for y in (*computed, *copied)]

    replaced = Replaced.of(framework)
    replaced.enter()
    try:
        replaced.replace()
        plain = compute()
        with moving(MovedNumbers(0)):
            moved = compute()
    finally:
        replaced.leave()
    for a, b in zip(plain[:5], moved[:5], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)
        assert (a != b).sum() >= 3
    for a, b in zip(plain[5:], moved[5:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_of_an_expanded_tensor_do_not_move() -> None:
    move = implementation("torch", "moved_results").move_numbers
    expanded, own = torch.full((1, 3), 0.1, dtype=torch.float64).expand(2, 3), torch.full((2, 3), 0.1).double() / 3
    before = own.clone()
    for tensor in (expanded, own):
        move(tensor, MovedNumbers(0))
    assert (expanded == 0.1).all() and (own != before).all() and torch.allclose(own, before, rtol=1e-15, atol=0)


def test_a_number_moves_by_one_unit_unless_it_is_most_likely_exact() -> None:
    numbers = np.array([0.1, 1 / 3, 1e300, 0.0, 1.0, 0.5, np.inf, np.nan])
    moved = MovedNumbers(0)(numbers)
    units = np.abs(moved[:3] - numbers[:3]) / np.spacing(numbers[:3])
    assert units.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(moved[3:], numbers[3:])
    assert MovedNumbers(0)(np.float32([0.1])).dtype == np.float32
