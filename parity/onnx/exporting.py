"""From an exporter's bytes to the model that is kept: read back, proven to be the network, written anew, run and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from parity.arrays import Array
from parity.compare.noise_model import inference_noise
from parity.compare.relative_error import Difference, relative_l2
from parity.compare.tolerances import inference_tolerance, pair_tolerance
from parity.data.batches import preprocess
from parity.data.random_streams import stream
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.onnx import graph_reader, graph_writer, operators, sessions
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State

Predict = Callable[[State, Array], Array]
"""(float32 weights, preprocessed float32 images [N,C,H,W]) -> scores [N,K], by the framework."""


def export(raw: bytes, network: Network, state: State, fold: bool = False, **written: Any) -> ModelProto:
    """The model of what an exporter wrote (`raw`) of `network` with the float32 weights `state`.

    `fold` multiplies batch norms into the layers before them; `written` are further arguments of `parity.onnx.graph_writer.write`.
    `NotTheNetwork` names the layer where the exported graph is not the network, to the bit.
    """
    chain = operators.operators(network, state)
    graph_reader.prove(graph_reader.read(graph_reader.load(raw), network.input_shape), chain)
    return graph_writer.write(network, operators.folded(chain) if fold else chain, **written)


def extremes(shape: Shape) -> Array:
    """uint8 [4,*shape]: black, white, grey, and one white pixel on black."""
    pictures = np.zeros((4, *shape), np.uint8)
    pictures[1], pictures[2], pictures[3, :, 0, 0] = 255, 128, 255
    return pictures


def check_pictures(shape: Shape) -> Array:
    """uint8 [12,*shape]: eight of noise, then the `extremes`."""
    noise = stream(0, "pictures for checks").integers(0, 256, (8, *shape), np.uint8)
    return np.concatenate([noise, extremes(shape)])


def compared(
    runs: Mapping[str, Callable[[Array], Array]],
    predict: Predict,
    network: Network,
    state: State,
    how: Preprocessing,
) -> list[Difference]:
    """The framework's scores of `check_pictures`, preprocessed by `how`, against those of each of the `runs`, by name.

    `runs` get the uint8 pictures. Both sides may err by what rounding explains (`parity.compare.noise_model`).
    """
    pictures = check_pictures(network.input_shape)
    given = {"scores": preprocess(pictures, how)}

    def eager(weights: State, images: Mapping[str, Array]) -> dict[str, Array]:
        return {name: predict(weights, array) for name, array in images.items()}

    own = eager(state, given)
    bound = pair_tolerance(inference_tolerance(inference_noise(eager, own, state, given)["scores"]))
    return [Difference(name, relative_l2(own["scores"], run(pictures)), bound) for name, run in runs.items()]


def scores(model: ModelProto, pictures: Array, how: Preprocessing, threads: int = 1) -> Array:
    """What ONNX Runtime says of uint8 pictures [N,C,H,W], preprocessed here or in the graph."""
    inside = model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    given = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)) if inside else preprocess(pictures, how)
    return sessions.run(model, given, threads)
