"""What the output of an ONNX file holds: scores before the softmax, or probabilities. A second softmax would flatten probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.errors import InputError

AUTO, SCORES, PROBABILITIES = "auto", "scores", "probabilities"
OUTPUTS = (AUTO, SCORES, PROBABILITIES)

ROUNDING = 0.01
"""By how much probabilities of an ONNX file may be below 0 or above 1, and their sum may differ from 1: float16 and int8 round as much."""

SOFTMAX = ("Softmax", "QLinearSoftmax")

OTHERS = {
    "ArgMax": "the index of the best class",
    "HardSigmoid": "a probability for each class alone",
    "Sigmoid": "a probability for each class alone",
    "TopK": "the values of the best classes",
}
"""Last operator -> what it yields instead of scores or probabilities of classes that exclude each other."""


def softmax(logits: Array) -> Array:
    """Return probabilities float64 [N,K] of scores [N,K]."""
    scores = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite scores make NaN, which `Predictor.probabilities` reports
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Array = powers / powers.sum(axis=1, keepdims=True)
    return chances


def as_probabilities(path: Path, values: Array, kind: str) -> Array:
    """Return probabilities float64 [N,K] of an output's `values`, which are `SCORES` or `PROBABILITIES`.

    `InputError` if they are called probabilities and are finite, but are none.
    """
    if kind == SCORES:
        return softmax(values)
    if np.isfinite(values).all() and not _are_probabilities(values, -ROUNDING):
        low, high, sums = values.min(), values.max(), values.sum(axis=1)
        wrong = sums[abs(sums - 1).argmax()]
        raise InputError(
            f"{path}: its output is taken as probabilities, but has values from {low:.4g} to {high:.4g}, "
            f"and a row that sums to {wrong:.4g}; pass --outputs scores if they are scores, or use another export"
        )
    return values


def tell_kind(name: str, last_operator: str | None, sample: Callable[[], Array]) -> tuple[str, str]:
    """Return what an output holds, `SCORES` or `PROBABILITIES`, and the reason.

    `name` is the output's name, `last_operator` computes it (None: unknown), and `sample` returns its values [N,K] for some pictures.
    `InputError`, which gives the reason only, if it holds neither.
    """
    if last_operator in SOFTMAX:
        return PROBABILITIES, f"its last operator is {last_operator}"
    if last_operator in OTHERS:
        raise InputError(f"its last operator {last_operator} yields {OTHERS[last_operator]}")
    if name == PROBABILITIES:
        return PROBABILITIES, "that is its name"
    if _are_probabilities(sample(), 0):
        return PROBABILITIES, "its values for random pictures sum to 1"
    operator = f"its last operator is {last_operator}, and " if last_operator else ""
    return SCORES, f"{operator}its values do not sum to 1"


def _are_probabilities(values: Array, least: float) -> bool:
    """Return whether every row of `values` [N,K] sums to 1 within `ROUNDING`, and no value is below `least`. NaN is not."""
    sums = values.sum(axis=1)
    return bool((values >= least).all() and (values <= 1 + ROUNDING).all() and (abs(sums - 1) <= ROUNDING).all())
