"""Turns an exporter's bytes into the file that is kept: verify its graph, write it anew, verify that, then run and compare it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from parity.arrays import Array
from parity.compare.noise_model import inference_noise, pooled_noise
from parity.compare.relative_error import Difference, relative_l2
from parity.compare.tolerances import inference_tolerance, pair_tolerance
from parity.data.batches import preprocess
from parity.data.random_streams import stream
from parity.network.network import Network
from parity.network.nodes import GlobalAvgPool, Shape
from parity.onnx import graph_reader, graph_writer, operators, sessions
from parity.onnx.graph_reader import NotTheNetwork
from parity.onnx.operators import Operator
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State

Predict = Callable[[State, Array], Array]
"""(float32 weights, preprocessed float32 images [N,C,H,W]) -> scores [N,K], computed by the framework."""

Outputs = Callable[[State, Array], Mapping[str, Array]]
"""The same arguments -> the output of every layer by name; that of the last layer are the logits."""


def export(raw: bytes, network: Network, state: State, fold: bool = False, **form: Any) -> bytes:
    """The bytes of the file made of what an exporter wrote (`raw`) of `network` with the float32 weights `state`.

    `fold` multiplies batch norms into the layers before them; `form` are further arguments of `parity.onnx.graph_writer.write`.
    `NotTheNetwork` names the layer if the exported graph, or the file made of it, is not the network, bit for bit.
    """
    chain = operators.operators(network, state)
    graph_reader.verify_model(graph_reader.load(raw), network.input_shape, chain)
    if fold:
        chain = operators.fold_batch_norms(chain)
    data: bytes = graph_writer.write(network, chain, **form).SerializeToString()
    try:
        verify_file(data, network, chain, **form)
    except NotTheNetwork as error:
        raise NotTheNetwork(f"the file made of the export is wrong: {error.reason}", error.layer) from None
    return data


def verify_file(
    data: bytes,
    network: Network,
    chain: list[Operator],
    opset: int = graph_writer.DEFAULT_OPSET,
    softmax: bool = False,
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] | None = None,
    any_size: bool = False,
) -> None:
    """Raise `NotTheNetwork` unless a file's bytes hold what `parity.onnx.graph_writer.write` should write for the same arguments."""
    model = graph_reader.load(data)
    takes, yields = graph_writer.input_and_output(network, softmax, preprocessing is not None, any_size)
    if list(model.graph.input) != [takes] or list(model.graph.output) != [yields]:
        raise NotTheNetwork("its input or its output differs from what was asked for")
    if [(entry.domain, entry.version) for entry in model.opset_import] != [("", opset)]:
        raise NotTheNetwork(f"its opset is not {opset}")
    if sorted((entry.key, entry.value) for entry in model.metadata_props) != sorted((metadata or {}).items()):
        raise NotTheNetwork("its metadata differs from what was asked for")
    tensor = takes.type.tensor_type
    sizes = tuple(size.dim_value for size in tensor.shape.dim[1:])
    graph_reader.verify_model(model, sizes, operators.with_ends(chain, preprocessing, softmax), tensor.elem_type)


def extremes(shape: Shape) -> Array:
    """uint8 [4,*shape]: black, white, grey, and one white pixel on black."""
    pictures = np.zeros((4, *shape), np.uint8)
    pictures[1], pictures[2], pictures[3, :, 0, 0] = 255, 128, 255
    return pictures


def check_pictures(shape: Shape) -> Array:
    """uint8 [12,*shape]: eight pictures of noise, then the `extremes`."""
    noise = stream(0, "pictures for checks").integers(0, 256, (8, *shape), np.uint8)
    return np.concatenate([noise, extremes(shape)])


def compared(
    runs: Mapping[str, Callable[[Array], Array]],
    predict: Predict,
    network: Network,
    state: State,
    how: Preprocessing,
    outputs: Outputs,
    softmax: bool = False,
) -> list[Difference]:
    """Compare the framework's scores of `check_pictures`, preprocessed by `how`, with those of each of the `runs`, by name.

    `runs` get the uint8 pictures. Each side may differ by the error that rounding explains (`parity.compare.noise_model`). With `softmax`,
    scores are probabilities.
    """
    pictures = check_pictures(network.input_shape)
    inputs = {"scores": preprocess(pictures, how)}

    def eager(weights: State, images: Mapping[str, Array]) -> dict[str, Array]:
        return {name: predict(weights, array) for name, array in images.items()}

    own = eager(state, inputs)
    pooled = _noise_of_means(network, outputs, state, inputs["scores"], softmax)
    bound = pair_tolerance(inference_tolerance(inference_noise(eager, own, state, inputs)["scores"], pooled))
    return [Difference(name, relative_l2(own["scores"], run(pictures)), bound) for name, run in runs.items()]


def _noise_of_means(network: Network, outputs: Outputs, state: State, images: Array, softmax: bool) -> float:
    """The relative error that the rounding of means of maps leaves in the scores, or with `softmax` in the probabilities."""
    if not any(isinstance(layer.node, GlobalAvgPool) for layer in network.inference.layers.values()):
        return 0.0
    layers = {"": images, **outputs(state, images)}
    found = pooled_noise(network, layers)[network.output]
    # An absolute error of a logit is a relative error of its probability.
    return found * float(np.abs(layers[network.output]).max()) if softmax else found


def scores(model: ModelProto | bytes, pictures: Array, how: Preprocessing, threads: int = 1) -> Array:
    """The scores that ONNX Runtime computes for uint8 pictures [N,C,H,W], preprocessed by `how` unless the graph of `model` does it."""
    opened = sessions.opened(model, threads)
    return opened.run(
        np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)) if opened.takes_pixels else preprocess(pictures, how)
    )
