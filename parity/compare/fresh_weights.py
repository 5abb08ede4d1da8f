"""Compare two initialisations: numbers that several seeds gave to one array of each side.

Seeds are independent, and numbers of one seed need not be: an orthogonal matrix, or rows that are copies. So each seed gives one value of
each statistic, and the values of both sides are compared by their ranks. If both initialisations are equal, every order of the 2N values
has the same probability, for every distribution of the values. So the rank sum has the exact distribution of Mann and Whitney (1947).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import Difference, relative_l2
from parity.compare.tolerances import SAME_NUMBER, constant_tolerance, fixed_tolerance, statistic_level

CUTS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The shares of numbers below these quantiles of both sides together are statistics: they see any difference of two distributions."""

STATISTICS = 4 + len(CUTS)
"""Statistics of one array: mean, deviation, range, fourth moment, and the shares below `CUTS`."""

CHANCE = 0.01
"""Share of places from which a number may stay at a place for all seeds by chance."""


@dataclass(frozen=True)
class Draws:
    """What N seeds gave to one array of one side.

    `values`: [N, numbers] in float64, at the same places for every seed and on both sides; one column if every seed makes it constant.
    `shape`: that of the whole array, in canonical layout. `dtype`: that of the model. `rows`: the numbers of rows that hold one value.
    `gain`: the root of g in W W' = g 1 (or W' W) if it is so for every seed, else None. `whole_gain`: that of the stored array of which
    this one is a part.
    """

    values: Array
    shape: tuple[int, ...]
    dtype: str = "float32"
    rows: tuple[int, ...] = ()
    gain: float | None = None
    whole_gain: float | None = None

    @functools.cached_property
    def same(self) -> Array:
        """Which places hold one number for all seeds."""
        found: Array = (self.values == self.values[:1]).all(axis=0)
        return found

    @functools.cached_property
    def often(self) -> Array:
        """The numbers that a place may hold for all seeds by chance, such as the zeros of a sparse array."""
        found, counts = np.unique(self.values[:, ~self.same], return_counts=True)
        return np.asarray(found[counts > CHANCE * counts.sum()])

    def fixed(self, often: Array | None = None) -> Array:
        """Return which places hold one number for all seeds for another reason than chance, where `often` may be so by chance."""
        return np.asarray(self.same & ~np.isin(self.values[0], self.often if often is None else often))

    @property
    def is_fixed(self) -> bool:
        """Whether no seed changes the array."""
        return bool(self.same.all())

    @property
    def is_constant(self) -> bool:
        """Whether the array is one number for all seeds."""
        return bool((self.values == self.values[0, 0]).all())

    @property
    def random(self) -> Array:
        """The numbers that seeds change, [N, numbers]."""
        return self.values[:, ~self.fixed()]


@dataclass(frozen=True)
class Compared:
    """The result for one array: its `difference`, and what differs most in words; "" if both sides are equal."""

    difference: Difference
    what: str

    @property
    def equal(self) -> bool:
        """Whether both sides are equal."""
        return self.difference.equal


def compare_draws(name: str, reference: Draws, candidate: Draws, arrays: int) -> Compared:
    """Compare both initialisations of the array `name`, one of `arrays` that are compared together.

    The error of a statistic is the distance of its rank sum from the expected one, in standard deviations, and the tolerance its quantile.
    The error of numbers that no seed changes is their relative error. It is infinite where the sides differ in kind.
    """
    dtype = max((reference.dtype, candidate.dtype), key=constant_tolerance)
    a, b = _side_by_side(reference, candidate)
    often = np.concatenate([a.often, b.often])
    fixed = [draws.fixed(often) for draws in (a, b)]
    if a.is_fixed and b.is_fixed:
        return _compare_fixed(name, a, b, dtype)
    if what := _structure(a, b, fixed, dtype):
        return Compared(Difference(name, math.inf, critical(len(a.values), arrays)), what)
    both = ~fixed[0] & ~fixed[1]
    return _compare_ranks(name, a.values[:, both], b.values[:, both], arrays)


def _side_by_side(reference: Draws, candidate: Draws) -> tuple[Draws, Draws]:
    """Return both sides with equally many columns: a constant array has one."""
    count = max(reference.values.shape[1], candidate.values.shape[1])
    found = [
        replace(side, values=np.broadcast_to(side.values, (len(side.values), count))) for side in (reference, candidate)
    ]
    return found[0], found[1]


def _compare_fixed(name: str, a: Draws, b: Draws, dtype: str) -> Compared:
    constant = a.is_constant and b.is_constant
    tolerance = constant_tolerance(dtype) if constant else fixed_tolerance(dtype)
    difference = Difference(name, relative_l2(a.values[0], b.values[0]), tolerance)
    what = "" if difference.equal else "the constant" if constant else "the numbers, which no seed changes"
    return Compared(difference, what)


def _structure(a: Draws, b: Draws, fixed: Sequence[Array], dtype: str) -> str:
    """Return what differs for certain, and not by sampling."""
    if fixed[0].all() or fixed[1].all():
        return "no seed changes the numbers on one side"
    if a.rows != b.rows:
        return "the rows that hold one number"
    if (fixed[0] != fixed[1]).any():
        return "the places that no seed changes"
    values = [side.values[0, fixed[0]] for side in (a, b)]
    if not relative_l2(values[0], values[1]) <= fixed_tolerance(dtype):
        return "the numbers at places that no seed changes"
    return _structure_of_matrix(a, b)


def _structure_of_matrix(a: Draws, b: Draws) -> str:
    if (a.gain is None) != (b.gain is None):
        return "one side is orthogonal"
    if a.gain is not None and b.gain is not None and abs(a.gain - b.gain) > SAME_NUMBER * a.gain:
        return "the gain of the orthogonal matrix"
    return ""


def statistics_of(values: Array, cuts: Array) -> dict[str, Array]:
    """Return each statistic's value for each seed: name -> [N]."""
    squares = np.square(values)
    mean_square = squares.mean(axis=1)
    fourth = np.square(squares).mean(axis=1) / np.where(mean_square > 0, np.square(mean_square), 1)
    found = {
        "the mean": values.mean(axis=1),
        "the deviation": np.sqrt(mean_square),
        "the range": np.abs(values).max(axis=1),
        "the shape (fourth moment)": fourth,
    }
    shares = [(values < cut).mean(axis=1) for cut in cuts]
    return found | {f"the share of numbers below the {q:.0%} quantile": x for q, x in zip(CUTS, shares, strict=True)}


def _compare_ranks(name: str, a: Array, b: Array, arrays: int) -> Compared:
    both = np.concatenate([a.ravel(), b.ravel()])
    if not np.isfinite(both).all():
        return Compared(Difference(name, math.nan, critical(len(a), arrays)), "numbers that are not finite")
    cuts = np.quantile(both, CUTS)
    scale = float(both.std())
    units = {"the shape (fourth moment)": 1.0, "share": 1.0}
    found: dict[str, float] = {}
    one, two = statistics_of(a, cuts), statistics_of(b, cuts)
    for statistic, first in one.items():
        second = two[statistic]
        unit = units.get("share" if "share" in statistic else statistic, scale)
        alike = abs(float(np.median(first) - np.median(second))) <= SAME_NUMBER * unit
        found[statistic] = 0.0 if alike else rank_distance(first, second)
    worst = max(found, key=lambda statistic: found[statistic])  # the first of equal ones
    difference = Difference(name, found[worst], critical(len(a), arrays))
    return Compared(difference, "" if difference.equal else worst)


def rank_distance(a: Array, b: Array) -> float:
    """Return how far the rank sum of `a` among N values of each side is from the expected one, in standard deviations.

    Equal values share their mean rank, which only brings the sum nearer to the expected one.
    """
    count = len(a)
    values = np.concatenate([a, b])
    order = np.sort(values)
    ranks = (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") + 1) / 2
    sum_above = ranks[:count].sum() - count * (count + 1) / 2
    return abs(float(sum_above) - count * count / 2) / _deviation(count)


def _deviation(count: int) -> float:
    """The standard deviation of the number of pairs in which `a` is larger, of `count` values a side."""
    return math.sqrt(count * count * (2 * count + 1) / 12)


@functools.cache
def _tail(count: int) -> Sequence[float]:
    """Return the probability, two-sided, that at most k of count^2 pairs have the larger value on one side, for each k.

    The numbers of orders with k such pairs are the coefficients of the Gaussian binomial coefficient.
    """
    most = count * count
    ways = [1] + [0] * most
    for i in range(1, count + 1):
        for k in range(most, count + i - 1, -1):  # times (1 - q^(count+i))
            ways[k] -= ways[k - count - i]
        for k in range(i, most + 1):  # over (1 - q^i)
            ways[k] += ways[k - i]
    total, found, below = math.comb(2 * count, count), [], 0
    for number in ways:
        below += number
        found.append(min(1.0, 2 * below / total))
    return found


@functools.cache
def critical(count: int, arrays: int) -> float:
    """Return the largest `rank_distance` of `count` seeds that is no difference, where `arrays` arrays are compared.

    It is exceeded with the probability `statistic_level` at most. With too few seeds no distance exceeds it.
    """
    level = statistic_level(arrays * STATISTICS)
    pairs = next(k for k, probability in enumerate(_tail(count)) if probability > level)
    return (count * count / 2 - pairs) / _deviation(count)


def fewest_seeds(arrays: int) -> int:
    """Return the number of seeds with which a difference of one of `arrays` arrays can show."""
    level = statistic_level(arrays * STATISTICS)
    return next(count for count in range(2, 200) if 2 / math.comb(2 * count, count) <= level)


def measured(draws: Draws) -> Mapping[str, float]:
    """Return mean, standard deviation, smallest and largest number over all seeds."""
    values = draws.values
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "low": float(values.min()),
        "high": float(values.max()),
    }
