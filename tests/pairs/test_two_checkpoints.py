"""Two finished checkpoints are compared as they are: the weights first, then what the models make of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from helpers.pair_models import HERE, ComparePair
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "input_models_torch.py:Heads", "input_models_paddle.py:Heads"

SIZES = {"boxes": 4, "scores": 4, "help": 3}


def checkpoints(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """The same random weights for both sides."""
    random = np.random.default_rng(seed)
    torch = {f"{name}.weight": random.standard_normal((size, 8)) for name, size in SIZES.items()}
    torch |= {f"{name}.bias": random.standard_normal(size) for name, size in SIZES.items()}
    return {"torch": torch, "paddle": {name: array.T.copy() for name, array in torch.items()}}


def compare(compare_pair: ComparePair, start: dict[str, dict[str, np.ndarray]], **more: Any) -> PairOutcome:
    return compare_pair(TORCH, PADDLE, "4,8", start=start, steps=2, **more)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_checkpoints_are_equal(compare_pair: ComparePair, dtype: str) -> None:
    outcome = compare(compare_pair, checkpoints(), dtype=dtype)
    assert outcome.verdict == "equal", outcome.sentence()
    assert not outcome.differences
    if dtype == "float64":
        assert outcome.stages["eval"].compared == len(checkpoints()["torch"]) + 9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["help.weight", "scores.bias"])
def test_the_first_difference_of_the_weights_is_named(compare_pair: ComparePair, name: str, dtype: str) -> None:
    start = checkpoints()
    start["paddle"][name].flat[1] += 1e-4
    outcome = compare(compare_pair, start, dtype=dtype)
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("start", name)
    if dtype == "float64":
        assert outcome.differences[0].startswith(f"weights of the two files: 1 of 6 arrays, at most {name} with error ")


def test_a_weight_that_no_input_reaches_is_compared(compare_pair: ComparePair) -> None:
    start = checkpoints()
    for side in start.values():
        side["help.bias"] -= 1000  # behind a ReLU that passes nothing
    start["paddle"]["help.weight"].flat[3] *= 2
    outcome = compare(compare_pair, start, stages=("eval",))
    assert outcome.first and outcome.first.tensor == "help.weight"


def test_a_weight_with_another_sign_is_explained(compare_pair: ComparePair) -> None:
    start = checkpoints()
    square = np.random.default_rng(1).standard_normal((4, 8))
    start["torch"]["boxes.weight"], start["paddle"]["boxes.weight"] = square, -square.T
    first = compare(compare_pair, start, stages=("eval",)).first
    assert first and first.tensor == "boxes.weight" and first.cause == "Paddle's boxes.weight is PyTorch's times -1"


def test_prefixes_of_wrappers_are_taken_off(compare_pair: ComparePair) -> None:
    start = checkpoints()
    start["torch"] = {f"module.{name}": array for name, array in start["torch"].items()}
    assert compare(compare_pair, start, stages=("eval",)).verdict == "equal"


def run_command(tmp_path: Path, start: dict[str, dict[str, np.ndarray]], *more: str) -> tuple[dict[str, Any], str]:
    """Return the JSON and the messages of `vgg-parity compare` with safetensors files for both sides."""
    files = []
    for side, arrays in start.items():
        path = tmp_path / f"{side}.safetensors"
        safetensors.numpy.save_file(arrays, path)
        files += [f"--{side}-weights", str(path)]
    models = ("--torch", str(HERE / TORCH), "--paddle", str(HERE / PADDLE), "--input-shape", "4,8")
    command = [sys.executable, "-m", "parity", "compare", *models, *(more or files), "--stages", "eval", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads((done.stdout.splitlines() or ["{}"])[-1]), done.stderr


def test_the_command_reads_both_files(tmp_path: Path) -> None:
    start = checkpoints()
    start["paddle"]["help.bias"] *= 1.001
    found, said = run_command(tmp_path, start)
    assert found["first_divergence"]["tensor"] == "help.bias", said
    assert found["differences"][0].endswith("; the outputs have error 2.5e-04")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--weights", "a.pt", "--paddle-weights", "b.pdparams"), "pass --weights for both models, or"),
        (("--torch-weights", "b.pdparams"), "b.pdparams holds weights of Paddle: pass it with --paddle-weights"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    assert said in run_command(tmp_path, {}, *more)[1]


@pytest.mark.parametrize("name", ["a.pt", "a.pdparams", "a.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(100)))
    said = run_command(tmp_path, {}, f"--{'paddle' if 'pd' in name else 'torch'}-weights", str(tmp_path / name))[1]
    assert said.startswith("error: ") and said.count("\n") == 1 and str(tmp_path / name) in said, said
