"""Hypotheses about a gradient: mistakes in the backward pass of a layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.arrays import Array
from parity.compare.causes import Hypothesis
from parity.compare.evidence import Evidence, Record
from parity.compare.numpy_layers import batch_statistics, kernel_gradient, per_channel
from parity.compare.record import input_of
from parity.network import nodes
from parity.network.graph import consumers


def gradient_hypotheses(evidence: Evidence, own: Record, other: Record, name: str) -> Iterator[Hypothesis]:
    """Yield mistakes of this side in the gradient `name` (`backward/LAYER` or `gradient/PARAMETER`); the `other` side is right."""
    phase, _, tensor = name.partition("/")
    if phase == "gradient":
        yield from _of_a_parameter(evidence, own, other, name, tensor)
        return
    for layer in consumers(evidence.network.layers)[tensor]:
        where, gradient = evidence.network.layers[layer], own.get(f"backward/{layer}")
        x = input_of(evidence.network, layer, own, "forward", evidence.step_input.images)
        if gradient is None or x is None or len(where.sources) > 1:
            continue
        gradient, x = gradient.astype(np.float64), x.astype(np.float64)
        if gradient.shape == x.shape:
            does = f"{{wrong}}'s {layer} returns the gradient of its output unchanged, {{right}}'s multiplies it by its derivative"
            yield Hypothesis(does, gradient)
        if isinstance(where.node, nodes.ReLU) and own[name].shape == x.shape:
            yield from _of_a_relu(layer, own[name].astype(np.float64), x, gradient)
        if isinstance(where.node, nodes.BatchNorm):
            yield from _of_a_norm(evidence, own, where.node, x, gradient)
        mask = evidence.step_input.masks.get(layer)
        if mask is not None:
            does = f"{{wrong}}'s {layer} scales the gradient by 1/(1-p) once more, {{right}}'s does not"
            rate = evidence.network.dropouts[layer][1]
            yield Hypothesis(does, gradient * mask / (1 - rate))


def _of_a_parameter(evidence: Evidence, own: Record, other: Record, name: str, tensor: str) -> Iterator[Hypothesis]:
    layer = tensor.partition(".")[0]
    right = other[name].astype(np.float64)
    if name in evidence.before_of(own):
        kept = right + evidence.before_of(own)[name]
        yield Hypothesis("{wrong} adds the gradient of the step before: it was not cleared, {right} clears it", kept)
    weight, decay = evidence.parameter(own, tensor), evidence.optimizer.weight_decay
    if weight is not None and decay:
        does = "{wrong}'s {it} holds weight decay already, {right} adds it in the update"
        yield Hypothesis(does, right + decay * weight)
    yield from _of_a_changed_input(evidence, own, layer, tensor)
    length = float(np.sqrt(sum(np.vdot(a, a) for n, a in other.items() if n.startswith("gradient/"))))
    largest, cut = float(np.abs(right).max(initial=0.0)), float(np.abs(own[name]).max(initial=0.0))
    if 0 < cut < largest:
        does = f"{{wrong}} clips the {{it}} to {cut:.6g}, {{right}} does not"
        yield Hypothesis(does, np.clip(right, -cut, cut))
    for limit in (1.0, 5.0, 0.1, 10.0):
        if length > limit:
            does = f"{{wrong}} clips the gradients to a norm of {limit:g} together, {{right}} does not"
            yield Hypothesis(does, right * (limit / length))
    gradient = own.get(f"backward/{layer}")
    if tensor.endswith(".bias") and gradient is not None:
        mean = gradient.astype(np.float64).mean((0, *range(2, gradient.ndim)))
        yield Hypothesis("{wrong}'s {it} is the mean over images and pixels, {right}'s the sum", mean)


def _of_a_changed_input(evidence: Evidence, own: Record, layer: str, tensor: str) -> Iterator[Hypothesis]:
    """Yield the gradient of a weight if a layer overwrites the input in place: a sum does so with the input of its block."""
    where, gradient = evidence.network.layers[layer], own.get(f"backward/{layer}")
    if gradient is None or not tensor.endswith(".weight") or not isinstance(where.node, nodes.Conv | nodes.Linear):
        return
    (source,), gradient = where.sources, gradient.astype(np.float64)
    for changing in consumers(evidence.network.layers).get(source, ()):
        x = own.get(f"forward/{changing}")
        if changing != layer and x is not None and x.shape[1:] == where.input:
            x = x.astype(np.float64)
            made = kernel_gradient(where.node, x, gradient) if isinstance(where.node, nodes.Conv) else gradient.T @ x
            does = f"is computed from the output of {changing}, which overwrites that of {source} in place"
            yield Hypothesis(f"{{wrong}}'s {{it}} {does}, {{right}}'s from the output of {source}", made)


def _of_a_relu(layer: str, found: Array, x: Array, gradient: Array) -> Iterator[Hypothesis]:
    """A ReLU with the gradient of a leaky ReLU."""
    below = (x < 0) & (gradient != 0)
    if below.any():
        slope = float(np.median(found[below] / gradient[below]))
        does = f"{{wrong}}'s {layer} has the gradient of a leaky ReLU with a slope of {slope:.3g}, {{right}}'s of a plain one"
        yield Hypothesis(does, np.where(x < 0, slope, 1.0) * gradient)


def _of_a_norm(
    evidence: Evidence, own: Record, node: nodes.BatchNorm, x: Array, gradient: Array
) -> Iterator[Hypothesis]:
    """A batch norm that treats the mean or variance of its batch as a constant."""
    gamma = evidence.parameter(own, f"{node.name}.gamma")
    if gamma is None:
        return
    mean, variance = (per_channel(array, x) for array in batch_statistics(x, "biased"))
    scale = per_channel(gamma, x) / np.sqrt(variance + node.eps)
    axes = (0, *range(2, x.ndim))
    plain = (x - mean) / np.sqrt(variance + node.eps)
    of_mean = gradient.mean(axes, keepdims=True)
    of_variance = plain * (gradient * plain).mean(axes, keepdims=True)
    for words, made in (
        ("the batch's mean and variance as constants", gradient),
        ("the batch's variance as a constant", gradient - of_mean),
        ("the batch's mean as a constant", gradient - of_variance),
    ):
        yield Hypothesis(
            f"{{wrong}}'s {node.name} treats {words} in its gradient, {{right}}'s differentiates", scale * made
        )
