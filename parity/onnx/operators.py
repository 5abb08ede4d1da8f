"""A network in inference as a list of ONNX operators: what an export of either framework must contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from parity.arrays import Array
from parity.errors import InputError
from parity.network import nodes
from parity.network.graph import Layer
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.network.windows import Pad, window_reach
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State

IMAGE = -1
"""The place of the network's input, among the places of operators."""


@dataclass(frozen=True)
class Operator:
    """One operator: the layer it comes from, its ONNX type, its attributes, and its constant inputs in ONNX's order.

    `inputs` are the places, in the list of operators, of the operators whose outputs it takes; `IMAGE` is the network's input. The constant
    inputs follow them. If several operators form a layer, all but the last have a `step`, which distinguishes them.
    """

    layer: str
    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    inputs: tuple[int, ...] = (IMAGE,)
    step: str = ""


Spelling = tuple[str, dict[str, Any], dict[str, Array]]


def operators(network: Network, state: State) -> list[Operator]:
    """The operators of `network` with the float32 weights `state` in inference, `in_order`. A layer that does nothing has no operator.

    `InputError` names a layer of a kind that exports do not support.
    """
    found: list[Operator] = []
    places = {"": IMAGE}
    for name, layer in network.inference.layers.items():
        if not isinstance(layer.node, (*SPELLED, *SEVERAL)):
            raise InputError(
                f"layer {name} is of kind {type(layer.node).__name__}, which the export to ONNX does not support"
            )
        own = {p.name.partition(".")[2]: state[p.name] for p in layer.node.parameters(layer.input)}
        inputs = tuple(places[source] for source in layer.sources)
        if isinstance(layer.node, nodes.Add | nodes.Multiply):
            shapes = [network.shapes[source] if source else network.input_shape for source in layer.sources]
            kind = "Add" if isinstance(layer.node, nodes.Add) else "Mul"
            found += _pairwise(layer, kind, shapes, inputs, len(found))
        elif isinstance(layer.node, nodes.SiLU):
            found.append(Operator(name, "Sigmoid", inputs=inputs, step="gate"))
            found.append(Operator(name, "Mul", inputs=(*inputs, len(found) - 1)))
        elif spelled := SPELLED[type(layer.node)](layer.node, layer.input, own):
            found.append(Operator(name, *spelled, inputs=inputs))
        else:
            (places[name],) = inputs
            continue
        places[name] = len(found) - 1
    return in_order(found)


def _pairwise(layer: Layer, kind: str, shapes: Sequence[Shape], inputs: Sequence[int], first: int) -> list[Operator]:
    """The operators `kind` that join outputs of `shapes`, two at a time; `first` is the place of the first operator.

    A vector that scales maps becomes a map of one pixel first.
    """
    name, made, parts = layer.node.name, list[Operator](), list(inputs)
    for number, shape in enumerate(shapes):
        if len(shape) < len(layer.output):
            made.append(Operator(name, "Unsqueeze", {"axes": [2, 3]}, inputs=(parts[number],), step=f"map{number}"))
            parts[number] = first + len(made) - 1
    whole = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        step = f"partial{number}" if number < len(parts) - 1 else ""
        made.append(Operator(name, kind, inputs=(whole, part), step=step))
        whole = first + len(made) - 1
    return made


def in_order(chain: Sequence[Operator]) -> list[Operator]:
    """The operators in the order in which one reaches them from the last: each after its inputs, which come in their own order."""
    ordered: list[Operator] = []
    places, waiting = {IMAGE: IMAGE}, [len(chain) - 1] if chain else []
    while waiting:
        operator = chain[waiting[-1]]
        missing = [place for place in operator.inputs if place not in places]
        if missing:
            waiting += reversed(missing)
            continue
        place = waiting.pop()
        if place not in places:
            places[place] = len(ordered)
            ordered.append(replace(operator, inputs=tuple(places[source] for source in operator.inputs)))
    return ordered


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


def _sigmoid(node: nodes.Sigmoid, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Sigmoid", {}, {}


def _tanh(node: nodes.Tanh, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "Tanh", {}, {}


def _log_softmax(node: nodes.LogSoftmax, shape: Shape, own: dict[str, Array]) -> Spelling:
    return "LogSoftmax", {"axis": 1}, {}


def _lrn(node: nodes.LRN, shape: Shape, own: dict[str, Array]) -> Spelling:
    scalars = {name: np.array(getattr(node, name), np.float32) for name in ("alpha", "beta", "k")}
    # With few channels, several window sizes hold the same channels, and a graph cannot distinguish them. Take the smallest.
    size = next(
        size for size in range(1, node.size + 1) if window_reach(size, shape[0]) == window_reach(node.size, shape[0])
    )
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


def _pad_channels(node: nodes.PadChannels, shape: Shape, own: dict[str, Array]) -> Spelling | None:
    pad = node.pad(shape)
    return ("PadChannels", {"pads": list(pad)}, {}) if any(pad) else None


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
    nodes.Sigmoid: _sigmoid,
    nodes.Tanh: _tanh,
    nodes.LogSoftmax: _log_softmax,
    nodes.MaxPool: _max_pool,
    nodes.AvgPool: _avg_pool,
    nodes.GlobalAvgPool: _global_avg_pool,
    nodes.PadChannels: _pad_channels,
    nodes.Dropout: _dropout,
    nodes.Flatten: _flatten,
    nodes.Branches: _branches,
}
"""Kind of node -> the function that gives its ONNX operator type, attributes and constants; None for no operator."""

SEVERAL = (nodes.SiLU, nodes.Add, nodes.Multiply)
"""Kinds of nodes that have several operators."""


def with_ends(
    chain: list[Operator], preprocessing: Preprocessing | None = None, softmax: bool = False
) -> list[Operator]:
    """All operators of a file: those of the `preprocessing`, `chain`, and a `softmax`.

    The added operators belong to no layer. Their names end with a dot, which a layer's name cannot.
    """
    before = _scaling(preprocessing) if preprocessing else []
    # The image's place, -1, becomes that of the last preprocessing operator.
    made = before + [replace(one, inputs=tuple(place + len(before) for place in one.inputs)) for one in chain]
    if softmax:
        made.append(Operator("probabilities.", "Softmax", {"axis": 1}, inputs=(len(made) - 1,)))
    return made


def _scaling(preprocessing: Preprocessing) -> list[Operator]:
    """The operators of uint8 [N,H,W,C] -> (pixel / 255 - mean) / std [N,C,H,W], without steps that do nothing.

    `InputError` for a preprocessing that does more than scale pixels.
    """
    if preprocessing.standardise or preprocessing.permutation is not None:
        what = "standardises every image" if preprocessing.standardise else "permutes the pixels"
        raise InputError(f"the recipe {what}, but a graph can only scale pixels: preprocess outside the graph")
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


SCALED = ("Relu", "MaxPool", "AveragePool", "Flatten")
"""The types of operators that a positive factor can pass: they compute the same if the factor comes before them."""


def fold_batch_norms(chain: list[Operator]) -> list[Operator]:
    """The operators with every batch norm, and every factor of a dropout, multiplied into a convolution or linear layer before it.

    A batch norm needs that layer directly before it. A factor also passes the operators `SCALED`. Without such a layer, both stay. The
    product is computed in float64 and rounded once. A layer without a bias gets one from a batch norm. `InputError` if float32 cannot hold
    the result.
    """
    found: list[Operator] = []
    takers = Counter(place for operator in chain for place in operator.inputs)
    places, exact = {IMAGE: IMAGE}, dict[int, dict[str, Array]]()
    for old, operator in enumerate(chain):
        norm, target = operator.kind == "BatchNormalization", operator.inputs[0]
        while not norm and target != IMAGE and chain[target].kind in SCALED and takers[target] == 1:
            (target,) = chain[target].inputs
        before = found[places[target]] if target != IMAGE and takers[target] == 1 else None
        if before and before.kind in ("Conv", "Gemm") and (norm or _is_factor(operator)):
            place = places[target]
            arrays = exact.get(place) or {name: array.astype(float) for name, array in before.arrays.items()}
            exact[place] = _with_norm(before, arrays, operator) if norm else _with_factor(arrays, operator)
            found[place] = replace(before, arrays={name: _rounded(array) for name, array in exact[place].items()})
            places[old] = places[operator.inputs[0]]
        else:
            places[old] = len(found)
            found.append(replace(operator, inputs=tuple(places[place] for place in operator.inputs)))
    return found


def _is_factor(operator: Operator) -> bool:
    """Whether the operator multiplies by one positive number."""
    return operator.kind == "Mul" and "scale" in operator.arrays and bool(operator.arrays["scale"] > 0)


def _rounded(array: Array) -> Array:
    with np.errstate(all="ignore"):  # numbers that are not finite are refused where they arise
        return array.astype(np.float32)


def _with_factor(arrays: Mapping[str, Array], factor: Operator) -> dict[str, Array]:
    return {name: array * float(factor.arrays["scale"]) for name, array in arrays.items()}


def _with_norm(layer: Operator, arrays: Mapping[str, Array], norm: Operator) -> dict[str, Array]:
    gamma, beta, mean, variance = (norm.arrays[name].astype(float) for name in ("gamma", "beta", "mean", "variance"))
    weight = arrays["weight"]
    with np.errstate(all="ignore"):  # numbers that are not finite are refused below
        factor = gamma / np.sqrt(variance + norm.attributes["epsilon"])
        folded = {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (arrays.get("bias", 0.0) - mean) * factor + beta,
        }
    if not all(np.isfinite(_rounded(array)).all() for array in folded.values()):
        raise InputError(
            f"{norm.layer} cannot be folded: with its smallest variance {variance.min():.3g} and eps "
            f"{norm.attributes['epsilon']:.3g} the weights of {layer.layer} become infinite or NaN; "
            "export without folding batch norms"
        )
    return folded
