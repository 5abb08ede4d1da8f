"""Causes of wrong layers: each mistake, made in numpy in one layer, is named, with the side that made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from parity.arrays import Array
from parity.compare.causes import Cause
from parity.compare.causes_of_layers import likely_cause
from parity.compare.evidence import Evidence
from parity.compare.numpy_layers import kernel_gradient, layer_output, sigmoid
from parity.compare.step_inputs import StepInput
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    Add,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    Node,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
)
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State, initialise

SHAPE = (4, 6, 6)
IMAGES = np.random.default_rng(0).normal(size=(3, *SHAPE))

Mistake = Callable[[Mapping[str, Array]], Array]
"""The wrong output of a layer, from the outputs of the layers before it."""


def network(*nodes: Node) -> Network:
    """A network with a 1x1 convolution `entry`, the `nodes` and the class scores."""
    entry = Conv("entry", 4, 1, padding=0, bias=False)
    return Network("made", SHAPE, (entry, *nodes, GlobalAvgPool("pool"), Linear("scores", 3)))


def outputs_of(net: Network, state: State, layer: str = "", mistake: Mistake | None = None) -> dict[str, Array]:
    """The output of every layer up to `layer`, which makes the `mistake`."""
    found: dict[str, Array] = {}
    for name, where in net.layers.items():
        inputs = [found[source] if source else IMAGES for source in where.sources]
        own = {key.partition(".")[2]: array for key, array in state.items() if key.startswith(f"{name}.")}
        if name == layer:
            found[name] = mistake(found) if mistake else layer_output(where, inputs, own, False)
            return found
        found[name] = layer_output(where, inputs, own, False)
    return found


def cause_of(net: Network, layer: str, mistake: Mistake) -> Cause:
    """The cause that is found if the second side makes the `mistake` in inference."""
    state = initialise(net, 0)
    right, wrong = (outputs_of(net, state, layer, made) for made in (None, mistake))
    records = tuple({f"eval/{name}": array for name, array in side.items()} for side in (right, wrong))
    step = StepInput(1, IMAGES, np.zeros(3, np.int64), {}, 0.1, 3, 1.0)
    asked = (net, Optimizer("momentum", 0.1), state, 0, step, (0.1, 0.1, 0.1))
    found = likely_cause(Evidence(*asked, ("A", "B"), (records[0], records[1]), ({}, {})), f"eval/{layer}")
    assert found
    return found


RESIDUAL = network(
    BatchNorm("norm"),
    ReLU("relu"),
    Add("add", ((Conv("conv", 4), BatchNorm("main")), (Conv("down", 4, 1, padding=0), BatchNorm("down_norm")))),
    Add("again", ((Conv("more", 4),), ())),
)
STRIDED = network(Add("add", ((Conv("conv", 4, stride=2),), (Conv("down", 4, 1, 2, 0),))))
THREE = network(Add("add", ((Conv("one", 4),), (Conv("two", 4),), ())))
GATED = network(
    Multiply("scale", ((), (GlobalAvgPool("squeeze"), Linear("fc", 4), Sigmoid("gate")))),
)
AFTER = network(Add("add", ((Conv("conv", 4),), (ReLU("shortcut"),))))


def vector(outputs: Mapping[str, Array], name: str) -> Array:
    return outputs[name][:, :, None, None]


SUMS: dict[str, tuple[Network, str, Mistake, str]] = {
    "the main path is left out": (RESIDUAL, "add", lambda o: o["down_norm"], "leaves out the output of main"),
    "the shortcut is left out": (RESIDUAL, "again", lambda o: o["more"], "leaves out the output of add"),
    "multiplied": (RESIDUAL, "add", lambda o: o["main"] * o["down_norm"], "multiplies its branches"),
    "subtracted": (RESIDUAL, "add", lambda o: o["main"] - o["down_norm"], "subtracts the output of down_norm"),
    "one of three is left out": (THREE, "add", lambda o: o["one"] + o["entry"], "leaves out the output of two"),
    "one of three is subtracted": (
        THREE,
        "add",
        lambda o: o["one"] + o["two"] - o["entry"],
        "subtracts the output of entry",
    ),
    "averaged": (RESIDUAL, "add", lambda o: (o["main"] + o["down_norm"]) / 2, "averages its branches"),
    "a ReLU at once": (
        RESIDUAL,
        "add",
        lambda o: np.maximum(o["main"] + o["down_norm"], 0),
        "applies a ReLU to its sum",
    ),
    "a ReLU before the sum": (
        RESIDUAL,
        "add",
        lambda o: np.maximum(o["main"], 0) + o["down_norm"],
        "takes the output of main after a ReLU",
    ),
    "before the ReLU": (
        AFTER,
        "add",
        lambda o: o["conv"] + o["entry"],
        "takes the output of entry (the input of shortcut), A's takes the output of shortcut",
    ),
    "without its batch norm": (RESIDUAL, "add", lambda o: o["main"] + o["down"], "takes the output of down, A's takes"),
    "without its downsample": (
        RESIDUAL,
        "add",
        lambda o: o["main"] + o["relu"],
        "takes the output of relu, A's takes the output of down_norm",
    ),
    "the images": (AFTER, "add", lambda o: o["conv"] + IMAGES, "takes the images, A's takes the output of shortcut"),
    "subsampled": (
        STRIDED,
        "add",
        lambda o: o["conv"] + o["entry"][:, :, ::2, ::2],
        "takes every second pixel of the output of entry",
    ),
}

PRODUCTS: dict[str, tuple[Network, str, Mistake, str]] = {
    "added": (GATED, "scale", lambda o: o["entry"] + vector(o, "gate"), "adds its branches"),
    "left out": (GATED, "scale", lambda o: o["entry"], "leaves out the output of gate"),
    "scores": (
        GATED,
        "scale",
        lambda o: o["entry"] * vector(o, "fc"),
        "takes the output of fc (the input of gate), A's takes the output of gate",
    ),
    "one minus": (GATED, "scale", lambda o: o["entry"] * (1 - vector(o, "gate")), "by 1 - the output of gate"),
    "one plus": (GATED, "scale", lambda o: o["entry"] * (1 + vector(o, "gate")), "by 1 + the output of gate"),
    "a hard sigmoid": (
        GATED,
        "scale",
        lambda o: o["entry"] * np.clip(vector(o, "fc") / 6 + 0.5, 0, 1),
        "takes a hard sigmoid (x/6 + 0.5, from 0 to 1) of the output of fc",
    ),
}

PADDED = network(PadChannels("node", 7))
EVEN = network(PadChannels("node", 8, "around"))


def zeros(before: int, after: int) -> Mistake:
    return lambda o: np.pad(o["entry"], ((0, 0), (before, after), (0, 0), (0, 0)))


CHANNELS: dict[str, tuple[Network, str, Mistake, str]] = {
    "before": (PADDED, "node", zeros(3, 0), "pads before the channels of its input, A's pads after them"),
    "around": (PADDED, "node", zeros(1, 2), "pads around"),
    "after": (EVEN, "node", zeros(0, 4), "pads after the channels of its input, A's pads around them"),
    "repeated": (EVEN, "node", lambda o: np.concatenate([o["entry"]] * 2, 1), "repeats the channels"),
    "each repeated": (EVEN, "node", lambda o: np.repeat(o["entry"], 2, 1), "repeats each channel"),
}


def gelu(x: Array) -> Array:
    return x * np.array([(1 + math.erf(value / math.sqrt(2))) / 2 for value in x.flat]).reshape(x.shape)


def of_entry(function: Callable[[Array], Array]) -> Mistake:
    return lambda o: function(o["entry"])


def activation(node: Node, function: Callable[[Array], Array], cause: str) -> tuple[Network, str, Mistake, str]:
    return network(node), "node", of_entry(function), cause


ACTIVATIONS = {
    "SiLU: hardswish": activation(
        SiLU("node"), lambda x: x * np.clip(x + 3, 0, 6) / 6, "a hardswish, x times a hard sigmoid (x/6 + 0.5"
    ),
    "SiLU: ReLU": activation(SiLU("node"), lambda x: np.maximum(x, 0), "is a ReLU"),
    "SiLU: GELU": activation(SiLU("node"), gelu, "is a GELU"),
    "SiLU: steeper": activation(SiLU("node"), lambda x: x * sigmoid(1.702 * x), "sigmoid(1.702 x)"),
    "SiLU: sigmoid": activation(SiLU("node"), sigmoid, "is a sigmoid"),
    "Sigmoid: hard, of both frameworks": activation(
        Sigmoid("node"), lambda x: np.clip(x + 3, 0, 6) / 6, "a hard sigmoid (x/6 + 0.5, from 0 to 1)"
    ),
    "Sigmoid: hard, of ONNX": activation(
        Sigmoid("node"), lambda x: np.clip(0.2 * x + 0.5, 0, 1), "a hard sigmoid (0.2x + 0.5, from 0 to 1)"
    ),
    "Sigmoid: tanh": activation(Sigmoid("node"), np.tanh, "is a tanh"),
    "Sigmoid: 1 - sigmoid": activation(Sigmoid("node"), lambda x: sigmoid(-x), "is 1 - sigmoid(x)"),
    "Sigmoid: ReLU": activation(Sigmoid("node"), lambda x: np.maximum(x, 0), "is a ReLU"),
    "Sigmoid: nothing": activation(Sigmoid("node"), lambda x: x, "returns its input unchanged"),
    "GELU: SiLU": activation(GELU("node"), lambda x: x * sigmoid(x), "is a SiLU"),
    "GELU: ReLU": activation(GELU("node"), lambda x: np.maximum(x, 0), "is a ReLU"),
    "ReLU: GELU": activation(ReLU("node"), gelu, "is a GELU"),
    "ReLU: SiLU": activation(ReLU("node"), lambda x: x * sigmoid(x), "(SiLU)"),
}

SUBSAMPLE = network(AvgPool("node", 1, 2))
WINDOWS: dict[str, tuple[Network, str, Mistake, str]] = {
    "2x2": (
        SUBSAMPLE,
        "node",
        lambda o: o["entry"].reshape(3, 4, 3, 2, 3, 2).mean((3, 5)),
        "has a window of 2x2, A's has one of 1x1",
    ),
    "top left": (
        network(MaxPool("node")),
        "node",
        lambda o: o["entry"][:, :, ::2, ::2],
        "takes the top left pixel, A's takes the maximum",
    ),
}

BRANCHED = network(Branches("join", ((Conv("one", 2),), (Conv("two", 2),), ())))
ORDERED = {
    "branches exchanged": (
        BRANCHED,
        "join",
        lambda o: np.concatenate([o["two"], o["one"], o["entry"]], 1),
        "has its branches in another order",
    )
}

MISTAKES = {
    f"{kind}: {name}": case
    for kind, cases in {
        "sum": SUMS,
        "product": PRODUCTS,
        "channels": CHANNELS,
        "activation": ACTIVATIONS,
        "pool": WINDOWS,
        "branches": ORDERED,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_a_layer_is_named(name: str) -> None:
    net, layer, mistake, cause = MISTAKES[name]
    found = cause_of(net, layer, mistake)
    assert cause in (found.sentence or ""), found.sentence
    assert (found.sentence or "").startswith(f"B's {layer} ")
    assert "; or " not in (found.sentence or "")
    assert (found.wrong, found.generic) == ("B", False)


@pytest.mark.parametrize("name", MISTAKES)
def test_another_mistake_is_not_named(name: str) -> None:
    net, layer, _, _ = MISTAKES[name]
    noise = np.random.default_rng(1).normal(size=(3, *net.shapes[layer]))
    found = cause_of(net, layer, lambda o: noise)
    assert found.sentence == f"B's {layer} does not follow the network, A's does"
    assert (found.wrong, found.generic) == ("B", True)


def test_windows_that_do_not_fit_a_map_are_not_tried() -> None:
    net = network(Conv("whole", 4, 6, padding=0), AvgPool("node", 1, 1))
    found = cause_of(net, "node", lambda o: np.random.default_rng(1).normal(size=o["whole"].shape))
    assert found.sentence == "B's node does not follow the network, A's does"


# Outputs of another shape

CONV, POOL = Conv("node", 4, 3, stride=2, padding=1), MaxPool("node", 2, 2)
CEILED = MaxPool("node", 3, 2, ceil=True)
SHAPES: dict[str, tuple[Node, Node | None, str]] = {
    "stride": (CONV, replace(CONV, stride=1), "has stride 1, A's has stride 2"),
    "padding": (replace(CONV, stride=1), replace(CONV, stride=1, padding=0), "pads by 0, A's pads by 1"),
    "stride of a pool": (POOL, replace(POOL, stride=1), "has stride 1, A's has stride 2"),
    "size of an average": (AvgPool("node", 2, 2), AvgPool("node", 2, 1), "has stride 1"),
    "rounding": (CEILED, replace(CEILED, ceil=False), "rounds the size of its output down"),
    "nothing": (POOL, None, "returns its input unchanged, A's computes a MaxPool"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_mistake_that_changes_a_shape_is_named(name: str) -> None:
    node, wrong, cause = SHAPES[name]
    net = network(node)
    state = initialise(net, 0)
    other = replace(
        net, nodes=tuple(wrong if made is node else made for made in net.nodes if wrong or made is not node)
    )
    wrong_output = outputs_of(other, state)["node"] if wrong else outputs_of(other, state)["entry"]
    found = cause_of(net, "node", lambda o: wrong_output)
    sentence = found.sentence or ""
    assert cause in sentence
    assert sentence.startswith("B's node ")
    assert f"node has shape {list(wrong_output.shape)} in B" in sentence
    assert (found.wrong, found.generic) == ("B", False)


def test_another_shape_without_a_known_mistake_is_only_described() -> None:
    found = cause_of(network(CONV), "node", lambda o: np.ones((3, 4, 6, 6)))
    assert found == Cause("node has shape [3, 4, 6, 6] in B, [3, 4, 3, 3] in A", "B", generic=True)


# Gradients of weights


@pytest.mark.parametrize(
    "node", [Conv("conv", 6, 3, 2, 1, groups=2, bias=False), Conv("conv", 4, 2, padding="same", bias=False)]
)
def test_the_gradient_of_a_kernel_is_the_slope_of_the_convolution(node: Conv) -> None:
    where = network(node).layers["conv"]
    random = np.random.default_rng(2)
    weight = random.normal(size=node.parameters(SHAPE)[0].shape)
    gradient, direction = random.normal(size=(3, *where.output)), random.normal(size=weight.shape)
    made = layer_output(where, [IMAGES], {"weight": direction}, True)  # a convolution is linear in its weight
    expected = float(np.vdot(made, gradient))
    assert np.vdot(kernel_gradient(node, IMAGES, gradient), direction) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_a_gradient_from_an_input_that_a_sum_overwrote_is_named(layer: str) -> None:
    if layer == "conv":
        net = network(Add("add", ((Conv("conv", 4, bias=False), BatchNorm("norm")), ())))
    else:
        hidden = (GlobalAvgPool("mean"), Add("add", ((Linear("fc", 4),), ())), Linear("last", 3))
        net = Network("made", SHAPE, (Conv("entry", 4, 1, padding=0, bias=False), *hidden))
    state = initialise(net, 0)
    outputs = outputs_of(net, state)
    source, node = net.layers[layer].sources[0], net.layers[layer].node
    gradient = np.random.default_rng(3).normal(size=outputs[layer].shape)

    def weight_gradient(x: Array) -> Array:
        return kernel_gradient(node, x, gradient) if isinstance(node, Conv) else gradient.T @ x

    common = {f"forward/{name}": array for name, array in outputs.items()} | {f"backward/{layer}": gradient}
    right, wrong = (common | {f"gradient/{layer}.weight": weight_gradient(outputs[name])} for name in (source, "add"))
    step = StepInput(1, IMAGES, np.zeros(3, np.int64), {}, 0.1, 3, 1.0)
    asked = (net, Optimizer("momentum", 0.1), state, 0, step, (0.1, 0.1, 0.1))
    found = likely_cause(Evidence(*asked, ("A", "B"), (right, wrong), ({}, {})), f"gradient/{layer}.weight")
    assert found == Cause(
        f"B's gradient of {layer}.weight is computed from the output of add, which overwrites that of {source} in place, "
        f"A's from the output of {source}",
        "B",
    )
