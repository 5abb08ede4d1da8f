"""Rows of `vgg-parity pairs` for libraries with environments of their own, one an architecture, in the real libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from parity.cli.pairs import main as pairs
from parity.pairs.factories import library_version
from parity.pairs.library_environments import LOCKED, environments_folder, find_interpreter
from parity.pairs.library_pairs import PAIRS

SCRIPT = ROOT / "scripts" / "library_environments.py"
FILES = ROOT / "scripts" / "environments"

ROWS = {
    "bert": "padding idx of Embedding",
    "ernie": "",
    "gpt2": "",
    "t5-set-right": "",
    "llama": "computes in float32, at layers.0.self_attn after layers.0.self_attn.rotary_emb",
    "unet-set-right": "",
    "deit": "",
    "swin-set-right": "",
    "pp_hgnetv2": "padding of MaxPool2d: PyTorch 0, Paddle SAME at stem.pool",
    "pp_lcnet": "dropout in training: PyTorch drops nothing, Paddle drops at dropout",
}
"""Pair -> a part of what differs, "" where the models are equal."""


@pytest.fixture(scope="module")
def environments() -> None:
    """All environments, made where they are missing; an error where that fails, such as without a network."""
    subprocess.run([sys.executable, SCRIPT, "all"], check=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("environments")
@pytest.mark.parametrize("name", ROWS)
def test_a_pair_of_libraries_is_equal_or_has_its_known_difference(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pairs([name, "--steps", "2", "--report", str(tmp_path)]) == 0, capsys.readouterr().err
    row = json.loads((tmp_path / f"{name}.json").read_text())
    cause = (row["first_divergence"] or {}).get("cause") or ""
    said = " ".join([*row["differences"], cause])
    if ROWS[name]:
        assert (row["verdict"], ROWS[name] in said) == ("different", True), said
    else:
        assert row["verdict"] in ("equal", "chaotic but equal"), row["sentence"]


def test_every_environment_of_a_pair_has_a_locked_file() -> None:
    locked = {file.stem: file.read_text() for file in FILES.glob("*.txt")}
    assert {name for pair in PAIRS.values() for name in pair.environments if name} == set(locked)
    for text in locked.values():
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines)


def test_a_missing_environment_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs(["bert", "--environments", str(tmp_path)]) == 2
    line = capsys.readouterr().err.strip()
    assert line == (
        f"error: there is no environment torch in {tmp_path}: make it with python scripts/library_environments.py torch {tmp_path}"
    )


def test_an_environment_counts_once_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_PARITY_CACHE", str(tmp_path))
    folder = environments_folder() / "torch"
    folder.mkdir(parents=True)
    (folder / LOCKED).write_text((FILES / "torch.txt").read_text())
    assert find_interpreter("torch", environments_folder()).parts[-3] == "torch"
    done = subprocess.run([sys.executable, SCRIPT, "torch"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder} is there\n"


def test_a_folder_that_is_no_environment_is_kept(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "own.txt").write_text("own work")
    done = subprocess.run([sys.executable, SCRIPT, "torch", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'torch'} exists and is no environment: pass another folder\n"
    assert (tmp_path / "torch" / "own.txt").read_text() == "own work"


def test_the_version_of_a_library_is_that_of_an_installed_package() -> None:
    assert list(library_version("pytest:Class")) == ["pytest"]
    assert library_version("./pytest.py:Class") == library_version("pytest.py:Class") == {}
