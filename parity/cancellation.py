"""Where a tensor vanishes, its relative error says little: how much of it is the rounding of what cancelled.

The gradient of the class scores is softmax less one-hot. Once an image is fitted, that difference is small and keeps the absolute
rounding of the softmax, so that its relative rounding is magnified by ||softmax|| / ||softmax - one-hot||; so is every gradient that comes
from that image alone. The cost of a fitted image is likewise a small difference of numbers as large as the scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.network import Network
from parity.nodes import BatchNorm

LARGEST = 1e290
"""Most that a bound is multiplied by: the bound stays finite, and what is not finite stays above it."""


def magnifications(
    network: Network, record: Mapping[str, np.ndarray], labels: np.ndarray, divisor: int
) -> dict[str, float]:
    """How many times its usual relative rounding a recorded tensor of one training step may have, where that is above 1.

    By record name (`backward/LAYER`, `gradient/PARAMETER`, `loss/cost`, `loss/loss`). `record` holds what the step recorded with these
    `labels` [N] and this `divisor` of the cost; what it lacks is left out.
    """
    last = list(network.shapes)[-1]
    found: dict[str, float] = {}
    if f"forward/{last}" in record and "loss/cost" in record:
        largest = np.abs(record[f"forward/{last}"]).max(1).sum()
        found = dict.fromkeys(("loss/cost", "loss/loss"), float(_ratio(largest, record["loss/cost"])[0]))
    if f"backward/{last}" in record:
        found |= _of_gradients(network, record, _of_images(record[f"backward/{last}"] * divisor, labels))
    return {name: factor for name, factor in found.items() if factor > 1}


def _of_images(residual: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By image, ||softmax|| / ||softmax - one-hot||, at least 1, of the residual softmax - one-hot [N,K]."""
    softmax = residual.copy()
    softmax[np.arange(len(labels)), labels] += 1
    return np.maximum(_ratio(np.linalg.norm(softmax, axis=1), np.linalg.norm(residual, axis=1)), 1)


def _of_gradients(network: Network, record: Mapping[str, np.ndarray], images: np.ndarray) -> dict[str, float]:
    """From the last layer to the first: a tensor is magnified as the images are that it comes from, each by its part in it."""
    found = {}
    for node in reversed(network.nodes):
        gradient = record.get(f"backward/{node.name}")
        if gradient is None:
            continue
        parts = _norms(gradient)
        found[f"backward/{node.name}"] = whole = _weighted(images, parts)
        x = _input(network, record, node.name)
        for parameter in node.parameters(network.inputs[node.name]):
            by_input = parameter.name.endswith(".weight") and x is not None
            found[f"gradient/{parameter.name}"] = _weighted(images, parts * _norms(x)) if by_input else whole
        if isinstance(node, BatchNorm):  # mixes the images: from here on each carries the rounding of all
            images = np.full_like(images, whole)
    return found


def _input(network: Network, record: Mapping[str, np.ndarray], layer: str) -> np.ndarray | None:
    names = list(network.shapes)
    place = names.index(layer)
    return record.get(f"forward/{names[place - 1]}" if place else "input/images")


def _norms(array: np.ndarray | None) -> np.ndarray:
    """The norm of every image's part of an array [N,...]."""
    assert array is not None
    return np.linalg.norm(array.reshape(len(array), -1), axis=1)


def _weighted(images: np.ndarray, parts: np.ndarray) -> float:
    largest = parts.max()
    if not largest or not np.isfinite(largest):
        return 1.0
    parts = parts / largest  # squares of what vanished would underflow
    return float(_ratio(np.linalg.norm(np.minimum(images, LARGEST / 1e9) * parts), np.linalg.norm(parts)))


def _ratio(size: np.ndarray | np.floating, difference: np.ndarray | np.floating) -> np.ndarray:
    """`size` / `difference`, at most `LARGEST`; 1 for what is not finite, which no bound excuses."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.asarray(size / difference)
    return np.where(
        np.isfinite(size) & np.isfinite(difference), np.minimum(np.nan_to_num(ratio, nan=1.0), LARGEST), 1.0
    )
