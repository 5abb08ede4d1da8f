"""`vgg-parity experiment residual`: four networks, their errors, and the sentences on degradation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.experiment_output import RunExperiment, assert_drawn, table_rows
from helpers.training_runs import metrics
from parity import data
from parity.experiments import STUDIES, residual
from parity.experiments.study import shortened, trials
from parity.network import articles

STUDY = STUDIES["residual"]
NAMES = ["plain20", "resnet20", "plain56", "resnet56"]


def test_residual_trains_narrow_networks_and_reports_their_errors(
    run_experiment: RunExperiment, tmp_path: Path
) -> None:
    less = ("--data", "shapes10", "--epochs", 2, "--train-limit", 32, "--test-limit", 40)
    found, said = run_experiment("residual", *less, "--out", tmp_path)
    rows = table_rows(tmp_path, "network")
    assert [row[:3] for row in rows] == [
        [f"{name}@0.25", framework, f"{articles.get_network(f'{name}@0.25').trainable_count:,}"]
        for name in NAMES
        for framework in ("PaddlePaddle", "PyTorch")
    ]
    for row, cells in zip(found["rows"], rows, strict=True):
        epochs = [
            line
            for line in metrics(tmp_path / "runs" / f"{row['framework']}-{row['entry']}-0")
            if line["event"] == "pass"
        ]
        assert row["train_errors"] == [line["error"] for line in epochs] and len(epochs) == 2
        assert cells[3:] == [f"{100 * epochs[-1]['error']:.2f}%", f"{100 * epochs[-1]['test_error']:.2f}%"]
    assert len(found["verdicts"]) == 4 and all(f"- {line} " in " ".join(said.split()) for line in found["verdicts"])
    assert "Against the paper: all runs: data set shapes10 instead of cifar10, 2 epochs instead of 164, " in said
    assert "0.25 times the channels" in said
    assert_drawn(tmp_path / "errors.png", 1000, 400)


def test_full_is_the_papers_run_and_the_usual_one_drops_at_the_same_shares() -> None:
    dataset = {0: data.load("shapes10")}
    full = trials(STUDY, {entry.name: entry.article for entry in STUDY.entries}, ["torch"], dataset)
    usual = trials(STUDY, {entry.name: entry.usual for entry in STUDY.entries}, ["torch"], dataset)
    assert [trial.experiment.network for trial in full] == [articles.get_network(name) for name in NAMES]
    assert [trial.experiment.network.name for trial in usual] == [f"{name}@0.25" for name in NAMES]
    for trial, images in ((full[0], 50_000), (usual[0], 10_000)):
        recipe = trial.experiment.recipe
        total = recipe.epochs * images
        drops = [recipe.rate(round(total * share), total) for share in (0.01, 0.499, 0.501, 0.749, 0.751, 1)]
        assert drops == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert {trial.experiment.recipe.epochs for trial in full} == {164}
    assert {trial.experiment.train_limit for trial in full} == {None}


def test_other_widths_are_named_and_equal_ones_are_not() -> None:
    usual = {entry.name: entry.usual for entry in STUDY.entries}
    (line,) = shortened(STUDY.entries, usual)
    assert line.startswith("all runs: ") and line.endswith(", 0.25 times the channels")
    assert "channels" not in "".join(
        shortened(STUDIES["classics"].entries, {e.name: e.usual for e in STUDIES["classics"].entries})
    )


def row(entry: str, framework: str, errors: list[float], seed: int = 0) -> dict[str, Any]:
    """Return what a report needs of a row."""
    return {
        "entry": entry,
        "network": f"{entry}@0.25",
        "framework": framework,
        "seed": seed,
        "data": "shapes10",
        "recipe": "resnet",
        "epochs": len(errors),
        "train_images": 100,
        "test_images": 10,
        "train_errors": errors,
        "test_accuracies": [0.5] * len(errors),
        "test_accuracy": 0.5,
    }


DEGRADED = "This run shows degradation."
NOT_DEGRADED = "This run does not show degradation."


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ((0.40, 0.70, 0.35, 0.34), (DEGRADED, "With shortcuts, this run does not show degradation.")),
        ((0.40, 0.70, 0.40, 0.42), (DEGRADED, "With shortcuts, this run does not show degradation.")),
        (
            (0.40, 0.70, 0.35, 0.40),
            (DEGRADED, "With shortcuts, the degradation is smaller than the 30.00 points of the plain networks."),
        ),
        ((0.40, 0.50, 0.35, 0.50), (DEGRADED, "Shortcuts do not reduce the degradation in this run.")),
        ((0.40, 0.405, 0.35, 0.30), (NOT_DEGRADED, "With shortcuts, this run does not show degradation.")),
        ((0.40, 0.30, 0.35, 0.40), (NOT_DEGRADED, "Shortcuts do not reduce the degradation in this run.")),
    ],
)
def test_the_report_says_whether_training_errors_show_degradation(
    last: tuple[float, float, float, float], said: tuple[str, str]
) -> None:
    order = ("plain20", "plain56", "resnet20", "resnet56")
    rows = [row(name, "torch", [0.9, error]) for name, error in zip(order, last, strict=True)]
    found = residual.report(rows, {0: data.load("shapes10")}, True)
    plain, shortcuts = found.found["verdicts"]
    assert plain == (
        f"PyTorch, plain networks: the training error is {last[1]:.2%} with 56 layers and {last[0]:.2%} with 20, "
        f"a difference of {100 * (last[1] - last[0]):+.2f} points. {said[0]}"
    )
    assert shortcuts.startswith("PyTorch, residual networks: ") and shortcuts.endswith(f" points. {said[1]}")
    assert not found.failed, "what a short run shows is no failure"
    assert f"- {plain} - {shortcuts} " in " ".join(found.text.split())
    assert max(map(len, found.text.splitlines())) <= 120


def test_seeds_are_averaged_and_each_framework_has_its_sentences() -> None:
    rows = [
        row(name, framework, [error + 0.02 * seed + 0.1 * (framework == "paddle")], seed)
        for seed in range(2)
        for name, error in (("plain20", 0.4), ("plain56", 0.6 + 0.02 * seed), ("resnet20", 0.4), ("resnet56", 0.4))
        for framework in ("paddle", "torch")
    ]
    found = residual.report(rows, dict.fromkeys(range(2), data.load("shapes10")), True)
    assert [(one["framework"], one["kind"]) for one in found.found["changes"]] == [
        ("paddle", "plain"),
        ("paddle", "resnet"),
        ("torch", "plain"),
        ("torch", "resnet"),
    ]
    assert found.found["changes"][2]["change_points"] == pytest.approx([20, 22])
    assert "the training error is 62.00 ± 2.83% with 56 layers" in found.found["verdicts"][2]
    assert "a difference of +21.00 points" in found.found["verdicts"][2]
    assert "| plain20@0.25 | PyTorch | 17,326 | 41.00 ± 1.41% | 50.00 ± 0.00% |" in found.text.splitlines()
