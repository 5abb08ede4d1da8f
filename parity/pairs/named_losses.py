"""Which known loss has a gradient: squared and absolute errors, binary cross-entropies, focal losses, and what regularises the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import distance

FIT = 1e-6
"""Largest relative error at which a loss explains a gradient."""

FEWEST = 4
"""Fewest numbers of a gradient that a loss can be read off."""

FEWEST_LABELS = 6
"""Fewest labels that a focal loss can be read off: its gamma and the factors of two terms are unknown."""

POWERS = (-9.0, -1.0)
"""Between which powers of 10 the number is searched that is added to probabilities."""

GAMMAS = (0.1, 10.0)
"""Between which numbers the gamma of a focal loss is searched."""


def name_loss(gradient: Array, output: Array, targets: Sequence[Array]) -> str | None:
    """Return in words the loss of `output` and one of `targets` that has this gradient but for a factor; None if none has it."""
    g, z = gradient.astype(np.float64).ravel(), output.astype(np.float64).ravel()
    if g.size < FEWEST or not g.any():
        return None
    for target in targets:
        if target.size != z.size or target.dtype.kind not in "fiub":
            continue
        y = target.astype(np.float64).ravel()
        for words, parts in _gradients(z, y):
            basis = np.stack(parts, 1)
            factors = np.linalg.lstsq(basis, g, rcond=1e-9)[0]
            if distance(g, basis @ factors) <= FIT and factors[0] > 0:
                return words.format(*(f"{factor / factors[0]:.6g}" for factor in factors))
        if y.min() >= 0 and y.max() <= 1 and (found := _name_guarded(g, z, y)):
            return found
    return None


def _name_guarded(g: Array, z: Array, y: Array) -> str | None:
    """Return in words a binary cross-entropy of logits z whose probabilities are kept from 0 and 1."""
    s = sigmoid(z)
    inside = g != 0
    if not inside.all() and np.abs(z[inside]).max() < np.abs(z[~inside]).min():
        factor = float(np.vdot((s - y)[inside], g[inside]) / np.vdot((s - y)[inside], (s - y)[inside]))
        if distance(g[inside], factor * (s - y)[inside]) <= FIT:
            limit = float(1 / (1 + np.exp(np.abs(z[inside]).max())))
            return f"binary cross-entropy of probabilities that are clipped near 0 and 1, at less than {limit:.2g}"

    def gradient(power: float) -> Array:
        eps = 10.0**power
        made: Array = s * (1 - s) * ((1 - y) / (1 - s + eps) - y / (s + eps))
        return made

    def error(power: float) -> float:
        made = gradient(power)
        return distance(g, made * float(np.vdot(made, g) / np.vdot(made, made)))

    power = minimize(error, *POWERS)
    return f"binary cross-entropy of probabilities plus {10**power:.3g}" if error(power) <= FIT else None


def _gradients(z: Array, y: Array) -> Iterator[tuple[str, Sequence[Array]]]:
    """Yield losses in words, and arrays of which their gradients are a sum with factors."""
    yield "mean squared error", (z - y,)
    yield "absolute error", (np.sign(z - y),)
    yield "squared error of each output and all targets, whose shapes broadcast", (z - y.mean(),)
    if y.min() < 0 or y.max() > 1:
        return
    s = sigmoid(z)
    yield "binary cross-entropy of logits", (s - y,)
    yield "squared error of probabilities", ((s - y) * s * (1 - s),)
    yield "binary cross-entropy of logits behind one more sigmoid", ((sigmoid(s) - y) * s * (1 - s),)
    if y.any():
        yield "binary cross-entropy of logits with pos_weight {1}", ((1 - y) * s, y * (s - 1))
        # DIFFERS: Paddle 2.6 on the CPU multiplies only a part of the loss of a positive target.
        words = "binary cross-entropy of logits with pos_weight {1} as Paddle 2.6 uses it on the CPU"
        yield words, ((1 - y) * s - y, y * s)


def sigmoid(x: Array) -> Array:
    """Return the sigmoid of numbers."""
    made: Array = 0.5 * (1 + np.tanh(x / 2))
    return made


def labels_of(shape: Sequence[int], targets: Sequence[Array]) -> Iterator[tuple[Array, int]]:
    """Yield inputs of the loss that may be labels of an output of this shape, flat, and the axis of the classes."""
    for target in targets:
        if target.dtype.kind not in "iu" or len(shape) < 2:
            continue
        y = target[..., 0] if target.ndim == len(shape) and target.shape[-1] == 1 else target
        for axis in dict.fromkeys((len(shape) - 1, 1)):
            if y.shape == tuple(size for i, size in enumerate(shape) if i != axis):
                yield y.reshape(-1), axis


def softmax(z: Array) -> Array:
    """Return the softmax of each row of scores z [M,K]."""
    p = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    made: Array = p / p.sum(1, keepdims=True)
    return made


def name_label_loss(factors: Array, right: Array | None, samples: int, tolerance: float) -> str | None:
    """Return in words the loss whose gradient is that of the cross-entropy of each label times its factor; None if none is known.

    `factors` are 0 at labels that are ignored, and the labels belong to `samples` in order. `right` are the probabilities of the labels,
    which a focal loss needs.
    """
    used = factors != 0
    c, count = factors[used], int(used.sum())
    if not count:
        return None
    if np.ptp(c) <= tolerance * np.abs(c).max():
        return f"cross-entropy{_words(c.mean(), count, tolerance)}"
    if len(factors) % samples == 0:
        rows = factors.reshape(samples, -1)
        shares, labels = rows.sum(1), (rows != 0).sum(1)
        even = shares / np.maximum(labels, 1)
        if np.abs(np.where(rows != 0, rows - even[:, None], 0)).max() <= tolerance * np.abs(c).max():
            shares = shares[labels > 0]
            if np.ptp(shares) <= tolerance * np.abs(shares).max():
                return f"averages over the labels of each sample first{_words(shares.mean(), len(shares), tolerance)}"
    return _name_focal(c, right[used], tolerance) if right is not None and count >= FEWEST_LABELS else None


def _name_focal(c: Array, p: Array, tolerance: float) -> str | None:
    """Return a focal loss in words, alone or beside a cross-entropy, from the factors of labels whose probabilities are p."""

    def fit(gamma: float, is_alone: bool) -> tuple[Array, float]:
        rest = np.maximum(1 - p, np.finfo(float).tiny)
        focal = rest**gamma - gamma * p * rest ** (gamma - 1) * np.log(p)
        basis = np.stack([focal] if is_alone else [focal, np.ones_like(p)], 1)
        made = np.linalg.lstsq(basis, c, rcond=None)[0]
        return made, distance(c, basis @ made)

    for is_alone in (True, False):
        gamma = minimize(lambda x, is_alone=is_alone: fit(x, is_alone)[1], *GAMMAS)  # type: ignore[misc]
        made, error = fit(gamma, is_alone)
        if error <= tolerance:
            parts = [f"focal loss of gamma {gamma:.3g}", "cross-entropy"]
            return " plus ".join(
                part + _words(factor, len(c), tolerance) for part, factor in zip(parts, made, strict=False)
            )
    return None


def _words(factor: float, count: int, tolerance: float) -> str:
    """Say how the losses of `count` labels, each times `factor`, are made one number."""
    if abs(factor * count - 1) <= tolerance:
        return " (mean)"
    return " (sum)" if abs(factor - 1) <= tolerance else f" (mean, times {factor * count:.3g})"


def name_regulariser(added: Array, z: Array, tolerance: float) -> str | None:
    """Return in words what has the gradient `added` by the scores z, of which softmax makes probabilities; None if it is not known."""
    for axis in dict.fromkeys((z.ndim - 1, 1)) if z.ndim > 1 else ():
        d, x = (np.moveaxis(a.astype(np.float64), axis, -1).reshape(-1, a.shape[axis]) for a in (added, z))
        d, x = d[d.any(1)], x[d.any(1)]
        if not len(d):
            return None
        largest = x.max(1, keepdims=True)
        total = largest + np.log(np.exp(x - largest).sum(1, keepdims=True))
        p = np.exp(x - total)
        entropy = -(p * (x - total)).sum(1, keepdims=True)
        known = {
            "squares of the logsumexp of the output (z-loss)": 2 * total * p,
            "entropies of the output's softmax": -p * (x - total + entropy),
        }
        for words, gradient in known.items():
            factor = float(np.vdot(gradient, d) / np.vdot(gradient, gradient))
            if distance(d, factor * gradient) <= tolerance:
                sign = "plus" if factor > 0 else "minus"
                return f"{sign} {abs(factor) * len(d):.6g} times the mean of the {words}"
    return None


def minimize(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of one number is smallest: on a grid, which then narrows around its best number."""
    points = 41
    while True:
        grid = np.linspace(low, high, points)
        step, best = grid[1] - grid[0], float(grid[np.argmin([function(x) for x in grid])])
        if step < 1e-10:
            return best
        low, high, points = max(low, best - step), min(high, best + step), 21
