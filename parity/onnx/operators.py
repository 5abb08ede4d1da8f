"""A network in inference as a list of ONNX operators: what an export must say, whichever framework wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from parity.arrays import Array
from parity.errors import InputError
from parity.network import nodes
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.network.windows import Pad, reach
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State

IMAGE = -1
"""Stands for the network's input among the places of operators."""


@dataclass(frozen=True)
class Operator:
    """One operator: the layer it comes from, its ONNX type, its attributes, and its constant inputs in ONNX's order.

    `inputs` are the places, in the list of operators, of those whose outputs it takes before the constants; `IMAGE` is the input.
    """

    layer: str
    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    inputs: tuple[int, ...] = (IMAGE,)


Spelling = tuple[str, dict[str, Any], dict[str, Array]]


def operators(network: Network, state: State) -> list[Operator]:
    """What `network` with the float32 weights `state` computes in inference. A layer that then does nothing has no operator.

    `InputError` names a layer of a kind that no export is proven for.
    """
    found: list[Operator] = []
    places = {"": IMAGE}
    for name, layer in network.inference.layers.items():
        if type(layer.node) not in SPELLED:
            raise InputError(
                f"layer {name} is of kind {type(layer.node).__name__}, which no export to ONNX is proven for"
            )
        own = {p.name.partition(".")[2]: state[p.name] for p in layer.node.parameters(layer.input)}
        inputs = tuple(places[source] for source in layer.sources)
        if spelled := SPELLED[type(layer.node)](layer.node, layer.input, own):
            found.append(Operator(name, *spelled, inputs=inputs))
            places[name] = len(found) - 1
        else:
            (places[name],) = inputs
    return found


def _conv(node: nodes.Conv, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Conv", _window(node.kernel, node.stride, node.pads(shape)) | {"group": node.groups}, own


def _linear(node: nodes.Linear, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Gemm", {"transB": 1}, own


def _batch_norm(node: nodes.BatchNorm, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "BatchNormalization", {"epsilon": node.eps}, own


def _relu(node: nodes.ReLU, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Relu", {}, {}


def _gelu(node: nodes.GELU, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Gelu", {}, {}


def _tanh(node: nodes.Tanh, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Tanh", {}, {}


def _log_softmax(node: nodes.LogSoftmax, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "LogSoftmax", {"axis": 1}, {}


def _lrn(node: nodes.LRN, shape: Shape, own: dict[str, Array]) -> Spelling:
    scalars = {name: np.array(getattr(node, name), np.float32) for name in ("alpha", "beta", "k")}
    # The smallest window that holds the same channels, where there are few: a graph does not tell them apart.
    size = next(size for size in range(1, node.size + 1) if reach(size, shape[0]) == reach(node.size, shape[0]))
    return "LRN", {"size": size}, scalars


def _max_pool(node: nodes.MaxPool, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "MaxPool", _window(node.size, node.stride, node.pads(shape)) | {"ceil_mode": int(node.ceil)}, {}


def _avg_pool(node: nodes.AvgPool, shape: Shape, own: dict[str, Array]) -> Spelling:
    _, attributes, _ = _max_pool(node, shape, own)
    return "AveragePool", attributes | {"count_include_pad": 0}, {}


def _global_avg_pool(node: nodes.GlobalAvgPool, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "GlobalAveragePool", {}, {}


def _dropout(node: nodes.Dropout, shape: Shape, own: dict[str, Array]) -> Spelling | None:
    return ("Mul", {}, {"scale": np.array(node.test_scale, np.float32)}) if node.test_scale != 1 else None


def _flatten(node: nodes.Flatten, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Flatten", {"axis": 1}, {}


def _branches(node: nodes.Branches, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Concat", {"axis": 1}, {}


def _window(kernel: int, stride: int, pads: tuple[Pad, Pad]) -> dict[str, Any]:
    (above, below), (left, right) = pads
    return {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [above, left, below, right]}


SPELLED: dict[type[nodes.Node], Callable[..., Spelling | None]] = {
    nodes.Conv: _conv,
    nodes.Linear: _linear,
    nodes.BatchNorm: _batch_norm,
    nodes.LRN: _lrn,
    nodes.ReLU: _relu,
    nodes.GELU: _gelu,
    nodes.Tanh: _tanh,
    nodes.LogSoftmax: _log_softmax,
    nodes.MaxPool: _max_pool,
    nodes.AvgPool: _avg_pool,
    nodes.GlobalAvgPool: _global_avg_pool,
    nodes.Dropout: _dropout,
    nodes.Flatten: _flatten,
    nodes.Branches: _branches,
}
"""How each kind of node is spelled in ONNX."""


def with_ends(
    chain: list[Operator], preprocessing: Preprocessing | None = None, softmax: bool = False
) -> list[Operator]:
    """All operators of a file: in front of `chain` those of the `preprocessing`, behind it a `softmax`.

    They belong to no layer. Their names end with a dot, and no layer's does.
    """
    before = _scaling(preprocessing) if preprocessing else []
    # The image's place, -1, becomes that of the last operator in front.
    made = before + [replace(one, inputs=tuple(place + len(before) for place in one.inputs)) for one in chain]
    if softmax:
        made.append(Operator("probabilities.", "Softmax", {"axis": 1}, inputs=(len(made) - 1,)))
    return made


def _scaling(preprocessing: Preprocessing) -> list[Operator]:
    """uint8 [N,H,W,C] -> (pixel / 255 - mean) / std [N,C,H,W]; steps that do nothing are left out.

    `InputError` for a preprocessing that is more than a scaling.
    """
    if preprocessing.standardise or preprocessing.permutation is not None:
        what = "standardises every image" if preprocessing.standardise else "permutes the pixels"
        raise InputError(f"the recipe {what}, and a graph only scales pixels: preprocess outside the graph")
    mean, std = (
        np.reshape(values, (-1, 1, 1)).astype(np.float32) for values in (preprocessing.mean, preprocessing.std)
    )
    steps: list[Spelling] = [
        ("Cast", {"to": TensorProto.FLOAT}, {}),
        ("Transpose", {"perm": [0, 3, 1, 2]}, {}),
        ("Div", {}, {"by": np.array([255], np.float32)}),
        ("Sub", {}, {"by": mean}),
        ("Div", {}, {"by": std}),
    ]
    names = ("pixels.", "planes.", "scaled.", "centred.", "normalised.")
    acting = (True, True, True, bool(mean.any()), not (std == 1).all())
    kept = [(name, step) for name, step, acts in zip(names, steps, acting, strict=True) if acts]
    return [Operator(name, *step, inputs=(place,)) for place, (name, step) in enumerate(kept, start=IMAGE)]


def folded(chain: list[Operator]) -> list[Operator]:
    """The operators with every batch norm multiplied into the convolution or linear layer before it, where there is one.

    Computed in float64 and rounded once. The layer's bias is made where it has none. `InputError` where float32 cannot hold it.
    """
    found: list[Operator] = []
    takers = Counter(place for operator in chain for place in operator.inputs)
    places = {IMAGE: IMAGE}
    for old, operator in enumerate(chain):
        before = found[places[operator.inputs[0]]] if operator.inputs[0] != IMAGE else None
        alone = takers[operator.inputs[0]] == 1
        if operator.kind == "BatchNormalization" and alone and before and before.kind in ("Conv", "Gemm"):
            places[old] = places[operator.inputs[0]]
            found[places[old]] = _fold(before, operator)
        else:
            places[old] = len(found)
            found.append(replace(operator, inputs=tuple(places[place] for place in operator.inputs)))
    return found


def _fold(layer: Operator, norm: Operator) -> Operator:
    gamma, beta, mean, variance = (norm.arrays[name].astype(float) for name in ("gamma", "beta", "mean", "variance"))
    weight = layer.arrays["weight"].astype(float)
    bias = layer.arrays["bias"].astype(float) if "bias" in layer.arrays else 0.0
    with np.errstate(all="ignore"):  # what is not finite is refused below
        factor = gamma / np.sqrt(variance + norm.attributes["epsilon"])
        arrays = {
            "weight": (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32),
            "bias": ((bias - mean) * factor + beta).astype(np.float32),
        }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(
            f"{norm.layer} cannot be folded: with its smallest variance {variance.min():.3g} and eps "
            f"{norm.attributes['epsilon']:.3g} the weights of {layer.layer} become infinite or no numbers; "
            "leave batch norms as they are"
        )
    return replace(layer, arrays=arrays)
