"""Models and pictures for the tests of `predict.py`, and calls of it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers.refusals import Output, Refused, refusal, saved_run
from helpers.scripts import script_main
from parity.backend.registry import FRAMEWORKS
from parity.data import cifar10
from parity.network.network import Network
from parity.network.nodes import Conv, Flatten, Linear, ReLU
from parity.recipe import presets
from parity.recipe.recipe import Experiment
from parity.weights.canonical_state import State, initialise

main = script_main("predict")

RECIPE = presets.get_recipe("quick")
NETWORK = Network(
    "for_pictures",
    (3, 6, 8),
    (Conv("conv", 4), ReLU("relu"), Flatten("flatten"), Linear("fc", 10)),
    "made for the tests",
)
EXPERIMENT = Experiment(NETWORK, RECIPE, "cifar10", 0)
STATE = initialise(NETWORK, 0)
ROUTES = ("paddle", "torch", "onnx", "onnx whole")
CLOSE = 1e-5


def metadata(**changes: str) -> dict[str, str]:
    """Metadata that the exporter writes."""
    return {
        "network": NETWORK.to_json(),
        "network_sha256": NETWORK.digest,
        "framework": "torch",
        "versions": json.dumps({"torch": "2"}),
        "recipe": json.dumps(dataclasses.asdict(RECIPE)),
        "classes": json.dumps(cifar10.CLASSES),
        "test_accuracy": repr(0.8125),
        "data": "cifar10",
    } | changes


def onnx_file(
    path: Path,
    told: dict[str, str],
    whole: bool = False,
    output: str = "logits",
    batch: int | str = "N",
    state: State = STATE,
    size: tuple[int | str, ...] = NETWORK.input_shape,
) -> Path:
    """`NETWORK` as an ONNX file; with `whole` it takes uint8 [N,H,W,C] and preprocesses in the graph."""
    arrays = dict(state)
    shape, kind = [batch, *size], TensorProto.FLOAT
    nodes, pixels = [], "image"
    if whole:
        shape, kind = [batch, *size[1:], size[0]], TensorProto.UINT8
        statistics = RECIPE.preprocessing
        arrays |= {
            "scale": np.array(255 * np.array(statistics.std), np.float32),
            "shift": np.array(255 * np.array(statistics.mean), np.float32),
        }
        nodes = [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["floats", "shift"], ["shifted"]),
            helper.make_node("Div", ["shifted", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        ]
        pixels = "planes"
    nodes += [
        helper.make_node("Conv", [pixels, "conv.weight", "conv.bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flatten"]),
        helper.make_node("Gemm", ["flatten", "fc.weight", "fc.bias"], ["scores"], transB=1),
        helper.make_node("Softmax" if output == "probabilities" else "Identity", ["scores"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, told)
    onnx.save(model, path)
    return path


def run(*arguments: object) -> int:
    return main(list(map(str, arguments)))


def chances(answer: dict[str, Any]) -> np.ndarray:
    """The probabilities [N,K], in the order of the classes."""
    rows = [{e["index"]: e["probability"] for e in prediction["top"]} for prediction in answer["predictions"]]
    return np.array([[row[i] for i in range(len(answer["classes"]))] for row in rows])


def written(folder: Path) -> Path:
    """Write a run, ONNX files of the same weights and pictures of every mode into `folder`. Return it."""
    saved_run(folder / "run", EXPERIMENT)
    onnx_file(folder / "logits.onnx", metadata())
    onnx_file(folder / "whole.onnx", metadata(), whole=True, output="probabilities")
    pictures = folder / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    large = Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(pictures / "colour.png")
    large.save(pictures / "large.jpg", exif=exif)
    large.convert("P").save(pictures / "palette.gif")
    large.convert("L").save(pictures / "grey.png")
    large.convert("CMYK").save(pictures / "cmyk.jpg")
    large.convert("1").save(pictures / "bits.png")
    large.convert("LA").save(pictures / "grey alpha.png")
    Image.merge("RGBA", [*large.split(), large.convert("L")]).save(pictures / "alpha.png")
    Image.fromarray(random.integers(0, 65536, (20, 20), dtype=np.uint16)).save(pictures / "sixteen bits.png")
    return folder


def refusals_in(folder: Path, monkeypatch: pytest.MonkeyPatch, output: Output) -> Refused:
    """Return a function that runs the command in `folder`, where it must refuse. From now on, no framework can be imported."""
    monkeypatch.chdir(folder)
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)

    def call(*arguments: object, json_too: bool = True) -> str:
        return refusal(main, [*arguments, *(["--json"] if json_too else [])], folder, output)

    return call
