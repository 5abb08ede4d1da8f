"""The elements in which a tensor differs most: their order, their indices, and values that have no order."""

from __future__ import annotations

import json

import numpy as np

from parity.compare.relative_error import BLOCK
from parity.compare.worst_elements import MOST, WorstElements, worst_elements
from parity.report import plain


def test_the_largest_difference_comes_first_with_its_index_and_both_values() -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    b = a.copy()
    b[1, 2, 3] += 0.5
    b[0, 1, 2] -= 2
    found = worst_elements(a, b)
    assert found.shapes == ((2, 3, 4), (2, 3, 4))
    assert [(one.index, one.reference, one.candidate, one.difference) for one in found.elements] == [
        ((0, 1, 2), 6.0, 4.0, -2.0),
        ((1, 2, 3), 23.0, 23.5, 0.5),
    ]


def test_of_many_elements_only_the_largest_are_kept_over_all_blocks() -> None:
    a = np.zeros(2 * BLOCK + 5)
    b = a.copy()
    b[::1000] = 1e-9
    largest = {BLOCK - 1: 3.0, BLOCK: -4.0, 2 * BLOCK + 4: 2.0}
    for index, value in largest.items():
        b[index] = value
    found = worst_elements(a, b).elements
    assert len(found) == MOST
    assert [one.index for one in found[:3]] == [(BLOCK,), (BLOCK - 1,), (2 * BLOCK + 4,)]


def test_nan_and_infinity_come_before_numbers_and_equal_ones_are_no_difference() -> None:
    a = np.array([1.0, np.nan, np.inf, 1.0, 1.0, -np.inf])
    b = np.array([9.0, np.nan, np.inf, np.nan, np.inf, np.inf])
    found = worst_elements(a, b).elements
    assert [one.index for one in found] == [(3,), (4,), (5,), (0,)]
    json.dumps(plain(worst_elements(a, b).to_json()), allow_nan=False)


def test_integers_booleans_and_scalars_have_elements() -> None:
    assert worst_elements(np.array([3, 250], np.uint8), np.array([4, 1], np.uint8)).elements[0].difference == -249
    assert worst_elements(np.array([True, False]), np.array([True, True])).elements[0].index == (1,)
    assert worst_elements(np.array(1.0), np.array(2.0)).elements[0].index == ()


def test_other_shapes_and_missing_or_complex_tensors_have_shapes_only() -> None:
    assert worst_elements(np.zeros((2, 3)), np.zeros(6)).to_json() == {"shapes": [[2, 3], [6]], "elements": []}
    assert worst_elements(None, np.zeros(6)).to_json() == {"shapes": [None, [6]], "elements": []}
    assert worst_elements(np.zeros(2, complex), np.ones(2, complex)).elements == ()
    assert worst_elements(np.zeros(0), np.zeros(0)).elements == ()
    assert WorstElements().to_json() == {"shapes": [None, None], "elements": []}
