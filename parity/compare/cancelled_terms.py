"""The factor on the usual relative rounding of gradients whose terms cancel.

Every gradient is a contraction, a sum S of products of recorded tensors. If each term t has an independent relative error e, then S has
the absolute error e * sqrt(sum of t^2). Its relative error is magnified by sqrt(sum of t^2) / |S|, over all elements of the tensor
together (L2). This is about 1 if the terms have random signs, and large only if they cancel systematically. Behind a batch norm nothing
depends on the scale of its input. So the terms dy * xhat of the gamma of an earlier batch norm sum to zero but for eps. If a gradient is
itself magnified, its terms have larger errors, and the gradients before it inherit that factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.compare.numpy_layers import multiply
from parity.compare.record import input_of, inputs_of
from parity.compare.relative_error import norm
from parity.compare.tolerances import ALIKE, LARGEST, SYSTEMATIC
from parity.network.graph import consumers
from parity.network.network import Network
from parity.network.nodes import AvgPool, BatchNorm, Conv, GlobalAvgPool, Linear, Multiply


class CancelledTerms:
    """The magnifications in one step of `network` that one side recorded as `record`. Computed on demand, and cached."""

    def __init__(self, network: Network, record: Mapping[str, Array]) -> None:
        self.network, self._record = network, record
        self._following = consumers(network.layers)
        self._of_outputs: dict[str, float] = {}

    def magnification(self, name: str) -> float:
        """Return the factor on the usual relative rounding of the recorded tensor `name`; at least 1.

        `name` is `backward/LAYER`, `gradient/PARAMETER` or `update/LAYER.mean`. 1 for everything else, and if its inputs were not
        recorded.
        """
        phase, _, tensor = name.partition("/")
        layer, _, parameter = tensor.partition(".")
        if name not in self._record or layer not in self.network.layers:
            return 1.0
        if phase in ("backward", "gradient"):
            found = self._of_output(layer)
            if parameter:
                found *= systematic(self._terms_of_parameter(layer, parameter), norm(self._record[name]))
            return min(LARGEST, ALIKE * found) if found > 1 else 1.0
        if phase == "update" and parameter == "mean":
            return systematic(self._terms_of_mean(layer), norm(self._record[name]))
        return 1.0

    def _of_output(self, layer: str) -> float:
        """Return the factor for the gradient of a layer's output: the sum of the gradients from all layers that use the output."""
        # Not recursive: a deep network has more layers than Python allows calls within calls.
        for name in reversed(self.network.layers):
            if layer in self._of_outputs:
                break
            if name not in self._of_outputs:
                self._of_outputs[name] = min(LARGEST, self._arriving(name))
        return self._of_outputs[layer]

    def _arriving(self, layer: str) -> float:
        """Return the factor for the gradient of a layer's output, from the factors of all later layers."""
        following = self._following[layer]
        arriving = [self._of_outputs[other] for other in following]
        gradient = self._record.get(f"backward/{layer}")
        found = max(arriving, default=1.0)
        if gradient is None or not following:
            return found
        terms = [self._terms_of_input(other, layer) for other in following]
        known = [term for term in terms if term is not None]
        if len(following) == 1:
            sums = isinstance(self.network.layers[following[0]].node, BatchNorm | Conv | Linear | Multiply)
            return found * (systematic(terms[0], norm(gradient)) if sums else 1.0)
        if len(known) == len(following):
            return systematic(float(np.linalg.norm(np.multiply(arriving, known))), norm(gradient))
        return found

    def _terms_of_input(self, layer: str, source: str) -> float | None:
        """Return the root of the summed squares of the terms in the gradient of a layer's input; None if they are not known.

        The input is that from `source`. For a batch norm the terms are gamma / sigma times dy, mean(dy) and xhat mean(dy xhat). For a
        convolution and a linear layer they are w dy, and for a product dy times the other factors. For all other layers dy itself stands
        for what activations and dropout make of it; a pool has its share.
        """
        gradient, node = self._record.get(f"backward/{layer}"), self.network.layers[layer].node
        if gradient is None:
            return None
        if isinstance(node, BatchNorm):
            return self._terms_of_norm(layer, gradient)
        if isinstance(node, Conv | Linear):
            weight = self._record.get(f"update/{layer}.weight", self._record.get(f"start/{layer}.weight"))
            if weight is None:
                return None
            filters = weight.reshape(len(weight), -1).astype(np.float64)
            return float(np.sqrt(np.sum(np.square(filters).sum(1) * np.square(_by_channel(gradient)).sum(1))))
        if isinstance(node, Multiply):
            inputs = inputs_of(self.network, layer, self._record, "forward")
            own = self.network.layers[layer].sources.index(source)
            return None if inputs is None else norm(multiply([gradient, *inputs[:own], *inputs[own + 1 :]]))
        area = node.size**2 if isinstance(node, AvgPool) else 1
        if isinstance(node, GlobalAvgPool):
            area = math.prod(self.network.inputs[layer][1:])
        return norm(gradient) / math.sqrt(area)

    def _terms_of_norm(self, layer: str, gradient: Array) -> float | None:
        """Do `_terms_of_input` for a batch norm."""
        normalised, output = self._normalised(layer), self._record.get(f"forward/{layer}")
        if normalised is None or output is None:
            return None
        (x, deviation), dy, y = normalised, _by_channel(gradient), _by_channel(output)
        gamma = (x * y).mean(1) / (np.square(x).mean(1) + np.finfo(float).tiny)
        terms = np.square(dy).mean(1) + dy.mean(1) ** 2 + (dy * x).mean(1) ** 2 * np.square(x).mean(1)
        return float(np.sqrt(np.sum((gamma / deviation) ** 2 * terms) * dy.shape[1]))

    def _terms_of_parameter(self, layer: str, parameter: str) -> float | None:
        """Return the same for the gradient of a parameter: dy xhat for gamma, dy x for a weight, dy for beta and a bias."""
        gradient, node = self._record.get(f"backward/{layer}"), self.network.layers[layer].node
        if gradient is None:
            return None
        if parameter == "gamma":
            normalised = self._normalised(layer)
            return None if normalised is None else norm(_by_channel(gradient) * normalised[0])
        if parameter == "weight":
            x = input_of(self.network, layer, self._record, "forward")
            if x is None:
                return None
            return _terms_of_kernel(node, x, gradient) if isinstance(node, Conv) else _terms_of_matrix(x, gradient)
        return norm(gradient)

    def _terms_of_mean(self, layer: str) -> float | None:
        """Return the same for a running mean, see `terms_of_mean`."""
        x = input_of(self.network, layer, self._record, "forward")
        return None if x is None else terms_of_mean(x)

    def _normalised(self, layer: str) -> tuple[Array, Array] | None:
        """Return the normalised input of a batch norm, without gamma and beta [C,n], and the root of variance + eps [C]."""
        x, node = input_of(self.network, layer, self._record, "forward"), self.network.layers[layer].node
        if x is None or not isinstance(node, BatchNorm):
            return None
        x = _by_channel(x)
        deviation = np.sqrt(x.var(1) + node.eps)
        return (x - x.mean(1)[:, None]) / deviation[:, None], deviation


def terms_of_mean(x: Array) -> float | None:
    """Return the size of the terms x / n of a batch's mean for an input [N,C,...] of a batch norm; None unless they cancel.

    A beta that a batch norm subtracts again moves all values of a channel alike, step after step. So the errors of the terms are not
    independent: they add up to ||x|| / sqrt(n) at most (Cauchy-Schwarz), also over all steps.
    """
    values = _by_channel(x)
    size = norm(values) / math.sqrt(values.shape[1])
    return size if systematic(size, norm(values.mean(1))) > 1 else None


def systematic(terms: float | None, size: float) -> float:
    """Return `terms`, the root of their summed squares, over the `size` of their sum; 1 unless the terms cancel systematically."""
    if terms is None or not np.isfinite(terms) or not np.isfinite(size) or not terms or terms < SYSTEMATIC * size:
        return 1.0
    return min(terms / size, LARGEST) if size > terms / LARGEST else LARGEST


def _by_channel(array: Array) -> Array:
    """Return an array [N,C,...] as float64 [C,n]."""
    values: Array = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    return values.astype(np.float64, copy=False)


def _terms_of_matrix(x: Array, dy: Array) -> float:
    return float(np.sqrt(np.sum(np.square(x).sum(1) * np.square(dy).sum(1))))


def _terms_of_kernel(node: Conv, x: Array, dy: Array) -> float:
    """Compute the terms for an input [N,C,H,W] and an output gradient [N,F,h,w]. Squares are summed over the channels of a group first."""

    def by_group(array: Array) -> Array:
        found: Array = np.square(array).reshape(len(array), node.groups, -1, *array.shape[2:]).sum(2)
        return found

    (above, below), (left, right) = node.pads(x.shape[1:])
    given, back = np.pad(by_group(x), ((0, 0), (0, 0), (above, below), (left, right))), by_group(dy)
    rows, columns = ((count - 1) * node.stride + 1 for count in dy.shape[2:])
    total = 0.0
    for i, j in np.ndindex(node.kernel, node.kernel):
        total += float(np.vdot(given[:, :, i : i + rows : node.stride, j : j + columns : node.stride], back))
    return float(np.sqrt(total))
