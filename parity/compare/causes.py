"""The likely cause of a difference: hypotheses in numpy of what the candidate did, each a sentence and the tensor it predicts.

A hypothesis is named if its prediction matches what the candidate recorded. Nothing is guessed from the size of an error.
`parity.compare.causes_of_layers` and `parity.pairs.causes` add what they know of layers; what any tensor may be is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import relative_l2

MATCH = 1e-6
"""Largest relative L2 error of a prediction that counts as a match; it must also explain 99% of the difference."""

Hypothesis = tuple[str, Array]
"""What the candidate may have done, and the tensor that it would have made."""


def explain(
    reference: Array | None, candidate: Array | None, names: tuple[str, str], hypotheses: Iterable[Hypothesis]
) -> str | None:
    """The sentence of the first hypothesis that predicts `candidate`; None if none does.

    `names` are those of the two sides in sentences. Tensors that are missing, shaped differently or not finite are explained as such.
    """
    if candidate is None:
        return f"{names[1]} has no such tensor"
    if reference is None:
        return f"only {names[1]} has such a tensor"
    if reference.shape != candidate.shape:
        return f"shapes {list(reference.shape)} in {names[0]}, {list(candidate.shape)} in {names[1]}"
    for name, array in zip(names, (reference, candidate), strict=True):
        if not np.isfinite(array).all():
            return f"not finite in {name}"
    needed = relative_l2(candidate, reference) / 100
    for sentence, prediction in hypotheses:
        if prediction.shape == candidate.shape and relative_l2(candidate, prediction) <= min(MATCH, needed):
            return sentence
    return None


def tensor_hypotheses(
    reference: Array,
    candidate: Array,
    names: tuple[str, str],
    others: Mapping[str, Array],
    factors: Iterable[tuple[str, float]] = (),
) -> Iterator[Hypothesis]:
    """What may have been done to any tensor. `others` are the reference's tensors that it may have been exchanged with, by name.

    `factors` are factors that mean something here, each with its sentence.
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    if a.any():
        yield f"zero in {names[1]}", np.zeros_like(a)
    elif b.any():
        yield f"zero in {names[0]}", b
    yield from _rearranged(a)
    for name, array in others.items():
        yield f"it holds what belongs to {name}", array
    yield from _rounded(a)
    if (a >= 0).all():
        yield "square root of what it should be (a deviation for a variance)", np.sqrt(a)
    yield from _scaled(a, b, factors)
    if a.ndim and a.size > 1 and np.array_equal(np.sort(a, axis=0), np.sort(b, axis=0)):
        yield "the same samples in another order", b
    if np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        yield "the same numbers in another order", b


def _rearranged(a: Array) -> Iterator[Hypothesis]:
    if a.ndim == 2 and a.shape[0] == a.shape[1]:
        yield "transposed", a.T
    if a.ndim == 4:
        yield "channel order reversed (RGB against BGR)", a[:, ::-1]
        yield "flipped left to right", a[..., ::-1]
        yield "flipped upside down", a[..., ::-1, :]
        yield "rotated by 180 degrees (true convolution against cross-correlation)", a[..., ::-1, ::-1]
        yield "height and width exchanged", np.swapaxes(a, 2, 3)
        if a.shape[0] == a.shape[1]:
            yield "input and output channels exchanged", np.swapaxes(a, 0, 1)
        n, c, h, w = a.shape
        yield "channels last read as channels first", a.transpose(0, 2, 3, 1).reshape(n, c, h, w)


def _rounded(a: Array) -> Iterator[Hypothesis]:
    with np.errstate(over="ignore"):
        yield "rounded to float16", a.astype(np.float16).astype(np.float64)
    bits = a.astype(np.float32).view(np.uint32)
    yield "cut to bfloat16", (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def _scaled(a: Array, b: Array, factors: Iterable[tuple[str, float]]) -> Iterator[Hypothesis]:
    size = float(np.vdot(a, a))
    if not size:
        return
    ratio = float(np.vdot(a, b)) / size
    for sentence, factor in factors:
        if abs(ratio - factor) <= MATCH * abs(factor - 1):
            yield sentence, a * ratio
    yield f"a constant factor of {ratio:.10g}", a * ratio
    shift = float(np.mean(b - a))
    yield f"a constant offset of {shift:.7g}", a + shift
