"""`predict.py`: the same answer for a picture by every route."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import numpy_network as reference
from helpers.paths import ROOT
from helpers.predict_files import CLOSE, NETWORK, RECIPE, ROUTES, STATE, chances, metadata, onnx_file, run
from helpers.refusals import Refused
from helpers.scripts import script_main
from parity import data
from parity.data import cifar10, image_files
from parity.data.batches import preprocess
from parity.inference import predict
from parity.report import contact_sheet
from parity.weights import canonical_state

main = script_main("predict")


# One answer


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_probabilities_of_the_definition(
    route: str, predict_folder: Path, predict_answers: dict[str, dict[str, Any]]
) -> None:
    answer = predict_answers[route]
    files = image_files.listed([predict_folder / "pictures"])
    assert [p["file"] for p in answer["predictions"]] == list(map(str, files))
    pixels = np.stack([image_files.read(file, NETWORK.input_shape) for file in files])
    logits = reference.outputs(NETWORK, STATE, preprocess(pixels, RECIPE.preprocessing, "float64"))["fc"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(chances(answer) - expected).max() < CLOSE
    assert [p["index"] for p in answer["predictions"]] == expected.argmax(axis=1).tolist()
    assert [p["label"] for p in answer["predictions"]] == [cifar10.CLASSES[i] for i in expected.argmax(axis=1)]
    assert len({p["index"] for p in answer["predictions"]}) > 1, "one label for everything proves nothing"


def test_json_says_what_was_used_and_names_the_classes(
    predict_folder: Path, predict_answers: dict[str, dict[str, Any]]
) -> None:
    assert [predict_answers[route]["route"] for route in ROUTES] == ["paddle", "torch", "onnxruntime", "onnxruntime"]
    for answer in predict_answers.values():
        assert list(answer) == ["model", "route", "network", "classes", "outputs", "bgr", "predictions"]
        assert (answer["network"], answer["bgr"]) == ("for_pictures", False)
        assert tuple(answer["classes"]) == cifar10.CLASSES
        for prediction in answer["predictions"]:
            first = {key: prediction[key] for key in ("label", "index", "probability")}
            assert first == prediction["top"][0]
            found = [entry["probability"] for entry in prediction["top"]]
            assert found == sorted(found, reverse=True)
            assert sum(found) == pytest.approx(1, abs=1e-6)
    assert predict_answers["onnx"]["model"] == str(predict_folder / "logits.onnx")


@pytest.mark.parametrize("file", ["logits.onnx", "whole.onnx"])
def test_bgr_is_the_same_as_a_picture_whose_channels_were_swapped_by_hand(
    file: str, predict_folder: Path, tmp_path: Path, predict_json: Callable[..., dict[str, Any]]
) -> None:
    original, swapped = predict_folder / "pictures" / "colour.png", tmp_path / "swapped.png"
    Image.fromarray(np.asarray(Image.open(original))[..., ::-1].copy()).save(swapped)
    model = ("--model", predict_folder / file, "--top", 10)
    rgb, quirk, by_hand = (
        predict_json(*model, original),
        predict_json(*model, original, "--bgr"),
        predict_json(*model, swapped),
    )
    assert np.array_equal(chances(quirk), chances(by_hand))
    assert np.abs(chances(quirk) - chances(rgb)).max() > 0.001
    assert (quirk["bgr"], rgb["bgr"]) == (True, False)


def test_people_get_the_model_and_a_line_for_each_picture(
    predict_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, picture = predict_folder / "logits.onnx", predict_folder / "pictures" / "colour.png"
    assert run("--model", model, picture, predict_folder / "pictures", "--top", 2) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == (
        f"Model: {model} (for_pictures, trained on cifar10, test accuracy 81.25%), computed by onnxruntime"
    )
    assert len(lines) == 10
    assert lines[0].startswith(f"{picture} ")
    assert [line.count("%") for line in lines] == [2] * 10
    assert len({line.index("%") for line in lines}) == 1, "not in columns"


def test_top_is_cut_to_the_classes_that_there_are(
    predict_folder: Path, predict_json: Callable[..., dict[str, Any]]
) -> None:
    for asked, given in ((1, 1), (3, 3), (10, 10), (11, 10)):
        answer = predict_json("--model", predict_folder / "logits.onnx", predict_folder / "pictures", "--top", asked)
        assert {len(prediction["top"]) for prediction in answer["predictions"]} == {given}


def test_many_pictures_are_computed_in_batches_and_answered_as_one_by_one(predict_folder: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, *NETWORK.input_shape), dtype=np.uint8)
    model = predict.load_predictor(predict_folder / "logits.onnx")
    forward, counts = model.start(), []

    def counted(batch: np.ndarray) -> np.ndarray:
        counts.append(len(batch))
        return forward(batch)

    found = dataclasses.replace(model, start=lambda: counted).probabilities(pixels)
    assert counts == [128, 128, 44]
    one_by_one = np.concatenate([forward(pixels[i : i + 1]) for i in range(300)])
    assert np.abs(found - one_by_one).max() < CLOSE


@pytest.mark.parametrize("batch", [1, 3])
def test_an_onnx_file_of_a_fixed_batch_size_is_filled_up(batch: int, tmp_path: Path, predict_folder: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, *NETWORK.input_shape), dtype=np.uint8)
    expected = predict.load_predictor(predict_folder / "logits.onnx").probabilities(pixels)
    for whole in (False, True):
        fixed = predict.load_predictor(onnx_file(tmp_path / "fixed.onnx", metadata(), whole, batch=batch))
        assert np.abs(fixed.probabilities(pixels) - expected).max() < CLOSE


@pytest.mark.filterwarnings("error")
def test_softmax_neither_overflows_nor_warns() -> None:
    found = predict.softmax(np.array([[1000, 999], [-1000, -1001]], np.float32))
    assert found.dtype == np.float64
    assert np.abs(found - [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]).max() < 1e-15
    assert np.isnan(predict.softmax(np.array([[np.inf, 0]]))).any()


def test_a_grey_network_is_fed_one_plane(predict_folder: Path, tmp_path: Path) -> None:
    state = STATE | {"conv.weight": STATE["conv.weight"][:, :1]}
    model = predict.load_predictor(onnx_file(tmp_path / "grey.onnx", {}, state=state, size=(1, 6, 8)))
    pixels = image_files.read(predict_folder / "pictures" / "large.jpg", model.size)[None]
    assert pixels.shape == (1, 1, 6, 8)
    logits = reference.outputs(NETWORK, state, pixels / 255)["fc"]
    assert np.abs(model.probabilities(pixels) - predict.softmax(logits)).max() < CLOSE


# What a file leaves open


def test_an_onnx_file_without_metadata_numbers_its_classes_and_says_what_was_assumed(
    predict_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_file(tmp_path / "foreign.onnx", {}, output="y")
    assert run("--model", model, predict_folder / "pictures" / "colour.png", "--json") == 0
    stdout, stderr = capsys.readouterr()
    answer = json.loads(stdout)
    assert (answer["network"], answer["classes"]) == (None, [str(i) for i in range(10)])
    for said in (
        "pixel / 255 is used",
        "they are numbered",
        "output y is taken as scores before the softmax (its last operator is Gemm, and its values do not sum to 1)",
    ):
        assert said in stderr
    pixels = image_files.read(predict_folder / "pictures" / "colour.png", NETWORK.input_shape)
    logits = reference.outputs(NETWORK, STATE, pixels[None] / 255)["fc"][0]
    assert answer["predictions"][0]["index"] == logits.argmax()
    assert answer["predictions"][0]["probability"] == pytest.approx(
        np.exp(logits.max()) / np.exp(logits).sum(), abs=CLOSE
    )


def test_weights_without_an_experiment_are_fed_pixels_over_255_and_it_is_said(tmp_path: Path) -> None:
    canonical_state.save(tmp_path / "bare.safetensors", NETWORK, STATE)
    model = predict.load_predictor(tmp_path / "bare.safetensors", "torch")
    assert model.classes == tuple(map(str, range(10)))
    assert [said.partition(".safetensors ")[2] for said in model.notes] == [
        "does not say how its pictures are preprocessed: pixel / 255 is used",
        "does not name its classes: they are numbered",
    ]


def test_the_framework_that_is_installed_computes_paddle_first(
    predict_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"paddle", "torch"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in installed or None)
    assert predict.load_predictor(predict_folder / "run").route == "paddle"
    installed.remove("paddle")
    assert predict.load_predictor(predict_folder / "run").route == "torch"
    assert predict.load_predictor(predict_folder / "run", "paddle").route == "paddle"


def test_without_model_the_one_that_comes_with_the_project_is_used_and_named(
    predict_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(predict.SHIPPED.relative_to(ROOT)) == "parity/inference/models/vgg_mini-small.onnx"
    monkeypatch.setattr("parity.cli.predict.SHIPPED", predict_folder / "logits.onnx")
    assert run(predict_folder / "pictures" / "colour.png") == 0
    assert capsys.readouterr().out.startswith("Model: logits.onnx, which comes with the project (for_pictures, ")


def test_scores_that_are_no_numbers_fail_with_1(
    predict_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = STATE | {"fc.bias": np.full(10, np.nan, np.float32)}
    model = onnx_file(tmp_path / "diverged.onnx", metadata(), state=state)
    assert run("--model", model, predict_folder / "pictures", "--json") == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("failed: ") and "its weights have diverged" in stderr


def test_every_data_set_has_its_class_names() -> None:
    assert list(data.CLASSES) == list(data.DATASETS)
    assert all(len(set(names)) == len(names) == 10 for names in data.CLASSES.values())


# The contact sheet


def test_the_sheet_holds_every_picture_as_the_network_saw_it(
    predict_folder: Path, tmp_path: Path, predict_json: Callable[..., dict[str, Any]]
) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    call = ("--model", predict_folder / "logits.onnx", predict_folder / "pictures", "--show", sheet)
    predict_json(*call)
    with Image.open(sheet) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.size == contact_sheet.size(9) == (20 + 5 * 276, 84 + 2 * (_height() + 20))
        drawn = np.asarray(picture)
    files = image_files.listed([predict_folder / "pictures"])
    for i, file in enumerate(files):
        seen = image_files.read(file, NETWORK.input_shape).transpose(1, 2, 0)
        row, column = divmod(i, 5)
        left = 20 + column * 276 + 16
        top = 84 + row * (_height() + 20) + 16 + (224 - 6 * 28) // 2
        box = drawn[top : top + 6 * 28, left : left + 8 * 28]
        assert np.array_equal(box, seen.repeat(28, axis=0).repeat(28, axis=1)), file
    predict_json(*call, "--bgr")  # overwrites an older sheet
    with Image.open(sheet) as picture:
        again = np.asarray(picture)
    top = 84 + 16 + 28
    assert np.array_equal(again[top : top + 168, 36:260], drawn[top : top + 168, 36:260, ::-1])
    assert [path.name for path in sheet.parent.iterdir()] == ["sheet.png"]


def _height() -> int:
    return contact_sheet.size(1)[1] - 84 - 20


def test_bars_are_as_long_as_the_probabilities(tmp_path: Path) -> None:
    top = [{"label": name, "index": i, "probability": p} for i, (name, p) in enumerate((("a", 0.75), ("b", 0.25)))]
    prediction = {"file": "x.png", **top[0], "top": top}
    contact_sheet.write(tmp_path / "a.png", "t", "s", np.zeros((1, 3, 8, 8), np.uint8), [prediction])
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    lengths = [
        max((drawn == np.array(list(bytes.fromhex(colour[1:])), np.uint8)).all(axis=2).sum(axis=1))
        for colour in (contact_sheet.FIRST, contact_sheet.OTHER)
    ]
    assert lengths[0] / lengths[1] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 224, 224), (3, 500, 20), (3, 1, 1)])
@pytest.mark.parametrize("count", [1, 7])
def test_a_sheet_can_be_drawn_of_any_picture_name_and_label(shape: tuple[int, ...], count: int, tmp_path: Path) -> None:
    names = ("", "x" * 5000, "two\nlines", "$a$ \\frac", "\udcff\x1b[2J", "图片.png")
    for name in names:
        top = [{"label": name, "index": 0, "probability": 1.0}]
        prediction = {"file": f"{name}.png", **top[0], "top": top}
        pixels = np.zeros((count, *shape), np.uint8)
        contact_sheet.write(tmp_path / "a.png", name, name, pixels, [prediction] * count)
        assert Image.open(tmp_path / "a.png").size == contact_sheet.size(count)


def test_a_file_that_is_no_sheet_of_ours_is_never_overwritten(predict_folder: Path, predict_refusal: Refused) -> None:
    picture, model = Path("photo.png"), ("--model", predict_folder / "logits.onnx")
    Image.new("RGB", (9, 9)).save(picture)
    Path("text.png").write_text("kept")
    Path("folder.png").mkdir()
    for name in ("photo.png", "text.png", "folder.png"):
        message = predict_refusal(*model, predict_folder / "pictures", "--show", name)
        assert message == f"--output {name} exists and is not a contact sheet: choose another name"
    assert "is one of the pictures" in predict_refusal(*model, picture, "--show", picture.absolute())
    Path("loop.png").symlink_to("loop.png")
    assert "exists and is not a contact sheet" in predict_refusal(*model, picture, "--show", "loop.png")
    assert "cannot read loop.png" in predict_refusal(*model, "loop.png", "--show", "sheet.png")
    assert "ends in .png" in predict_refusal(*model, picture, "--show", "sheet.jpg")
    assert "at most 500 pictures, not 501" in predict_refusal(*model, *[picture] * 501, "--show", "sheet.png")


def test_a_result_is_printed_though_its_sheet_cannot_be_written(
    predict_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("kept")
    for name in (f"{'x' * 300}.png", "text.png/sheet.png"):
        words = [
            str(predict_folder / "pictures"),
            "--model",
            str(predict_folder / "logits.onnx"),
            "--show",
            str(tmp_path / name),
        ]
        assert main(words) == 2
        stdout, stderr = capsys.readouterr()
        assert len(stdout.splitlines()) > 1
        assert stderr.startswith("error: cannot write")
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]
