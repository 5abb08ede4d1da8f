"""Which known loss has a gradient: squared and absolute errors, and the binary cross-entropy in the ways in which ports confuse it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import distance

FIT = 1e-6
"""Largest relative error at which a loss explains a gradient."""

FEWEST = 4
"""Fewest numbers of a gradient that a loss can be read off."""


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
    return None


def _gradients(z: Array, y: Array) -> Iterator[tuple[str, Sequence[Array]]]:
    """Yield losses in words, and arrays of which their gradients are a sum with factors."""
    yield "mean squared error", (z - y,)
    yield "absolute error", (np.sign(z - y),)
    yield "squared error of each output and all targets, whose shapes broadcast", (z - y.mean(),)
    if y.min() < 0 or y.max() > 1:
        return
    s = _sigmoid(z)
    yield "binary cross-entropy of logits", (s - y,)
    yield "squared error of probabilities", ((s - y) * s * (1 - s),)
    yield "binary cross-entropy of logits behind one more sigmoid", ((_sigmoid(s) - y) * s * (1 - s),)
    if y.any():
        yield "binary cross-entropy of logits with pos_weight {1}", ((1 - y) * s, y * (s - 1))
        # DIFFERS: Paddle 2.6 on the CPU multiplies only a part of the loss of a positive target.
        words = "binary cross-entropy of logits with pos_weight {1} as Paddle 2.6 uses it on the CPU"
        yield words, ((1 - y) * s - y, y * s)


def _sigmoid(x: Array) -> Array:
    made: Array = 0.5 * (1 + np.tanh(x / 2))
    return made
