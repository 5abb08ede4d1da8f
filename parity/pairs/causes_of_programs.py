"""Why the losses or the optimizers of two users' programs differ: what their gradients, their clipping and their settings show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.backend.user_program import AVERAGE
from parity.compare.causes import Cause
from parity.compare.relative_error import distance
from parity.modules.layer_kinds import SIDES
from parity.pairs.loss_terms import TERMS, list_term_differences
from parity.pairs.named_losses import labels_of, minimize, name_label_loss, name_loss, name_regulariser, softmax
from parity.pairs.named_steps import name_step
from parity.recipe.optimizer_description import (
    Clip,
    OptimizerDescription,
    Setting,
    is_own,
    list_differences,
    list_settings,
    list_unshared,
)
from parity.short_repr import few

MATCH = 1e-9
"""Largest relative error at which two numbers or arrays count as the same."""

FIT = 1e-6
"""Largest relative error at which a cross-entropy explains a gradient."""

MOST_COUNTED = 2000
"""The largest denominator of a fraction that explains a factor of two losses."""

MOST_STEPS = 64
"""The largest number of steps of a gradient accumulation by which a factor is explained."""

FEWEST_DIVIDED = 4
"""The smallest number by which gradients that are divided after clipping are named: limits often differ by a factor of 2."""

WEAK = 1e-3
"""A sample whose gradient is smaller than this, relative to the largest, does not show its factor: rounding decides it."""

NORM_EPS = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm of the gradients."""

BEFORE_EPS = ("velocity", "moment1", "moment2", "moment2_max", "updates", "mean_square", "sum_of_squares")
"""Slots of a parameter's state in which eps does not enter."""

MOST_SCORES, MIN_SCORES = 20_000, 16
"""Scores that decide on a temperature."""

MOST_NUMBERS = 10**7
"""Largest system of equations that explains a cross-entropy."""

UNLIKE = "the losses weigh samples differently"
"""The sentence on two cross-entropies with different weights of samples, where no weights of classes explain these."""

Pair = tuple[Array, Array]


@dataclass(frozen=True)
class LossEvidence:
    """What is known about two losses: their values, the outputs and their gradients by place, and the inputs of the losses.

    `rounding` is the relative error that outputs and gradients have anyway.
    """

    losses: Mapping[str, float]
    outputs: Record
    gradients: Mapping[str, Record]
    targets: Sequence[Array]
    rounding: float = 0.0

    @property
    def match(self) -> float:
        """The largest relative error at which two numbers or arrays count as the same."""
        return max(MATCH, self.rounding)

    @property
    def fit(self) -> float:
        """The largest relative error at which a cross-entropy explains a gradient."""
        return max(FIT, self.rounding)


@dataclass(frozen=True)
class OptimizerEvidence:
    """What is known about a step of two optimizers, by side: their descriptions, and the gradients before the step and as they used them.

    `start` are the weights before the step, where known, `weights` and `states` those after it.
    """

    described: Mapping[str, OptimizerDescription]
    before: Mapping[str, Record]
    used: Mapping[str, Record]
    start: Record = field(default_factory=dict)
    weights: Mapping[str, Record] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)


# Losses


def find_loss_cause(evidence: LossEvidence) -> Cause | None:
    """Return why two losses of equal outputs differ, from the gradients of the outputs."""
    said: list[str] = []
    names = dict.fromkeys(name for side in SIDES for name in evidence.gradients[side])
    by_text: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    has_other_shape = False
    for name in names:
        g = [evidence.gradients[side].get(name) for side in SIDES]
        having = [x is not None and (x.any() or not x.size) for x in g]
        if having[0] != having[1]:
            side = SIDES[0] if having[0] else SIDES[1]
            said.append(f"only {NAMES[side]}'s loss uses the output {name or 'of the model'}")
            continue
        if g[0] is None or g[1] is None:
            continue
        g[1] = g[1].reshape(g[0].shape) if g[0].size == g[1].size == 1 else g[1]
        has_other_shape |= g[0].shape != g[1].shape
        if g[0].shape != g[1].shape or distance(g[0], g[1]) <= evidence.match:
            continue
        sizes[name] = g[0].size
        z = evidence.outputs.get(name)
        for text in _of_an_output((g[0].astype(np.float64), g[1].astype(np.float64)), z, evidence):
            by_text.setdefault(text, []).append(name)
    for text, places in by_text.items():
        if all(sizes[name] == 1 for name in places) and max(sizes.values()) > 1:
            continue  # any two numbers have a ratio
        where = "" if len(places) == len(names) else f"output{'s' * (len(places) > 1)} {few(places)}: "
        said.append(where + text)
    a, b = (evidence.losses[side] for side in SIDES)
    is_same_value = abs(a - b) <= evidence.match * max(abs(a), abs(b))
    if not said and not is_same_value:
        if names and not sizes and not has_other_shape:
            by = f"{b - a:.{4 if evidence.rounding else 7}g}"
            return Cause(
                f"the losses differ by {by}, and their gradients are equal: one adds a constant, or limits its value"
            )
        return None
    words = "the values of the losses are equal, their gradients are not: " if is_same_value else ""
    if not said:
        return Cause(f"{words}a part of one loss may be detached", generic=True) if is_same_value and sizes else None
    return Cause(words + "; ".join(dict.fromkeys(said)))


def _of_an_output(g: Pair, z: Array | None, evidence: LossEvidence) -> Iterator[str]:
    """Yield how the gradients of one output differ."""
    for labels, axis in labels_of(g[0].shape, evidence.targets):
        if z is None:
            break
        rows = [np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (*g, z)]
        found = list(_of_labels((rows[0], rows[1]), rows[2], labels, g[0].shape[0], evidence.fit))
        if found == [UNLIKE]:
            found = list_term_differences(g, z, evidence.targets, evidence.rounding) or found
        if found:
            yield from found
            return
    ratio = _ratio(*g)
    error = distance(g[1], ratio * g[0]) if ratio else math.inf
    # With much rounding, gradients that are small beside others may have another factor.
    if error > min(evidence.match, TERMS) and z is not None and (said := _of_terms(g, z, evidence)):
        yield from said
        return
    if error <= evidence.match:
        a, b = (evidence.losses[side] for side in SIDES)
        value = abs(b - ratio * a) <= evidence.match * abs(b)
        what = "loss and its gradient are" if value else "gradient of the loss is"
        near = f"{ratio:.7g}" == "1"
        times = f"1 {'-' if ratio < 1 else '+'} {abs(ratio - 1):.1e}" if near else _name_ratio(ratio, evidence.match)
        yield f"Paddle's {what} PyTorch's times {times}{_name_factor(ratio, g[0].shape, evidence.fit)}"
        return
    functions = [None if z is None else name_loss(x, z, evidence.targets) for x in g]
    if functions[0] != functions[1]:
        named = [f"{NAMES[side]} {text or 'another one'}" for side, text in zip(SIDES, functions, strict=True)]
        yield f"function of the loss: {', '.join(named)}"
        return
    zero = [set(np.flatnonzero(~x.reshape(len(x), -1).any(1)).tolist()) if x.ndim else set() for x in g]
    if zero[0] != zero[1]:
        for side, own, other in zip(SIDES, zero, zero[::-1], strict=True):
            if alone := [str(i) for i in sorted(own - other)]:
                yield f"only {NAMES[side]}'s loss ignores the samples {few(alone)}"


def _of_terms(g: Pair, z: Array, evidence: LossEvidence) -> list[str]:
    """Say which term one loss adds to the other, or how the terms of both differ."""
    factor = _ratio(z, g[1] - g[0])
    if z.any() and distance(g[1] - g[0], factor * z) <= evidence.fit:
        sign = "plus" if factor > 0 else "minus"
        times = f"{abs(factor) * z.size / 2:.6g} times the mean of the squares of the output"
        return [f"Paddle's loss is that of PyTorch {sign} {times}"]
    if z.any() and (added := name_regulariser(g[1] - g[0], z, evidence.fit)) is not None:
        return [f"Paddle's loss is that of PyTorch {added}"]
    return list_term_differences(g, z, evidence.targets, evidence.rounding)


@dataclass(frozen=True)
class _CrossEntropy:
    """A cross-entropy that explains a gradient: the factor of each row, 0 where it is ignored, the labels, and the label smoothing.

    `twice`: it applies a softmax to the scores before its own. `by_class`: weights of classes and label smoothing meet in the term of each
    class, as in PyTorch; else a factor is that of a whole row, as in Paddle.
    """

    factors: Array
    labels: Array
    smoothing: float
    twice: bool = False
    by_class: bool = False


def _fit_cross_entropy(g: Array, z: Array, y: Array, tolerance: float) -> _CrossEntropy | None:
    """Return the cross-entropy of scores z [M,K] whose gradient is g, None if none is.

    The labels are y [M], or those with the smallest gradient of each row if y does not fit: a label may be shifted, or have a value that
    only one loss ignores.
    """
    if z.shape[1] < 3:
        return None
    p, rows = softmax(z), np.flatnonzero(g.any(1))
    shown = np.where(g.any(1), g.argmin(1), y)
    for labels in (np.where((y >= 0) & (y < z.shape[1]), y, shown), shown):
        factors, smoothing, error = _fit_rows(g, p, labels, rows)
        if error <= tolerance:
            return _CrossEntropy(factors, labels, smoothing)
    if not len(rows) or not ((y[rows] >= 0) & (y[rows] < z.shape[1])).all():
        return None
    if (weighted := _fit_terms(g, p, y, rows, tolerance)) is not None:
        return _CrossEntropy(weighted[0], y, weighted[1], by_class=True)
    q, one = softmax(p[rows]), _one_hot(p, y, rows)
    # Those of the one-hot labels and of the label smoothing, through the first softmax.
    parts = [p[rows] * (inner - (p[rows] * inner).sum(1, keepdims=True)) for inner in (q - one, one - 1 / z.shape[1])]
    basis = np.stack([part.ravel() for part in parts], 1)
    c, cs = np.linalg.lstsq(basis, g[rows].ravel(), rcond=None)[0]
    if c and distance(g[rows].ravel(), basis @ (c, cs)) <= tolerance:
        return _CrossEntropy(c * g.any(1), y, float(cs / c), True)
    return None


def _one_hot(p: Array, labels: Array, rows: Array) -> Array:
    one = np.zeros_like(p[rows])
    one[np.arange(len(rows)), labels[rows]] = 1
    return one


def _fit_terms(g: Array, p: Array, y: Array, rows: Array, tolerance: float) -> tuple[Array, float] | None:
    """Return the factors of the rows and the label smoothing of a cross-entropy whose terms have weights w_k of classes; None if none fits.

    The gradient of a row is sum(t) * p - t, with t_k = w_k * s / K, and (1 - s) * w_y more for the label y. So a = sum(t) of each label and
    u_k = w_k * s / K follow from the numbers of the other classes: a * p_k - u_k = g_k.
    """
    classes, labels, places = p.shape[1], *np.unique(y[rows], return_inverse=True)
    equations, unknown = len(rows) * (classes - 1), classes + len(labels)
    if equations < 2 * unknown or equations * unknown > MOST_NUMBERS:
        return None
    one, wide = _one_hot(p, y, rows), (len(rows), classes, classes)
    matrix = np.concatenate(
        [np.eye(len(labels))[places][:, None] * p[rows][..., None], -np.broadcast_to(np.eye(classes), wide)], 2
    )
    others = one.ravel() == 0
    made, _, rank, _ = np.linalg.lstsq(matrix.reshape(len(others), -1)[others], g[rows].ravel()[others], rcond=None)
    if rank < len(made):
        return None
    u, weights = made[len(labels) :], made[: len(labels)]
    weights = weights - u.sum() + classes * u[labels]  # (1 - s) * w + s * w
    shares = classes * u[labels] / np.where(weights, weights, 1)
    smoothing = float(np.median(shares))
    t = u + one * ((1 - smoothing) * weights)[places][:, None]
    if distance(g[rows], t.sum(1, keepdims=True) * p[rows] - t) > tolerance:
        return None
    factors = np.zeros(len(g))
    factors[rows] = weights[places]
    return factors, smoothing


def _find_temperature(g: Array, z: Array, y: Array, tolerance: float) -> float | None:
    """Return the number by which a cross-entropy of labels y divides the scores z, if its gradient is then g; else None."""
    rows = np.flatnonzero(g.any(1))[: MOST_SCORES // z.shape[1]]
    g, z, y = g[rows], z[rows], y[rows]
    if g.size < MIN_SCORES or not ((y >= 0) & (y < z.shape[1])).all():
        return None

    def error(power: float) -> float:
        return _fit_rows(g, softmax(z * 10.0**-power), y, np.arange(len(g)))[2]

    power = minimize(error, -2.0, 2.0)
    return 10.0**power if error(power) <= tolerance else None


def _fit_rows(g: Array, p: Array, labels: Array, rows: Array) -> tuple[Array, float, float]:
    """Return the factors of the rows and the label smoothing with which a cross-entropy is nearest to the gradient g, and its error.

    The gradient of a row is c * (p - (1 - s) * one-hot - s / K), which is linear in c and c * s. Without the part along the first vector,
    p - one-hot, the second one shows s. Rows in which little is left of it count little.
    """
    if not len(rows):
        return np.zeros(len(g)), 0.0, math.inf
    one = _one_hot(p, labels, rows)
    first, second = p[rows] - one, one - 1 / p.shape[1]
    left = second - first * _along(second, first)[:, None]
    cs = _along(g[rows], left)
    c = _along(g[rows] - cs[:, None] * second, first)
    weight = (left * left).sum(1) * c**2
    smoothing = float((weight * cs / np.where(c, c, 1)).sum() / (weight.sum() or 1))
    basis = first + smoothing * second
    factors = np.zeros(len(g))
    factors[rows] = _along(g[rows], basis)
    return factors, smoothing, distance(g[rows], factors[rows, None] * basis)


def _along(a: Array, b: Array) -> Array:
    """Return the factors [M] by which the rows of b [M,K] are nearest to those of a."""
    return np.asarray((a * b).sum(1) / np.maximum((b * b).sum(1), np.finfo(float).tiny))


def _of_labels(g: Pair, z: Array, y: Array, samples: int, tolerance: float) -> Iterator[str]:
    """Yield how two cross-entropies differ: ignored labels, label smoothing, weights of classes, reduction."""
    one, two = (_fit_cross_entropy(x, z, y, tolerance) for x in g)
    if one is None or two is None:
        found = [1.0 if fit else _find_temperature(x, z, y, tolerance) for fit, x in zip((one, two), g, strict=True)]
        yield from _compare_temperatures(found)
        return
    fits, digits = (one, two), round(-math.log10(tolerance))
    if one.twice != two.twice:
        yield f"only {NAMES[SIDES[two.twice]]}'s loss applies a softmax to the outputs before that of the cross-entropy"
        return
    if one.by_class != two.by_class and all(
        _has_weights(fit, tolerance) and abs(fit.smoothing) > tolerance for fit in fits
    ):
        ways = ("each class's term by its weight", "each sample by the weight of its smoothed label")
        said = [f"{NAMES[side]} multiplies {ways[not fit.by_class]}" for side, fit in zip(SIDES, fits, strict=True)]
        yield f"weights of the classes with label smoothing: {', '.join(said)}"
        return
    used = (one.factors != 0) & (two.factors != 0)
    for x in g:
        sizes = np.linalg.norm(x, axis=1)
        used &= sizes > WEAK * sizes.max()
    if (other := np.flatnonzero(used & (one.labels != two.labels))).size:
        first = other[0]
        yield (
            f"labels: the losses use different ones at {len(other)} of {len(y)} places, first at place {first}: "
            f"PyTorch {one.labels[first]}, Paddle {two.labels[first]}"
        )
        return
    ignored = [sorted({int(label) for label in y[fit.factors == 0]}) for fit in fits]
    if ignored[0] != ignored[1]:
        words = [
            f"{NAMES[side]} ignores {'label ' + few([str(label) for label in labels]) if labels else 'no label'}"
            for side, labels in zip(SIDES, ignored, strict=True)
        ]
        yield f"ignore_index of the loss: {', '.join(words)}"
    smoothing = [round(fit.smoothing, digits) + 0.0 for fit in fits]
    if abs(one.smoothing - two.smoothing) > tolerance:
        yield f"label smoothing: PyTorch {smoothing[0]:.6g}, Paddle {smoothing[1]:.6g}"
    if not used.any():
        return
    ratios = two.factors[used] / one.factors[used]
    if np.ptp(ratios) > tolerance * np.abs(ratios).max():
        yield _compare_label_losses(fits, z, samples, tolerance) or _compare_weights(fits, used, y, tolerance)
    elif abs(ratios[0] - 1) > tolerance:
        valid = [int((fit.factors != 0).sum()) for fit in fits]
        said = [
            f"{NAMES[side]} {_reduction(fit.factors[used], len(y), count, samples, tolerance)}"
            for side, fit, count in zip(SIDES, fits, valid, strict=True)
        ]
        if all("multiplies" in text for text in said):
            said = [f"Paddle's loss is PyTorch's times {ratios[0]:.6g}"]
        yield f"reduction of the loss: {', '.join(said)}"


def _compare_temperatures(found: Sequence[float | None]) -> Iterator[str]:
    """Yield the temperatures of two cross-entropies, if both are known and differ."""
    if all(found) and found[0] != found[1]:
        yield f"temperature: PyTorch's loss divides the scores by {found[0]:.6g}, Paddle's by {found[1]:.6g}"


def _compare_label_losses(fits: Sequence[_CrossEntropy], z: Array, samples: int, tolerance: float) -> str | None:
    """Return the losses of the labels in words, as focal losses, if both are known and differ."""
    is_plain = all(abs(fit.smoothing) <= tolerance for fit in fits)
    rights = [softmax(z)[np.arange(len(z)), fit.labels] if is_plain else None for fit in fits]
    named = [name_label_loss(fit.factors, p, samples, tolerance) for fit, p in zip(fits, rights, strict=True)]
    return f"loss of the labels: PyTorch {named[0]}, Paddle {named[1]}" if all(named) and named[0] != named[1] else None


def _has_weights(fit: _CrossEntropy, tolerance: float) -> bool:
    """Whether the labels have different factors."""
    found = fit.factors[fit.factors != 0]
    return bool(found.size and np.ptp(found) > tolerance * np.abs(found).max())


def _compare_weights(fits: Sequence[_CrossEntropy], used: Array, y: Array, tolerance: float) -> str:
    """Say how the weights of the classes differ, if each side has one weight for each class of the labels `y` that are `used`."""
    said = []
    for side, fit in zip(SIDES, fits, strict=True):
        # The weights of the classes, relative to that of the first label.
        own = {int(label): fit.factors[used][y[used] == label] for label in sorted(set(y[used].tolist()))}
        first = next(iter(own.values()))[0]
        if any(np.ptp(factors) > tolerance * abs(first) for factors in own.values()):
            return UNLIKE
        digits = min(4, round(-math.log10(tolerance)))
        weights = {label: f"{factors[0] / first:.{digits}g}" for label, factors in own.items()}
        equal = set(weights.values()) == {"1"}
        said.append(f"{NAMES[side]} {'equal' if equal else few([f'{k}: {v}' for k, v in weights.items()])}")
    return f"weights of the classes (relative to the first): {', '.join(said)}"


def _reduction(factors: Array, labels: int, valid: int, samples: int, tolerance: float) -> str:
    """Say how the losses of labels, each times its one of `factors`, are made one number."""
    factor = float(np.median(factors))
    if np.ptp(factors) > tolerance * np.abs(factors).max():  # labels have weights
        total = float(factors.sum())
        if abs(total - 1) <= tolerance:
            return "divides by the sum of the weights of the labels"
        return f"does not: they add up to {total:.6g}"
    counts = {
        "sums over the labels": 1,
        f"averages over the {valid} labels that are not ignored"
        if valid != labels
        else f"averages over all {labels} labels": valid,
        f"divides by all {labels} labels": labels,
        f"sums over positions and averages over the {samples} samples": samples,
    }
    for words, count in counts.items():
        if abs(factor * count - 1) <= tolerance:
            return words
    for words, count in counts.items():
        if count > 1 and (steps := _count_steps(factor * count, tolerance)):
            return f"{words}, and divides by {steps}"
    for words, count in counts.items():
        if count == valid and _is_short(factor * count, tolerance):
            return f"{words}, times {factor * count:.3g}"
    return f"multiplies the sum over the labels by {factor:.6g}"


def _name_factor(ratio: float, shape: Sequence[int], tolerance: float) -> str:
    """Say what a factor between two gradients is the number of."""
    size = int(np.prod(shape))
    counts = {"the number of samples": shape[0] if shape else 1, "the size of the output": size}
    if len(shape) > 1:
        counts |= {"the size of one sample": size // shape[0], "the last axis": shape[-1]}
    for words, count in counts.items():
        if count > 2 and abs(ratio / count - 1) <= tolerance:
            return f", {words}: reduction"
        if count > 2 and abs(ratio * count - 1) <= tolerance:
            return f", 1 over {words}: reduction"
    return ""


def _name_ratio(ratio: float, tolerance: float) -> str:
    """Write a ratio, and as a fraction if it is one of counts, as of the labels by which two losses divide."""
    near = Fraction(ratio).limit_denominator(MOST_COUNTED)
    is_one = tolerance < FIT and near.denominator > 1 and abs(float(near) / ratio - 1) <= tolerance
    return f"{ratio:.7g}" + (f" = {near}" if is_one and not _is_short(ratio) else "")


def _count_steps(factor: float, tolerance: float) -> int:
    """Return the number of steps of a gradient accumulation of which a factor is the inverse; 0 if it is of none."""
    steps = round(1 / factor) if factor > 1 / (MOST_STEPS + 1) else 0
    return steps if steps > 1 and abs(factor * steps - 1) <= tolerance else 0


def _ratio(a: Array, b: Array) -> float:
    size = float(np.vdot(a, a))
    return float(np.vdot(a, b)) / size if size else 0.0


# Clipping


@dataclass(frozen=True)
class Clipping:
    """How the gradients of a step were changed before they were used, and the parameters that were left out of it.

    It is `unreached` if the optimizer clips, and changed nothing. A `factor` that all gradients were multiplied by, before they were
    clipped, is no clipping: loss scaling, or an average of accumulated gradients.
    """

    clip: Clip | None
    left_out: Sequence[str] = ()
    factor: float = 1.0
    unreached: bool = False

    def __str__(self) -> str:
        rest = f", except {few(list(self.left_out))}" if self.left_out else ""
        rest = ", which no gradient reaches" if self.unreached else rest
        clips = f"clips {self.clip}{rest}" if self.clip else ""
        if self.factor == 1:
            return clips or "clips nothing"
        steps = _count_steps(self.factor, MATCH)
        how = f"divides all gradients by {steps}" if steps else f"multiplies all gradients by {self.factor:.6g}"
        return f"{how} and {clips}" if clips else how


def infer_clipping(before: Record, used: Record) -> Clipping | None:
    """Return the clipping, or division, or both, that turn the gradients `before` into those `used`; None if they are no known ones."""
    if found := _infer_clip(before, used):
        return found
    # Gradients that are not clipped show a division.
    names = [name for name in before if name in used and before[name].any()]
    factor = max((_ratio(before[name], used[name]) for name in names), default=1.0)
    if not _count_steps(factor, MATCH):
        return None
    found = _infer_clip({name: before[name] * factor for name in names}, used)
    return replace(found, factor=factor) if found and found.factor == 1 else None


def _infer_clip(before: Record, used: Record) -> Clipping | None:
    names = [name for name in before if name in used]
    ratios = {name: _ratio(before[name], used[name]) if before[name].any() else 1.0 for name in names}
    if any(distance(ratios[n] * before[n], used[n]) > MATCH for n in names if before[n].any()):
        limit = max(float(np.abs(used[name]).max(initial=0)) for name in names)
        values = all(distance(np.clip(before[n], -limit, limit), used[n]) <= MATCH for n in names if before[n].any())
        return Clipping(Clip("value", _round(limit))) if values else None
    moved = [name for name in names if abs(ratios[name] - 1) > MATCH]
    if not moved:
        return Clipping(None)
    norms = {name: float(np.linalg.norm(before[name])) for name in names}
    own = {name: ratios[name] * norms[name] for name in moved}
    same_ratio = [name for name in names if abs(ratios[name] / ratios[moved[0]] - 1) <= MATCH]
    kept = [name for name in names if name not in moved and norms[name]]
    if len(same_ratio) == len(moved):
        alone = ratios[moved[0]] * float(np.linalg.norm([norms[name] for name in moved]))
        named = None if kept else _of_all(before, ratios[moved[0]], alone)
        if named or len(moved) > 1 or not kept or norms[kept[0]] > alone * (1 + MATCH):
            return named or Clipping(Clip("global norm", _round(alone)), kept)
    limit = own[moved[0]]
    if all(abs(size / limit - 1) <= MATCH for size in own.values()):
        return Clipping(Clip("norm", _round(limit)), [name for name in kept if norms[name] > limit * (1 + MATCH)])
    return _infer_groups(moved, ratios, norms)


def _infer_groups(moved: Sequence[str], ratios: Mapping[str, float], norms: Mapping[str, float]) -> Clipping | None:
    """Return the clipping of each group of parameters by itself; None if the gradients `moved` have not one norm in each group."""
    groups: dict[float, list[str]] = {}
    for name in moved:
        groups.setdefault(next((r for r in groups if abs(ratios[name] / r - 1) <= MATCH), ratios[name]), []).append(
            name
        )
    sizes = [ratio * float(np.linalg.norm([norms[name] for name in group])) for ratio, group in groups.items()]
    if all(abs(size / sizes[0] - 1) <= MATCH for size in sizes):
        return Clipping(Clip("global norm", _round(sizes[0]), True))
    return None


def _of_all(before: Record, ratio: float, limit: float) -> Clipping | None:
    """Return what multiplies all gradients by `ratio`, if it is no limit of their norm: a limit and a factor are short numbers."""
    arrays = [array for array in before.values() if array.size]
    sizes = {
        "global norm": limit / ratio,
        "largest number": max(float(np.abs(array).max()) for array in arrays),
        "sum": math.fsum(float(np.abs(array).sum()) for array in arrays),
    }
    for kind, size in sizes.items():
        if ratio < 1 and _is_short(ratio * size):
            return Clipping(Clip(kind, _round(ratio * size)))
    if ratio > 1 or _is_short(ratio) or _is_short(1 / ratio):
        return Clipping(None, factor=ratio)
    return None


def _is_short(number: float, tolerance: float = MATCH) -> bool:
    """Whether a number has at most three digits but for rounding, as a number that somebody has written."""
    return abs(number / float(f"{number:.3g}") - 1) <= tolerance


def _round(limit: float) -> float:
    return float(f"{limit:.6g}")


def find_clipping_cause(evidence: OptimizerEvidence, name: str) -> Cause | None:
    """Return why the gradient of a parameter is used differently by two optimizers."""
    for side, other in (SIDES, SIDES[::-1]):
        if name in evidence.before[side] and not evidence.used[side] and evidence.used[other]:
            return Cause(
                f"only {NAMES[other]}'s program calls its optimizer in this step; {NAMES[side]}'s does not, as if it accumulated gradients"
            )
    if unshared := list_unshared(evidence.described["torch"], evidence.described["paddle"]):
        return Cause(unshared[0])
    if eps := _of_norm_eps(evidence):
        return eps
    clippings: list[Clipping | None] = []
    for side in SIDES:
        found, own = infer_clipping(evidence.before[side], evidence.used[side]), evidence.described[side].clip
        if (
            found
            and found.clip
            and own
            and own.groups
            and found.left_out
            and found.clip.limit == _round(own.limit or 0)
        ):
            found = Clipping(own)  # the norms of the other groups are below the limit
        if found == Clipping(None) and own:
            found = Clipping(own, unreached=True)
        clippings.append(found)
    if any(one and one.clip and one.clip.kind == "global norm" and not one.left_out for one in clippings):
        # After it, nobody sees a division.
        clippings = [replace(one, factor=1.0) if one and one.clip else one for one in clippings]
    is_scaled = any(one and one.factor != 1 for one in clippings)
    said = [str(one) if one else "changes them in a way that is not known here" for one in clippings]
    if said[0] != said[1]:
        what = "the gradients are changed before the step" if is_scaled else "clipping of gradients"
        words = ", ".join(f"{NAMES[s]} {text}" for s, text in zip(SIDES, said, strict=True))
        return Cause(f"{what}: {words}{_of_division_after(evidence, clippings)}")
    return None


def _of_division_after(evidence: OptimizerEvidence, clippings: Sequence[Clipping | None]) -> str:
    """Say if the lower limit may be the other one, with gradients that were divided only after they had been clipped."""
    found = [(one.clip.kind, one.clip.limit) for one in clippings if one and one.clip and one.clip.limit]
    if len(found) < len(clippings) or found[0][0] != found[1][0]:
        return ""
    limits = [limit or math.nan for _, limit in found]
    low = limits.index(min(limits))
    steps = _count_steps(limits[low] / limits[1 - low], FIT)
    if steps < FEWEST_DIVIDED or evidence.described[SIDES[low]].clip or f"{limits[low]:.1g}" == f"{limits[low]:.10g}":
        return ""
    return f"; or {NAMES[SIDES[low]]} clips to {limits[1 - low]:.6g}, and divides by {steps} afterwards"


def _of_norm_eps(evidence: OptimizerEvidence) -> Cause | None:
    """Say if one side divides by the norm of all gradients plus 1e-6, as PyTorch's `clip_grad_norm_` does outside of a comparison."""
    for side, other in (SIDES, SIDES[::-1]):
        used, plain = evidence.used[side], evidence.used[other]
        if not used or used.keys() != plain.keys() or any(x.shape != plain[name].shape for name, x in used.items()):
            return None
        size = math.hypot(*(float(np.linalg.norm(array)) for array in evidence.before[side].values()))
        ratio = _ratio(*(np.concatenate([found[name].ravel() for name in used]) for found in (plain, used)))
        if not 0.5 < ratio < 1 or any(distance(plain[name] * ratio, array) > MATCH for name, array in used.items()):
            continue
        steps = size * (1 / ratio - 1) / NORM_EPS  # gradients may be divided before
        if 0 < round(steps) <= MOST_STEPS and abs(steps / round(steps) - 1) < 1e-3:
            return Cause(
                f"{NAMES[side]}'s program adds 1e-06 to the norm of all gradients, {NAMES[other]}'s does not; a comparison leaves that of "
                "PyTorch's clip_grad_norm_ out"
            )
    return None


# Optimizers


def find_optimizer_cause(evidence: OptimizerEvidence, phase: str, name: str, slot: str = "") -> Cause | None:
    """Return why the state or the update of a parameter differs, from the settings of both optimizers and from what they made."""
    one, two = (replace(evidence.described[side], clip=None) for side in SIDES)
    if one.kind != two.kind:
        found = [list_differences(one, two)[0], *list_settings(one, two, at=name)]
        if is_own(one) or is_own(two):
            steps = _of_velocity(evidence, name) or (_of_steps(evidence, name) if phase == "update" else None)
            found += [steps.sentence] if steps and steps.sentence else []
        return Cause("; ".join(found))
    shared = name in one.parameters and name in two.parameters
    if phase == "state" and slot in BEFORE_EPS:
        one, two = (_without(description, ("eps", "eps_place")) for description in (one, two))
    if found := list_settings(one, two, at=name) if shared else list_unshared(one, two):
        return Cause("; ".join(found))
    before = [evidence.before[side].get(name) for side in SIDES]
    if before[0] is not None and before[1] is not None and distance(before[0], before[1]) > MATCH:
        ratio = _ratio(before[0], before[1])
        times = distance(before[1], ratio * before[0]) <= MATCH
        how = (
            f"Paddle's are PyTorch's times {ratio:.7g}" if times else "one program may keep gradients of earlier steps"
        )
        return Cause(f"the gradients before the step differ already, although the backward passes are alike: {how}")
    if phase == "state" and slot == "velocity":
        return _of_velocity(evidence, name)
    return _of_steps(evidence, name) if phase == "update" else None


def _without(description: OptimizerDescription, keys: Sequence[str]) -> OptimizerDescription:
    """Return a description without the settings `keys`."""
    parameters = {
        name: {key: value for key, value in settings.items() if key not in keys}
        for name, settings in description.parameters.items()
    }
    return replace(description, parameters=parameters)


def find_average_cause(evidence: OptimizerEvidence, name: str) -> Cause | None:
    """Return how much of the old average of a weight each program keeps in a step, if that explains the averages.

    The start of the evidence is the average before the step.
    """
    start, kept = evidence.start.get(name), []
    for side in SIDES:
        after, average = evidence.weights[side].get(name), evidence.states[side].get(name, {}).get(AVERAGE)
        if start is None or after is None or average is None:
            return None
        kept.append(_ratio(start - after, average - after))
        if distance(average - after, kept[-1] * (start - after)) > FIT:
            return None
    if abs(kept[0] - kept[1]) <= FIT:
        return None
    for side, share in zip(SIDES, kept, strict=True):
        if abs(share - 1) <= FIT:
            return Cause(
                f"only {NAMES[side]}'s average of weights does not take the new weight: it may be updated before the step, or less often"
            )
    return Cause(f"the average of weights keeps {kept[0]:.6g} of its old value in PyTorch, {kept[1]:.6g} in Paddle")


def _of_velocity(evidence: OptimizerEvidence, name: str) -> Cause | None:
    """Say if the velocity of one side contains the learning rate: v = momentum * v + rate * gradient.

    Then it is the other side's velocity times the last rate, plus the gradient times the change of the rate.
    """
    for side, other in (SIDES, SIDES[::-1]):
        own, plain = (_velocity(evidence.states[s].get(name, {})) for s in (side, other))
        gradient, after = evidence.used[side].get(name), evidence.weights[side].get(name)
        settings = evidence.described[side].parameters.get(name, {})
        rate, decay = settings.get("rate"), settings.get("decay") or settings.get("weight_decay") or 0.0
        if own is None or plain is None or gradient is None or after is None or not isinstance(rate, float) or not rate:
            continue
        for sign in (1, -1):
            basis = np.stack([plain.ravel(), (gradient + float(decay) * (after + sign * own)).ravel()], 1)
            factors = np.linalg.lstsq(basis, own.ravel(), rcond=1e-9)[0]
            made = (basis @ factors).reshape(own.shape)
            if abs(sign * factors.sum() / rate - 1) <= FIT and abs(rate - 1) > FIT and distance(own, made) <= FIT:
                return Cause(
                    f"the velocity of {NAMES[side]} contains the learning rate, that of {NAMES[other]} does not: after a change of the "
                    "rate they are not the same"
                )
    return None


def _velocity(state: Record) -> Array | None:
    """The velocity of a state, also of an optimizer that somebody wrote."""
    return next((state[key] for key in ("velocity", "momentum_buffer") if key in state), None)


def _of_steps(evidence: OptimizerEvidence, name: str) -> Cause | None:
    """Say which known step each side takes, from the first update."""
    said, both = [], dict[str, Setting]()
    for side in SIDES:
        both |= dict(evidence.described[side].parameters.get(name, {}))
    for side in SIDES:
        settings = both | dict(evidence.described[side].parameters.get(name, {}))
        start, after, gradient = (
            evidence.start.get(name),
            evidence.weights[side].get(name),
            evidence.used[side].get(name),
        )
        if start is None or after is None or gradient is None:
            return None
        known = {key: value for key, value in settings.items() if isinstance(value, float)}
        said.append(name_step(start - after, start, gradient, known))
    if said[0] == said[1] or not any(said):
        return None
    words = [f"that of {text}" if text else "another one" for text in said]
    return Cause(f"the step: PyTorch takes {words[0]}, Paddle {words[1]}")
