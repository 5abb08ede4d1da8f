"""`compare_runs.py`: the table and the picture of the logs of runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from helpers.paths import ROOT
from helpers.scripts import script_main
from parity.report.plots import FRAMEWORK_STYLES

main = script_main("compare_runs")


LOGS = ROOT / "docs" / "runs" / "vgg_mini-small"


def run(folder: Path, seed: int = 0, framework: str = "torch", faster: float = 1.0, better: float = 0.0) -> Path:
    """Copy the logs in docs/runs, with another seed, framework, speed and accuracy."""
    shutil.copytree(LOGS, folder)
    config = json.loads((folder / "config.json").read_text()) | {"framework": framework}
    config["experiment"]["seed"] = seed
    (folder / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["seconds"] /= faster
        if "test_accuracy" in line:
            line["test_accuracy"] += better
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluation(text: str) -> Callable[[Path], int]:
    """Return a function that writes `text` as a result of evaluate.py."""
    return lambda folder: (folder / "evaluation.json").write_text(text)


def instead(key: str, value: str) -> Callable[[Path], int]:
    """Return a function that replaces the value of `key` in the line of the first epoch by the JSON `value`."""

    def change(folder: Path) -> int:
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        assert json.loads(lines[4])["event"] == "pass"
        lines[4], count = re.subn(rf'"{key}": [^,}}]*', f'"{key}": {value}', lines[4])
        assert count == 1
        return file.write_text("".join(lines))

    return change


def test_seeds_are_one_row_and_frameworks_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run(tmp_path / "one")
    two = run(tmp_path / "two", seed=1, better=0.01)
    paddle = run(tmp_path / "paddle", framework="paddle", faster=2)
    evaluation = {
        "split": "test",
        "data": "cifar10",
        "limit": None,
        "rows": [
            {"views": "single", "scales": [], "views_per_picture": 1, "top1_error": 0.17},
            {"views": "crops", "scales": [32], "views_per_picture": 18, "top1_error": 0.15},
            {"views": "crops", "scales": [40], "views_per_picture": 18, "top1_error": 0.14},
            {"views": "doubtful 0.5", "scales": [32], "views_per_picture": 5.618, "top1_error": 0.16},
        ],
    }
    (paddle / "evaluation.json").write_text(json.dumps(evaluation))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- runs -->\nold\n<!-- /runs -->\nbehind\n")
    out = tmp_path / "out.png"
    given = [
        str(one),
        str(two),
        str(paddle),
        "--out",
        str(out),
        "--update",
        str(page),
        "--line",
        "article=89.11",
        "--json",
    ]
    assert main(given) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in result["runs"]] == [0, 1, 0]
    text = page.read_text()
    assert "old" not in text
    assert "| vgg_mini@0.16 | quick | cifar10 | PyTorch | 0, 1 | 20 | 17.1 ± 0.00 | 83.48 ± 0.71% |  |  |  |" in text
    assert (
        "| vgg_mini@0.16 | quick | cifar10 | PaddlePaddle | 0 | 20 | 8.5 | 82.98% | 85.00% | 86.00% | 84.00% |" in text
    )
    assert "| last epoch | crops at 32, 18 views | crops at 40, 18 views | doubtful 0.5 at 32 |" in text
    picture = matplotlib.image.imread(out)
    colours = {tuple(pixel) for pixel in np.round(255 * picture[..., :3]).astype(int).reshape(-1, 3).tolist()}
    drawn = {name: tuple(bytes.fromhex(style.colour[1:])) in colours for name, style in FRAMEWORK_STYLES.items()}
    assert drawn == {"paddle": True, "torch": True, "onnx": False}


def test_mixed_precision_is_a_row_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / name) for name in ("float32", "mixed")]
    config = json.loads((folders[1] / "config.json").read_text()) | {"amp": "bf16"}
    (folders[1] / "config.json").write_text(json.dumps(config))
    assert main([*map(str, folders), "--out", str(tmp_path / "out.png")]) == 0
    said = capsys.readouterr().out
    assert "| quick | cifar10 | PyTorch | 0 | 20 |" in said
    assert "| quick, bf16 | cifar10 | PyTorch | 0 | 20 |" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is not a run folder"),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "has no finished epoch"),
        (lambda folder: (folder / "metrics.jsonl").write_text('{"event": "pass"}\n'), "line 1 lacks epoch"),
        *(
            (instead(key, value), f"line 5: {key} = {said}")
            for key, value, said in (
                ("seconds", "Infinity", "inf is not a number from 0 on"),
                ("seconds", "NaN", "nan is not a number from 0 on"),
                ("seconds", "9" * 400, "9999"),
                ("samples", "0.5", "0.5 is not a whole number"),
                ("test_cost", "-1", "-1 is not a number from 0 on"),
                ("test_accuracy", "1.5", "1.5 is not a number from 0 to 1"),
                ("test_accuracy", '"0.5"', "'0.5' is not a number from 0 on"),
                ("stream", "7", "7 is not a SHA-256"),
                ("epoch", "3", "3, but 0 epochs end before it"),
            )
        ),
        *(
            (
                evaluation(
                    f'{{"split": "test", "data": "cifar10", "limit": null, "rows": [{{"views": "crops", "scales": {scales}, '
                    f'"views_per_picture": {count}, "top1_error": {error}}}]}}'
                ),
                said,
            )
            for scales, count, error, said in (
                ("[]", "Infinity", "0.5", "it was not written by vgg-parity evaluate"),
                ("[]", "2.5", "0.5", "it was not written by vgg-parity evaluate"),
                ('["|"]', "2", "0.5", "it was not written by vgg-parity evaluate"),
                ("[]", "2", "9" * 400, "it was not written by vgg-parity evaluate"),
                ("[]", "2", "-Infinity", "test_accuracy = inf is not a number from 0 to 1"),
                ("[]", "2", "1.5", "test_accuracy = -0.5 is not a number from 0 to 1"),
            )
        ),
        (
            evaluation(
                '{"split": "test", "data": "cifar10", "limit": null, "rows": [{"views_per_picture": "x", "top1_error": 1}]}'
            ),
            "it was not written by vgg-parity evaluate",
        ),
        (
            evaluation('{"split": "test", "data": "cifar10", "limit": 10, "rows": []}'),
            "it covers some images of split 'test' of cifar10, not all test images of cifar10",
        ),
        (
            evaluation('{"split": "test", "data": "folder:x", "limit": null, "rows": []}'),
            "of folder:x, not all test images of cifar10",
        ),
        (lambda folder: (folder / "evaluation.json").write_text("[]"), "it was not written by vgg-parity evaluate"),
        (evaluation("[" * 200_000), "it was not written by vgg-parity evaluate"),
        (
            evaluation('{"split": "train", "data": "cifar10", "limit": null, "rows": []}'),
            "'train'",
        ),
    ],
)
def test_damaged_logs_are_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, said: str
) -> None:
    folder, out = run(tmp_path / "run"), tmp_path / "out.png"
    assert callable(change)
    change(folder)
    assert main([str(folder), "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_only_runs_that_differ_in_nothing_but_the_seed_are_averaged_each_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other", seed=1)
    config = json.loads((other / "config.json").read_text())
    config["experiment"]["recipe"]["batch_size"] = 64
    (other / "config.json").write_text(json.dumps(config))
    out = str(tmp_path / "out.png")
    assert main([str(one), str(other), "--out", out]) == 0
    said = capsys.readouterr().out
    assert "| vgg_mini@0.16 | quick |" in said and "| vgg_mini@0.16 (2) | quick |" in said
    assert main([str(one), str(one), "--out", out]) == 0
    said = capsys.readouterr().out
    assert f"Left out: {one} has the same seed as {one}" in said and said.count("| vgg_mini@0.16 |") == 1


def test_names_are_shown_in_the_table_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["experiment"]["network"]["name"] = "a|b, _c_ \\ <i> d_e"
    config["experiment"]["recipe"]["name"] = "`x` | [y](z)"
    config["experiment"]["data"] = "folder:\x1b[31m\nx"
    (folder / "config.json").write_text(json.dumps(config))
    assert main([str(folder), "--out", str(tmp_path / "out.png")]) == 0
    shown = capsys.readouterr().out.splitlines()[-2]
    names = r"a\|b, \_c\_ \\ \<i\> d_e | \`x\` \| \[y\](z) | folder:\\x1b\[31m x"
    assert shown.startswith(f"| {names} | PyTorch | 0 | 20 |")


def test_networks_of_other_layers_are_other_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other", seed=1)
    config = json.loads((other / "config.json").read_text())
    relu = next(node for node in config["experiment"]["network"]["nodes"] if node["node"] == "ReLU")
    relu["node"] = "Tanh"  # which has the same fields
    (other / "config.json").write_text(json.dumps(config))
    assert main([str(one), str(other), "--out", str(tmp_path / "out.png")]) == 0
    assert capsys.readouterr().out.count("| 20 | 17.1 |") == 2


def test_other_folders_among_runs_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, begun, strange = run(tmp_path / "one"), run(tmp_path / "begun", seed=1), tmp_path / "strange"
    (begun / "metrics.jsonl").unlink()
    strange.mkdir()
    assert main([str(begun), str(one), str(strange), "--out", str(tmp_path / "out.png")]) == 0
    said = capsys.readouterr().out
    assert f"Left out: {begun} has no finished epoch" in said and f"Left out: {strange} is not a run folder" in said
    assert said.count("| vgg_mini@0.16 |") == 1


def test_a_picture_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(LOGS), "--out", str(tmp_path / "out.svg")]) == 2
    assert "out.svg is not the name of a .png file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["article", "=5", "article=x", "article=101"])
def test_a_level_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(LOGS), "--line", text]) == 2
    assert "NAME=PERCENT" in capsys.readouterr().err
