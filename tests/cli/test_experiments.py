"""`scripts/experiment.py`: tables, pictures and JSON of shortened experiments; resuming; bad input is one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers.experiment_output import RunExperiment, assert_drawn, table_rows
from helpers.paths import ROOT
from helpers.scripts import script_main
from helpers.training_runs import PATIENCE, bits, command_in, metrics, position, wait_for
from parity import data
from parity.cli import experiment
from parity.data import Dataset, mnist
from parity.experiments import EXPERIMENTS, STUDIES, redraw
from parity.experiments.study import Report, shortened
from parity.experiments.timing import TIMING
from parity.training.run_folder import RunFolder

main = script_main("experiment")

once = cache(mnist.load10k)


@pytest.fixture(autouse=True)
def digits_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding the 10,000 digits takes seconds."""
    monkeypatch.setitem(data.DATASETS, "mnist10k", once)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments with small cousins of their large networks."""
    large = ("vgg_mini", "alexnet_cifar")
    for name, study in STUDIES.items():
        entries = tuple(replace(e, network=e.network.shrink(0.125)) if e.name in large else e for e in study.entries)
        monkeypatch.setitem(STUDIES, name, replace(study, entries=entries))
    monkeypatch.setattr(experiment, "TIMING", replace(TIMING, network="tf_vgg16@0.125"))


# The experiments


def test_permutation_trains_both_networks_on_both_pixel_orders_in_both_frameworks(
    run_experiment: RunExperiment, tmp_path: Path
) -> None:
    less = ("--seeds", 2, "--epochs", 1, "--train-limit", 130, "--test-limit", 50)
    found, said = run_experiment("permutation", *less, "--out", tmp_path)
    assert [row[:2] for row in table_rows(tmp_path, "network")] == [
        ["mnist_fc", "PaddlePaddle"],
        ["mnist_fc", "PyTorch"],
        ["mnist_cnn", "PaddlePaddle"],
        ["mnist_cnn", "PyTorch"],
    ]
    assert all(" ± " in cell for row in table_rows(tmp_path, "network") for cell in row[2:])
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert len(found["rows"]) == 16 and all(row["test_images"] == 50 for row in found["rows"])
    first, *_ = found["changes"]
    accuracies = {(r["entry"], r["framework"], r["seed"]): r["test_accuracy"] for r in found["rows"]}
    assert first["plain"] == [accuracies["fc", "paddle", seed] for seed in range(2)]
    assert first["change_points"] == [
        100 * (accuracies["fc_permuted", "paddle", seed] - accuracies["fc", "paddle", seed]) for seed in range(2)
    ]
    assert "Not judged" in said
    assert "Against the article: all runs: data set mnist10k instead of mnist, " in said
    assert "the first 130 training images instead of all" in said
    assert "To train: 16 of 16 runs, about " in said
    assert_drawn(tmp_path / "digits.png", 1000, 400)
    assert_drawn(tmp_path / "accuracy.png", 1000, 350)
    streams = {metrics(tmp_path / "runs" / f"torch-fc-{seed}")[-1]["stream"] for seed in range(2)}
    assert len(streams) == 2, "both seeds saw the same batches"
    for seed in range(2):
        both = [metrics(tmp_path / "runs" / f"{side}-cnn_permuted-{seed}")[-1] for side in ("paddle", "torch")]
        assert both[0]["stream"] == both[1]["stream"], "the frameworks saw different batches"


def test_cifar_ends_with_eight_labelled_pictures_and_accuracies_class_by_class(
    run_experiment: RunExperiment, small: None, tmp_path: Path
) -> None:
    less = ("--data", "shapes10", "--epochs", 2, "--train-limit", 32, "--test-limit", 40)
    found, said = run_experiment("cifar", *less, "--out", tmp_path)
    dataset = data.load("shapes10").limit(32, 40)
    for name in ("cifar_net", "vgg_mini"):
        rows = {row["framework"]: row for row in found["rows"] if row["entry"] == name}
        for framework, told in (("paddle", "PaddlePaddle"), ("torch", "PyTorch")):
            kept = json.loads((tmp_path / "runs" / f"{framework}-{name}-0" / "predicted.json").read_text())["labels"]
            right = np.array(kept) == dataset.test_labels
            assert right.mean() == pytest.approx(rows[framework]["test_accuracy"]), "other weights than those tested"
            classes = found["classes"][f"{name}, {told}"]
            for label, share in enumerate(classes):
                own = right[dataset.test_labels == label]
                assert share == (pytest.approx(own.mean()) if len(own) else None)
            shown = found["pictures"]["predicted"][f"{name}, {told}"]
            assert shown == [dataset.classes[label] for label in kept[:8]]
    assert found["pictures"]["true"] == [dataset.classes[label] for label in dataset.test_labels[:8]]
    assert [row[0] for row in table_rows(tmp_path, "accuracy of class")] == list(dataset.classes)
    assert len(table_rows(tmp_path, "test image")) == 8
    assert_drawn(tmp_path / "pictures.png", 1000, 600)
    assert_drawn(tmp_path / "classes.png", 1000, 400)
    assert "Against the article: all runs: data set shapes10 instead of cifar10, 2 epochs instead of 10" in said


def test_classics_trains_three_networks_by_one_recipe_and_draws_their_curves(
    run_experiment: RunExperiment, small: None, tmp_path: Path
) -> None:
    less = ("--data", "shapes10", "--epochs", 2, "--train-limit", 16, "--test-limit", 8, "--framework", "torch")
    found, _ = run_experiment("classics", *less, "--out", tmp_path)
    rows = table_rows(tmp_path, "network")
    assert [row[:2] for row in rows] == [["lenet", "PyTorch"], ["alexnet_cifar", "PyTorch"], ["vgg_mini", "PyTorch"]]
    assert rows[0][2:4] == ["62,006", "0.7 M"]
    assert {row["recipe"] for row in found["rows"]} == {"adam"}
    for row, cells in zip(found["rows"], rows, strict=True):
        assert [f"{100 * accuracy:.2f}%" for accuracy in row["test_accuracies"]] == cells[4:6]
    assert_drawn(tmp_path / "curves.png", 1200, 400)


def test_timing_times_forward_and_backward_and_continues_after_a_stop(
    run_experiment: RunExperiment, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    less = ("--batch-size", 2, "--data", "shapes10", "--out", tmp_path)
    few, said = run_experiment("timing", *less, "--steps", 2, "--framework", "torch")
    assert "Against the article: batches of 2 instead of 32" in said
    assert "PyTorch, forward: 2 steps, about " in said
    more, said = run_experiment("timing", *less, "--steps", 3)
    assert "PyTorch, forward: 1 step, about " in said and "PaddlePaddle, forward-backward: 3 steps, about " in said
    assert [row[:2] for row in table_rows(tmp_path, "framework")] == [
        [framework, kind] for framework in ("PaddlePaddle", "PyTorch") for kind in ("forward", "forward-backward")
    ]
    for row in more["times"]:
        seconds = more["seconds"][row["framework"]][row["kind"]]
        assert len(seconds) == row["steps"] == 3
        assert row["mean"] == pytest.approx(np.mean(seconds)) and row["std"] == pytest.approx(np.std(seconds))
        assert row["images_per_second"] == pytest.approx(2 / np.mean(seconds))
    assert more["seconds"]["torch"]["forward"][:2] == few["seconds"]["torch"]["forward"]
    assert_drawn(tmp_path / "timing.png", 1000, 400)
    again, _ = run_experiment("timing", *less, "--steps", 1)
    assert again["steps"] == 3 and "timed steps: 3 instead of 200" in (tmp_path / "table.md").read_text()
    assert main(["timing", *map(str, less), "--batch-size", "3"]) == 2, "another setting"
    assert "paddle was timed in another setting" in capsys.readouterr().err
    kept = json.loads((tmp_path / "seconds.json").read_text())
    kept["torch"]["seconds"]["forward"].append("soon")
    (tmp_path / "seconds.json").write_text(json.dumps(kept))
    assert main(["timing", *map(str, less), "--steps", "3", "--threads", "1"]) == 2
    assert "torch has no seconds" in capsys.readouterr().err


# Stopped, and complete

LONG = ("permutation", "--seeds", "1", "--epochs", "12", "--train-limit", "320", "--test-limit", "20")
"""Four runs of 60 updates."""


@pytest.mark.slow
def test_the_printed_command_continues_a_stopped_run_to_the_same_weights(
    framework: str, run_experiment: RunExperiment, tmp_path: Path
) -> None:
    command = [sys.executable, "scripts/experiment.py", *LONG, "--framework", framework, "--out", f"{tmp_path / 'one'}"]
    folder = tmp_path / "one" / "runs" / f"{framework}-fc-0"
    # The whole process group gets the signal, as from a terminal.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(process, lambda: position(folder).get("update", 0) > 10)
        os.killpg(process.pid, {"paddle": signal.SIGTERM, "torch": signal.SIGINT}[framework])
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    line = stderr.splitlines()[-1]
    assert line.startswith("stopped, nothing is lost; continue with: python scripts/experiment.py permutation ")
    words = command_in(line)[2:]
    found, said = run_experiment(*words)
    assert re.search("To train: [1-4] of 4 runs", said)
    whole, _ = run_experiment(*LONG, "--framework", framework, "--out", tmp_path / "two")
    names = [folder.name for folder in (tmp_path / "two" / "runs").iterdir()]
    assert len(names) == 4
    for name in names:
        assert bits(tmp_path / "one" / "runs" / name) == bits(tmp_path / "two" / "runs" / name)
    assert found["changes"] == whole["changes"]
    again, said = run_experiment(*words)
    assert "All 4 runs are complete." in said and again["rows"] == found["rows"]


def test_what_does_not_hold_is_a_failure_with_its_json(
    run_experiment: RunExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report("| a |", {}, {"n": 1}, "the CNN lost nothing.")
    monkeypatch.setattr(
        experiment,
        "_train",
        lambda study, options, result, *_: result.update(versions={}, against_the_article=[]) or report,
    )
    found, said = run_experiment("permutation", "--out", tmp_path, code=1)
    assert found["n"] == 1 and said.splitlines()[-1] == "failed: the CNN lost nothing."
    assert (tmp_path / "table.md").exists()


def test_full_trains_as_much_as_the_article() -> None:
    for study in STUDIES.values():
        assert shortened(study.entries, {entry.name: entry.article for entry in study.entries}) == []
        usual = shortened(study.entries, {entry.name: entry.usual for entry in study.entries})
        assert usual, "the first lines list what is shortened"
    assert {e.article.epochs for e in STUDIES["cifar"].entries} == {10}
    assert {e.article.epochs for e in STUDIES["classics"].entries} == {5}
    assert (TIMING.network, TIMING.batch_size, TIMING.burn_in, TIMING.steps) == ("tf_vgg16", 32, 10, 200)


# The pages of docs/experiments

PAGES = sorted((ROOT / "docs" / "experiments").glob("*/README.md"))


def documented(name: str) -> Dataset:
    """The digits; of CIFAR-10 only the classes, with other images, since the tables need no more."""
    if name == "mnist10k":
        return data.load(name)
    return replace(data.load("shapes10").limit(8, 8), name=name, classes=data.CLASSES[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_table_on_the_page_of_an_experiment_is_made_of_its_log(page: Path) -> None:
    assert len(PAGES) == len(EXPERIMENTS)
    result = redraw.read(page.parent)
    found = redraw.remake(result, documented)
    assert f"<!-- result -->\n\n{found.text}\n\n{redraw.measured(result)}\n\n<!-- /result -->" in page.read_text()
    assert {path.name for path in page.parent.glob("*.png")} == set(found.pictures)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("naps",), "'naps' is not one of"),
        (("cifar", "--framework", "jax"), "--framework: 'jax' is not one of"),
        (("cifar", "--epochs", "0"), "0 is not at least 1"),
        (("permutation", "--steps", "3"), "--steps is for timing: leave it out of permutation"),
        (
            ("timing", "--seeds", "3"),
            "--seeds is for permutation, cifar, classics, residual, ablation: leave it out of timing",
        ),
        (("timing", "--full"), "--full is for permutation"),
        (("cifar", "--full", "--epochs", "2"), "--epochs cannot be given with --full"),
        (("permutation", "--train-limit", "8001"), "8000"),
        (("classics", "--seeds", "1001"), "1001 is above 1000"),
        (("permutation", "--data", "shapes10"), "mnist_fc does not take the images of shapes10"),
        (("cifar", "--data", "nothing"), "unknown data set 'nothing'"),
        (("cifar", "--data-dir", "/nowhere"), "/nowhere"),
        (("timing", "--batch-size", "10001", "--data", "shapes10"), "10001"),
        (("timing", "--data", "mnist10k"), "does not take the images of mnist10k"),
        (
            ("timing", "--framework", "torch", "--data", "shapes10", "--torch-python", "/nowhere/python"),
            "cannot run /nowhere/python",
        ),
        (("classics", "--data", "shapes10", "--paddle-python", "/nowhere/python"), "cannot run /nowhere/python"),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_written(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*arguments, "--out", str(tmp_path / "out")])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "out").exists()


TROUBLES = ["other experiment", "something else", "other limits", "damaged log", "damaged mark", "a file"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_folder_of_something_else_is_left_as_it_is(
    trouble: str, run_experiment: RunExperiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["permutation", "--seeds", "1", "--epochs", "1", "--train-limit", "64", "--test-limit", "10"]
    if trouble == "other limits":
        run_experiment(*arguments, "--framework", "torch", "--out", out)
        arguments[4] = "2"
    elif trouble == "damaged log":
        run_experiment(*arguments, "--framework", "torch", "--out", out)
        (out / "runs" / "torch-fc-0" / "metrics.jsonl").write_text('{"event": "pass"}\n')
    elif trouble == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        name = "mine.txt" if trouble == "something else" else experiment.MARK
        (out / name).write_text('{"experiment": "cifar"}' if trouble == "other experiment" else "mine")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert main([*arguments, "--framework", "torch", "--out", str(out)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    way_out = "put the whole file back" if trouble == "damaged log" else "choose another --out"
    assert line.startswith("error: ") and way_out in line and str(out) in line
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_help_names_all_experiments_and_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())  # on one line
    assert list(EXPERIMENTS) == ["permutation", "cifar", "classics", "residual", "ablation", "timing"]
    assert all(f"{name}: {about}" in told for name, about in EXPERIMENTS.items())


@pytest.mark.slow
def test_permuted_pixels_cost_the_convolutional_network_points_and_the_other_nothing(
    run_experiment: RunExperiment, tmp_path: Path
) -> None:
    found, _ = run_experiment("permutation", "--seeds", 10, "--out", tmp_path)
    assert len(found["verdicts"]) == 4 and all(line.endswith("holds.") for line in found["verdicts"])
    assert RunFolder.open(tmp_path / "runs" / "torch-cnn-9").experiment.recipe.epochs == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ('{"experiment": "ci', "experiment JSON: "),
        ("[]", "result.json: "),
        ("{}", "not the log of an experiment"),
        ('{"experiment": "cifr"}', "unknown experiment 'cifr'; did you mean cifar"),
    ],
)
def test_a_log_that_cannot_be_redrawn_is_one_line_and_2(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    command = [sys.executable, "-m", "parity.experiments.redraw", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert said in ended.stderr and ended.stderr.startswith("error: ")
