"""Hypotheses about an update: optimizer, schedule and running statistics, each recomputed from what was recorded before it.

A parameter is updated as its group says (`parity.recipe.optimizer.Group`), so each hypothesis starts from the rule of that parameter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.compare.causes import SAME, Hypothesis, differing
from parity.compare.evidence import Evidence, Record
from parity.compare.expected import right_rule, slot_before, updated
from parity.compare.numpy_layers import batch_statistics
from parity.compare.record import input_of
from parity.compare.relative_error import distance, norm
from parity.compare.update_rule import Made, Rule
from parity.network.initialisers import float32
from parity.network.nodes import BatchNorm

CLOSE = 1e-10
"""Largest relative error of a prediction that counts as a match."""

BETTER = 100.0
"""A mistake must be this many times nearer to the record than the right update."""

ROUND = 1e-9
"""Smallest relative difference at which a setting that is computed from the tensors counts as wrong."""

LIMITS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Norms that gradients are often clipped to."""

MOST_STEPS = 6
"""Newton-Schulz steps of Muon that are tried."""

Variant = tuple[str, Rule]
"""What the wrong side does instead, in words, and its rule."""


def update_hypotheses(evidence: Evidence, own: Record, tensor: str) -> Iterator[Hypothesis]:
    """Yield mistakes in the update of `tensor` (a parameter, a statistic or an optimizer slot) on the side that recorded `own`.

    Mistakes that make the same numbers are named together. For instance plain momentum equals no momentum at step 1.
    """
    if tensor.endswith((".mean", ".variance")) and not tensor.startswith("optimizer."):
        yield from _statistics(evidence, own, tensor)
        return
    slot, name = (tensor.split(".", 2)[1], tensor.split(".", 2)[2]) if tensor.startswith("optimizer.") else ("", tensor)
    right = right_rule(evidence, name)
    explaining = _explaining(evidence, own, name, _variants(evidence, own, name, right))
    # Settings that fit the numbers are named only if no usual mistake fits.
    numbers = itertools.chain(_of_settings(evidence, own, name, right), _of_the_gradient(evidence, own, name, right))
    explaining = explaining or _explaining(evidence, own, name, numbers)
    instead = f"{{right}} follows the recipe: {right.sentence()}"
    for sentences, (weight, slots) in explaining:
        yield Hypothesis(f"{{wrong}} {', or '.join(sentences)}, {instead}", slots[slot] if slot else weight)
    before = evidence.parameter(own, name)
    if before is not None:
        old = slot_before(evidence, own, slot, before, name) if slot else before
        yield Hypothesis("{wrong} does not update {it}, {right} does", old)


def _explaining(
    evidence: Evidence, own: Record, name: str, variants: Iterable[Variant]
) -> list[tuple[list[str], Made]]:
    """Return the results of the `variants` that explain the record, each with the sentences of all variants that make it."""
    found: list[tuple[list[str], Made]] = []
    right = updated(evidence, own, name, right_rule(evidence, name))
    largest = min(CLOSE, _error(evidence, own, name, right) / BETTER) if right else 0.0
    for sentence, rule in variants:
        made = updated(evidence, own, name, rule)
        if made is None or _error(evidence, own, name, made) >= largest:
            continue
        alike = next((sentences for sentences, other in found if _same(made, other)), None)
        if alike is None:
            found.append(([sentence], made))
        elif sentence not in alike:
            alike.append(sentence)
    return found


def _same(one: Made, other: Made) -> bool:
    """Whether two updates make the same weight and the same slots."""
    return (
        np.array_equal(one[0], other[0])
        and one[1].keys() == other[1].keys()
        and all(np.array_equal(array, other[1][slot]) for slot, array in one[1].items())
    )


def _error(evidence: Evidence, own: Record, name: str, made: Made) -> float:
    """Return the largest relative error between an update and what the side recorded; infinite if the slots are others.

    The weight and all slots count: many mistakes make the same velocity, or the same weight.
    """
    weight, slots = made
    predicted = {f"update/{name}": weight} | {f"update/optimizer.{slot}.{name}": a for slot, a in slots.items()}
    recorded = {key for slot in evidence.optimizer.slots if (key := f"update/optimizer.{slot}.{name}") in own}
    if predicted.keys() != recorded | {f"update/{name}"}:
        return np.inf
    return max(distance(own[key], array) for key, array in predicted.items())


def _variants(evidence: Evidence, own: Record, name: str, right: Rule) -> Iterator[Variant]:
    """Yield common mistakes in the update of the parameter `name`, whose `right` rule is given."""
    decays = right.weight_decay != 0
    if decays:
        yield "applies no weight decay", replace(right, weight_decay=0.0)
        yield "decouples weight decay from the gradient (as AdamW)", replace(right, how="decoupled")
    if right.optimizer.kind == "momentum":
        yield "uses no momentum", replace(right, momentum=0.0, nesterov=False)
        if decays:
            both = replace(right, momentum=0.0, nesterov=False, weight_decay=0.0)
            yield "uses no momentum and no weight decay", both
        other = "plain" if right.nesterov else "Nesterov"
        yield f"uses {other} momentum", replace(right, nesterov=not right.nesterov)
        yield "dampens: the gradient enters the velocity times 1 - momentum", replace(right, how="dampened")
        if not right.muon and not right.nesterov:
            yield "keeps the velocity times the learning rate (as Paddle v2)", replace(right, how="rate in velocity")
    else:
        yield "leaves out Adam's bias correction", replace(right, how="uncorrected")
        yield "adds Adam's eps under the root", replace(right, how="inside")
        for eps in (1e-7, 1e-6, 1e-5, 1e-10, 1e-12):
            yield f"uses eps {eps:g}", replace(right, optimizer=replace(right.optimizer, eps=eps))
        for beta in (0.0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999):
            yield f"uses beta1 {beta:g}", replace(right, optimizer=replace(right.optimizer, beta1=beta))
            yield f"uses beta2 {beta:g}", replace(right, optimizer=replace(right.optimizer, beta2=beta))
    yield from _of_the_group(evidence, name, right)
    yield from _of_the_rate(evidence, name, right)
    if evidence.step_input.resumes and right.optimizer.kind == "adam":
        yield from _of_the_counter(evidence, right)


def _of_the_gradient(evidence: Evidence, own: Record, name: str, right: Rule) -> Iterator[Variant]:
    """Yield common changes of gradients between the backward pass and the update."""
    count = len(evidence.step_input.labels)
    for words, factor in (("divides", 1 / count), ("multiplies", float(count))):
        yield f"{words} the gradient by the batch of {count} in the update", replace(right, scale=factor)
    together = math.sqrt(sum(float(np.vdot(a, a)) for n, a in own.items() if n.startswith("gradient/")))
    alone = norm(own[f"gradient/{name}"]) if f"gradient/{name}" in own else 0.0
    for limit in LIMITS:
        if together > limit:
            sentence = f"clips the gradients to a norm of {limit:g} together in the update"
            yield sentence, replace(right, scale=limit / together)
        if alone > limit:
            yield f"clips each gradient to a norm of {limit:g} in the update", replace(right, scale=limit / alone)


def _of_the_counter(evidence: Evidence, right: Rule) -> Iterator[Variant]:
    """Yield other values of Adam's update counter."""
    number = evidence.step_input.number
    for counted in {1, number - 1, number + 1} - {0, number}:
        words = f"counts {counted} update{'s' * (counted > 1)} of Adam after it has resumed, where there are {number}"
        yield words, replace(right, counted=counted)


def _of_the_group(evidence: Evidence, name: str, right: Rule) -> Iterator[Variant]:
    """Yield common mistakes about the parameter's group."""
    settings, group = evidence.optimizer, evidence.optimizer.group(name)
    rate = evidence.rates[1]
    if group.rate != 1:
        yield f"leaves out the group's factor {group.rate:g} of the learning rate", replace(right, rate=rate)
    if group.weight_decay != 1 and settings.weight_decay:
        sentence = f"leaves out the group's factor {group.weight_decay:g} of the weight decay"
        yield sentence, replace(right, weight_decay=settings.weight_decay)
        if group.rate != 1:
            sentence = f"leaves out the group's factors {group.rate:g} and {group.weight_decay:g} of learning rate and weight decay"
            yield sentence, replace(right, rate=rate, weight_decay=settings.weight_decay)
    for other in settings.groups:
        if (
            other != group
            and not other.muon
            and not right.muon
            and (other.rate, other.weight_decay) != (group.rate, group.weight_decay)
        ):
            changed = replace(
                right, rate=rate * other.rate, weight_decay=float32(settings.weight_decay * other.weight_decay)
            )
            yield f"treats it as one of the group {other.names}", changed
    if not right.muon:
        return
    if right.momentum != settings.momentum:
        yield (
            f"uses the momentum {settings.momentum:g} of the other parameters",
            replace(right, momentum=settings.momentum),
        )
    by_momentum = replace(right, muon=0, momentum=settings.momentum, nesterov=settings.nesterov)
    yield "updates by momentum", by_momentum
    yield "does not bring the kernel to its norm in Muon", replace(right, how="unnormalised")
    for steps in {*range(1, MOST_STEPS + 1)} - {right.muon}:
        yield f"takes {steps} Newton-Schulz steps", replace(right, muon=steps)


def _of_the_rate(evidence: Evidence, name: str, right: Rule) -> Iterator[Variant]:
    """Yield the learning rate of another step, and a velocity that was not rescaled for it."""
    share = evidence.optimizer.group(name).rate
    last, rate, following = evidence.rates
    if right.factor != 1:
        yield "does not rescale the momentum buffer as the learning rate changes", replace(right, factor=1.0)
        sentence = "divides the momentum buffer by what it should multiply it by as the learning rate changes"
        yield sentence, replace(right, factor=1 / right.factor)
    if last and last != rate:
        one, other = differing(last, rate)
        sentence = f"still uses the learning rate of the step before ({one} instead of {other})"
        yield sentence, replace(right, rate=last * share)
        yield sentence, replace(right, rate=last * share, factor=1.0)
    if following != rate:
        changed = rate / following if evidence.optimizer.velocity_holds_rate and following else 1.0
        one, other = differing(following, rate)
        sentence = f"already uses the learning rate of the next step ({one} instead of {other})"
        yield sentence, replace(right, rate=following * share, factor=1.0)
        yield sentence, replace(right, rate=following * share, factor=changed)


def _of_settings(evidence: Evidence, own: Record, name: str, right: Rule) -> Iterator[Variant]:
    """Yield another weight decay, momentum or learning rate: the number that explains the record, if there is one."""
    if right.optimizer.kind != "momentum" or right.muon:
        return
    before, made = evidence.parameter(own, name), updated(evidence, own, name, right)
    velocity, weight = own.get(f"update/optimizer.velocity.{name}"), own.get(f"update/{name}")
    if before is None or made is None or weight is None or weight.shape != before.shape:
        return
    moved: Array = before - weight.astype(np.float64)
    right_move = before - made[0]
    rate = right.rate * _ratio(right_move, moved)
    if _is_another(rate, right.rate):
        yield f"uses the learning rate {_instead(rate, right.rate)}", replace(right, rate=rate)
    if velocity is None or "velocity" not in made[1]:
        return
    yield from _of_another_rate(evidence, name, right, velocity.astype(np.float64), moved)
    rest = velocity.astype(np.float64) - made[1]["velocity"]
    decay = right.weight_decay + _ratio(before, rest)
    if _is_another(decay, right.weight_decay or 1.0) and decay >= 0:
        yield f"uses weight decay {_instead(decay, right.weight_decay)}", replace(right, weight_decay=decay)
    old = slot_before(evidence, own, "velocity", before, name) * right.factor
    momentum = right.momentum + (_ratio(old, rest) if old.any() else 0.0)
    if _is_another(momentum, right.momentum) and momentum > ROUND:
        yield f"uses momentum {_instead(momentum, right.momentum)}", replace(right, momentum=momentum)


def _of_another_rate(evidence: Evidence, name: str, right: Rule, velocity: Array, moved: Array) -> Iterator[Variant]:
    """Yield the learning rate that fits the velocity, which was rescaled for it."""
    last = evidence.rates[0] * evidence.optimizer.group(name).rate
    if right.nesterov or not (last and evidence.optimizer.velocity_holds_rate):
        return
    rate = _ratio(velocity, moved)
    if _is_another(rate, right.rate) and rate > 0:
        words = f"uses the learning rate {_instead(rate, right.rate)}"
        yield words, replace(right, rate=rate, factor=last / rate)


def _instead(found: float, right: float) -> str:
    """Format the number that is used, and the one that should be."""
    one, other = differing(found, right)
    return f"{one} instead of {other}"


def _ratio(a: Array, b: Array) -> float:
    """Return the factor that brings `a` nearest to `b`."""
    size = float(np.vdot(a, a))
    return float(np.vdot(a, b)) / size if size else math.nan


def _is_another(found: float, right: float) -> bool:
    return math.isfinite(found) and abs(found - right) > ROUND * abs(right)


def _statistics(evidence: Evidence, own: Record, tensor: str) -> Iterator[Hypothesis]:
    layer, _, kind = tensor.partition(".")
    old, node = evidence.parameter(own, tensor), evidence.network.layers[layer].node
    x = input_of(evidence.network, layer, own, "forward", evidence.step_input.images)
    if old is None or x is None or not isinstance(node, BatchNorm):
        return
    x, decay, recorded = x.astype(np.float64), node.decay, own[f"update/{tensor}"].astype(np.float64)
    yield Hypothesis("{wrong} does not move {it}, {right} does", old)
    inference = input_of(evidence.network, layer, own, "eval", evidence.step_input.images)
    for variance in ("biased", "unbiased"):
        mean, spread = batch_statistics(x, variance)
        batch = mean if kind == "mean" else spread
        convention = f"{{wrong}} multiplies the new value of {{it}} by {decay:.3g}, {{right}} the old value (momentum convention)"
        yield Hypothesis(convention, (1 - decay) * old + decay * batch)
        if kind == "variance":
            count = "" if variance == "biased" else ", ratio n/(n-1)"
            does = f"{{wrong}} adds the {variance} variance of the batch to {{it}}{count}, {{right}} the {node.variance} one"
            yield Hypothesis(does, decay * old + (1 - decay) * batch)
            does = "{wrong} adds the batch's deviation to {it}, {right} its variance"
            yield Hypothesis(does, decay * old + (1 - decay) * np.sqrt(batch))
        does = "{wrong} adds the batch's own statistic without decay to {it}, {right} decays"
        yield Hypothesis(does, batch)
        if kind == "variance" and variance == "biased" and len(x) > 1:
            does = "{wrong} counts images in the n/(n-1) of {it}, {right} does not"
            yield Hypothesis(does, decay * old + (1 - decay) * batch * (len(x) / (len(x) - 1)))
        twice = decay * (decay * old + (1 - decay) * batch) + (1 - decay) * batch
        yield Hypothesis("{wrong} moves {it} twice a step, {right} once", twice)
        if inference is not None:
            first = batch_statistics(inference.astype(np.float64), variance)[kind == "variance"]
            also = decay * (decay * old + (1 - decay) * first) + (1 - decay) * batch
            yield Hypothesis("{wrong} moves {it} in inference, too, {right} in training only", also)
        found = _ratio(old - batch, recorded - batch)
        if math.isfinite(found) and ROUND < found < 1 and abs(found - decay) > SAME * decay:
            one, right = differing(found, decay)
            yield Hypothesis(f"{{wrong}} decays {{it}} by {one}, {{right}} by {right}", batch + found * (old - batch))
