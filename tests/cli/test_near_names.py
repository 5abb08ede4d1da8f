"""A missing word comes with a command line that works. An unknown name comes with the nearest known one."""

from __future__ import annotations

import pytest

from helpers.scripts import script_main
from parity.cli.main import main
from parity.errors import suggest

MISSING = {
    "bench": "missing argument 'train|infer|accuracy|growth'. "
    "Choose from: train, infer, accuracy, growth; for example: vgg-parity bench train (",
    "predict": "missing argument 'IMAGE...'; for example: vgg-parity predict cat.png holiday/ (",
    "convert a.tar": "missing argument 'DST'; for example: vgg-parity convert params_pass_199.tar vgg.safetensors (",
    "export": "missing option '--model'; for example: vgg-parity export --model runs/RUN --output vgg.onnx (",
    "pairs": "missing argument 'NAME[,NAME...]|all'; for example: vgg-parity pairs resnet18,vgg16 (",
    "experiment": "timing; for example: vgg-parity experiment permutation (",
    "describe vgg_d": "got unexpected extra argument (vgg_d); for example: vgg-parity describe --network vgg_a,",
    "predict a.png --model --bgr": "option '--model' requires a value (see vgg-parity predict --help)",
}

NEAR = {
    "trian": "no such command 'trian'; did you mean train (",
    "Predict a.png": "no such command 'Predict'; did you mean predict (",
    "predict --modle a": "no such option '--modle'; did you mean --model (",
    "selftest --only x": "no such option '--only' (",
    "bench trian": "'trian' is not one of 'train', 'infer', 'accuracy', 'growth'; did you mean train (",
    "experiment ablatoin": "did you mean ablation (",
    "predict --framework torhc a.png": "--framework: 'torhc' is not one of 'paddle', 'torch'; did you mean torch (",
    "bench train --frameworks padle": "--frameworks: 'padle' is not one of paddle, torch for train; did you mean paddle",
    "train --network vgg_minni@0.16": "unknown network 'vgg_minni'; did you mean vgg_mini;",
    "train --network VGG_D": "unknown network 'VGG_D'; did you mean vgg_d;",
    "export --model vgg_minni --output a.onnx": "did you mean vgg_mini;",
    "train --recipe Qick": "unknown recipe 'Qick'; did you mean quick;",
    "train --data CIFAR-10": "or folder:DIR; did you mean cifar10",
    "evaluate --data shape10": "did you mean shapes10",
    "evaluate --views singel": "--views 'singel' is none of single, flip, crops, dense, dense+crops; did you mean single",
    "check --stages foward": "unknown stage 'foward'; did you mean forward;",
    "pairs resnet81": "unknown pair 'resnet81'; did you mean resnet18;",
}


@pytest.mark.parametrize("line", [*MISSING, *NEAR])
def test_the_message_says_what_to_type(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert (MISSING | NEAR)[line] in err


def test_a_script_is_named_in_its_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["scripts/bench.py"])
    assert script_main("bench")([]) == 2
    assert "; for example: python scripts/bench.py train (" in capsys.readouterr().err


def test_names_are_near_whatever_their_case_and_dashes() -> None:
    assert suggest("CIFAR-10", ["shapes10", "cifar10"]) == "; did you mean cifar10"
    assert suggest("--only", ["--json", "--report"]) == ""
    assert suggest("--Modle", ["--model", "--report"]) == "; did you mean --model"
