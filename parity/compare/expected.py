"""Which side is wrong: compute in numpy what a tensor must be, from what a side computed before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from parity.arrays import Array
from parity.compare.evidence import Evidence, Record
from parity.compare.numpy_layers import cross_entropy, layer_output, moved_statistics, slope
from parity.compare.record import input_of, inputs_of
from parity.compare.relative_error import distance, norm
from parity.compare.update_rule import Made, Rule, rule_of, update
from parity.network.graph import consumers
from parity.network.nodes import BatchNorm
from parity.weights.canonical_state import initialise

RIGHT = 1 / 100
"""A side is right if its distance from the expected tensor is below this part of the sides' difference."""

SEEN = 1e-5
"""Least relative difference of two gradients at which a slope by differences can tell which is right."""


def find_wrong_sides(evidence: Evidence, name: str) -> tuple[int, ...] | None:
    """Return the places (0 reference, 1 candidate) of the sides whose tensor `name` is not as expected; None if unknown.

    Neither is wrong if both followed the network and the recipe from different inputs.
    """
    if name.startswith(("backward/", "gradient/")):
        return _wrong_gradients(evidence, name)
    tensors = [record.get(name) for record in evidence.records]
    apart = distance(*tensors)
    allowed = RIGHT * min(apart, RIGHT)
    wrong = []
    for place, (record, tensor) in enumerate(zip(evidence.records, tensors, strict=True)):
        found = expected_tensor(evidence, record, name)
        if found is None:
            return None
        if distance(found, tensor) > allowed:
            wrong.append(place)
    return tuple(wrong)


def expected_tensor(evidence: Evidence, own: Record, name: str) -> Array | None:
    """Return, in float64, what the tensor `name` of the side that recorded `own` must be; None if unknown."""
    phase, _, tensor = name.partition("/")
    try:
        if name.endswith(".mask"):
            return evidence.step_input.masks.get(tensor.removesuffix(".mask"))
        return EXPECTED[phase](evidence, own, tensor)
    except (ValueError, LookupError, ArithmeticError):  # an input is missing or has another shape
        return None


def expected_output(evidence: Evidence, own: Record, phase: str, layer: str) -> Array | None:
    """Return what `layer` must compute from its input on this side, in inference (`eval`) or training (`forward`)."""
    inputs = inputs_of(evidence.network, layer, own, phase, evidence.step_input.images)
    if inputs is None:
        return None
    return layer_output(
        evidence.network.layers[layer],
        inputs,
        evidence.parameters(own, layer),
        phase == "forward",
        evidence.step_input.masks.get(layer),
    )


def _expected_in(phase: str, evidence: Evidence, own: Record, layer: str) -> Array | None:
    return expected_output(evidence, own, phase, layer)


def expected_loss(evidence: Evidence, own: Record, tensor: str) -> Array | None:
    """Return what the loss, the summed loss (`cost`) or the number of wrong images must be, from this side's scores."""
    network, labels = evidence.network, evidence.step_input.labels
    scores = {name: own[f"forward/{name}"].astype(np.float64) for name in (network.output, *network.heads)}
    if tensor == "wrong":
        return np.array([float((scores[network.output].argmax(1) != labels).sum())])
    if tensor == "cost":
        return np.array([cross_entropy(scores[network.output], labels, 0.0)])
    return np.array([total_loss(evidence, scores)])


def total_loss(evidence: Evidence, scores: Mapping[str, Array]) -> float:
    """Return the weighted loss of the `scores` of the network and of its auxiliary heads."""
    weights, smoothing = {evidence.network.output: 1.0} | evidence.network.heads, evidence.optimizer.label_smoothing
    labels, divisor = evidence.step_input.labels, evidence.step_input.divisor
    return sum(weights[n] * cross_entropy(array, labels, smoothing) for n, array in scores.items()) / divisor


def expected_statistic(evidence: Evidence, own: Record, tensor: str) -> Array | None:
    """Return what a running statistic must be after this step."""
    layer, _, kind = tensor.partition(".")
    node = evidence.network.layers[layer].node
    x = input_of(evidence.network, layer, own, "forward", evidence.step_input.images)
    mean, variance = (evidence.parameter(own, f"{layer}.{name}") for name in ("mean", "variance"))
    if (
        x is None
        or mean is None
        or variance is None
        or not isinstance(node, BatchNorm)
        or evidence.step_input.keep is not None
    ):
        return None
    return moved_statistics(node, x, mean, variance)[kind == "variance"]


def expected_update(evidence: Evidence, own: Record, tensor: str) -> Array | None:
    """Return what a weight, a statistic or a slot must be after this step; None if slow weights were drawn, which are not recorded."""
    if tensor.endswith((".mean", ".variance")) and not tensor.startswith("optimizer."):
        return expected_statistic(evidence, own, tensor)
    slot, name = (tensor.split(".", 2)[1], tensor.split(".", 2)[2]) if tensor.startswith("optimizer.") else ("", tensor)
    made = updated(evidence, own, name, right_rule(evidence, name))
    if made is None or evidence.step_input.keep is not None:
        return None
    return made[1].get(slot) if slot else made[0]


EXPECTED: dict[str, Callable[[Evidence, Record, str], Array | None]] = {
    "fresh": lambda evidence, own, tensor: initialise(evidence.network, evidence.seed).get(tensor),
    "start": lambda evidence, own, tensor: evidence.start.get(tensor),
    "input": lambda evidence, own, tensor: evidence.step_input.record()[f"input/{tensor}"],
    "eval": partial(_expected_in, "eval"),
    "forward": partial(_expected_in, "forward"),
    "loss": expected_loss,
    "update": expected_update,
}
"""Phase -> the function that computes its expected tensors."""


def right_rule(evidence: Evidence, name: str) -> Rule:
    """Return the rule that must update the parameter `name` in this step."""
    return rule_of(evidence.optimizer, name, evidence.rates[1], evidence.step_input.factor)


def updated(evidence: Evidence, own: Record, name: str, rule: Rule) -> Made | None:
    """Return what `rule` makes of the parameter `name`, from the gradient of the side that recorded `own`; None if unknown."""
    before, gradient = evidence.parameter(own, name), own.get(f"gradient/{name}")
    if before is None or gradient is None:
        return None
    gradient = np.zeros_like(before) if name in evidence.network.zero_gradients else gradient.astype(np.float64)
    old = {slot: slot_before(evidence, own, slot, before, name) for slot in evidence.optimizer.slots}
    return update(rule, before, gradient, old, evidence.step_input.number)


def slot_before(evidence: Evidence, own: Record, slot: str, like: Array, name: str) -> Array:
    """Return the `slot` of the parameter `name` before this step; before the first, zeros shaped `like` the parameter."""
    array = evidence.before_of(own).get(f"update/optimizer.{slot}.{name}")
    return np.zeros_like(like) if array is None else array.astype(np.float64)


def _wrong_gradients(evidence: Evidence, name: str) -> tuple[int, ...] | None:
    """Return the sides whose gradient is wrong, by the slope of the later layers along the difference of both gradients."""
    a, b = (record.get(name) for record in evidence.records)
    phase, _, tensor = name.partition("/")
    if a is None or b is None:
        trained = phase == "backward" or evidence.network.parameters[tensor].trainable
        return tuple(place for place, array in enumerate((a, b)) if (array is None) == trained)
    if a.shape != b.shape:
        return None
    if tensor in evidence.network.zero_gradients:
        weights = [record.get(f"gradient/{tensor.partition('.')[0]}.weight") for record in evidence.records]
        sizes = [norm(array) / (1.0 if w is None else norm(w) or 1.0) for array, w in zip((a, b), weights, strict=True)]
        return tuple(place for place, size in enumerate(sizes) if size > RIGHT * max(sizes))
    a, b = a.astype(np.float64), b.astype(np.float64)
    direction = b - a
    if norm(direction) < SEEN * max(norm(a), norm(b)) or not np.isfinite(direction).all():
        finite = [bool(np.isfinite(array).all()) for array in (a, b)]
        return tuple(place for place in (0, 1) if not finite[place]) if not all(finite) else None
    try:
        if phase == "backward":
            right = slope_of_output(evidence, evidence.records[0], tensor, direction)
        else:
            right = slope_of_parameter(evidence, evidence.records[0], tensor, direction)
    except (ValueError, LookupError, ArithmeticError):
        return None
    size = float(np.vdot(direction, direction))
    errors = [abs(float(np.vdot(array, direction)) - right) / size for array in (a, b)]
    return tuple(place for place, error in enumerate(errors) if error > RIGHT)


def slope_of_output(evidence: Evidence, own: Record, layer: str, direction: Array) -> float:
    """Return the derivative of the loss as the output of `layer` moves along `direction` in training."""
    network = evidence.network
    behind = consumers(network.layers)[layer]

    def value(y: Array) -> float:
        changed = {**own, f"forward/{layer}": y}
        total = 0.0
        if layer == network.output or layer in network.heads:
            total += total_loss(evidence, {layer: y})
        for name in behind:
            output = expected_output(evidence, changed, "forward", name)
            assert output is not None
            total += float(np.vdot(own[f"backward/{name}"], output))
        return total

    return slope(value, own[f"forward/{layer}"], direction)


def slope_of_parameter(evidence: Evidence, own: Record, name: str, direction: Array) -> float:
    """Return the derivative of the loss as the parameter `name` moves along `direction` in training."""
    layer, _, short = name.partition(".")
    x = input_of(evidence.network, layer, own, "forward", evidence.step_input.images)
    if x is None:
        raise LookupError(f"{layer} recorded no input")
    arrays, mask = evidence.parameters(own, layer), evidence.step_input.masks.get(layer)

    def value(array: Array) -> float:
        output = layer_output(evidence.network.layers[layer], [x], {**arrays, short: array}, True, mask)
        return float(np.vdot(own[f"backward/{layer}"], output))

    return slope(value, arrays[short], direction)
