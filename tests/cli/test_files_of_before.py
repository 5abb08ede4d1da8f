"""Files of an earlier version (November 2026, before the packages were renamed) can still be read: tests/recorded/files."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT, TESTS
from helpers.scripts import script_main
from parity.network.articles import get_network
from parity.network.network import Network
from parity.pairs import state_dict_files
from parity.pairs.map_files import check_whole, read_map
from parity.pairs.model_worker import ModelWorker
from parity.recipe.presets import RECIPES, get_recipe
from parity.report.kept_results import read_pair, read_results
from parity.training.run_folder import RunFolder, read_checkpoint
from parity.weights import canonical_state

FILES = TESTS / "recorded" / "files"
RUNS = ("run-torch", "run-paddle")


@pytest.mark.parametrize(("file", "name"), [("network.json", "vgg_fast@0.125"), ("branching.json", "googlenet_naive")])
def test_a_network_is_the_same_and_is_written_the_same(file: str, name: str) -> None:
    text = (FILES / file).read_text()
    assert Network.from_json(text) == get_network(str(FILES / file)) == get_network(name)
    assert get_network(name).to_json() == text


def test_a_recipe_is_the_same() -> None:
    assert get_recipe(str(FILES / "recipe.json")) == RECIPES["fast"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_is_read_whole(name: str) -> None:
    run = RunFolder.open(FILES / name)
    assert (run.experiment.network.name, run.experiment.recipe.name) == ("lenet@0.25", "adam")
    assert [line["epoch"] for line in run.metrics("pass")] == [0, 1]
    experiment, network, state, metadata = read_checkpoint(FILES / name)
    assert (experiment, network) == (run.experiment, run.experiment.network)
    assert state.keys() == network.parameters.keys()
    assert run.accuracy(metadata) == run.metrics("pass")[-1]["test_accuracy"]


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_resumes_in_both_frameworks(name: str, process: FrameworkProcess, tmp_path: Path) -> None:
    shutil.copytree(FILES / name, tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    assert "nothing is left to train" in process.train("--resume", tmp_path / "run").stdout
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("suffix", [".pdparams", ".pt", ".tar"])
def test_weights_of_every_format_are_those_of_the_run(suffix: str, tmp_path: Path) -> None:
    words = [str(FILES / f"weights{suffix}"), str(tmp_path / "w.safetensors"), "--network", "lenet@0.25"]
    assert script_main("convert_weights")(words) == 0
    _, found, _ = canonical_state.load(tmp_path / "w.safetensors")
    _, network, wanted, _ = read_checkpoint(FILES / "run-torch")
    assert found.keys() == wanted.keys() == network.parameters.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_map_converts_weights_there_and_back(
    pair_workers: dict[str, ModelWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(state_dict_files, "ModelWorker", lambda side: nullcontext(pair_workers[side]))
    check_whole(read_map(FILES / "map.json"))
    there, back = tmp_path / "a.pdparams", tmp_path / "a.pt"
    convert = script_main("convert_weights")
    assert convert([str(FILES / "attention.pt"), str(there), "--map", str(FILES / "map.json")]) == 0
    assert convert([str(there), str(back), "--map", str(FILES / "map.json")]) == 0
    import torch

    first, second = (torch.load(path, weights_only=True) for path in (FILES / "attention.pt", back))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_kept_results_are_read() -> None:
    (result,) = read_results(FILES / "check.json")
    assert (result["network"], result["verdict"]) == ("vgg16_bn_drop@0.125", "equal")
    pairs = sorted((ROOT / "docs" / "pairs").glob("*.json"))
    assert len(pairs) > 15
    assert {read_pair(path)["verdict"] for path in pairs} >= {"equal", "different"}
