"""Benchmarks: turns, ratios and intervals are right, contestants compute what training computes, bad usage is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.paths import ROOT
from helpers.scripts import script_main
from parity import data, machine
from parity.backend.timing import Bench
from parity.benchmark.interleaved_timing import Contest, gigaflops, interval, time_program
from parity.benchmark.other_checkout import name_checkout, time_checkout
from parity.benchmark.variants import ALONE, Variant, choose_variants, find_ceilings
from parity.cli import bench_accuracy, bench_growth
from parity.cli.bench import PAGES, _from_anywhere, markdown
from parity.errors import InputError
from parity.files import generated_block
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Flatten, Linear
from parity.recipe import presets
from parity.recipe.recipe import changed

main = script_main("bench")

NET = articles.get_network("vgg_mini@0.0625")
PLAIN = f"{sys.executable} -c \"print('warming up\\n12.5 images/s')\""


def test_every_contestant_has_a_turn_each_round_and_none_is_always_first() -> None:
    seen: list[str] = []

    def turn(name: str) -> contest.Turn:
        return lambda: float(seen.append(name) or len(seen))

    contest = Contest({name: turn(name) for name in "abc"})
    contest.run(range(3))
    assert "".join(seen) == "abc" "bca" "cab"  # fmt: skip
    assert contest.figures == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_ratios_are_taken_within_a_round() -> None:
    contest = Contest({}, {"slow": [10.0, 20.0, 40.0], "fast": [20.0, 40.0, 80.0]})
    assert contest.ratios("slow") == {"fast": {"ratio": 2.0, "low": 2.0, "high": 2.0, "n": 3}}
    summary = contest.summary()["slow"]
    assert (summary["images_per_second"], summary["least"], summary["most"]) == (20.0, 10.0, 40.0)


def test_the_interval_holds_the_median_and_narrows_with_more_rounds() -> None:
    draws = np.random.default_rng(0).normal(2, 0.1, 400)
    few, many = interval(draws[:10]), interval(draws)
    assert few[0] < 2 < few[1] and many[0] < 2 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 2
    assert interval(draws[:10]) == few  # the same numbers give the same interval


class Counting:
    """A side that remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[bytes, tuple[str, ...], int]] = []

    def step(self, images: np.ndarray, labels: np.ndarray, masks: Any, rate: float, divisor: int) -> tuple[float, int]:
        self.given.append((images.tobytes(), tuple(masks), len(labels)))
        return 1.0, 0

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.given.append((images.tobytes(), (), len(images)))
        return images


def test_compute_only_repeats_one_batch_and_end_to_end_makes_new_ones() -> None:
    side, dataset = Counting(), data.load("shapes10").limit(40, 1)
    net, how = articles.get_network("vgg16_bn_drop@0.125"), changed(presets.get_recipe("article"), batch_size=16)
    timed = Bench(side, net, how, dataset.train_images, dataset.train_labels)  # type: ignore[arg-type]
    assert timed.train(4, fed=False) > 0
    assert len({images for images, _, _ in side.given}) == 1
    side.given.clear()
    assert timed.train(5, fed=True) > 0
    assert len({images for images, _, _ in side.given}) == 5
    assert [count for _, _, count in side.given] == [16, 8, 16, 16, 8]  # an epoch ends with a short batch
    assert all(masks == tuple(net.dropouts) for _, masks, _ in side.given)
    side.given.clear()
    timed.infer(2, 5)
    assert [count for _, _, count in side.given] == [5, 5]


def test_the_clock_starts_and_stops_when_the_device_has_nothing_left_to_do() -> None:
    side, dataset = Counting(), data.load("shapes10").limit(4, 1)
    net, how = articles.get_network("vgg16_bn_drop@0.125"), changed(presets.get_recipe("article"), batch_size=2)
    seen: list[int] = []

    def wait() -> None:
        seen.append(len(side.given))

    timed = Bench(side, net, how, dataset.train_images, dataset.train_labels, wait)  # type: ignore[arg-type]
    timed.train(3, fed=False)
    timed.infer(2, 5)
    assert seen == [0, 3, 3, 5]


def test_arithmetic_counts_two_operations_forward_and_four_backward() -> None:
    net = Network("one", (1, 1, 5), (Flatten("flatten"), Linear("fc", 4)))
    assert gigaflops(net, 1e9, training=False) == 2 * 20
    assert gigaflops(net, 1e9, training=True) == 6 * 20


def test_another_programs_last_figure_counts() -> None:
    assert time_program(PLAIN)() == 12.5
    assert time_program(f'{sys.executable} -c "print(\'{{\\"images_per_second\\": 7.25}}\')"')() == 7.25


def test_another_programs_files_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("print('3.5 images/s')")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert time_program(f"{sys.executable} ~/mine.py")() == 3.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/nowhere/program", "cannot run /nowhere/program"),
        (f"{sys.executable} -c pass", "printed no images/s (exit code 0): nothing"),
        (f"{sys.executable} -c 'raise SystemExit(\"no data\")'", "(exit code 1): no data"),
    ],
)
def test_a_program_that_prints_no_figure_is_bad_input(line: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        time_program(line)()
    assert said in str(refused.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    report = tmp_path_factory.mktemp("bench")
    line = ["train", "--network", NET.name, "--data", "shapes10", "--batch-size", "8", "--rounds", "2", "--steps", "1"]
    words = [sys.executable, "scripts/bench.py", *line, "--json", "--threads", "1", "--against", PLAIN]
    ended = subprocess.run([*words, "--report", report], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), report


def test_a_training_benchmark_keeps_compute_and_end_to_end_apart(trained: tuple[dict[str, Any], Path]) -> None:
    result, _ = trained
    tables = result["tables"]
    assert {name: list(table["speeds"]) for name, table in tables.items()} == {
        "compute only": ["paddle", "torch", ALONE],
        "end to end": ["paddle", "torch", ALONE, PLAIN],
    }
    for table in tables.values():
        assert table["reference"] == "torch"
        for row in table["speeds"].values():
            assert len(row["rounds"]) == 2 and 0 < row["least"] <= row["images_per_second"] <= row["most"]
    assert tables["end to end"]["speeds"][PLAIN]["images_per_second"] == 12.5
    assert list(result["matrix_peaks"]) == ["float32"] and result["matrix_peaks"]["float32"] > 0
    assert {name: seconds > 0 for name, seconds in result["first_step_seconds"].items()} == {
        "paddle": True,
        "torch": True,
    }
    assert all(size > 50e6 for size in result["peak_memory_bytes"].values())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(result["commit"]) >= 7 and commit.startswith(result["commit"].removesuffix("+"))
    assert result["instruction_sets"] == machine.instruction_sets()


OTHER = """
import json, os, sys
import parity
tables = ("compute only", 3.0), ("end to end", 2.0)
assert parity.WHERE == os.getcwd() and sys.argv[1] == "train", sys.argv
rows = {name: {"speeds": {"torch": {"images_per_second": speed}}} for name, speed in tables}
print(json.dumps({"tables": rows, "words": sys.argv}))
"""


def test_another_checkout_is_timed_by_its_own_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, file, text in (
        ("scripts", "bench.py", OTHER),
        ("parity", "__init__.py", f"WHERE = {str(tmp_path)!r}"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert name_checkout(tmp_path) == tmp_path.name
    assert time_checkout(tmp_path, Variant("torch"), "compute only", [])() == 3.0
    assert time_checkout(tmp_path, Variant("torch", "bf16"), "end to end", ["--steps", "1"])() == 2.0
    with pytest.raises(InputError, match="printed no speed: "):
        time_checkout(tmp_path, Variant("paddle"), "end to end", [])()


def test_another_checkout_finds_files_and_folders_of_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.json").touch()
    given = ("net.json", "folder:pictures", "cifar10", "vgg_mini@0.5")
    assert [_from_anywhere(name) for name in given] == [
        str(tmp_path / "net.json"),
        f"folder:{tmp_path / 'pictures'}",
        *given[2:],
    ]


@pytest.mark.slow  # each turn starts the frameworks again
def test_a_checkout_is_a_contestant_of_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--network", NET.name, "--data", "shapes10", "--batch-size", "8", "--rounds", "1", "--steps", "1"]
    lists = ["--frameworks", "torch", "--threads", "1", "--against-checkout", str(ROOT)]
    assert main([*line, *lists, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for table in result["tables"].values():
        assert list(table["speeds"]) == ["torch", ALONE, f"torch at {result['commit']}"]


def test_variants_of_a_framework_are_contestants_of_one_benchmark(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    line = ["train", "--network", NET.name, "--data", "shapes10", "--batch-size", "8", "--rounds", "2", "--steps", "1"]
    lists = ["--frameworks", "torch", "--amp", "off,bf16", "--layout", "channels_first,channels_last"]
    assert main([*line, *lists, "--threads", "1", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    kinds = [f"{amp} {layout}" for amp in ("float32", "bf16") for layout in ("channels_first", "channels_last")]
    names = [*(f"torch {kind}" for kind in kinds), *(f"{ALONE}, {kind}" for kind in kinds)]
    peaks = result["matrix_peaks"]
    for table in result["tables"].values():
        assert list(table["speeds"]) == names and table["reference"] == names[0]
        assert set(table["ratios"]) == set(names[1:])
        for name, row in table["speeds"].items():
            assert row["dtype"] == ("bfloat16" if "bf16" in name else "float32")
            assert row["share_of_peak"] == pytest.approx(row["gigaflops"] / peaks[row["dtype"]], abs=1e-3)
    assert peaks["float32"] != peaks["bfloat16"]
    assert (result["amp"], result["layout"]) == ("off,bf16", "channels_first,channels_last")
    assert "Mixed precision: off,bf16" in said.err and "Memory layout: channels_first,channels_last" in said.err


def test_names_of_variants_hold_what_differs() -> None:
    lists = {"amp": "off", "layout": "auto", "compile": "off,on"}
    assert choose_variants(["torch"], "cpu", **lists) == {
        "torch": Variant("torch"),
        "torch compiled": Variant("torch", compiled=True),
    }
    assert list(choose_variants(["paddle", "torch"], "cpu", **lists | {"compile": "off"})) == ["paddle", "torch"]
    assert find_ceilings(choose_variants(["torch"], "cpu", **lists)) == {ALONE: "torch"}
    assert find_ceilings(choose_variants(["paddle"], "cpu", **lists | {"compile": "off"})) == {}
    both = choose_variants(["torch"], "gpu", **lists | {"amp": "bf16,off", "layout": "channels_last"})
    assert both["torch bf16 compiled"] == Variant("torch", "bf16", "channels_last", compiled=True)
    assert list(both) == ["torch bf16", "torch bf16 compiled", "torch float32", "torch float32 compiled"]


def test_the_report_is_the_result(trained: tuple[dict[str, Any], Path]) -> None:
    result, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    assert json.loads((folder / "bench.json").read_text()) == result
    assert (folder / "bench.md").read_text() == markdown(result)
    assert Image.open(folder / "bench.png").size[0] > 800


LOGS = [path.parent for path in sorted((ROOT / "docs" / "bench").glob("*/bench.json"))]


@pytest.mark.parametrize("folder", LOGS, ids=lambda folder: folder.name)
def test_pages_of_the_documented_benchmarks_are_made_of_their_logs(folder: Path) -> None:
    result = json.loads((folder / "bench.json").read_text())
    assert (folder / "bench.md").read_text() == PAGES.get(result["what"], markdown)(result)


def test_every_documented_benchmark_has_a_log_and_every_log_a_page() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert {folder.name for folder in LOGS} == set(re.findall(r"\(bench/([\w-]+)/bench\.md\)", pages))
    assert len(LOGS) >= 4


def test_the_page_of_performance_shows_the_log_of_growth() -> None:
    page, log = ROOT / "docs" / "performance.md", ROOT / "docs" / "bench" / "growth" / "bench.json"
    before, behind = generated_block.around(page, bench_growth.MARK)
    shown = bench_growth.block(json.loads(log.read_text()), "bench/growth") if log.is_file() else ""
    assert page.read_text() == (f"{before}\n{shown}\n\n{behind}" if shown else before + behind)


def test_images_of_another_size_are_resized_before_anybody_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["infer", "--network", "vgg_mini@0.0625x48", "--data", "shapes10", "--frameworks", "paddle"]
    assert main([*line, "--rounds", "1", "--steps", "1", "--batch-size", "4", "--batch-sizes", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert "shapes10: 4 images, resized to (3, 48, 48)" in said.err
    assert json.loads(said.out)["tables"]["2 images at a time"]["speeds"]["paddle"]["images_per_second"] > 0


def test_inference_is_timed_by_batch_size_with_onnxruntime_beside(capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "infer",
        "--network",
        NET.name,
        "--data",
        "shapes10",
        "--rounds",
        "2",
        "--steps",
        "1",
        "--batch-sizes",
        "4,1",
    ]
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["tables"]) == ["1 image at a time", "4 images at a time"]
    assert {name for table in result["tables"].values() for name in table["speeds"]} == {"paddle", "torch", "onnx"}
    assert set(result["versions"]["onnx"]) == {"onnxruntime"} and ", onnxruntime 1." in markdown(result)
    one, four = (table["peak_memory_bytes"] for table in result["tables"].values())
    assert all(20e6 < one[name] <= four[name] for name in ("paddle", "torch", "onnx"))
    assert result["peak_memory_bytes"] == four
    assert four["onnx"] < four["torch"], "its process has no framework in it"
    text = " ".join(markdown(result).split())  # without the breaks of long lines
    assert f"{four['onnx'] / 1e9:.2f} GB |" in text
    assert result["versions"]["onnx"] == {"onnxruntime": version("onnxruntime")}
    assert f"onnxruntime {version('onnxruntime')}" in text
    assert result["optimised_operators"]["MaxPool"] == 5 and "BatchNormalization" not in result["optimised_operators"]
    assert "- Operators that ONNX Runtime runs:" in text and "MaxPool 5" in text


ACCURACY = ["accuracy", "--network", "lenet@0.5", "--recipe", "cifar_net", "--data", "shapes10", "--threads", "1"]
ACCURACY += ["--rounds", "1", "--batch-size", "250"]


def test_time_to_accuracy_is_the_training_time_up_to_the_epoch_that_reaches_it(
    framework: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = [*ACCURACY, "--frameworks", framework, "--target", "0.12", "--epochs", "2", "--json"]
    assert main([*line, "--report", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]
    result = json.loads((tmp_path / "bench.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert (tmp_path / "bench.md").read_text() == bench_accuracy.markdown(result)
    assert framework in result["versions"][framework]
    assert f"commit {result['commit']}" in bench_accuracy.markdown(result)
    row = result["frameworks"][framework]
    (run,) = row["runs"]
    assert run["batch_size"] == 250  # as requested
    assert run["test_accuracy"] >= 0.12 and 1 <= run["passes"] <= 2
    assert 0 < run["seconds"] == row["seconds"] == row["least"] == row["most"]


def test_an_accuracy_that_is_not_reached_is_a_failure_that_says_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ACCURACY, "--frameworks", "paddle", "--target", "1", "--epochs", "1"]) == 1
    assert re.search(
        r"failed: PaddlePaddle reached [0-9.]+% in 1 epoch, not 100.00%: try more --epochs", capsys.readouterr().err
    )


def test_a_contestant_that_dies_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--frameworks", "torch", "--torch-python", "/bin/false", "--data", "shapes10"]
    assert main([*line, "--json"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.splitlines()[-2].startswith("failed: the torch worker died (exit code 1)")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("race",), "'race' is not one of"),
        (("accuracy", "--target", "2"), "--target 2 is not an accuracy between 0 and 1"),
        (("accuracy", "--against", "x"), "--against times training steps"),
        (("accuracy", "--frameworks", "torch", "--network", "nothing"), "nothing"),
        (("train", "--frameworks", "jax"), "'jax' is not one of paddle, torch for train"),
        (("train", "--frameworks", "onnx"), "'onnx' is not one of paddle, torch for train"),
        (("infer", "--frameworks", "onnx"), "needs paddle or torch as its reference"),
        (("infer", "--frameworks", "torch,torch"), "names torch twice"),
        (("infer", "--against", "true"), "--against times training"),
        (("infer", "--against-checkout", "."), "--against-checkout times training: leave it out of infer"),
        (("train", "--against-checkout", "/nowhere"), "--against-checkout /nowhere: it has no scripts/bench.py"),
        (("train", *(["--against-checkout", str(ROOT)] * 2)), "two folders hold"),
        (("infer", "--batch-sizes", "1,many"), "give whole numbers such as 1,128"),
        (
            ("train", "--amp", "bf16"),
            "Paddle has no mixed precision on CPUs: its auto_cast does nothing there; leave --amp",
        ),
        (
            ("train", "--amp", "off,bf15", "--frameworks", "torch"),
            "--amp: 'bf15' is not one of off, bf16, fp16; did you",
        ),
        (("train", "--amp", "fp16", "--frameworks", "torch"), "--amp fp16: fp16 needs a GPU; leave --amp out"),
        (("train", "--layout", "channels_last"), "--layout channels_last: Paddle computes with channels_first only"),
        (("train", "--compile", "on"), "--compile on: only PyTorch compiles here; choose --frameworks torch"),
        (("infer", "--compile", "on", "--frameworks", "torch"), "--compile is not for infer: leave it out"),
        (("accuracy", "--amp", "bf16"), "--amp is not for accuracy: leave it out"),
        (("train", "--device", "gpu", "--frameworks", "torch"), "finds no GPU here"),
        (("train", "--network", "vgg99"), "unknown network 'vgg99'"),
        (("train", "--batch-size", "9999"), "--batch-size is at most"),
        (("train", "--torch-python", "/nowhere/python", "--frameworks", "torch"), "cannot run /nowhere/python"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*arguments, "--data", "shapes10"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
