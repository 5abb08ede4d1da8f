"""The tests of fresh weights: exact levels, no false alarms, small differences that are found, and draws that are not independent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from parity.arrays import Array
from parity.compare.fresh_weights import STATISTICS, Draws, compare_draws, critical, fewest_seeds, rank_distance
from parity.compare.tolerances import FRESH_NUMBERS, FRESH_SEEDS, statistic_level

ARRAYS = 100
"""Arrays of a usual model: each gets this part of the level."""

Draw = Callable[[np.random.Generator, int], Array]
"""Returns [seeds, numbers]."""


def normal(std: float, mean: float = 0.0) -> Draw:
    return lambda random, size: random.normal(mean, std, (FRESH_SEEDS, size))


def uniform(bound: float) -> Draw:
    return lambda random, size: random.uniform(-bound, bound, (FRESH_SEEDS, size))


def truncated(std: float, cut: float = 2.0) -> Draw:
    def draw(random: np.random.Generator, size: int) -> Array:
        found = random.standard_normal((FRESH_SEEDS, 2 * size + 40))
        return std * np.array([row[np.abs(row) < cut][:size] for row in found])

    return draw


def correlated(random: np.random.Generator, size: int) -> Array:
    """A factor for each seed, and rows that are copies."""
    rows = np.repeat(random.standard_normal((FRESH_SEEDS, -(-size // 8))), 8, axis=1)[:, :size]
    return rows * random.uniform(0.5, 2, (FRESH_SEEDS, 1))


def orthogonal(random: np.random.Generator, size: int) -> Array:
    side = int(math.sqrt(size))
    return np.array([np.linalg.qr(random.standard_normal((side, side)))[0].ravel() for _ in range(FRESH_SEEDS)])


def sparse(random: np.random.Generator, size: int) -> Array:
    return random.standard_normal((FRESH_SEEDS, size)) * (random.random((FRESH_SEEDS, size)) < 0.1)


def two_values(random: np.random.Generator, size: int) -> Array:
    return np.where(random.random((FRESH_SEEDS, size)) < 0.5, -1.0, 1.0)


def is_equal(a: Array, b: Array, arrays: int = ARRAYS) -> bool:
    return compare_draws("x", Draws(a, a.shape[1:]), Draws(b, b.shape[1:]), arrays).equal


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Sets the probability of a false alarm."""

    def set_level(level: float) -> None:
        monkeypatch.setattr("parity.compare.tolerances.FALSE_ALARM", level)
        critical.cache_clear()

    yield set_level
    critical.cache_clear()


@pytest.mark.parametrize("level", [0.05, 0.3, 0.9])
def test_the_level_is_exact(allow: Callable[[float], None], level: float) -> None:
    # Every way to choose 7 of 14 ranks has one probability.
    allow(level)
    count, values = 7, np.arange(14.0)
    chosen = [list(one) for one in itertools.combinations(range(2 * count), count)]
    distances = np.array([rank_distance(values[one], np.delete(values, one)) for one in chosen])
    largest = critical(count, 1) + 1e-9
    assert 0 < (distances > largest).mean() <= level / STATISTICS
    assert (
        distances >= distances[distances <= largest].max()
    ).mean() > level / STATISTICS  # the next one is too frequent


def test_fewest_seeds_can_find_a_difference() -> None:
    for arrays in (1, 8, 500):
        count = fewest_seeds(arrays)
        most = rank_distance(np.arange(float(count)), np.arange(float(count)) + count)
        assert most > critical(count, arrays)
        assert not most > critical(count - 1, arrays) or 2 / math.comb(2 * count - 2, count - 1) > statistic_level(
            arrays * STATISTICS
        )


@pytest.mark.parametrize(
    "draw", [normal(0.02), uniform(0.1), truncated(0.02), correlated, orthogonal, sparse, two_values]
)
def test_equal_initialisations_never_differ(draw: Draw) -> None:
    # At the level of the stage, 0.03 false alarms are expected in 300 comparisons of one array.
    random = np.random.default_rng(0)
    for size in (1, 4, 9, 64):
        for _ in range(75):
            assert is_equal(draw(random, size), draw(random, size), 1)


def test_the_tests_are_not_blind(allow: Callable[[float], None]) -> None:
    # Where a false alarm is allowed in every second comparison, some come.
    allow(0.5)
    random = np.random.default_rng(0)
    alarms = sum(not is_equal(normal(1.0)(random, 10), normal(1.0)(random, 10), 1) for _ in range(200))
    assert 10 < alarms < 100  # less than half, since the statistics depend on each other


@pytest.mark.parametrize(
    ("one", "two", "size"),
    [
        (normal(0.02), normal(0.0222), 256),
        (normal(1.0), normal(math.sqrt(2)), 32),  # fan_in against 2 fan_in, gain sqrt 2 against 1
        (uniform(1.0), uniform(math.sqrt(2)), 10),  # a bias of ten numbers
        (truncated(0.02), normal(0.02), 128),
        (truncated(0.02), normal(0.02 * 0.8796), FRESH_NUMBERS),  # of one deviation
        (truncated(0.02, 3.0), normal(0.02 * 0.9866), FRESH_NUMBERS),
        (uniform(math.sqrt(3)), normal(1.0), 64),  # of one deviation
        (normal(0.02), normal(0.02, 0.002), 512),
        (normal(0.02), normal(0.0206), FRESH_NUMBERS),
        (sparse, lambda r, n: r.standard_normal((FRESH_SEEDS, n)) * (r.random((FRESH_SEEDS, n)) < 0.2), 256),
    ],
)  # fmt: skip
def test_small_differences_are_found(one: Draw, two: Draw, size: int) -> None:
    random = np.random.default_rng(0)
    assert sum(not is_equal(one(random, size), two(random, size)) for _ in range(20)) >= 19


def test_rounding_of_a_fixed_norm_is_no_difference() -> None:
    random = np.random.default_rng(0)
    one, two = orthogonal(random, 256), orthogonal(random, 256) * (1 + 1e-7)
    assert is_equal(one, two)
    assert not is_equal(one, two * 1.01)  # the deviation is exact, so a hundredth of it shows


def test_numbers_that_no_seed_changes() -> None:
    table = np.tile(np.sin(np.arange(40.0)), (FRESH_SEEDS, 1))
    assert is_equal(table, table.astype(np.float32).astype(float))
    assert not is_equal(table, np.roll(table, 1, axis=1))
    for one, two, equal in (
        (0.0, 0.0, True),
        (0.1, float(np.float32(0.1)), True),
        (0.0, 1e-6, False),
        (1.0, 1.001, False),
    ):
        assert is_equal(np.full((FRESH_SEEDS, 1), one), np.full((FRESH_SEEDS, 1), two)) == equal
    assert not is_equal(table, normal(1.0)(np.random.default_rng(0), 40))
    assert not is_equal(np.zeros((FRESH_SEEDS, 1)), uniform(0.1)(np.random.default_rng(0), 10))


def test_places_that_no_seed_changes() -> None:
    random = np.random.default_rng(0)
    mask = np.tri(8).ravel()
    one, two = normal(1.0)(random, 64) * mask, normal(1.0)(random, 64) * mask
    assert is_equal(one, two)
    assert not is_equal(one, normal(1.0)(random, 64) * np.tri(8).T.ravel())
    assert not is_equal(one, two + (1 - mask))  # ones there


def test_nan_never_passes() -> None:
    random = np.random.default_rng(0)
    for bad in (math.nan, math.inf):
        broken = normal(1.0)(random, 10)
        broken[:, 0] += bad
        assert not is_equal(broken, broken)
        assert not is_equal(np.full((FRESH_SEEDS, 1), bad), np.full((FRESH_SEEDS, 1), bad))
