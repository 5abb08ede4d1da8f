"""Which array of one layer is which of another, for layers of own classes and for parameters that containers hold themselves.

Names decide, then shapes. Where several ways remain, all are listed, the likeliest first.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from parity.modules.description import Unit, below
from parity.modules.layer_kinds import parse_spelling
from parity.pairs import match_names

MOST_OPTIONS = 48
"""This many ways are listed at most."""

MOST_SQUARES = 4
"""Up to this many square matrices, each may be transposed or not; more are all transposed, or none."""

Rows = Mapping[str, str]
"""Spelling on PyTorch's side -> spelling on Paddle's side."""


def loose_shapes(unit: Unit) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a unit's arrays, in an order that does not depend on names, axes or registration."""
    return tuple(sorted(loose_shape(shape) for shape in shapes_of(unit).values()))


def shapes_of(unit: Unit) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a unit in its kind's layout, by its canonical name."""
    return {name: parse_spelling(unit.spellings[name]).shape(array.shape) for name, array in unit.arrays.items()}


def ways_of_units(torch: Unit, paddle: Unit, turn: bool) -> list[Rows]:
    """Return the ways to match the arrays of two units: canonical name of the torch side -> spelling of Paddle's array.

    With `turn`, a square matrix may be transposed even where both sides give it one name.
    """
    return list(itertools.islice(_ways(shapes_of(torch), shapes_of(paddle), paddle.spellings, turn), MOST_OPTIONS))


def ways_of_pools(torch: Sequence[Unit], paddle: Sequence[Unit]) -> list[Rows]:
    """Return the ways to match the arrays of several units of each side: own name on the torch side -> spelling on Paddle's."""
    shapes: list[dict[str, tuple[int, ...]]] = [{}, {}]
    spellings: dict[str, str] = {}
    for found, units in zip(shapes, (torch, paddle), strict=True):
        for unit in units:
            for name, shape in shapes_of(unit).items():
                own = parse_spelling(below(unit.holder, unit.spellings[name]))
                found[own.name] = shape
                spellings[own.name] = str(own)
    return list(itertools.islice(_ways(shapes[0], shapes[1], spellings, False), MOST_OPTIONS))


def with_one_shape(models: Sequence[Sequence[Unit]], own: Sequence[Collection[str]]) -> list[list[Unit]]:
    """Return the units of both models with arrays of `own` kinds in the shape that they have in both, without axes of size 1.

    Only shapes that one model has more often than the other are changed: a table [1, 6, 8] may be [6, 8] or [8, 6] on the other side. An
    array of one number has the shape [1].
    """
    counts = [Counter(loose_shape(shape) for unit in units for shape in shapes_of(unit).values()) for units in models]
    more = [{_without_ones(shape) for shape in (counts[i] - counts[1 - i])} for i in (0, 1)]
    wanted = more[0] & more[1]
    return [
        [_reshaped(u, wanted) if u.kind in kinds else u for u in units]
        for units, kinds in zip(models, own, strict=True)
    ]


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return loose_shape(tuple(size for size in shape if size != 1))


def _reshaped(unit: Unit, wanted: Collection[tuple[int, ...]]) -> Unit:
    """Return a unit whose arrays of the `wanted` shapes have no axes of size 1, but for single numbers."""
    spellings = dict(unit.spellings)
    for name, shape in shapes_of(unit).items():
        own = parse_spelling(unit.spellings[name])
        kept = tuple(size for size in shape if size != 1) or (1,)
        if kept != shape and own.whole and not own.transposed and _without_ones(shape) in wanted:
            spellings[name] = str(dataclasses.replace(own, reshaped=kept))
    return dataclasses.replace(unit, spellings=spellings)


def loose_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what must agree in the shapes of two arrays: of a matrix the sizes, in any order."""
    return tuple(sorted(shape)) if len(shape) == 2 else shape


def _ways(
    here: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
    spellings: Mapping[str, str],
    turn_same: bool,
) -> Iterator[Rows]:
    sure: dict[str, str] = {}
    unsure: list[tuple[list[str], list[list[str]]]] = []
    for shape in dict.fromkeys(loose_shape(shape) for shape in here.values()):
        ours = [name for name, own in here.items() if loose_shape(own) == shape]
        theirs = [name for name, own in there.items() if loose_shape(own) == shape]
        for name in [name for name in ours if name in theirs]:
            sure[name] = name
            ours.remove(name)
            theirs.remove(name)
        named = match_names.bijection(ours, theirs) if ours else {}
        if named is not None:
            sure |= named
        elif theirs:
            count = min(len(ours), len(theirs))
            orders = [list(order) for order in itertools.islice(itertools.permutations(theirs, count), MOST_OPTIONS)]
            unsure.append((ours, orders))
    for chosen in itertools.product(*(orders for _, orders in unsure)):
        found = dict(sure)
        for (ours, _), order in zip(unsure, chosen, strict=True):
            found |= dict(zip(ours, order, strict=False))
        squares = [a for a, b in found.items() if _is_square(here[a]) and (turn_same or a != b)]
        # Other matrices of the layer say whether one side stores its matrices transposed.
        turned = [here[a] != there[b] for a, b in found.items() if len(here[a]) == 2 and not _is_square(here[a])]
        for turns in _turns(len(squares), any(turned)):
            flags = dict(zip(squares, turns, strict=True))
            yield {a: _turned(spellings[b], here[a] != there[b] or flags.get(a, False)) for a, b in found.items()}


def _turns(count: int, first: bool) -> Iterator[tuple[bool, ...]]:
    """Yield which of `count` square matrices are transposed: all alike, and then any of them if they are few."""
    alike = [(first,) * count, (not first,) * count] if count else [()]
    yield from alike
    if 1 < count <= MOST_SQUARES:
        yield from (turns for turns in itertools.product((False, True), repeat=count) if turns not in alike)


def _is_square(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1]


def _turned(spelling: str, turn: bool) -> str:
    own = parse_spelling(spelling)
    return str(dataclasses.replace(own, transposed=own.transposed ^ turn))
