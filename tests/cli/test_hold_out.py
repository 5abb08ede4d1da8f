"""`--hold-out N`: a run is tested on training pictures that train nothing, and never sees the test pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.framework_process import FrameworkProcess
from helpers.refusals import EXPERIMENT, saved_run, the_error
from helpers.scripts import script_main
from parity import data
from parity.cli.command import Options
from parity.cli.export import _source
from parity.data import Dataset
from parity.data.lazy_images import Pictures
from parity.errors import InputError
from parity.experiments import STUDIES
from parity.experiments.study import Extent, limited, shortened, trials
from parity.recipe.recipe import Experiment

evaluate = script_main("evaluate")
SIZE = ("--network", "lenet@0.25", "--recipe", "adam", "--data", "shapes10", "--batch-size", 16, "--epochs", 1)


def numbered(count: int = 100) -> Dataset:
    """Return a data set whose labels are the numbers of its pictures; the test pictures are one more."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    test = np.full((1, 1, 2, 2), 255, np.uint8)
    return Dataset("numbered", tuple("ab"), images, np.arange(count), test, np.array([255]))


def test_held_back_pictures_are_tested_and_the_others_train_in_order() -> None:
    whole = numbered()
    held = whole.hold_out(30)
    assert (len(held.train_labels), len(held.test_labels)) == (70, 30)
    assert sorted([*held.train_labels, *held.test_labels]) == list(range(100))
    assert list(held.train_labels) == sorted(held.train_labels), "limits then mean the first of what is left"
    for images, labels in ((held.train_images, held.train_labels), (held.test_images, held.test_labels)):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    assert 3 < (held.test_labels < 50).sum() < 27, "drawn from everywhere: a folder's pictures are sorted by class"
    np.testing.assert_array_equal(held.test_labels, whole.hold_out(30).test_labels)
    assert whole.hold_out(0) is whole


def test_files_are_held_back_without_being_read() -> None:
    files = Pictures([Path(f"{i}.png") for i in range(100)], (1, 2, 2))
    held = replace(numbered(), train_images=files).hold_out(30)
    assert isinstance(held.test_images, Pictures) and isinstance(held.train_images, Pictures)
    assert [str(path) for path in held.test_images.source] == [f"{i}.png" for i in held.test_labels]
    assert len(held.train_images) == 70


@pytest.mark.parametrize("count", [100, 101, -1])
def test_some_pictures_must_be_left_for_training(count: int) -> None:
    with pytest.raises(InputError, match=f"cannot hold back {count} of 100 training images of numbered"):
        numbered().hold_out(count)
    with pytest.raises(InputError, match="hold_out must be at least 0"):
        replace(EXPERIMENT, hold_out=-1)


def test_the_runs_of_an_experiment_hold_pictures_back() -> None:
    study, dataset = STUDIES["ablation"], data.load("shapes10")
    chosen = {entry.name: Extent("shapes10", 1, 40, None, hold_out=50) for entry in study.entries}
    trial = trials(study, chosen, ("torch",), {0: dataset})[0]
    assert trial.experiment.hold_out == 50
    own = limited(trial, {0: dataset})
    np.testing.assert_array_equal(own.test_images, dataset.hold_out(50).test_images)
    assert len(own.train_labels) == 40
    assert "tested on 50 training images, which train nothing" in shortened(study.entries, chosen)[0]


def test_a_run_is_tested_on_what_it_holds_back(process: FrameworkProcess, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = process.train(*SIZE, "--train-limit", 64, "--hold-out", 40, "--output", run)
    assert "Held back: every test uses 40 training images, which train nothing, not the test images" in ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert last.endswith(" on all 40 shapes10 held-back training images after 1 epoch")
    accuracy = last.split()[2]
    config = json.loads((run / "config.json").read_text())["experiment"]
    assert (config["hold_out"], Experiment.from_json(json.dumps(config)).hold_out) == (40, 40)
    for words in (("--resume", run), ("--eval-only", run)):
        assert f"Test accuracy {accuracy} on " in process.train(*words).stdout.splitlines()[-1]
    views = ("--model", str(run), "--framework", "onnx", "--views", "single", "--json")
    assert evaluate([*views, "--split", "held-back", "--report", str(run)]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert (found["pictures"], f"{1 - found['rows'][0]['top1_error']:.2%}") == (40, accuracy)
    assert _source(Options(model=str(run))).accuracy is None, "an ONNX file would name it a test accuracy"
    assert script_main("compare_runs")([str(run), "--output", str(tmp_path / "a.png"), "--json"]) == 0


def test_a_run_that_holds_nothing_back_has_no_such_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved_run(Path("run"))
    assert evaluate(["--model", "run", "--framework", "onnx", "--split", "held-back"]) == 2
    said = the_error(capsys.readouterr().err.splitlines())
    assert said == "run held no pictures of shapes10 back: give --split test, or a run of train --hold-out"
