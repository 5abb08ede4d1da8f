"""`scripts/experiment.py ablation`: each part is left out alone; its worth is computed and drawn."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.experiment_output import RunExperiment, assert_drawn, table_rows
from helpers.refusals import the_error
from helpers.scripts import script_main
from parity import data
from parity.experiments import STUDIES, ablation, pictures
from parity.network.nodes import GELU, Conv, ReLU, SiLU
from parity.recipe.recipe import Recipe
from parity.report.plots import FRAMEWORK_STYLES

main = script_main("experiment")


def changed_fields(one: Recipe, other: Recipe) -> set[str]:
    """PART.FIELD of every field in which two recipes differ."""
    return {
        f"{part}.{name}"
        for part, fields in asdict(one).items()
        if isinstance(fields, dict)
        for name, value in fields.items()
        if value != asdict(other)[part][name]
    }


def test_every_part_of_an_ablation_is_left_out_of_network_or_recipe() -> None:
    whole, *parts = STUDIES["ablation"].entries
    assert [entry.name for entry in (whole, *parts)] == list(ablation.INSTEAD)
    for part in parts:
        same = (part.network == whole.network, part.recipe == whole.recipe)
        assert same == (part.name not in ablation.NETWORK_PARTS, part.name in ablation.NETWORK_PARTS), part.name
    parts_of = {
        "muon": {"optimizer.groups"},
        "rate_of_shifts": {"optimizer.groups"},
        "nesterov": {"optimizer.nesterov"},
        "smoothing": {"optimizer.label_smoothing"},
        "weight_decay": {"optimizer.weight_decay"},
        "schedule": {"schedule.kind", "schedule.warmup"},
        "alternation": {"augmentation.alternate"},
        "flips": {"augmentation.flip", "augmentation.alternate"},
        "crops": {"augmentation.crop_padding"},
        "reflection": {"augmentation.fill"},
        "jitter": {"augmentation.brightness", "augmentation.contrast_low", "augmentation.contrast_high"},
    }
    assert {
        e.name: changed_fields(whole.recipe, e.recipe) for e in parts if e.name in ablation.RECIPE_PARTS
    } == parts_of
    networks = {entry.name: entry.network for entry in parts}
    convs = [node for node in networks["identity"].nodes if isinstance(node, Conv)]
    assert len(convs) == 7 and not any(conv.init.dirac for conv in convs) and convs[0] == whole.network.nodes[0]
    order = [type(node).__name__ for node in networks["pool_before_norm"].nodes[2:6]]
    assert order == ["Conv", "BatchNorm", "GELU", "MaxPool"]
    scales = 2 * (16 + 64 + 64)
    white = 24 * 3 * 4  # their biases are trained in any case
    assert networks["frozen_scales"].trainable_count == whole.network.trainable_count + scales
    assert networks["whitening"].trainable_count == whole.network.trainable_count + white
    for name, kind in (("gelu", ReLU), ("silu", SiLU)):
        before, after = (
            [node for node in n.nodes if isinstance(node, GELU | ReLU | SiLU)] for n in (whole.network, networks[name])
        )
        assert [kind(node.name) for node in before] == after and len(after) == 7
    groups = {part.name: [group.names for group in part.recipe.optimizer.groups] for part in parts}
    assert groups["muon"] == ["*.beta", "fc.weight"]
    assert groups["rate_of_shifts"] == ["conv*.weight", "fc.weight"]


def test_ablation_ends_with_what_each_part_is_worth(run_experiment: RunExperiment, tmp_path: Path) -> None:
    less = (
        "--only",
        "silu,jitter",
        "--data",
        "shapes10",
        "--epochs",
        1,
        "--train-limit",
        32,
        "--hold-out",
        40,
        "--seeds",
        2,
    )
    found, _ = run_experiment("ablation", *less, "--out", tmp_path)
    rows = table_rows(tmp_path, "left out: what replaces it")
    assert [row[0] for row in rows[:2]] == ["nothing", "nothing"] and len(rows) == 6
    assert all(row[3] == "" for row in rows[:2]) and all(" ± " in row[3] for row in rows[2:])
    assert len(found["rows"]) == 12 and {row["entry"] for row in found["rows"]} == {"whole", "silu", "jitter"}
    assert {row["test_images"] for row in found["rows"]} == {40}
    assert "32 training images, 40 held-back training images." in (tmp_path / "table.md").read_text()
    assert_drawn(tmp_path / "worth.png", 900, 100)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ablation", "--only", "sylu"), "--only 'sylu' is none of whitening, "),
        (("ablation", "--only", "whole"), "--only 'whole' is none of whitening, "),
        (("cifar", "--only", "net"), "cifar compares all its entries with each other: leave --only out"),
    ],
)
def test_entries_that_cannot_be_chosen_are_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--data", "shapes10"]) == 2
    assert the_error(capsys.readouterr().err.splitlines()).startswith(said)


def test_a_part_without_which_training_diverges_is_named_and_the_rest_reported(
    run_experiment: RunExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = STUDIES["ablation"]
    entries = {entry.name: entry for entry in study.entries}
    wild = replace(entries["gelu"].recipe, optimizer=replace(entries["gelu"].recipe.optimizer, rate=1e30))
    few = (entries["whole"], replace(entries["gelu"], recipe=wild), entries["crops"])
    less = ("--data", "shapes10", "--epochs", 2, "--train-limit", 32, "--test-limit", 40, "--framework", "torch")
    monkeypatch.setitem(STUDIES, "ablation", replace(study, entries=few))
    found, said = run_experiment("ablation", *less, "--out", tmp_path / "one", code=1)
    assert [one["without"] for one in found["changes"]] == ["whole", "crops"]
    assert "PyTorch, gelu, seed 0: training exploded (" in (tmp_path / "one" / "table.md").read_text()
    assert said.splitlines()[-1].startswith("failed: PyTorch, gelu, seed 0: training exploded (")
    monkeypatch.setitem(STUDIES, "ablation", replace(study, entries=few, needed=None))
    assert main(["ablation", *map(str, less), "--out", str(tmp_path / "two")]) == 1, "nothing to report"
    assert not (tmp_path / "two" / "table.md").exists()


def test_the_value_of_a_part_is_measured_within_each_seed_and_sorted() -> None:
    accuracies = {"whole": (0.90, 0.92), "crops": (0.88, 0.91), "gelu": (0.85, 0.86), "flips": (0.91, 0.92)}
    size = {"framework": "torch", "epochs": 3, "train_images": 50_000, "test_images": 10_000}
    rows = [
        {"entry": name, "seed": seed, "test_accuracy": accuracy} | size
        for name, both in accuracies.items()
        for seed, accuracy in enumerate(both)
    ]
    found = ablation.report(rows, dict.fromkeys(range(2), data.load("shapes10")), True)
    changes = {one["without"]: one["change_points"] for one in found.found["changes"]}
    assert list(changes) == ["whole", "gelu", "crops", "flips"]
    assert changes["gelu"] == pytest.approx([-5, -6]) and changes["flips"] == pytest.approx([1, 0])
    assert "| crops | PyTorch | 89.50 ± 2.12% | -1.50 ± 0.71 |" in found.text.splitlines()


def test_a_bar_is_as_long_as_a_part_is_worth_and_on_its_side() -> None:
    changes = [("gelu", "paddle", -4.0), ("gelu", "torch", -2.0), ("crops", "paddle", 1.0), ("crops", "torch", 1.0)]
    found = [{"without": part, "framework": side, "change_points": [points]} for part, side, points in changes]
    with Image.open(io.BytesIO(pictures.worth(found, ablation.INSTEAD))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    height = len(pixels)
    lengths = []
    for framework in ("paddle", "torch"):
        colour = FRAMEWORK_STYLES[framework].colour
        seen = 0.5 * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) + 0.5 * 255
        bar = (np.abs(pixels - seen).max(2) < 3)[: int(0.7 * height)]  # the legend is below
        upper, lower = bar[: int(0.35 * height)], bar[int(0.35 * height) :]
        lengths.append([int(half.sum(1).max()) for half in (upper, lower)])
        starts = [int(np.flatnonzero(half.any(0))[0]) for half in (upper, lower)]
        assert starts[0] < starts[1], "what costs points goes to the left, and is above"
    (paddle, paddle_crops), (torch, torch_crops) = lengths
    assert paddle / torch == pytest.approx(2, rel=0.05) and paddle / paddle_crops == pytest.approx(4, rel=0.1)
    assert torch_crops == pytest.approx(paddle_crops, abs=3)
