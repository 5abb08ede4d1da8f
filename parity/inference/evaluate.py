"""Evaluation of a classifier: the views of a picture, and how their posteriors are averaged (arXiv 1409.1556, section 3.2).

The views are the picture alone; the picture and its mirror; the whole picture at several scales (dense); or a grid of crops at several
scales. Posteriors, the softmax of the scores, are averaged over all views of a set. The set `DOUBTFUL` spends crops only on pictures that
the picture and its mirror leave in doubt.
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
    "single": "the picture as the tests during training use it",
    "flip": "the same picture and its mirror",
    "crops": "a grid of crops and their mirrors at every scale",
    "dense": "the whole picture and its mirror at every scale, with the score map averaged",
    "dense+crops": "the mean of the probabilities of both",
}
"""Name of a set of views -> its views."""

DOUBTFUL = "doubtful"
"""The set of `flip`, and instead of it `crops` for the pictures that `flip` leaves in doubt (`are_doubtful`)."""

MEMBERS = {"dense+crops": ("dense", "crops")}
"""Set of views -> the sets that it averages; a set that is not listed stands for itself."""


def members(name: str) -> tuple[str, ...]:
    """Return the sets whose posteriors the set `name` averages."""
    return MEMBERS.get(name, (name,))


SCALED = ("crops", "dense", "dense+crops", DOUBTFUL)
"""The sets with views at several scales."""

TOP = 5

MOST_BYTES = 2**29
"""Memory for the rescaled pictures of a batch if they are square. The next batch is prepared at the same time."""


@dataclass(frozen=True)
class Plan:
    """What is computed: `sets` of `SETS`, or `DOUBTFUL` with a `margin`, for a network that takes `size` (C, H, W).

    `scales` are sizes of the smaller side in pixels; the larger side follows in proportion. Crops are taken at `grid` by `grid` places,
    evenly from edge to edge. Before that, the picture is padded by `padding` reflected pixels on each side. None pads only if the grid
    does not fit: by an eighth of the crop, or by what the grid needs. `InputError` if two places would be the same.
    """

    sets: tuple[str, ...]
    size: Shape
    scales: tuple[int, ...]
    grid: int = 5
    padding: int | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        own = max(self.size[1:])
        if min(self.scales) < own:
            raise InputError(
                f"a scale of {min(self.scales)} is smaller than the network's input of {self.size[1]} by {self.size[2]}: "
                "give larger --scales"
            )
        for scale in self.scales if self.has_crops else ():
            pad = self.pad(scale)
            if pad >= scale and self.padding is not None:
                raise InputError(f"a padding of {pad} cannot be reflected in pictures of {scale} pixels")
            if pad >= scale or self.grid > scale + 2 * pad - own + 1:
                wide = f", padded by {pad} on each side," if self.padding else ""
                raise InputError(
                    f"pictures of {scale} pixels{wide} have no room for {self.grid} by {self.grid} different crops of {own}: "
                    "give a smaller --grid, more --padding or larger --scales"
                )

    def pad(self, scale: int) -> int:
        """Return the number of reflected pixels on each side of pictures of `scale`, for crops."""
        own, needed = max(self.size[1:]), self.grid - 1
        if self.padding is not None:
            return self.padding
        lacking = needed - (scale - own)
        return max(own // 8, -(-lacking // 2)) if lacking > 0 else 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """The sets that have to be computed, each once."""
        names = ("flip", *self.sets) if DOUBTFUL in self.sets else self.sets
        return tuple(dict.fromkeys(kind for name in names for kind in members(name)))

    @property
    def has_crops(self) -> bool:
        """Whether crops of any picture have to be computed."""
        return bool({"crops", DOUBTFUL} & set(self.kinds))

    @property
    def rows(self) -> list[Row]:
        """The rows of the report, (set, scales): every set at each scale, and at all scales together."""
        found: list[Row] = []
        for name in self.sets:
            if name not in SCALED:
                found.append((name, ()))
                continue
            found += [(name, (scale,)) for scale in self.scales]
            found += [(name, self.scales)] if len(self.scales) > 1 else []
        return found

    def views(self, name: str, scales: Sequence[int], share: float = 1.0) -> float:
        """Return how many views of a picture the set `name` at `scales` takes. A dense view counts once.

        For `DOUBTFUL` this is the mean if a `share` of the pictures is doubtful.
        """
        if name not in SCALED:
            return 1 + (name == "flip")
        if name == DOUBTFUL:
            return self.views("flip", ()) + share * self.views("crops", scales)
        each = {"crops": 2 * self.grid**2, "dense": 2}
        return len(scales) * sum(each[kind] for kind in members(name))


@dataclass
class Tally:
    """The errors of a set of views. `confusion` [K,K] counts pictures by true class (row) and predicted class (column).

    `doubtful` counts the pictures that `flip` leaves in doubt, for the set `DOUBTFUL`.
    """

    confusion: Array
    count: int = 0
    wrong: int = 0
    wrong_top: int = 0
    doubtful: int = 0

    def add(self, posteriors: Array, labels: Array) -> None:
        """Count pictures with posteriors [N,K] and true classes [N]."""
        places = ranks(posteriors, labels)
        self.count += len(labels)
        self.wrong += int((places > 0).sum())
        self.wrong_top += int((places >= TOP).sum())
        np.add.at(self.confusion, (labels, posteriors.argmax(axis=1)), 1)


def ranks(posteriors: Array, labels: Array) -> Array:
    """Return the rank, from 0, of the true class by posterior [N,K]. Of equal posteriors, the first class ranks first, as in argmax."""
    own = posteriors[np.arange(len(labels)), labels][:, None]
    before = (posteriors == own) & (np.arange(posteriors.shape[1]) < labels[:, None])
    places: Array = ((posteriors > own) | before).sum(axis=1)
    return places


@dataclass(frozen=True)
class Subject:
    """`pictures` with true classes `labels` [N]. `single(i)` is picture i as training tests it, uint8 [C,H,W]."""

    pictures: Pictures
    labels: Array
    single: Callable[[int], Array]


Row = tuple[str, tuple[int, ...]]
"""A set of views, and its scales."""


def evaluate(
    model: Predictor, subject: Subject, plan: Plan, batch: int, over: Callable[[list[range]], Iterable[range]]
) -> dict[Row, Tally]:
    """Return the tally of every row of `plan`. Each picture is read once.

    A batch has `batch` pictures, fewer if they are large. `over` may show progress. Raises `Diverged` if posteriors are not finite.
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
            tally.doubtful += int(are_doubtful(found["flip", 0], plan.margin).sum()) if name == DOUBTFUL else 0
    return tallies


def are_doubtful(posteriors: Array, margin: float) -> Array:
    """Return, for posteriors [N,K], whether the two most probable classes differ by less than `margin`: bool [N].

    This depends on no label and on no other picture.
    """
    ordered = np.sort(posteriors, axis=1)
    close: Array = ordered[:, -1] - ordered[:, -2:-1].sum(axis=1) < margin
    return close


def started(model: Predictor, plan: Plan) -> dict[str, Forward]:
    """Start what computes each kind of views. If no dense network can be made, this raises before a framework is loaded."""
    found = {"dense": model.start_dense()} if "dense" in plan.kinds else {}
    if set(plan.kinds) - {"dense"}:
        found["crops"] = model.start()
    return found


Look = tuple[Array | None, dict[int, Array]]
"""One picture as training tests it, uint8 [C,H,W]; and scale -> the rescaled picture, uint8 [C,h,w]."""


def _look(subject: Subject, plan: Plan, index: int) -> Look:
    single = subject.single(index) if {"single", "flip"} & set(plan.kinds) else None
    if not set(SCALED) & set(plan.kinds):
        return single, {}
    return single, dict(zip(plan.scales, subject.pictures.rescaled(index, *plan.scales), strict=True))


def _posteriors(
    model: Predictor, forwards: Mapping[str, Forward], plan: Plan, looks: list[Look]
) -> dict[tuple[str, int], Array]:
    """Return posteriors [N,K] of a batch by kind of views and scale (0: the size that training tests)."""
    found: dict[tuple[str, int], Array] = {}

    def mirrored(forward: Forward, pixels: Array) -> Array:
        both: Array = (model.probabilities(pixels, forward) + model.probabilities(pixels[..., ::-1], forward)) / 2
        return both

    def cropped(pictures: list[Array], scale: int) -> Array:
        views = crops(pictures, plan, plan.pad(scale))
        return np.asarray(np.mean([mirrored(forwards["crops"], view) for view in views], axis=0))

    singles = [look[0] for look in looks if look[0] is not None]
    if "single" in plan.kinds:
        found["single", 0] = model.probabilities(np.stack(singles), forwards["crops"])
    if "flip" in plan.kinds:
        found["flip", 0] = mirrored(forwards["crops"], np.stack(singles))
    for scale in plan.scales:
        pictures = [look[1][scale] for look in looks if look[1]]
        if "crops" in plan.kinds:
            found["crops", scale] = cropped(pictures, scale)
        if DOUBTFUL in plan.kinds:
            found[DOUBTFUL, scale] = once = found["flip", 0].copy()
            if len(close := np.flatnonzero(are_doubtful(once, plan.margin))):
                known = found.get(("crops", scale))
                once[close] = cropped([pictures[i] for i in close], scale) if known is None else known[close]
        if "dense" in plan.kinds:
            found["dense", scale] = np.empty((len(looks), len(model.classes)))
            for rows in _alike([picture.shape for picture in pictures]):
                found["dense", scale][rows] = mirrored(forwards["dense"], np.stack([pictures[i] for i in rows]))
    return found


def crops(pictures: Sequence[Array], plan: Plan, pad: int) -> Iterator[Array]:
    """Yield the crops of all `pictures` (uint8 [C,h,w], of any sizes) at each place of the grid, row by row: uint8 [N,C,H,W].

    Before that, the pictures are padded by `pad` reflected pixels on each side.
    """
    size = plan.size[1:]
    wide = [padded(p, pad, "reflect") if pad else p for p in pictures]
    places = [[offsets(side, own, plan.grid) for side, own in zip(p.shape[1:], size, strict=True)] for p in wide]
    for row in range(plan.grid):
        for column in range(plan.grid):
            starts = [(rows[row], columns[column]) for rows, columns in places]
            yield np.stack([p[:, y : y + size[0], x : x + size[1]] for p, (y, x) in zip(wide, starts, strict=True)])


def offsets(side: int, own: int, count: int) -> list[int]:
    """Return where `count` crops of `own` pixels begin on a side of `side` pixels: evenly spread. One crop is in the middle."""
    room = side - own
    return [room // 2] if count == 1 else [(i * room + (count - 1) // 2) // (count - 1) for i in range(count)]


def _alike(shapes: Sequence[Shape]) -> list[list[int]]:
    """Group the indices of equal shapes."""
    found: dict[Shape, list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(shape, []).append(i)
    return list(found.values())
