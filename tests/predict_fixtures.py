"""Pictures, models and calls of `predict.py`. A test module asks for these with `pytest_plugins = ["predict_fixtures"]`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from predict_files import EXPERIMENT, ROOT, metadata, onnx_file, run
from refusals import Refused, contents, saved_run, the_error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, ONNX files of the same weights, and pictures of every mode."""
    folder = tmp_path_factory.mktemp("predict")
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


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, dict[str, Any]]:
    """What each route says of all pictures, as JSON, all ten classes."""
    routes = {
        "paddle": ["--model", place / "run", "--framework", "paddle"],
        "torch": ["--model", place / "run" / "last.safetensors", "--framework", "torch"],
        "onnx": ["--model", place / "logits.onnx"],
        "onnx whole": ["--model", place / "whole.onnx"],
    }
    found = {}
    for name, arguments in routes.items():
        command = [sys.executable, "scripts/predict.py", *map(str, arguments), f"{place / 'pictures'}", "--top", "99"]
        ended = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
        found[name] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture
def predicted(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The JSON of a call that must succeed."""

    def call(*arguments: object) -> dict[str, Any]:
        assert run(*arguments, "--json") == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Runs the command in an empty folder without any framework; it must refuse and write nothing. Returns its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "paddle", None)
    monkeypatch.setitem(sys.modules, "torch", None)

    def call(*arguments: object, json_too: bool = True) -> str:
        before = contents(tmp_path)
        try:
            code = run(*arguments, *(["--json"] if json_too else []))
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
        stdout, stderr = capfd.readouterr()
        assert (code, stdout) == (2, "")
        assert contents(tmp_path) == before
        return the_error(stderr.splitlines())

    return call
