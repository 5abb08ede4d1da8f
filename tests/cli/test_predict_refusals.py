"""`predict.py`: bad pictures, flags and models end with 2 and one line, and nothing is written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.paths import ROOT
from helpers.predict_files import EXPERIMENT, NETWORK, STATE, metadata, onnx_file
from helpers.refusals import Refused, saved_run, the_error
from parity.data import cifar10
from parity.network.network import Network
from parity.network.nodes import Flatten, Linear
from parity.weights import canonical_state
from parity.weights.canonical_state import initialise


def test_one_bad_picture_among_many_is_named_before_anything_is_written(
    predict_folder: Path, predict_refusal: Refused
) -> None:
    Path("bad.png").write_text("text")
    for model in ("logits.onnx", "run"):
        for json_too in (True, False):
            framework = ["--framework", "torch"] if model == "run" else []
            message = predict_refusal(
                *(
                    "--model",
                    predict_folder / model,
                    *framework,
                    predict_folder / "pictures",
                    "bad.png",
                    "--show",
                    "sheet.png",
                ),
                json_too=json_too,
            )
            assert message.startswith("bad.png is not a picture")
    assert "none.png: No such file" in predict_refusal(
        "--model", predict_folder / "logits.onnx", predict_folder / "pictures", "none.png"
    )
    Path("empty").mkdir()
    assert "empty holds no pictures" in predict_refusal("--model", predict_folder / "logits.onnx", "empty")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "IMAGE"),
        (("a.png", "--top", "0"), "--top"),
        (("a.png", "--top", "many"), "--top"),
        (("a.png", "--framework", "jax"), "--framework"),
        (("a.png", "--sho", "--model"), "--"),
    ],
)
def test_bad_flags_are_named(arguments: tuple[str, ...], said: str, predict_refusal: Refused) -> None:
    message = predict_refusal(*arguments)
    assert said in message
    assert "--help" in message


def test_a_flag_that_means_nothing_there_is_refused(predict_folder: Path, predict_refusal: Refused) -> None:
    picture = predict_folder / "pictures" / "colour.png"
    message = predict_refusal("--model", predict_folder / "logits.onnx", "--framework", "torch", picture)
    assert message.startswith("--framework cannot be given with ") and "onnxruntime computes ONNX files" in message
    grey = Network("grey", (1, 4, 4), (Flatten("flatten"), Linear("fc", 10)))
    canonical_state.save(Path("grey.safetensors"), grey, initialise(grey, 0))
    message = predict_refusal("--model", "grey.safetensors", "--framework", "torch", "--bgr", picture)
    assert message.startswith("--bgr needs colour pictures")


def test_a_missing_model_is_named_with_the_way_out(
    predict_folder: Path, predict_refusal: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = predict_folder / "pictures" / "colour.png"
    for name in ("none.onnx", "none.safetensors", "none"):
        assert f"cannot read {name}: No such file" in predict_refusal("--model", name, picture)
    for suffix in (".onnx", ".safetensors", ""):
        assert "File name too long" in predict_refusal("--model", "x" * 300 + suffix, picture)
    Path("folder.onnx").mkdir()
    assert "cannot read folder.onnx" in predict_refusal("--model", "folder.onnx", picture)
    monkeypatch.setattr("parity.cli.predict.SHIPPED", Path("shipped.onnx"))
    assert "shipped.onnx, which comes with the project, is missing: give a model with --model" in predict_refusal(
        picture
    )


def test_a_file_of_another_kind_is_no_model(predict_folder: Path, predict_refusal: Refused) -> None:
    whole = (predict_folder / "logits.onnx").read_bytes()
    picture = predict_folder / "pictures" / "colour.png"
    for name, content, said in (
        ("a.onnx", b"", "not an ONNX file"),
        ("a.onnx", b"text", "not an ONNX file"),
        ("a.onnx", whole[: len(whole) // 2], "not an ONNX file"),
        ("a.onnx", picture.read_bytes(), "not an ONNX file"),
        ("a.onnx", whole.replace(b"airplane", b"airpl\xffne"), "holds names that are not UTF-8"),
        ("a.safetensors", b"text", "not a whole safetensors file"),
        ("a.safetensors", whole, "not a whole safetensors file"),
        ("a.pt", b"PK", "is not a model: give a run folder, a .safetensors file or a .onnx file"),
        ("a.png", picture.read_bytes(), "is not a model"),
    ):
        Path(name).write_bytes(content)
        message = predict_refusal("--model", name, picture)
        assert name in message
        assert said in message, message
    Path("folder").mkdir()
    assert "holds no last.safetensors" in predict_refusal("--model", "folder", picture)


def test_a_model_of_other_classes_is_refused_by_every_route(predict_folder: Path, predict_refusal: Refused) -> None:
    picture = predict_folder / "pictures" / "colour.png"
    onnx_file(Path("nine.onnx"), metadata(classes=json.dumps(cifar10.CLASSES[:9])))
    assert "has 10 scores, but names 9 classes" in predict_refusal("--model", "nine.onnx", picture)
    five = Network("five", (3, 4, 4), (Flatten("flatten"), Linear("fc", 5)))
    saved_run(Path("five"), dataclasses.replace(EXPERIMENT, network=five))
    message = predict_refusal("--model", "five", "--framework", "torch", picture)
    assert "has 5 scores, but names 10 classes" in message


OTHER = dataclasses.replace(NETWORK, input_shape=(3, 8, 6))
GREY_RECIPE = json.dumps(json.loads(metadata()["recipe"]) | {"preprocessing": {"mean": [0.5], "std": [0.5]}})
BAD_METADATA = {
    "network that is no JSON": ({"network": "{"}, "network JSON"),
    "network of another size": (
        {"network": OTHER.to_json(), "network_sha256": OTHER.digest},
        "its graph does not belong to",
    ),
    "network that was changed": ({"network_sha256": "0" * 64}, "its graph does not belong to"),
    "network nested too deep": ({"network": "[" * 100_000}, "network JSON"),
    "recipe that is no JSON": ({"recipe": "no"}, "recipe JSON"),
    "recipe with an unknown field": ({"recipe": '{"colour": 1}'}, "recipe: unknown field 'colour'"),
    "recipe of another count of channels": ({"recipe": GREY_RECIPE}, "its preprocessing is for 1 channels"),
    "classes that are no JSON": ({"classes": "cat, dog"}, "classes JSON"),
    "classes that are no names": ({"classes": "[1, 2]"}, "expected a list of names"),
    "classes nested too deep": ({"classes": "[" * 100_000}, "take another copy"),
}


@pytest.mark.parametrize("kind", BAD_METADATA)
def test_metadata_that_does_not_fit_is_refused(kind: str, predict_folder: Path, predict_refusal: Refused) -> None:
    changes, said = BAD_METADATA[kind]
    onnx_file(Path("a.onnx"), metadata(**changes))
    message = predict_refusal("--model", "a.onnx", predict_folder / "pictures" / "colour.png")
    assert "a.onnx" in message
    assert said in message


def test_an_onnx_file_that_takes_no_pictures_of_a_fixed_size_is_refused(
    predict_folder: Path, predict_refusal: Refused
) -> None:
    picture = predict_folder / "pictures" / "colour.png"
    onnx_file(Path("a.onnx"), {}, size=(3, "height", "width"))
    assert "image tensor(float) ['N', 3, 'height', 'width'], expected one input" in predict_refusal(
        "--model", "a.onnx", picture
    )
    four = np.zeros((4, 4, 3, 3), np.float32)
    onnx_file(Path("a.onnx"), {}, size=(4, 6, 8), state=STATE | {"conv.weight": four})
    assert "takes inputs of (4, 6, 8)" in predict_refusal("--model", "a.onnx", picture)
    onnx_file(Path("a.onnx"), {}, size=(3, 6, 9))
    assert "onnxruntime c" in predict_refusal("--model", "a.onnx", picture)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, 6, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "a.onnx")
    assert "output logits is not a row of scores" in predict_refusal("--model", "a.onnx", picture)


def test_the_script_refuses_in_one_line(tmp_path: Path, predict_folder: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    command = [
        sys.executable,
        "scripts/predict.py",
        "--model",
        f"{predict_folder / 'logits.onnx'}",
        f"{tmp_path / 'a.png'}",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is not a picture" in the_error(ended.stderr.splitlines())
