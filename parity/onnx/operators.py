"""A network in inference as a chain of ONNX operators: what an export must say, whichever framework wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity import nodes
from parity.errors import InputError
from parity.network import Network
from parity.weights import State


@dataclass(frozen=True)
class Operator:
    """One operator: the layer it comes from, its ONNX type, its attributes, and its constant inputs in ONNX's order."""

    layer: str
    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


Spelling = tuple[str, dict[str, Any], dict[str, np.ndarray]]


def operators(network: Network, state: State) -> list[Operator]:
    """What `network` with the float32 weights `state` computes in inference. A layer that then does nothing has no operator."""
    found = []
    for node in network.nodes:
        own = {name.partition(".")[2]: state[name] for name in _names(network, node)}
        if spelled := SPELLED[type(node)](node, own):
            found.append(Operator(node.name, *spelled))
    return found


def _names(network: Network, node: nodes.Node) -> list[str]:
    return [parameter.name for parameter in node.parameters(network.inputs[node.name])]


def _conv(node: nodes.Conv, own: dict[str, np.ndarray]) -> Spelling:
    return "Conv", _window(node.kernel, node.stride, node.padding) | {"group": node.groups}, own


def _linear(node: nodes.Linear, own: dict[str, np.ndarray]) -> Spelling:
    return "Gemm", {"transB": 1}, own


def _batch_norm(node: nodes.BatchNorm, own: dict[str, np.ndarray]) -> Spelling:
    return "BatchNormalization", {"epsilon": node.eps}, own


def _relu(node: nodes.ReLU, own: dict[str, np.ndarray]) -> Spelling:
    return "Relu", {}, {}


def _max_pool(node: nodes.MaxPool, own: dict[str, np.ndarray]) -> Spelling:
    return "MaxPool", _window(node.size, node.stride, node.padding) | {"ceil_mode": int(node.ceil)}, {}


def _avg_pool(node: nodes.AvgPool, own: dict[str, np.ndarray]) -> Spelling:
    _, attributes, _ = _max_pool(node, own)
    return "AveragePool", attributes | {"count_include_pad": 0}, {}


def _dropout(node: nodes.Dropout, own: dict[str, np.ndarray]) -> Spelling | None:
    return ("Mul", {}, {"scale": np.array(node.test_scale, np.float32)}) if node.test_scale != 1 else None


def _flatten(node: nodes.Flatten, own: dict[str, np.ndarray]) -> Spelling:
    return "Flatten", {"axis": 1}, {}


def _window(kernel: int, stride: int, padding: int) -> dict[str, Any]:
    return {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [padding] * 4}


SPELLED: dict[type[nodes.Node], Callable[..., Spelling | None]] = {
    nodes.Conv: _conv,
    nodes.Linear: _linear,
    nodes.BatchNorm: _batch_norm,
    nodes.ReLU: _relu,
    nodes.MaxPool: _max_pool,
    nodes.AvgPool: _avg_pool,
    nodes.Dropout: _dropout,
    nodes.Flatten: _flatten,
}
"""How each kind of node is spelled in ONNX."""


def folded(chain: list[Operator]) -> list[Operator]:
    """The chain with every batch norm multiplied into the convolution or linear layer before it, where there is one.

    Computed in float64 and rounded once. The layer's bias is made where it has none.
    """
    found: list[Operator] = []
    for operator in chain:
        before = found[-1] if found else None
        if operator.kind == "BatchNormalization" and before and before.kind in ("Conv", "Gemm"):
            found[-1] = _fold(before, operator)
        else:
            found.append(operator)
    return found


def _fold(layer: Operator, norm: Operator) -> Operator:
    gamma, beta, mean, variance = (np.float64(norm.arrays[name]) for name in ("gamma", "beta", "mean", "variance"))
    weight = np.float64(layer.arrays["weight"])
    factor = gamma / np.sqrt(variance + norm.attributes["epsilon"])
    bias = np.float64(layer.arrays["bias"]) if "bias" in layer.arrays else 0.0
    arrays = {
        "weight": (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32),
        "bias": ((bias - mean) * factor + beta).astype(np.float32),
    }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(
            f"{norm.layer} cannot be folded: its variance and eps are too small; leave batch norms as they are"
        )
    return replace(layer, arrays=arrays)
