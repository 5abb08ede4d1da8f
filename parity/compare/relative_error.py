"""Relative errors of arrays. No mean stands for a tensor, and nothing passes without being compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array

BLOCK = 2**20
"""Numbers subtracted at once, into the same few megabytes: allocating new memory takes longer than filling it."""


class NothingCompared(AssertionError):
    """A comparison without a single tensor: an error, never a success."""


class Incomparable(AssertionError):
    """The two sides do not hold the same tensors in the same shapes."""


@dataclass(frozen=True)
class Difference:
    """One tensor of both sides: its name, its relative L2 error, and the tolerance (`bound`) that the error must not exceed."""

    name: str
    error: float
    bound: float

    @property
    def equal(self) -> bool:
        """Whether the error is within the tolerance. NaN and infinity never are."""
        return self.error <= self.bound and math.isfinite(self.error)

    @property
    def used(self) -> float:
        """Error over tolerance: above 1 where the sides differ."""
        if not self.bound:
            return float("inf") if self.error else 0.0
        return self.error / self.bound


def relative_l2(reference: Array, other: Array) -> float:
    """Return ||other - reference|| / ||reference|| in float64; the absolute norm if the reference is zero; inf if either is not finite."""
    if reference.shape != other.shape:
        raise Incomparable(f"shapes {reference.shape} and {other.shape}")
    size, difference = norm(reference), norm_of_difference(reference, other)
    if not (np.isfinite(size) and np.isfinite(difference)):
        return float("inf")
    return difference / (size or 1.0)


def distance(reference: Array | None, other: Array | None) -> float:
    """Return `relative_l2`; infinity if one is missing or the shapes differ."""
    if reference is None or other is None or reference.shape != other.shape:
        return float("inf")
    return relative_l2(reference, other)


def norm(array: Array) -> float:
    """Return the L2 norm of an array in float64."""
    flat = array.astype(np.float64, copy=False).ravel()
    return float(np.sqrt(np.dot(flat, flat)))


def norm_of_difference(a: Array, b: Array) -> float:
    """Return the L2 norm of b - a in float64; not finite if either has NaN or infinity. `Incomparable` if the shapes differ."""
    if a.shape != b.shape:
        raise Incomparable(f"shapes {a.shape} and {b.shape}")
    first, second = a.ravel(), b.ravel()
    difference = np.empty(min(BLOCK, first.size))
    squares = 0.0
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        for start in range(0, first.size, BLOCK):
            part = difference[: min(BLOCK, first.size - start)]
            np.subtract(second[start : start + BLOCK], first[start : start + BLOCK], out=part, dtype=np.float64)
            squares += float(np.dot(part, part))
    return math.sqrt(squares)
