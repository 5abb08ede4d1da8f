"""Fixtures of the tests of commands: commands that must be refused, pictures and models for `predict.py`, experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import predict_files
from helpers.experiment_output import RunExperiment
from helpers.framework_process import FrameworkProcess
from helpers.refusals import Refused, refusal
from helpers.scripts import script_main
from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.experiments.remote import Crew

# Training


@pytest.fixture(scope="module")
def shapes10() -> data.Dataset:
    return data.load("shapes10")


@pytest.fixture
def frameworkless_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes10: data.Dataset) -> Path:
    """The working directory. In it no framework can be imported, and shapes10 is not drawn each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(data.DATASETS, "shapes10", lambda data_dir, say: shapes10)
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


@pytest.fixture
def training_refusal(frameworkless_folder: Path, framework: str, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the training command, which must refuse its input; returns what it prints after `error: `."""

    def run(*arguments: object, json_too: bool = True) -> str:
        words = [*arguments, *(["--json"] if json_too else [])]
        return refusal(script_main(f"train_{framework}"), words, frameworkless_folder, capsys)

    return run


# Prediction


@pytest.fixture(scope="module")
def predict_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, ONNX files of the same weights, and pictures of every mode."""
    return predict_files.written(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module")
def predict_answers(predict_folder: Path, processes: dict[str, FrameworkProcess]) -> dict[str, dict[str, Any]]:
    """What each route says of all pictures, as JSON, all ten classes."""
    routes = {
        "paddle": ["--model", predict_folder / "run", "--framework", "paddle"],
        "torch": ["--model", predict_folder / "run" / "last.safetensors", "--framework", "torch"],
        "onnx": ["--model", predict_folder / "logits.onnx"],
        "onnx whole": ["--model", predict_folder / "whole.onnx"],
    }
    found = {}
    for name, arguments in routes.items():
        process = processes["paddle" if name == "paddle" else "torch"]
        ended = process.execute("predict", *arguments, predict_folder / "pictures", "--top", "99", "--json")
        found[name] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture
def predict_json(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The JSON of a call of `predict.py` that must succeed."""

    def call(*arguments: object) -> dict[str, Any]:
        assert predict_files.run(*arguments, "--json") == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


@pytest.fixture
def predict_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs `predict.py` in an empty folder, without any framework; it must refuse. Returns what it prints after `error: `."""
    return predict_files.refusals_in(tmp_path, monkeypatch, capfd)


# Experiments


@pytest.fixture
def run_experiment(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunExperiment:
    """Runs an experiment in the session's workers; returns its JSON and what it said."""
    monkeypatch.setattr(Crew, "worker", lambda crew, framework: workers[framework])

    def run(*arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
        assert script_main("experiment")([*map(str, arguments), "--json", "--threads", "1"]) == code
        told = capsys.readouterr()
        found: dict[str, Any] = json.loads(told.out.splitlines()[-1])
        return found, told.err

    return run
