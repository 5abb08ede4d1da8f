"""Of which known terms a loss is a sum, from the gradient of an output: cross-entropies, focal and Dice losses, distillation, smooth L1.

A gradient is a sum of known arrays times unknown numbers: least squares find these numbers, and they show the settings of the terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import NAMES
from parity.compare.relative_error import distance
from parity.modules.layer_kinds import SIDES
from parity.pairs.named_losses import GAMMAS, labels_of, minimize, sigmoid, softmax

FIT = 1e-8
"""Largest relative error at which a sum of terms explains a gradient that has no rounding of its own."""

TERMS = 1e-5
"""The same at most, with rounding: every term must show."""

SAME = 1e-3
"""Largest relative error at which two settings of a term count as the same, and with which several groups must agree on one."""

FEWEST = 8
"""Fewest numbers of a gradient for each unknown number, up to `ENOUGH` in all."""

ENOUGH = 64

MOST_NUMBERS = 20_000
"""Numbers of a gradient that are looked at."""

MOST_BESIDE = 16
"""Largest number of unknown numbers beside a focal loss."""

MOST_SEARCHED = 2000
"""Numbers of a gradient with which a setting is searched."""

NEAR = 0.1
"""Largest relative error in a coarse search at which a finer one is worth its time."""

MOST_COLUMNS = 120
"""Largest number of unknown numbers."""

MOST_CELLS = 20_000_000
"""Largest product of the numbers of an output and of its classes."""

TEMPERATURES = (-1.0, 2.0)
"""Between which powers of 10 the temperature of a distillation is searched."""

OF_OUTPUTS = "of the outputs"
"""A cross-entropy that gets the outputs of the model as its scores."""

Value = str | float | tuple[float, ...]

Terms = Mapping[str, Mapping[str, Value]]
"""Term in words -> its settings in words. The setting "" is what the term is: if two sides differ in it, other settings do not matter."""


def list_term_differences(g: tuple[Array, Array], z: Array, targets: Sequence[Array], rounding: float) -> list[str]:
    """Return in words how the terms of two losses differ, from their gradients g by the output z; empty if they are not known.

    `rounding` is the relative error that gradients have anyway.
    """
    tolerance = max(FIT, min(rounding, TERMS))
    if z.size * min(max(z.shape, default=1), MOST_COLUMNS) > MOST_CELLS:
        return []
    for fit in _ways(z, targets, tolerance):
        found = [fit(x) for x in g]
        if found[0] and found[1] and (said := list(_differences(found[0], found[1]))):
            return said
    return []


def _differences(one: Terms, two: Terms) -> Iterator[str]:
    for term in dict.fromkeys([*one, *two]):
        a, b = one.get(term, {"": "none"}), two.get(term, {"": "none"})
        for what in [""] if a.get("") != b.get("") else dict.fromkeys([*a, *b]):
            values = a.get(what, "none"), b.get(what, "none")
            if not _is_same(*values):
                said = ", ".join(f"{NAMES[side]} {_words(x)}" for side, x in zip(SIDES, values, strict=True))
                yield f"{what} of the {term}: {said}" if what else f"{term}: {said}"


def _is_same(a: Value, b: Value) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, SAME, 1e-12))


def _words(value: Value) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(f"{x:.3g}" if x else "about 0" for x in (value if isinstance(value, tuple) else (value,)))


def _ways(z: Array, targets: Sequence[Array], tolerance: float) -> Iterator[Callable[[Array], Terms | None]]:
    """Yield functions that explain a gradient of the output by one family of terms and one target."""
    z = z.astype(np.float64)
    for target in targets:
        if target.shape == z.shape and target.dtype.kind in "fiub":
            y = target.astype(np.float64)
            yield partial(_fit_errors, z=z, y=y, tolerance=tolerance)
            for axis in dict.fromkeys((1, z.ndim - 1)) if z.ndim > 1 else (0,):
                if y.min() >= 0 and y.max() <= 1:
                    yield partial(_fit_classes, z=z, y=y, axis=axis, tolerance=tolerance)
        for labels, axis in labels_of(z.shape, [target]):
            shown = labels.reshape([size for i, size in enumerate(z.shape) if i != axis])
            for first in (0, 1):  # a background may be class 0, which has no output
                numbers = _along_axis(np.arange(z.shape[axis]) + first, z.ndim, axis)
                y = (np.expand_dims(shown, axis) == numbers).astype(np.float64)
                given: dict[str, Any] = {"z": z, "y": y, "axis": axis, "tolerance": tolerance}
                yield partial(_fit_classes, **given, labels=labels)
                if not first and z.shape[axis] > 1:
                    yield partial(_fit_classes, **given, labels=labels, is_softmax=True)
                    for teacher in targets:
                        if teacher.shape == z.shape and teacher.dtype.kind == "f":
                            yield partial(_fit_distillation, **given, teacher=teacher)


def _along_axis(numbers: Array, count: int, axis: int) -> Array:
    return numbers.reshape([-1 if i == axis else 1 for i in range(count)])


def _solve(columns: Sequence[Array], g: Array, tolerance: float) -> Array | None:
    """Return the numbers with which the sum of columns is the gradient g, None if it is not."""
    if not columns or len(columns) > MOST_COLUMNS or g.size < min(FEWEST * len(columns), ENOUGH + len(columns)):
        return None
    basis = np.stack([column.ravel() for column in columns], 1)
    sizes = np.linalg.norm(basis, axis=0)
    chosen = np.linspace(0, g.size - 1, min(g.size, MOST_NUMBERS)).astype(int)
    part = (basis / np.where(sizes, sizes, 1))[chosen]
    if not np.isfinite(part).all():  # masked scores are infinite
        return None
    made = np.linalg.lstsq(part, g.ravel()[chosen], rcond=1e-12)[0] / np.where(sizes, sizes, 1)
    return made if distance(g.ravel(), basis @ made) <= tolerance else None


def _fit_classes(
    g: Array,
    z: Array,
    y: Array,
    axis: int,
    tolerance: float,
    labels: Array | None = None,
    is_softmax: bool = False,
) -> Terms | None:
    """Return cross-entropies, focal and Dice losses of scores z with targets y, whose classes are along an axis."""

    def ordered(x: Array) -> Array:
        wide = np.moveaxis(x, axis, -1) if x.ndim > 1 else x[:, None]
        return wide.reshape(len(wide), -1, wide.shape[-1])

    return _Classes(ordered(g.astype(np.float64)), ordered(z), ordered(y), tolerance, is_softmax, labels).fit()


def _search(
    columns: Callable[[float], Sequence[Array]], low: float, high: float, g: Array, tolerance: float
) -> tuple[float, Array] | None:
    """Return the number between two others with whose columns a gradient is explained, and the factors; None if there is none."""
    chosen = np.linspace(0, g.size - 1, min(g.size, MOST_SEARCHED)).astype(int)
    flat = g.ravel()[chosen]

    def error(number: float) -> float:
        basis = np.stack([x.ravel()[chosen] for x in columns(number)], 1)
        if not np.isfinite(basis).all():
            return math.inf
        return distance(flat, basis @ np.linalg.lstsq(basis, flat, rcond=1e-12)[0])

    grid = np.linspace(low, high, 41)
    errors = [error(number) for number in grid]
    if min(errors) > NEAR:
        return None
    step, best = grid[1] - grid[0], float(grid[np.argmin(errors)])
    number = minimize(error, max(low, best - step), min(high, best + step))
    # The search is as exact as its last step.
    made = _solve(columns(number), g, max(tolerance, 1e-7))
    return None if made is None else (number, made)


@dataclass(frozen=True)
class _Classes:
    """A gradient [samples, places, classes] of scores z with targets y of 0 and 1: cross-entropies, focal and Dice losses.

    `labels` are the labels of the places, if the target has labels; `is_softmax` says how scores become probabilities.
    """

    g: Array
    z: Array
    y: Array
    tolerance: float
    is_softmax: bool
    labels: Array | None

    def fit(self) -> Terms | None:
        """Return the terms, None if they are not known."""
        if not self.g.any():
            return None
        used = self.g.any(-1)
        p = softmax(self.z.reshape(-1, self.z.shape[-1])).reshape(self.z.shape) if self.is_softmax else sigmoid(self.z)
        ignored: Terms = {}
        if self.labels is not None:
            numbers = sorted(set(self.labels.reshape(used.shape)[~used].tolist()))
            ignored = {"ignored labels": {"": ", ".join(map(str, numbers)) or "none"}}
        elif not used.all():
            ignored = {"ignored places": {"": f"{int((~used).sum())} of {used.size}"}}
        pointwise = list(self._pointwise(p, used))
        for columns, describe in pointwise:
            if (made := _solve(columns, self.g, self.tolerance)) is not None:
                return {**ignored, **describe(made)}
        for columns, describe in pointwise:
            for overlap in self._overlaps(p, used):
                if (made := _solve([*columns, *overlap.columns], self.g, self.tolerance)) is not None:
                    dice = overlap.describe(made[len(columns) :], self.g, [*columns, *overlap.columns], made)
                    return {**ignored, **describe(made[: len(columns)]), "Dice loss": dice}
        return self._fit_focal(p, used, ignored)

    def _through(self, h: Array, p: Array) -> Array:
        """Return the gradient by the scores of one by the probabilities."""
        return p * (h - (h * p).sum(-1, keepdims=True)) if self.is_softmax else h * p * (1 - p)

    def _pointwise(self, p: Array, used: Array) -> Iterator[tuple[Sequence[Array], Callable[[Array], Terms]]]:
        """Yield the columns of cross-entropies, and what describes them: with one weight, and with one for each class."""
        mask, classes = used[..., None], range(self.y.shape[-1])
        if self.is_softmax:
            twice = softmax(p.reshape(-1, p.shape[-1])).reshape(p.shape)
            kinds = {OF_OUTPUTS: p - self.y, f"{OF_OUTPUTS} behind one more softmax": self._through(twice - self.y, p)}
        else:
            kinds = {
                OF_OUTPUTS: p - self.y,
                f"{OF_OUTPUTS} behind one more sigmoid": self._through(sigmoid(p) - self.y, p),
            }
        count = int(used.sum()) * (1 if self.is_softmax else len(classes))
        for kind, each in kinds.items():
            whole = each * mask * (self.y.sum(-1, keepdims=True) if self.is_softmax else 1)

            def describe(made: Array, kind: str = kind) -> Terms:
                return self._describe(kind, made, count)

            yield [whole], describe
            if 1 < len(classes) <= MOST_COLUMNS:
                of = [self.y[..., k, None] if self.is_softmax else self._is_class(k) for k in classes]
                yield [each * mask * one for one in of], describe
        if not self.is_softmax:
            parts = [self.y * (p - 1) * mask, (1 - self.y) * p * mask]
            yield parts, lambda made: self._describe(OF_OUTPUTS, made, count, True)

    def _is_class(self, number: int) -> Array:
        found: Array = np.arange(self.y.shape[-1]) == number
        return found

    def _describe(self, kind: str, made: Array, count: int, is_positive: bool = False) -> Terms:
        """Describe a cross-entropy by the factors of its classes, or by those of positive and negative targets."""
        if not np.abs(made * count).max() > self.tolerance:
            return {}
        first = float(made[1] if is_positive else made[np.flatnonzero(made)[0]])
        found: dict[str, Value] = {"": kind, "reduction": _reduction(first, count)}
        if is_positive:
            found["pos_weight"] = float(made[0] / first) if first else math.inf
        elif np.ptp(made) > SAME * np.abs(made).max():
            found["weights of classes"] = tuple(made / first)
        return {"cross-entropy" if self.is_softmax else "binary cross-entropy": found}

    def _groups(self) -> Iterator[tuple[str, Array]]:
        """Yield over what a Dice loss may sum, in words, and the number of its group for each [sample, place, class]."""
        samples, _, classes = self.y.shape
        one = np.zeros(self.y.shape, int)
        by_class, by_sample = one + np.arange(classes), one + np.arange(samples)[:, None, None]
        yield "one for all samples and classes", one
        yield "one for each class", by_class
        yield "one for each sample", by_sample
        yield "one for each sample and class", by_sample * classes + by_class

    def _overlaps(self, p: Array, used: Array) -> Iterator[_Overlap]:
        """Yield Dice losses that may be."""
        mask = used[..., None]
        for words, members in self._groups():
            count = int(members.max()) + 1
            if 2 * count > MOST_COLUMNS:
                continue
            for x, how in ((p, ""), (self.z, "of outputs that are no probabilities, ")):
                for squares in (False, True):
                    parts = [
                        h * (members == k) for k in range(count) for h in (self.y, x if squares else np.ones_like(x))
                    ]
                    columns = [(h if how else self._through(h, p)) * mask for h in parts]
                    sizes = x * x + self.y * self.y if squares else x + self.y
                    total, overlap = (
                        np.bincount(members.ravel(), (size * mask).ravel()) for size in (sizes, self.y * x)
                    )
                    yield _Overlap(how + words, columns, total, overlap, squares, bool(how))

    def _fit_focal(self, p: Array, used: Array, ignored: Terms) -> Terms | None:
        """Return a focal loss, alone or beside a Dice loss."""
        if self.is_softmax or self.g.size < FEWEST:
            return None
        twice = f"{OF_OUTPUTS} behind one more sigmoid"
        kinds = {OF_OUTPUTS: (p, np.ones_like(p)), twice: (sigmoid(p), p * (1 - p))}
        overlaps = [
            found for found in self._overlaps(p, used) if len(found.columns) <= MOST_BESIDE and not found.is_raw
        ]
        for overlap in [None, *overlaps]:
            others = [] if overlap is None else overlap.columns
            for kind, (q, slope) in list(kinds.items())[: 1 if others else None]:

                def columns(
                    gamma: float, q: Array = q, slope: Array = slope, others: Sequence[Array] = others
                ) -> list[Array]:
                    return [*self._focal_columns(q, slope * used[..., None], gamma), *others]

                found = _search(columns, *GAMMAS, self.g, self.tolerance)
                if found is None:
                    continue
                gamma, made = found
                count = int(used.sum()) * p.shape[-1]
                said: dict[str, Mapping[str, Value]] = {
                    "focal loss": {"": kind, "gamma": float(f"{gamma:.6g}"), **_describe_alpha(made[0], made[1], count)}
                }
                if overlap is not None:
                    said["Dice loss"] = overlap.describe(made[2:], self.g, columns(gamma), made)
                return {**ignored, **said}
        return None

    def _focal_columns(self, p: Array, slope: Array, gamma: float) -> list[Array]:
        """Return the gradients of positive and of negative targets, times `slope`."""
        is_positive, tiny = self.y > 0.5, np.finfo(float).tiny
        right = np.where(is_positive, p, 1 - p)
        rest = np.maximum(1 - right, tiny)
        made = rest ** (gamma + 1) - gamma * right * rest**gamma * np.log(np.maximum(right, tiny))
        return [made * slope * sign * (is_positive == (sign < 0)) for sign in (-1, 1)]


def _describe_alpha(rising: float, falling: float, count: int) -> dict[str, Value]:
    """Describe a focal loss by the factors of positive and of negative targets."""
    is_plain = bool(falling) and abs(rising / falling - 1) <= SAME
    whole = falling if is_plain else rising + falling
    alpha = "none" if is_plain else float(rising / whole)
    return {"alpha": alpha, "reduction": _reduction(float(whole), count)}


@dataclass(frozen=True)
class _Overlap:
    """A Dice loss that is a sum over groups, in `words`: its columns of a gradient, and by group the sum of sizes and the overlap.

    Each group has the columns of the labels and of the ones, or with `squares` of the probabilities. `is_raw`: outputs stand for these.
    """

    words: str
    columns: Sequence[Array]
    total: Array
    overlap: Array
    squares: bool
    is_raw: bool

    def describe(self, made: Array, g: Array, columns: Sequence[Array], factors: Array) -> Mapping[str, Value]:
        """Describe the loss from the factors `made` of its columns; all `columns` with their factors are the gradient g."""
        explained = sum((x * factor for x, factor in zip(columns, factors, strict=True)), np.zeros_like(g))
        alpha, beta = made[0::2], made[1::2]
        shown = np.abs(alpha) > SAME * np.abs(alpha).max()
        alpha, beta, total, overlap = (x[shown] for x in (alpha, beta, self.total, self.overlap))
        rounding = 1e3 * max(distance(g, explained), 1e-15) * float(np.abs(total).max())
        known: list[tuple[bool, dict[str, Value]]] = []
        for words, smooth, weights_of in _dice_forms(alpha, beta, total, overlap, self.squares):
            s = float(np.median(smooth))
            limit = SAME * abs(s) + rounding
            if not (np.ptp(smooth) <= limit and s > -rounding) or (len(smooth) < 2 and not _is_short(s, limit)):
                continue
            s = 0.0 if abs(s) <= rounding else s
            weights = weights_of(s)
            found: dict[str, Value] = {"": f"{words}, {self.words}", "smoothing": s, "factor": float(weights.sum())}
            if np.ptp(weights) > SAME * np.abs(weights).max():
                found["weights"] = tuple(weights / weights[0])
            # A function of a Dice loss has its gradient but for the weights of groups.
            known.append((all(_is_short(x, SAME / 10 * abs(x)) for x in (s, *weights / weights[0])), found))
        likely = [found for is_short, found in known if is_short] or [found for _, found in known]
        return likely[0] if likely else {"": f"another one, {self.words}"}


def _is_short(number: float, limit: float) -> bool:
    """Whether a number is one of two digits but for `limit`, as a number that somebody has written."""
    return abs(number - float(f"{number:.2g}")) <= limit


def _dice_forms(
    alpha: Array, beta: Array, total: Array, overlap: Array, squares: bool
) -> Iterator[tuple[str, Array, Callable[[float], Array]]]:
    """Yield forms of 1 - overlap / total in words, with the smoothing of each group that they show, and what makes weights of it.

    By a probability p of the label y, the gradient of a group is alpha * y + beta, or alpha * y + beta * p with squares.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = -(beta if squares else 2 * beta) / alpha
        words = f"twice the overlap over the sum of {'squares' if squares else 'probabilities and labels'}"
        smooth = (2 * overlap - ratio * total) / (ratio - 1)
        yield words, smooth, lambda s: -alpha * (total + s) / 2
        yield f"minus the logarithm of {words}", smooth, lambda s: -alpha * (2 * overlap + s) / 2
        yield f"{words}, with smoothing below only", 2 * overlap / ratio - total, lambda s: -alpha * (total + s) / 2
        if squares:
            return
        ratio = -beta / alpha
        yield (
            "the overlap, not twice, over the sum of probabilities and labels",
            (overlap - ratio * total) / (ratio - 1),
            lambda s: -alpha * (total + s),
        )
        union, ratio = total - overlap, -beta / (alpha + beta)
        yield (
            "overlap over union (Jaccard)",
            (overlap - ratio * union) / (ratio - 1),
            lambda s: -(alpha + beta) * (union + s),
        )


def _reduction(factor: float, count: int) -> str:
    """Say how the terms of `count` numbers, each times `factor`, are made one number."""
    mean = factor * count
    if abs(mean / float(f"{mean:.3g}") - 1) <= SAME / 10:
        return "mean" if abs(mean - 1) <= SAME / 10 else f"mean times {mean:.3g}"
    if abs(factor - 1) <= SAME / 10:
        return "sum"
    if abs(1 / factor - round(1 / factor)) <= SAME / 10 * abs(1 / factor) and round(1 / factor) > 1:
        return f"sum divided by {round(1 / factor)}"
    return f"sum times {factor:.6g}"


def _fit_errors(g: Array, z: Array, y: Array, tolerance: float) -> Terms | None:
    """Return an absolute, squared or smooth L1 loss of z and y, of all numbers or of some."""
    d, used = z - y, g != 0
    count = int(used.sum())
    if count < FEWEST:
        return None
    largest = float(np.abs(g).max())
    inner = used & (np.abs(g) < largest * (1 - FIT))
    numbers: dict[str, Value] = {"numbers": str(count)}
    if not inner.any() and distance(g, largest * np.sign(d) * used) <= tolerance:
        return {"loss of the differences": {"": "absolute", "reduction": _reduction(largest, count)} | numbers}
    if not inner.any():
        return None
    slope = float(np.vdot(d[inner], g[inner]) / np.vdot(d[inner], d[inner]))
    if not slope > 0 or distance(g, np.clip(slope * d, -largest, largest) * used) > tolerance:
        return None
    if inner.sum() >= count - 1:
        return {"loss of the differences": {"": "squared", "reduction": _reduction(slope / 2, count)} | numbers}
    said: dict[str, Value] = {"": "smooth L1", "beta (where it becomes linear)": largest / slope}
    return {"loss of the differences": said | {"slope": _reduction(largest, count)} | numbers}


def _fit_distillation(g: Array, z: Array, y: Array, axis: int, tolerance: float, teacher: Array) -> Terms | None:
    """Return a KL divergence to the scores of a teacher at a temperature, alone or beside a cross-entropy."""
    g, z, teacher, y = (
        np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis]) for x in (g, z, teacher, y)
    )
    errors = (softmax(z) - y) * y.any(1, keepdims=True)

    def columns(power: float) -> list[Array]:
        t = 10.0**power
        return [softmax(z / t) - softmax(teacher / t), errors]

    found = _search(columns, *TEMPERATURES, g, tolerance) if g.size >= FEWEST else None
    if found is None or not abs(found[1][0]) * len(g) > 1e-6:
        return None
    t, made = float(f"{10.0 ** found[0]:.6g}"), found[1]
    factor = float(made[0] * len(g) * t)
    square = f" (the squared temperature times {factor / t**2:.4g})" if abs(t - 1) > SAME else ""
    said: dict[str, Value] = {"": "one", "temperature": t, "factor": f"mean times {factor:.4g}{square}"}
    hard: Terms = {"cross-entropy": {"": OF_OUTPUTS, "reduction": _reduction(float(made[1]), len(g))}}
    return {"distillation": said, **(hard if abs(made[1]) * len(g) > 1e-6 else {})}
