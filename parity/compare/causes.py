"""The likely cause of a difference: hypotheses in numpy about one side, each with a sentence and the tensor that it predicts.

A hypothesis is named if its prediction matches what that side recorded. Nothing is guessed from the size of an error. Every sentence
says which side is wrong, what it does, and what the other side does. `{wrong}` and `{right}` are the names of the sides, `{it}` the
tensor. This module has hypotheses about any tensor; `parity.compare.causes_of_layers` and `parity.pairs.causes` add those about layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.backend.registry import spoken_name
from parity.compare.relative_error import Difference, distance
from parity.errors import shorten

MATCH = 1e-6
"""Largest relative L2 error of a prediction that counts as a match; it must also explain 99% of the difference."""

MATCH_OF_ONE = 1e-9
"""The same for a single number, which a wrong prediction may match by chance."""


SAME = 1e-6
"""A setting computed from tensors counts as right if its relative difference is smaller."""

MOST_SENTENCES = 3
"""Most mistakes that a cause names if several make the same numbers."""


@dataclass(frozen=True)
class Cause:
    """Why the sides differ, for people.

    `wrong` is the side that does not follow the network and the recipe, "" if unknown. `generic`: the sentence only describes the
    difference and names no mistake.
    """

    sentence: str | None
    wrong: str = ""
    generic: bool = False


def failure_cause(failed: Mapping[str, str], sides: Sequence[str]) -> Cause:
    """Return the cause if one of the `sides` raised an error; `failed` has the error in one line."""
    ((side, reason),) = failed.items()
    (other,) = set(sides) - {side}
    sentence = f"{spoken_name(side)} fails, {spoken_name(other)} does not: {shorten(reason)}"
    return Cause(sentence, wrong=spoken_name(side), generic=True)


@dataclass(frozen=True)
class ExplainedDifference(Difference):
    """A difference that comes with its cause."""

    cause: Cause | None = None


@dataclass(frozen=True)
class Hypothesis:
    """A mistake that a side may have made: its sentence and the tensor that it predicts. For `generic` see `Cause`."""

    sentence: str
    prediction: Array
    generic: bool = False


def explain(
    right: Array | None,
    wrong: Array | None,
    names: tuple[str, str],
    it: str,
    hypotheses: Iterable[Hypothesis],
    of_another_shape: Iterable[Hypothesis] = (),
) -> Cause | None:
    """Return the cause from the hypotheses that predict `wrong`; several mistakes may make the same numbers. None if none does.

    Generic hypotheses come last and count only if no mistake fits. `names` are the names of the right and the wrong side. Tensors that
    are missing, have another shape or are not finite get a cause that says so. If the shapes differ, only the hypotheses
    `of_another_shape` are tried.
    """
    words = {"right": names[0], "wrong": names[1], "it": it}
    if wrong is None:
        return Cause(f"{names[1]} has no {it}, {names[0]} has", generic=True)
    if right is None:
        return Cause(f"{names[1]} has a {it}, {names[0]} has none", generic=True)
    if right.shape != wrong.shape:
        shapes = f"{it} has shape {list(wrong.shape)} in {names[1]}, {list(right.shape)} in {names[0]}"
        made = {h.sentence.format(**words) for h in of_another_shape if distance(wrong, h.prediction) <= MATCH}
        return (
            Cause(f"{'; or '.join(sorted(made)[:MOST_SENTENCES])}; {shapes}") if made else Cause(shapes, generic=True)
        )
    finite = [bool(np.isfinite(array).all()) for array in (right, wrong)]
    if not all(finite):
        which = "neither side" if not any(finite) else names[finite.index(False)]
        rest = "" if not any(finite) else f", in {names[finite.index(True)]} it is"
        return Cause(f"{it} is {'finite in' if not any(finite) else 'not finite in'} {which}{rest}", generic=True)
    needed = min(MATCH if wrong.size > 1 else MATCH_OF_ONE, distance(wrong, right) / 100)
    found: list[str] = []
    for hypothesis in hypotheses:
        if (found and hypothesis.generic) or distance(wrong, hypothesis.prediction) > needed:
            continue
        sentence = hypothesis.sentence.format(**words)
        if hypothesis.generic:
            return Cause(sentence, generic=True)
        found += [sentence] if sentence not in found else []
    return Cause("; or ".join(found[:MOST_SENTENCES])) if found else None


def tensor_hypotheses(
    right: Array, wrong: Array, others: Mapping[str, Array], factors: Iterable[tuple[str, float]] = ()
) -> Iterator[Hypothesis]:
    """Yield the mistakes that may turn a tensor of floats from `right` into `wrong`.

    `others` are tensors of the right side, by name, that may have been exchanged with it. `factors` are meaningful factors, each with
    its words.
    """
    a, b = right.astype(np.float64), wrong.astype(np.float64)
    if a.any() and a.size > 1:
        yield Hypothesis("{wrong}'s {it} is zero, {right}'s is not", np.zeros_like(a))
    if _is_varied(b):
        named = [name for name, array in others.items() if distance(b, array) <= MATCH]
        if len(named) == 1:  # if several are alike, the right one is unknown
            yield Hypothesis(f"{{wrong}}'s {{it}} holds what belongs to {named[0]}, {{right}}'s its own", b)
    if a.size > 1:
        yield from _rearranged(a)
        yield from _rounded(a)
        if (a >= 0).all():
            sentence = "{wrong}'s {it} is the square root of {right}'s (a deviation for a variance)"
            yield Hypothesis(sentence, np.sqrt(a))
    yield from _scaled(a, b, factors)
    if b.any() and not a.any():
        yield Hypothesis("{right}'s {it} is zero, {wrong}'s is not", b, generic=True)
    if a.ndim and a.size > 1 and np.array_equal(np.sort(a, axis=0), np.sort(b, axis=0)):
        yield Hypothesis("{wrong}'s {it} holds {right}'s samples in another order", b, generic=True)
    if a.size > 1 and np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        yield Hypothesis("{wrong}'s {it} holds {right}'s numbers in another order", b, generic=True)


def _is_varied(array: Array) -> bool:
    """Whether the numbers vary: an array of ones or zeros could belong to any parameter."""
    return array.size > 1 and bool((array != array.flat[0]).any())


def _rearranged(a: Array) -> Iterator[Hypothesis]:
    for words, array in rearrangements(a):
        yield Hypothesis(f"{{wrong}}'s {{it}} is {{right}}'s {words}", array)


def rearrangements(a: Array) -> Iterator[tuple[str, Array]]:
    """Yield rearrangements of the numbers of `a`, each in words."""
    if a.ndim == 2 and a.shape[0] == a.shape[1]:
        yield "transposed", a.T
    if a.ndim == 4:
        yield "with the channel order reversed (RGB against BGR)", a[:, ::-1]
        yield "flipped left to right", a[..., ::-1]
        yield "flipped upside down", a[..., ::-1, :]
        yield "rotated by 180 degrees (true convolution against cross-correlation)", a[..., ::-1, ::-1]
        if a.shape[2] == a.shape[3]:
            yield "with height and width exchanged", np.swapaxes(a, 2, 3)
        if a.shape[0] == a.shape[1]:
            yield "with input and output channels exchanged", np.swapaxes(a, 0, 1)
        n, c, h, w = a.shape
        yield "with channels last read as channels first", a.transpose(0, 2, 3, 1).reshape(n, c, h, w)


def _rounded(a: Array) -> Iterator[Hypothesis]:
    with np.errstate(over="ignore"):
        half = a.astype(np.float16).astype(np.float64)
    bits = a.astype(np.float32).view(np.uint32)
    even = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    for words, array in (
        ("rounded to float16", half),
        ("rounded to bfloat16", even.astype(np.float64)),
        ("cut to bfloat16", (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)),
        ("rounded to float32", a.astype(np.float32).astype(np.float64)),
    ):
        yield Hypothesis(f"{{wrong}}'s {{it}} is {{right}}'s {words}", array)


def _scaled(a: Array, b: Array, factors: Iterable[tuple[str, float]]) -> Iterator[Hypothesis]:
    size = float(np.vdot(a, a))
    if not size:
        return
    ratio = float(np.vdot(a, b)) / size
    for words, factor in factors:
        if abs(ratio - factor) <= MATCH * abs(factor - 1):
            yield Hypothesis(f"{{wrong}}'s {{it}} is {{right}}'s {words}", a * ratio)
    if a.size > 1:  # a single number is always a multiple of another
        yield Hypothesis(f"{{wrong}}'s {{it}} is {{right}}'s times {ratio:.10g}", a * ratio, generic=True)
        shift = float(np.mean(b - a))
        yield Hypothesis(f"{{wrong}}'s {{it}} is {{right}}'s plus {shift:.7g}", a + shift, generic=True)


def differing(one: float, other: float) -> tuple[str, str]:
    """Return the two numbers with as few digits as tell them apart, at least four."""
    for digits in range(4, 17):
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if texts[0] != texts[1]:
            return texts
    return f"{one!r}", f"{other!r}"
