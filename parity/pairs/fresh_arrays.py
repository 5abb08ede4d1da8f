"""What a worker tells about the arrays of one fresh model: some numbers of each, at the same places for every seed and on both sides."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.compare.tolerances import FRESH_NUMBERS, GRAM, HALF_ULP
from parity.modules.layer_kinds import parse_spelling

MOST_VECTORS = 32
"""So many rows or columns of a matrix are tested for being orthogonal."""

MOST_ROWS = 16
"""So many rows that hold one number are listed."""


@dataclass(frozen=True)
class FreshArray:
    """Numbers of one array: `values`, a single one if all are equal, and its `dtype`.

    `rows` are those that hold one number each, such as that of padding; `gain` and `whole_gain` are those of
    `parity.compare.fresh_weights.Draws`. They are only there if the array was looked at closely.
    """

    values: Array
    dtype: str
    rows: list[int]
    gain: float | None
    whole_gain: float | None


def sample_arrays(
    read: Callable[[str], Array], dtypes: Mapping[str, str], spellings: Sequence[str], closely: bool
) -> dict[str, FreshArray]:
    """Return numbers of the array of each spelling. `read` returns a whole array by its own name; one is in memory at a time.

    `closely` also tests rows, and whether a matrix is orthogonal: this takes several times as long.
    """
    found: dict[str, FreshArray] = {}
    by_name: dict[str, list[str]] = {}
    for text in spellings:
        by_name.setdefault(parse_spelling(text).name, []).append(text)
    for name, texts in by_name.items():
        array = read(name)
        whole_gain = orthogonal_gain(array, dtypes[name]) if closely and len(texts) > 1 else None
        for text in texts:
            view = parse_spelling(text).view(array)
            first = view.flat[0] if view.size else 0.0
            if view.size and (view == first).all():
                found[text] = FreshArray(np.array([first], np.float64), dtypes[name], [], None, None)
                continue
            rows = constant_rows(view) if closely else []
            gain = orthogonal_gain(view, dtypes[name]) if closely else None
            values = view[np.unravel_index(_places(view.size), view.shape)].astype(np.float64)
            found[text] = FreshArray(values, dtypes[name], rows, gain, whole_gain)
    return found


@functools.lru_cache(maxsize=256)
def _places(size: int) -> Array:
    """Return the places, in an array of `size` numbers, of those that are compared."""
    if size <= FRESH_NUMBERS:
        return np.arange(size)
    return np.sort(np.random.default_rng(size).choice(size, FRESH_NUMBERS, replace=False))


def constant_rows(array: Array) -> list[int]:
    """Return the first rows, along the first axis, that hold one number each. A row of one number is none."""
    if array.ndim < 2 or array[0].size < 2:
        return []
    rows = array.reshape(len(array), -1)
    return [int(row) for row in np.flatnonzero((rows == rows[:, :1]).all(axis=1))[:MOST_ROWS]]


def orthogonal_gain(array: Array, dtype: str) -> float | None:
    """Return g where the rows of a matrix, or its columns if they are fewer, are orthogonal and have the norm g; None where not.

    Axes behind the first one are one axis, as in `torch.nn.init.orthogonal_`.
    """
    if array.ndim < 2 or min(len(array), array[0].size) < 2:
        return None
    matrix = array.reshape(len(array), -1)
    vectors = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if len(vectors) > MOST_VECTORS:
        vectors = vectors[np.random.default_rng(0).choice(len(vectors), MOST_VECTORS, replace=False)]
    vectors = vectors.astype(np.float64)
    gram = vectors @ vectors.T
    square = float(np.trace(gram)) / len(gram)
    tolerance = GRAM * HALF_ULP.get(dtype, HALF_ULP["float32"]) * square
    return square**0.5 if np.abs(gram - square * np.eye(len(gram))).max() <= tolerance else None
