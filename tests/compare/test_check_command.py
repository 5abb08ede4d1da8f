"""`vgg-parity check`: its contract on the command line, and `assert_parity` in the tests of a user."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from parity.cli import check as check_command
from parity.cli.check import _checks as planned
from parity.cli.check import main
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Lookahead, changed
from parity.selftest.subject import network

SMALL = ("--network", "vgg_mini@0.0625", "--recipe", "adam", "--data", "shapes10")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/check_parity.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    report = tmp_path_factory.mktemp("report")
    written = ("--report", str(report), "--markdown", str(report / "more" / "check.md"))
    return check(*SMALL, "--json", "--isolate", *written), report


def test_equal_implementations_end_with_0_and_json_of_every_stage(
    equal: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    ended, _ = equal
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    result = json.loads(line)
    assert result["verdict"] == "equal"
    assert result["first_divergence"] is None
    assert (result["network"], result["dtype"], result["steps"]) == ("vgg_mini@0.0625", "float64", 6)
    assert result["lanes"]["torch"]["torch"] and result["lanes"]["paddle"]["paddle"]
    memory = result["peak_memory_bytes"]
    assert list(memory) == ["command", "torch", "paddle", "twin 1"]
    assert all(50e6 < size < 4e9 for size in memory.values())
    assert list(result["stages"]) == ["eval", "forward", "backward", "update", "trajectory", "onnx"]
    for stage in result["stages"].values():
        assert stage["verdict"] == "equal"
        assert stage["compared"] > 0
        assert 0 < stage["max_error"] <= stage["bound"]
        assert stage["worst"]
    assert [row["verdict"] for row in result["isolated"]] == ["equal"] * len(articles.get_network("vgg_mini").nodes)


def test_mixed_precision_has_the_stages_of_one_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*SMALL, "--dtype", "bfloat16", "--report", str(tmp_path), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert list(result["stages"]) == ["eval", "forward", "backward", "update"]
    assert (result["dtype"], result["steps"]) == ("bfloat16", 1)
    assert (
        "Paddle has no mixed precision on CPUs: its auto_cast does nothing there; here it computes in float32"
        in said.err
    )
    assert "it computes in float32" in (tmp_path / "report.html").read_text()
    assert main([*SMALL, "--dtype", "bfloat16", "--stages", "onnx,trajectory"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: bfloat16 has no stage trajectory or onnx: leave out --stages, or pass --dtype float64"


def test_the_report_is_of_this_run(equal: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ended, folder = equal
    assert sorted(path.name for path in folder.iterdir()) == ["junit.xml", "more", "report.html", "report.json"]
    assert json.loads((folder / "report.json").read_text()) == json.loads(ended.stdout)
    assert "vgg_mini@0.0625" in (folder / "report.html").read_text()
    assert (folder / "more" / "check.md").read_text().startswith("### Equal: `vgg_mini@0.0625`\n")


@pytest.mark.usefixtures("at_hand")
def test_a_planted_error_ends_with_1_and_is_named_at_its_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json", "--perturb", "conv3_1:output:1e-6", "--isolate"]) == 1
    told = capsys.readouterr()
    result = json.loads(told.out.splitlines()[-1])
    assert result["verdict"] == "different"
    first = result["first_divergence"]
    assert (first["step"], first["phase"], first["layer"]) == (1, "eval", "conv3_1")
    assert first["error"] == pytest.approx(1e-6, rel=1e-3)
    assert "Paddle's conv3_1 is PyTorch's times 1.000001" in first["cause"]
    assert [row["layer"] for row in result["isolated"] if row["verdict"] == "different"] == ["conv3_1"]
    assert "failed: the implementations differ: vgg_mini@0.0625 at step 1, eval, layer conv3_1" in told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--network", "vgg99"), "unknown network 'vgg99'"),
        (("--recipe", "slow"), "unknown recipe 'slow'"),
        (("--stages", "forward,sideways"), "unknown stage 'sideways'"),
        (("--steps", "1"), "--steps of at least 2"),
        (("--steps", "-3"), "-3 is negative"),
        (("--batch-size", "1"), "at least 2"),
        (("--data", "imagenet"), "unknown data set 'imagenet'"),
        (("--dtype", "float16"), "--dtype: 'float16' is not one of"),
        (("--perturb", "conv9_9:weight:1e-6"), "no layer 'conv9_9'"),
        (("--perturb", "conv1_1:colour:1e-6"), "no tensor 'colour'; it has weight, bias, output"),
        (("--perturb", "conv1_1:weight:lots"), "'lots' is not a positive number"),
        (("--network", "all", "--perturb", "conv1_1:weight:1"), "are for one network"),
        (("--network", "missing.json"), "cannot read missing.json"),
        (("--weights", "missing.safetensors"), "missing.safetensors"),
        (("--torch-python", "/nowhere/python"), "cannot run /nowhere/python"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["--data", "shapes10", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def test_a_json_file_that_holds_no_network_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.json"
    file.write_text('{"name": "mine"}')
    assert main(["--data", "shapes10", "--network", str(file)]) == 2
    assert f"error: {file}: " in capsys.readouterr().err


DOWNSTREAM = """
from parity import assert_parity


def test_both_frameworks_train_my_network_alike():
    assert_parity("my_network.json", recipe="article")
"""
"""The test in docs/parity.md, for the project of a user."""


@pytest.mark.slow
def test_the_five_lines_of_the_page_check_a_network_file_of_another_project(tmp_path: Path) -> None:
    assert DOWNSTREAM.strip() in (ROOT / "docs" / "parity.md").read_text()
    (tmp_path / "my_network.json").write_text(network().to_json())
    (tmp_path / "test_parity.py").write_text(DOWNSTREAM)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_parity.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        (("--network", "vgg_a"), {2}),
        (("--network", "vgg_a", "--batch-size", "4"), {4}),
        (("--network", "vgg_a@0.125x64"), {8}),
        (("--network", "all"), {8}),
        (("--network", "all", "--full"), {2, 8}),
    ],
)
def test_large_images_come_in_small_batches(arguments: tuple[str, ...], sizes: set[int]) -> None:
    options = check_command.main.parse([*arguments, "--data", "shapes10"])
    options.stages, options.steps = "forward", 3
    options.data = "shapes10" if "all" not in arguments else "auto"
    checks = planned(options, lambda line: None)
    assert {check.recipe.batch_size for check in checks} == sizes
    large = [check.network for check in checks if check.recipe.batch_size == 2]
    assert all(network.input_shape[-1] > 96 for network in large)


def test_a_network_of_many_weights_has_no_twin_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_hand: list[str]
) -> None:
    monkeypatch.setattr(check_command, "HUGE", 10)
    for more, known in ((), False), (("--twins", "1"), True), (("--dtype", "float32"), True):
        assert main([*SMALL, "--stages", "update,trajectory", "--steps", "2", "--json", *more]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert [row["twin"] is not None for row in json.loads(line)["trajectory"]] == [known, known]
        assert at_hand == ["torch", "paddle", *["torch"] * known]
        at_hand.clear()


def test_a_stopped_check_continues_after_the_results_that_it_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_hand: list[str]
) -> None:
    some = {name: articles.get_network(name) for name in ("mnist_fc", "vgg_mini", "mnist_cnn")}
    kept = tmp_path / "kept.jsonl"
    flags = ("--network", "all", "--data", "shapes10", "--stages", "forward", "--json")
    flags += ("--resume", str(kept))
    monkeypatch.setattr(check_command, "HUGE", 2_000)  # vgg_mini's cousin gets its own workers
    monkeypatch.setattr(articles, "NETWORKS", dict(list(some.items())[:2]))
    assert main([*flags]) == 0
    assert at_hand == ["torch", "paddle"] * 2
    assert len(kept.read_text().splitlines()) == 2
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(articles, "NETWORKS", some)
    assert main([*flags]) == 0
    told = capsys.readouterr()
    assert "kept.jsonl holds 2 of 3 results" in told.err and "mnist_fc@0.125, recipe" not in told.err
    second = json.loads(told.out)
    assert second["results"][:2] == first["results"]
    assert [one["network"] for one in second["results"]] == ["mnist_fc@0.125", "vgg_mini@0.125", "mnist_cnn@0.125"]
    before = kept.read_bytes()
    for other in (("--seed", "1"), ("--augment",), ("--twins", "2"), ("--isolate",)):
        assert main([*flags, *other]) == 2
        assert "kept.jsonl holds results of another command" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(presets.RECIPES, "mnist", changed(presets.get_recipe("mnist"), lookahead=Lookahead(every=5)))
        assert main([*flags]) == 2
        assert "kept.jsonl holds results of another command" in capsys.readouterr().err
    assert main([*flags[:-2], "--resume", str(tmp_path)]) == 2
    assert "cannot continue after" in capsys.readouterr().err
    assert main([*SMALL, "--resume", str(kept)]) == 2
    assert "--resume is for --network all" in capsys.readouterr().err
    assert kept.read_bytes() == before
    for damaged in (b"[" * 200_000, before[:-9]):
        kept.write_bytes(damaged)
        assert main([*flags]) == 2
        assert "cannot continue after" in capsys.readouterr().err
        assert kept.read_bytes() == damaged
    python = second["results"][0]["lanes"]["torch"]["python"]
    earlier = [
        line.replace(f'"python": "{python}"', '"python": "3.0"') for line in before.decode().splitlines(True)[:2]
    ]
    kept.write_text("".join(earlier))
    assert main([*flags]) == 2
    assert "kept.jsonl holds results of other versions" in capsys.readouterr().err
    assert kept.read_text() == "".join(earlier)
