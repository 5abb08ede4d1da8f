"""How a classifier is tested: which views of a picture it gets, and how their posteriors are put together (arXiv 1409.1556, section 3.2).

A picture is looked at once; with its mirror; densely, as a whole at several scales; or at a grid of crops at several scales. Posteriors,
the softmax of the scores, are averaged over all views of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.data.batches import padded
from parity.data.lazy_images import Pictures, ahead
from parity.errors import InputError
from parity.inference.predict import Forward, Predictor
from parity.network.nodes import Shape

SETS = {
    "single": "the picture as the training tests it",
    "flip": "that and its mirror",
    "crops": "a grid of crops and their mirrors at every scale",
    "dense": "the whole picture and its mirror at every scale, the score map averaged",
    "dense+crops": "the mean of the posteriors of both",
}
"""The sets of views, by name."""

MEMBERS = {"dense+crops": ("dense", "crops")}
"""The sets that a set is the mean of; every other one is its own."""


def members(name: str) -> tuple[str, ...]:
    """The sets whose posteriors the set `name` averages."""
    return MEMBERS.get(name, (name,))


SCALED = ("crops", "dense", "dense+crops")
"""The sets that look at a picture at several scales."""

TOP = 5

MOST_BYTES = 2**29
"""What the rescaled pictures of a batch may take, if they are squares; those of the next one are made meanwhile."""


@dataclass(frozen=True)
class Plan:
    """What is looked at: `sets` of `SETS`, for a network that takes `size` (C, H, W).

    `scales` are numbers of pixels of the smaller side, the other following in proportion. Crops stand on a square `grid` of so many places
    a side, evenly from edge to edge of the picture, which is first widened by `padding` reflected pixels a side (None: where a scale has
    no room for so many places, an eighth of the network's picture, or what they need). `InputError` where places would coincide.
    """

    sets: tuple[str, ...]
    size: Shape
    scales: tuple[int, ...]
    grid: int = 5
    padding: int | None = None

    def __post_init__(self) -> None:
        own = max(self.size[1:])
        if min(self.scales) < own:
            raise InputError(
                f"a scale of {min(self.scales)} is smaller than the network's pictures of {self.size[1]} by {self.size[2]}"
            )
        for scale in self.scales if "crops" in self.kinds else ():
            pad = self.pad(scale)
            if pad >= scale and self.padding is not None:
                raise InputError(f"a padding of {pad} cannot be reflected in pictures of {scale} pixels")
            if pad >= scale or self.grid > scale + 2 * pad - own + 1:
                wide = f", widened by {pad} a side," if self.padding else ""
                raise InputError(
                    f"pictures of {scale} pixels{wide} have no {self.grid} places a side for crops of {own}: "
                    "give a smaller --grid, more --padding or larger --scales"
                )

    def pad(self, scale: int) -> int:
        """Reflected pixels a side around pictures of `scale`, for crops."""
        own, needed = max(self.size[1:]), self.grid - 1
        if self.padding is not None:
            return self.padding
        lacking = needed - (scale - own)
        return max(own // 8, -(-lacking // 2)) if lacking > 0 else 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is computed, each once."""
        return tuple(dict.fromkeys(kind for name in self.sets for kind in members(name)))

    @property
    def rows(self) -> list[Row]:
        """What is reported, (set, scales): every set, at each scale and at all of them."""
        found: list[Row] = []
        for name in self.sets:
            if name not in SCALED:
                found.append((name, ()))
                continue
            found += [(name, (scale,)) for scale in self.scales]
            found += [(name, self.scales)] if len(self.scales) > 1 else []
        return found

    def views(self, name: str, scales: Sequence[int]) -> int:
        """How many views of a picture the set `name` at `scales` averages; a dense view counts once."""
        if name not in SCALED:
            return 1 + (name == "flip")
        each = {"crops": 2 * self.grid**2, "dense": 2}
        return len(scales) * sum(each[kind] for kind in members(name))


@dataclass
class Tally:
    """What a set of views got wrong: `confusion` [K,K] counts pictures by true (row) and predicted class (column)."""

    confusion: Array
    count: int = 0
    wrong: int = 0
    wrong_top: int = 0

    def add(self, posteriors: Array, labels: Array) -> None:
        """Counts pictures with posteriors [N,K] and true classes [N]."""
        places = ranks(posteriors, labels)
        self.count += len(labels)
        self.wrong += int((places > 0).sum())
        self.wrong_top += int((places >= TOP).sum())
        np.add.at(self.confusion, (labels, posteriors.argmax(axis=1)), 1)


def ranks(posteriors: Array, labels: Array) -> Array:
    """The place, from 0, of the true class among all K, by posterior [N,K]; of equal ones the first class stands first, as in argmax."""
    own = posteriors[np.arange(len(labels)), labels][:, None]
    before = (posteriors == own) & (np.arange(posteriors.shape[1]) < labels[:, None])
    places: Array = ((posteriors > own) | before).sum(axis=1)
    return places


@dataclass(frozen=True)
class Subject:
    """`pictures` of true classes `labels` [N]; `single(i)` is picture i as the training tests it, uint8 [C,H,W]."""

    pictures: Pictures
    labels: Array
    single: Callable[[int], Array]


Row = tuple[str, tuple[int, ...]]
"""A set of views, and the scales at which it looks."""


def evaluate(
    model: Predictor, subject: Subject, plan: Plan, batch: int, over: Callable[[list[range]], Iterable[range]]
) -> dict[Row, Tally]:
    """The tally of every row of `plan`, in one pass over the pictures, `batch` at a time (large ones fewer); `over` may show progress.

    `Diverged` where posteriors are no finite numbers.
    """
    forwards = started(model, plan)
    batch = min(batch, max(1, MOST_BYTES // sum(3 * scale**2 for scale in plan.scales)))
    tallies = {row: Tally(np.zeros((len(model.classes),) * 2, np.int64)) for row in plan.rows}
    parts = [range(first, min(first + batch, len(subject.labels))) for first in range(0, len(subject.labels), batch)]
    looked = ahead(lambda i: _look(subject, plan, i), parts)
    for part, looks in zip(over(parts), looked, strict=True):
        found = _posteriors(model, forwards, plan, looks)
        for (name, scales), tally in tallies.items():
            averaged = [found[kind, scale] for kind in members(name) for scale in scales or (0,)]
            tally.add(np.mean(averaged, axis=0), subject.labels[part.start : part.stop])
    return tallies


def started(model: Predictor, plan: Plan) -> dict[str, Forward]:
    """What computes each kind of views; a dense network that cannot be made is told before a framework is loaded."""
    found = {"dense": model.start_dense()} if "dense" in plan.kinds else {}
    if set(plan.kinds) - {"dense"}:
        found["crops"] = model.start()
    return found


Look = tuple[Array | None, dict[int, Array]]
"""One picture as the training tests it, uint8 [C,H,W], and rescaled by scale, uint8 [C,h,w]."""


def _look(subject: Subject, plan: Plan, index: int) -> Look:
    single = subject.single(index) if {"single", "flip"} & set(plan.kinds) else None
    if not set(SCALED) & set(plan.kinds):
        return single, {}
    return single, dict(zip(plan.scales, subject.pictures.rescaled(index, *plan.scales), strict=True))


def _posteriors(
    model: Predictor, forwards: Mapping[str, Forward], plan: Plan, looks: list[Look]
) -> dict[tuple[str, int], Array]:
    """Posteriors [N,K] of a batch by kind of views and scale (0: the training's own)."""
    found: dict[tuple[str, int], Array] = {}

    def mirrored(forward: Forward, pixels: Array) -> Array:
        both: Array = (model.probabilities(pixels, forward) + model.probabilities(pixels[..., ::-1], forward)) / 2
        return both

    singles = [look[0] for look in looks if look[0] is not None]
    if "single" in plan.kinds:
        found["single", 0] = model.probabilities(np.stack(singles), forwards["crops"])
    if "flip" in plan.kinds:
        found["flip", 0] = mirrored(forwards["crops"], np.stack(singles))
    for scale in plan.scales:
        pictures = [look[1][scale] for look in looks if look[1]]
        if "crops" in plan.kinds:
            views = crops(pictures, plan, plan.pad(scale))
            found["crops", scale] = np.mean([mirrored(forwards["crops"], view) for view in views], axis=0)
        if "dense" in plan.kinds:
            found["dense", scale] = np.empty((len(looks), len(model.classes)))
            for rows in _alike([picture.shape for picture in pictures]):
                found["dense", scale][rows] = mirrored(forwards["dense"], np.stack([pictures[i] for i in rows]))
    return found


def crops(pictures: Sequence[Array], plan: Plan, pad: int) -> Iterator[Array]:
    """The places of the grid, row by row: the crops there of all `pictures` (uint8 [C,h,w], of any sizes), uint8 [N,C,H,W].

    The pictures are widened by `pad` reflected pixels a side before.
    """
    size = plan.size[1:]
    wide = [padded(p, pad, "reflect") if pad else p for p in pictures]
    places = [[offsets(side, own, plan.grid) for side, own in zip(p.shape[1:], size, strict=True)] for p in wide]
    for row in range(plan.grid):
        for column in range(plan.grid):
            starts = [(rows[row], columns[column]) for rows, columns in places]
            yield np.stack([p[:, y : y + size[0], x : x + size[1]] for p, (y, x) in zip(wide, starts, strict=True)])


def offsets(side: int, own: int, count: int) -> list[int]:
    """Where `count` crops of `own` pixels begin on a side of `side`: evenly from the first to the last place; one stands in the middle."""
    room = side - own
    return [room // 2] if count == 1 else [(i * room + (count - 1) // 2) // (count - 1) for i in range(count)]


def _alike(shapes: Sequence[Shape]) -> list[list[int]]:
    """The places of those that are equal, together."""
    found: dict[Shape, list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(shape, []).append(i)
    return list(found.values())
