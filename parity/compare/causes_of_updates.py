"""Hypotheses about an update: optimizer, schedule and running statistics, each recomputed from what was recorded before it.

A parameter is updated as its group says (`parity.recipe.optimizer.Group`), so each hypothesis starts from the rule of that parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from parity.arrays import Array
from parity.compare.causes import Hypothesis
from parity.compare.evidence import Evidence
from parity.compare.record import input_of
from parity.compare.relative_error import distance
from parity.network.initialisers import float32
from parity.recipe import muon
from parity.recipe.optimizer import Optimizer

CLOSE = 1e-10
"""Largest relative error of what a mistake predicts."""

BETTER = 100.0
"""How many times nearer a mistake must come than the right update: by the right one the other side may just have another gradient."""

MOST_STEPS = 6
"""Newton-Schulz steps of Muon that are tried."""


@dataclass(frozen=True)
class Rule:
    """How one parameter is updated: what the optimizer and the parameter's group say of it together.

    `rate` holds the group's factor, `factor` multiplies the velocity before the update, `muon` is the number of Newton-Schulz steps (0:
    by the optimizer's kind), `how` names a way that no setting expresses.
    """

    optimizer: Optimizer
    rate: float
    factor: float
    momentum: float
    nesterov: bool
    weight_decay: float
    muon: int
    how: str = ""

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that such an update keeps; Muon keeps a velocity whatever its momentum."""
        return self.optimizer.slots if self.optimizer.kind == "adam" or self.momentum or self.muon else ()


def rule_of(settings: Optimizer, name: str, rate: float, factor: float) -> Rule:
    """Return how `settings` update the parameter `name` at the learning rate `rate`."""
    group = settings.group(name)
    decay = float32(settings.weight_decay * group.weight_decay)
    nesterov = bool(group.muon) or settings.nesterov
    return Rule(settings, rate * group.rate, factor, settings.momentum_of(name), nesterov, decay, group.muon)


def update_hypotheses(evidence: Evidence, tensor: str) -> Iterator[Hypothesis]:
    """What the other side's update may have done to `tensor` (a parameter, a statistic or an optimizer slot).

    Mistakes that make the same numbers are named together: at step 1, plain momentum is none.
    """
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
    number = evidence.step_input.number
    right = rule_of(evidence.optimizer, name, evidence.rates[1], evidence.step_input.factor)
    largest = _error(evidence, name, _update(right, before, gradient, old, number)) / BETTER
    explaining: list[tuple[list[str], Made]] = []
    for sentence, rule in _variants(evidence, name, right):
        made = _update(rule, before, gradient, old, number)
        error = _error(evidence, name, made)
        if error > CLOSE or error >= largest:
            continue
        alike = next((sentences for sentences, other in explaining if _same(made, other)), None)
        if alike is None:
            explaining.append(([sentence], made))
        elif sentence not in alike:
            alike.append(sentence)
    for sentences, (weight, slots) in explaining:
        yield ", or ".join(sentences), slots[slot] if slot else weight
    yield "it was not updated", old[slot] if slot else before


Made = tuple[Array, Mapping[str, Array]]
"""A weight after an update, and its slots."""


def _same(one: Made, other: Made) -> bool:
    """Whether two updates make the same numbers, and keep the same slots."""
    return (
        np.array_equal(one[0], other[0])
        and one[1].keys() == other[1].keys()
        and all(np.array_equal(array, other[1][slot]) for slot, array in one[1].items())
    )


def _error(evidence: Evidence, name: str, made: Made) -> float:
    """Return the largest relative error of what an update makes, beside what the other side recorded; infinite for other slots.

    The weight and all slots count: many a mistake makes the same velocity, or the same weight.
    """
    weight, slots = made
    predicted = {f"update/{name}": weight} | {f"update/optimizer.{slot}.{name}": a for slot, a in slots.items()}
    recorded = {
        key for slot in evidence.optimizer.slots if (key := f"update/optimizer.{slot}.{name}") in evidence.other
    }
    if predicted.keys() != recorded | {f"update/{name}"}:
        return np.inf
    return max(distance(evidence.other[key], array) for key, array in predicted.items())


def _variants(evidence: Evidence, name: str, right: Rule) -> Iterator[tuple[str, Rule]]:
    """Everything that is often done instead to the parameter `name`, whose `right` rule is given."""
    yield "no weight decay", replace(right, weight_decay=0.0)
    yield "weight decay decoupled from the gradient (as AdamW)", replace(right, how="decoupled")
    if right.optimizer.kind == "momentum":
        yield "no momentum", replace(right, momentum=0.0, nesterov=False)
        other = "plain momentum" if right.nesterov else "Nesterov momentum"
        yield f"{other} instead", replace(right, nesterov=not right.nesterov)
        yield "dampened: the gradient enters the velocity times 1 - momentum", replace(right, how="dampened")
        yield "no momentum and no weight decay", replace(right, momentum=0.0, nesterov=False, weight_decay=0.0)
    else:
        yield "Adam without bias correction", replace(right, how="uncorrected")
        yield "Adam with eps inside the root", replace(right, how="inside")
        yield "eps 1e-7 instead of 1e-8 (TensorFlow's)", replace(right, optimizer=replace(right.optimizer, eps=1e-7))
        yield "beta2 0.99 instead of 0.999", replace(right, optimizer=replace(right.optimizer, beta2=0.99))
    yield from _of_the_group(evidence, name, right)
    yield from _of_the_rate(evidence, name, right)


def _of_the_group(evidence: Evidence, name: str, right: Rule) -> Iterator[tuple[str, Rule]]:
    """What is often forgotten of the parameter's group."""
    settings, group = evidence.optimizer, evidence.optimizer.group(name)
    rate = evidence.rates[1]
    if group.rate != 1:
        yield f"without its group's factor {group.rate:g} of the learning rate", replace(right, rate=rate)
    if group.weight_decay != 1:
        sentence = f"without its group's factor {group.weight_decay:g} of the weight decay"
        yield sentence, replace(right, weight_decay=settings.weight_decay)
    if not right.muon:
        return
    if right.momentum != settings.momentum:
        sentence = f"momentum {settings.momentum:g} of the other parameters instead of {right.momentum:g}"
        yield sentence, replace(right, momentum=settings.momentum)
    by_momentum = replace(right, muon=0, momentum=settings.momentum, nesterov=settings.nesterov)
    yield "updated by momentum instead of Muon", by_momentum
    yield "Muon without bringing the kernel to its norm", replace(right, how="unnormalised")
    for steps in {*range(1, MOST_STEPS + 1)} - {right.muon}:
        yield f"{steps} Newton-Schulz steps instead of {right.muon}", replace(right, muon=steps)


def _of_the_rate(evidence: Evidence, name: str, right: Rule) -> Iterator[tuple[str, Rule]]:
    """The learning rate of another step, and a velocity that was not rescaled for it."""
    share = evidence.optimizer.group(name).rate
    last, rate, following = evidence.rates
    if right.factor != 1:
        sentence = "the momentum buffer was not rescaled when the learning rate changed"
        yield sentence, replace(right, factor=1.0)
    if last and last != rate:
        sentence = f"the learning rate of the step before ({last:g} instead of {rate:g}): schedule off by one"
        yield sentence, replace(right, rate=last * share)
        yield sentence, replace(right, rate=last * share, factor=1.0)
    if following != rate:
        changed = rate / following if evidence.optimizer.velocity_holds_rate and following else 1.0
        sentence = f"the learning rate of the next step ({following:g} instead of {rate:g}): schedule off by one"
        yield sentence, replace(right, rate=following * share, factor=1.0)
        yield sentence, replace(right, rate=following * share, factor=changed)


def _update(rule: Rule, w: Array, g: Array, old: Mapping[str, Array], step: int) -> Made:
    """One update of the weights `w` with the gradient `g`; returns them and the slots that `rule` keeps."""
    rate, settings = rule.rate, rule.optimizer
    if rule.how == "decoupled":
        w = w - rate * rule.weight_decay * w
    else:
        g = g + rule.weight_decay * w
    if settings.kind == "momentum":
        entering = g * (1 - rule.momentum) if rule.how == "dampened" else g
        v = rule.momentum * old["velocity"] * rule.factor + entering if "velocity" in old else entering
        direction = g + rule.momentum * v if rule.nesterov else v
        if rule.muon:
            direction = muon.orthogonal(direction, rule.muon, np.multiply)
            if rule.how != "unnormalised":
                w = w * (math.sqrt(len(w)) / muon.norm(w))
        return w - rate * direction, dict.fromkeys(rule.slots, v)
    m = settings.beta1 * old["moment1"] + (1 - settings.beta1) * g
    s = settings.beta2 * old["moment2"] + (1 - settings.beta2) * g * g
    corrections = (1.0, 1.0) if rule.how == "uncorrected" else (1 - settings.beta1**step, 1 - settings.beta2**step)
    m_hat, s_hat = m / corrections[0], s / corrections[1]
    root = np.sqrt(s_hat + settings.eps) if rule.how == "inside" else np.sqrt(s_hat) + settings.eps
    return w - rate * m_hat / root, {"moment1": m, "moment2": s}


def _before(evidence: Evidence, name: str) -> Array | None:
    array = evidence.other_before.get(f"update/{name}", evidence.other.get(f"start/{name}"))
    return None if array is None else array.astype(np.float64)


def _slot_before(evidence: Evidence, slot: str, like: Array, name: str) -> Array:
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
