"""Hypotheses about an update: optimizer, schedule and running statistics, each recomputed from what was recorded before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from parity.compare.evidence import Evidence, Hypothesis
from parity.compare.record import input_of
from parity.compare.relative_error import relative_l2
from parity.recipe.optimizer import Optimizer


def update_hypotheses(evidence: Evidence, tensor: str) -> Iterator[Hypothesis]:
    """What the other side's update may have done to `tensor` (a parameter, a statistic or an optimizer slot)."""
    if tensor.endswith((".mean", ".variance")):
        yield from _statistics(evidence, tensor)
        return
    slot, name = (tensor.split(".", 2)[1], tensor.split(".", 2)[2]) if tensor.startswith("optimizer.") else ("", tensor)
    before = _before(evidence, name)
    gradient = evidence.other.get(f"gradient/{name}")
    if before is None or gradient is None:
        return
    gradient = np.zeros_like(before) if name in evidence.network.zero_gradients else gradient.astype(np.float64)
    old = {s: _slot_before(evidence, s, before, name) for s in evidence.optimizer.slots}
    for sentence, settings, rate, factor, how in _variants(evidence):
        weight, slots = _update(settings, before, gradient, old, rate, factor, how, evidence.step_input.number)
        if _explains(evidence, name, weight, slots):
            yield sentence, slots[slot] if slot else weight
    yield "it was not updated", old[slot] if slot else before


def _explains(evidence: Evidence, name: str, weight: np.ndarray, slots: dict[str, np.ndarray]) -> bool:
    """Whether an update predicts the weight and all its slots: many a mistake makes the same velocity, or the same weight."""
    predicted = {f"update/{name}": weight} | {f"update/optimizer.{slot}.{name}": a for slot, a in slots.items()}
    close = 1e-6 if evidence.other[f"update/{name}"].dtype == np.float32 else 1e-10
    return all(relative_l2(evidence.other[key], a) <= close for key, a in predicted.items() if key in evidence.other)


Variant = tuple[str, Optimizer, float, float, str]


def _variants(evidence: Evidence) -> Iterator[Variant]:
    """(sentence, settings, rate, factor of the velocity, way) of everything that is often done instead."""
    right, factor = evidence.optimizer, evidence.step_input.factor
    last, rate, following = evidence.rates
    yield "no weight decay", replace(right, weight_decay=0.0), rate, factor, ""
    yield "weight decay decoupled from the gradient (as AdamW)", right, rate, factor, "decoupled"
    if right.kind == "momentum":
        yield "no momentum", replace(right, momentum=0.0), rate, factor, ""
        other = "plain momentum" if right.nesterov else "Nesterov momentum"
        yield f"{other} instead", replace(right, nesterov=not right.nesterov), rate, factor, ""
        yield "dampened: the gradient enters the velocity times 1 - momentum", right, rate, factor, "dampened"
        yield "no momentum and no weight decay", replace(right, momentum=0.0, weight_decay=0.0), rate, factor, ""
    else:
        yield "Adam without bias correction", right, rate, factor, "uncorrected"
        yield "Adam with eps inside the root", right, rate, factor, "inside"
        yield "eps 1e-7 instead of 1e-8 (TensorFlow's)", replace(right, eps=1e-7), rate, factor, ""
        yield "beta2 0.99 instead of 0.999", replace(right, beta2=0.99), rate, factor, ""
    if factor != 1:
        yield "the momentum buffer was not rescaled when the learning rate changed", right, rate, 1.0, ""
    if last and last != rate:
        yield (
            f"the learning rate of the step before ({last:g} instead of {rate:g}): schedule off by one",
            right,
            last,
            factor,
            "",
        )
        yield (
            f"the learning rate of the step before ({last:g} instead of {rate:g}): schedule off by one",
            right,
            last,
            1.0,
            "",
        )
    if following != rate:
        changed = rate / following if right.velocity_holds_rate and following else 1.0
        sentence = f"the learning rate of the next step ({following:g} instead of {rate:g}): schedule off by one"
        yield sentence, right, following, 1.0, ""
        yield sentence, right, following, changed, ""


def _update(
    settings: Optimizer,
    w: np.ndarray,
    g: np.ndarray,
    old: dict[str, np.ndarray],
    rate: float,
    factor: float,
    how: str,
    step: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One update of the weights `w` with the gradient `g`; returns them and the optimizer's slots."""
    decay = settings.weight_decay
    if how == "decoupled":
        w = w - rate * decay * w
    else:
        g = g + decay * w
    if settings.kind == "momentum":
        v = settings.momentum * old["velocity"] * factor + (g * (1 - settings.momentum) if how == "dampened" else g)
        return w - rate * (g + settings.momentum * v if settings.nesterov else v), {"velocity": v}
    m = settings.beta1 * old["moment1"] + (1 - settings.beta1) * g
    s = settings.beta2 * old["moment2"] + (1 - settings.beta2) * g * g
    corrections = (1.0, 1.0) if how == "uncorrected" else (1 - settings.beta1**step, 1 - settings.beta2**step)
    m_hat, s_hat = m / corrections[0], s / corrections[1]
    root = np.sqrt(s_hat + settings.eps) if how == "inside" else np.sqrt(s_hat) + settings.eps
    return w - rate * m_hat / root, {"moment1": m, "moment2": s}


def _before(evidence: Evidence, name: str) -> np.ndarray | None:
    array = evidence.other_before.get(f"update/{name}", evidence.other.get(f"start/{name}"))
    return None if array is None else array.astype(np.float64)


def _slot_before(evidence: Evidence, slot: str, like: np.ndarray, name: str) -> np.ndarray:
    array = evidence.other_before.get(f"update/optimizer.{slot}.{name}")
    return np.zeros_like(like) if array is None else array.astype(np.float64)


def _statistics(evidence: Evidence, tensor: str) -> Iterator[Hypothesis]:
    layer, _, kind = tensor.partition(".")
    old = _before(evidence, tensor)
    x = input_of(evidence.network, layer, evidence.other, "forward", evidence.step_input.images)
    if old is None or x is None:
        return
    node = evidence.network.layers[layer].node
    decay: float = getattr(node, "decay", 0.9)
    axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
    new = x.mean(axes) if kind == "mean" else x.var(axes)
    unbiased = new * count / max(count - 1, 1)
    yield "the running statistics were not moved", old
    for which, batch in (("biased", new), ("unbiased, ratio n/(n-1),", unbiased)):
        convention = f"momentum convention: weight {decay:.3g} on the new value instead of the old"
        yield convention, (1 - decay) * old + decay * batch
        if kind == "variance":
            yield f"the {which} variance of the batch enters the running variance", decay * old + (1 - decay) * batch
        for other in (0.9, 0.99, 0.999):
            yield f"decay {other} instead of {decay:.3g}", other * old + (1 - other) * batch
    yield "the running statistics were moved twice", decay * (decay * old + (1 - decay) * new) + (1 - decay) * new
