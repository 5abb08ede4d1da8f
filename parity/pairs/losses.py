"""Losses of a model's outputs with their gradients, in numpy, so that both frameworks use the same loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream

Outputs = Mapping[str, Array]
Gradients = dict[str, Array]


def mse(outputs: Outputs, seed: int) -> tuple[float, Gradients]:
    """Return half the mean squared distance of every output from fixed random numbers, summed over the outputs."""
    loss, gradients = 0.0, {}
    for name, output in outputs.items():
        difference = output - _target(seed, name, output)
        loss += float(np.mean(difference.astype(np.float64) ** 2)) / 2
        gradients[name] = difference / max(output.size, 1)
    return loss, gradients


def projection(outputs: Outputs, seed: int) -> tuple[float, Gradients]:
    """Return the scalar product of every output with fixed random numbers, divided by its size."""
    loss, gradients = 0.0, {}
    for name, output in outputs.items():
        gradients[name] = _target(seed, name, output) / max(output.size, 1)
        loss += float(np.vdot(gradients[name].astype(np.float64), output.astype(np.float64)))
    return loss, gradients


def cross_entropy(outputs: Outputs, seed: int) -> tuple[float, Gradients]:
    """Return the mean cross-entropy of class scores [N,K] (or [N,K,...]) and fixed random labels, summed over the outputs."""
    loss, gradients = 0.0, {}
    for name, output in outputs.items():
        scores = np.moveaxis(output, 1, -1) if output.ndim > 1 else output[None]
        flat = scores.reshape(-1, scores.shape[-1])
        labels = stream(seed, "label", name).integers(0, flat.shape[1], len(flat))
        rows = np.arange(len(flat))
        logs = flat - flat.max(1, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(1, keepdims=True))
        loss -= float(logs[rows, labels].astype(np.float64).mean())
        found = np.exp(logs)
        found[rows, labels] -= 1
        found = (found / len(flat)).reshape(scores.shape)
        gradients[name] = np.ascontiguousarray(np.moveaxis(found, -1, 1) if output.ndim > 1 else found[0])
    return loss, gradients


def _target(seed: int, name: str, like: Array) -> Array:
    return stream(seed, "target", name).standard_normal(like.shape).astype(like.dtype)


LOSSES: dict[str, Callable[[Outputs, int], tuple[float, Gradients]]] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "projection": projection,
}
"""The losses by name: (outputs, seed) -> loss and its gradient by output."""
