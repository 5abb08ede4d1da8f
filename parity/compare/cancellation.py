"""How much of a small tensor is rounding of larger numbers that cancel.

The gradient of the class scores is softmax minus one-hot. Once an image is fitted, that difference is small but keeps the absolute
rounding of the softmax. Its relative rounding is magnified by ||softmax|| / ||softmax - one-hot||, and so is every gradient that comes
from that image alone. The loss of a fitted image is also a small difference of numbers as large as the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.record import input_of
from parity.compare.relative_error import norm_of_difference
from parity.compare.tolerances import LARGEST
from parity.network.graph import consumers
from parity.network.network import Network
from parity.network.nodes import BatchNorm
from parity.recipe.optimizer import Optimizer


def magnifications(network: Network, record: Mapping[str, Array], labels: Array, divisor: int) -> dict[str, float]:
    """Return the factor on the usual relative rounding of each recorded tensor of one training step, where it is above 1.

    By record name (`backward/LAYER`, `gradient/PARAMETER`, `loss/cost`, `loss/loss`). `record` holds what the step recorded with these
    `labels` [N] and this `divisor` of the loss; tensors that it lacks are left out.
    """
    ends = {network.output: 1.0} | network.heads
    found: dict[str, float] = {}
    if f"forward/{network.output}" in record and "loss/cost" in record:
        sizes = {end: weight * _largest(record.get(f"forward/{end}")) for end, weight in ends.items()}
        found["loss/cost"] = float(_ratio(sizes[network.output], record["loss/cost"])[0])
        whole = record["loss/loss"] * divisor if network.heads and "loss/loss" in record else record["loss/cost"]
        found["loss/loss"] = float(_ratio(np.sum(list(sizes.values())), whole)[0])
    parts = {
        end: _of_images(record[f"backward/{end}"] * divisor / weight, labels, weight)
        for end, weight in ends.items()
        if weight and f"backward/{end}" in record
    }
    if parts:
        found |= _of_gradients(network, record, parts)
    return {name: factor for name, factor in found.items() if factor > 1}


class Inherited:
    """The measured rounding of magnified gradients that the optimizer's slots keep. It decays as the slots do.

    Weights of parameters whose terms cancel keep it too: a weight that starts at zero consists of nothing else.
    """

    def __init__(self, settings: Optimizer) -> None:
        self._settings = settings
        self._keep = {"moment1": settings.beta1, "moment2": settings.beta2}
        self._take = {"velocity": 1.0, "moment1": 1 - settings.beta1, "moment2": 1 - settings.beta2}
        self._slots = settings.slots
        self._held: dict[str, float] = {}

    def forget(self, parameter: str, factor: float) -> None:
        """Begin another step, before which the slots of `parameter` were multiplied by `factor`."""
        for slot in self._slots:
            key = f"update/optimizer.{slot}.{parameter}"
            keep = self._keep.get(slot, self._settings.momentum_of(parameter))
            self._held[key] = factor * keep * self._held.get(key, 0.0)

    def add(self, parameter: str, reference: Array, candidate: Array) -> None:
        """Add this step's gradient of `parameter`, which is magnified."""
        for slot in self._slots:
            power = 2 if slot == "moment2" else 1
            key = f"update/optimizer.{slot}.{parameter}"
            self._held[key] += self._take[slot] * norm_of_difference(reference**power, candidate**power)

    def move(self, parameter: str, difference: float) -> None:
        """Add the difference of the two sides' updates of `parameter` in this step, both by the right rule."""
        self._held[f"update/{parameter}"] = self._held.get(f"update/{parameter}", 0.0) + difference

    def held(self, name: str) -> float:
        """Return the norm of the rounding that the slot or weight recorded as `name` keeps; 0 for everything else."""
        return self._held.get(name, 0.0)


def _largest(scores: Array | None) -> np.floating[Any]:
    """Return the sum over the images of their largest class score."""
    return np.float64(0) if scores is None else np.abs(scores).max(1).sum()


Part = tuple[Array, Array]
"""By image: the size of the numbers whose difference is a head's gradient, times the head's weight in the loss; and the magnification."""


def _of_images(residual: Array, labels: Array, weight: float) -> Part:
    """Return, for the residual softmax - one-hot [N,K], ||softmax|| * weight, and ||softmax|| / ||softmax - one-hot||, at least 1."""
    softmax = residual.copy()
    softmax[np.arange(len(labels)), labels] += 1
    sizes = np.linalg.norm(softmax, axis=1)
    return weight * sizes, np.maximum(_ratio(sizes, np.linalg.norm(residual, axis=1)), 1)


def _of_gradients(network: Network, record: Mapping[str, Array], parts: Mapping[str, Part]) -> dict[str, float]:
    """Go from the last layer to the first: a tensor is magnified as its images are, each by its part in the tensor."""
    found, following, coming = {}, consumers(network.layers), dict[str, dict[str, Part]]()
    for name, layer in reversed(network.layers.items()):
        heads = {name: parts[name]} if name in parts else _merged([coming[other] for other in following[name]])
        coming[name] = heads
        gradient = record.get(f"backward/{name}")
        if gradient is None or not heads:
            continue
        images, norms = _together(heads), _norms(gradient)
        found[f"backward/{name}"] = whole = _weighted(images, norms)
        x = input_of(network, name, record, "forward")
        for parameter in layer.node.parameters(layer.input):
            by_input = parameter.name.endswith(".weight") and x is not None
            found[f"gradient/{parameter.name}"] = _weighted(images, norms * _norms(x)) if by_input else whole
        if isinstance(layer.node, BatchNorm):  # mixes the images: before it, each image carries the rounding of all
            coming[name] = {head: (sizes, np.full_like(images, whole)) for head, (sizes, _) in heads.items()}
    return found


def _merged(several: list[dict[str, Part]]) -> dict[str, Part]:
    """Merge the gradients of several layers with the same input: for each head, the largest magnification."""
    merged: dict[str, Part] = {}
    for head, (sizes, images) in (item for heads in several for item in heads.items()):
        merged[head] = (sizes, np.maximum(images, merged[head][1]) if head in merged else images)
    return merged


def _together(heads: Mapping[str, Part]) -> Array:
    """Return, by image, the magnification of the sum of the heads' gradients: the cancelled size over the remaining size."""
    if len(heads) == 1:
        return next(iter(heads.values()))[1]
    sizes, left = (sum(parts) for parts in zip(*((s, s / m) for s, m in heads.values()), strict=True))
    return np.maximum(_ratio(np.asarray(sizes), np.asarray(left)), 1)


def _norms(array: Array | None) -> Array:
    """Return the norm of every image's part of an array [N,...]."""
    assert array is not None
    norms: Array = np.linalg.norm(array.reshape(len(array), -1), axis=1)
    return norms


def _weighted(images: Array, parts: Array) -> float:
    largest = parts.max()
    if not largest or not np.isfinite(largest):
        return 1.0
    parts = parts / largest  # squares of tiny numbers would underflow
    return float(_ratio(np.linalg.norm(np.minimum(images, LARGEST / 1e9) * parts), np.linalg.norm(parts)))


def _ratio(size: Array | np.floating[Any], difference: Array | np.floating[Any]) -> Array:
    """Return `size` / `difference`, at most `LARGEST`; 1 where one is not finite, which no tolerance excuses."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.asarray(size / difference)
    return np.where(
        np.isfinite(size) & np.isfinite(difference), np.minimum(np.nan_to_num(ratio, nan=1.0), LARGEST), 1.0
    )
