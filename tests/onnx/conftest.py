"""Fixtures of the tests of ONNX files: pictures and models for `predict.py`, and calls of it that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import predict_files
from helpers.refusals import Refused


@pytest.fixture(scope="module")
def predict_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, ONNX files of the same weights, and pictures of every mode."""
    return predict_files.written(tmp_path_factory.mktemp("predict"))


@pytest.fixture
def predict_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run `predict.py` in an empty folder, without any framework; it must refuse. Return what it prints after `error: `."""
    return predict_files.refusals_in(tmp_path, monkeypatch, capfd)
