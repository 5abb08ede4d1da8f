"""`vgg-parity bench growth`: fits give what they were made of, the tables and the picture show the log, processes report their memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.scripts import script_main
from parity.benchmark.growth import LINE, POWER, fit, predict
from parity.cli import bench_growth
from parity.errors import InputError
from parity.files import generated_block
from parity.network import articles
from parity.report.plots import growth

main = script_main("bench")

TINY = ["growth", "--network", "vgg_mini@0.0625", "--data", "shapes10", "--batch-size", "8", "--threads", "1"]
TINY += ["--steps", "1", "--batch-sizes", "2,6"]


def test_a_fit_gives_the_line_and_the_power_of_which_its_points_are_made() -> None:
    work = [1.0, 3.0, 8.0]
    line = fit(LINE, work, [[5 + 2 * x for x in work], [5 + 4 * x for x in work], [5 + 3 * x for x in work]])
    assert line["slope"] == pytest.approx({"median": 3, "low": 2, "high": 4})
    assert line["fixed"] == pytest.approx({"median": 5, "low": 5, "high": 5})
    assert (line["least"], line["most"], line["points"], line["rounds"]) == (1, 8, 3, 3)
    assert line["deviation"] == pytest.approx(0, abs=1e-12)
    power = fit(POWER, work, [[7 * x**0.75 for x in work]])
    assert power["exponent"] == pytest.approx(dict.fromkeys(("median", "low", "high"), 0.75))
    assert power["factor"]["median"] == pytest.approx(7)
    assert predict(power, np.array(work)) == pytest.approx([7 * x**0.75 for x in work])


def test_a_point_counts_by_its_relative_distance_and_the_largest_is_named() -> None:
    work = [1.0, 10.0, 100.0]
    assert fit(LINE, work, [[2.0, 11.0, 101.0]])["fixed"]["median"] == pytest.approx(1)
    bent = fit(LINE, work, [[2.0, 22.0, 101.0]])
    distances = np.abs(np.array([2, 22, 101]) / predict(bent, np.array(work)) - 1)
    assert bent["deviation"] == pytest.approx(distances.max()) and bent["deviation"] > 0.1
    absolute = np.polyfit(work, [2.0, 22.0, 101.0], 1)
    assert abs(bent["fixed"]["median"] - 1) < abs(absolute[1] - 1), "large points would hide the fixed cost"
    assert fit(LINE, work[:2], [[2.0, 22.0]])["deviation"] is None


@pytest.mark.parametrize(
    ("name", "cousin"),
    [
        ("vgg_mini", "vgg_mini@0.5"),
        ("vgg_mini@0.25", "vgg_mini@0.5"),
        ("vgg_mini@0.25x48", "vgg_mini@0.5x48"),
        ("vgg_mini@0.25x48+classes7+bias", "vgg_mini@0.5x48+classes7+bias"),
        ("vgg_mini+bias", "vgg_mini@0.5+bias"),
        ("nets/my@home.json@0.25", "nets/my@home.json@0.5"),
    ],
)
def test_a_cousin_of_another_width_keeps_size_and_suffixes(name: str, cousin: str) -> None:
    assert articles.with_width(name, 0.5) == cousin
    if ".json" not in name:
        assert articles.get_network(cousin).trainable_count != articles.get_network(name).trainable_count


def test_a_pattern_has_no_widths() -> None:
    with pytest.raises(InputError, match="has no widths"):
        articles.with_width("INPUT -> FC", 0.5)


def sample() -> dict[str, Any]:
    """A result in which a step takes 2 ms and 3 ms an image in Paddle, and half of that in PyTorch."""
    work, costs = [16, 64, 256], {"paddle": 1.0, "torch": 0.5}
    parts: dict[str, Any] = {}
    for name in ("batch", "processes"):
        rows = [
            {
                "contestant": contestant,
                "work": count if name == "batch" else place + 1,
                "network": "vgg_mini@0.25",
                "batch_size": count,
                "seconds": [cost * (0.002 + 0.003 * count) * turn for turn in (0.98, 1, 1.02)],
                "peak_memory_bytes": [10**8 + 10**6 * count] * 3,
            }
            for place, count in enumerate(work)
            for contestant, cost in costs.items()
        ]
        part = bench_growth.PARTS[name]
        fits, ratios = bench_growth.make_fits(name, rows), bench_growth.make_ratios(name, rows)
        parts[name] = {"title": part.title, "work": part.work, "points": rows, "fits": fits, "ratios": ratios}
    facts = {"network": "vgg_mini@0.25", "recipe": "article", "batch_size": 64, "rounds": 3, "threads": 2}
    facts |= {"machine": "a machine", "load_before": 0.1, "started": "2026-11-30T12:00:00", "commit": "abc1234"}
    return facts | {
        "what": "growth",
        "versions": {"torch": {"torch": "2"}},
        "check": {},
        "command": "bench",
        "parts": parts,
    }


def test_tables_say_slopes_with_their_unit_and_ratios_of_processes() -> None:
    text = bench_growth.markdown(sample())
    assert (
        "| time of a training step | PyTorch | batch size, 16 to 256 | 1 ms (0.98 to 1.02) | 1.5 ms an image (1.47 to 1.53) | 0% |"
        in text
    )
    assert (
        "| peak memory of training | Paddle | batch size, 16 to 256 | 100 MB (100 to 100) | 1 MB an image (1 to 1) | 0% |"
        in text
    )
    assert "| 2 | PyTorch | 0.097 (0.0951 to 0.0989) | 660 | 0.26 (0.26 to 0.26) | 0.16 GB |" in text
    assert "Command:\n\n    bench\n" in text
    assert "\n\n\n" not in text
    shown = bench_growth.block(sample(), "bench/growth")
    assert "[log](bench/growth/bench.md)" in shown and "(bench/growth/bench.png)" in shown
    assert "| a training step, processes |" in shown and "| a training step, batch size |" not in shown


def test_the_picture_has_a_column_for_each_part() -> None:
    result = sample()
    both = Image.open(io.BytesIO(growth(result, predict)))
    del result["parts"]["processes"]
    one = Image.open(io.BytesIO(growth(result, predict)))
    assert both.size[0] > one.size[0] > 700 and both.size[1] == one.size[1]


def test_a_report_and_a_page_show_what_was_measured(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- growth -->\n<!-- /growth -->\n\nEnd\n")
    words = [*TINY, "--parts", "batch", "--rounds", "2", "--frameworks", framework, "--json"]
    assert main([*words, "--report", str(tmp_path / "log"), "--update", str(page)]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = tmp_path / "log"
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    assert json.loads((folder / "bench.json").read_text()) == result
    assert (folder / "bench.md").read_text() == bench_growth.markdown(result)
    before, behind = generated_block.around(page, bench_growth.MARK)
    assert page.read_text() == f"{before}\n{bench_growth.block(result, 'log')}\n\n{behind}"
    points = result["parts"]["batch"]["points"]
    assert [(row["contestant"], row["work"]) for row in points] == [(framework, 2), (framework, 6)]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in points)
    assert all(50e6 < size < 4e9 for row in points for size in row["peak_memory_bytes"])
    assert list(result["versions"]) == [framework]


@pytest.mark.slow
def test_processes_and_checks_report_time_and_memory_of_all_their_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*TINY, "--rounds", "1", "--widths", "0.0625,0.25", "--check-steps", "2,4", "--json"]
    assert main([*words, "--parts", "width,processes,check-width,check-steps"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert list(parts) == ["width", "processes", "check-width", "check-steps"]
    assert all(row["seconds"][0] > 0 for part in parts.values() for row in part["points"])
    memory = {
        name: {(row["contestant"], row["work"]): row["peak_memory_bytes"][0] for row in part["points"]}
        for name, part in parts.items()
    }
    for name in ("paddle", "torch"):
        assert memory["processes"][name, 2] > 1.5 * memory["processes"][name, 1], "the memory of one process only"
        assert [ratio["work"] for ratio in parts["processes"]["ratios"] if ratio["contestant"] == name] == [2]
    one = memory["width"]
    counts = [articles.get_network(f"vgg_mini@{width}").trainable_count for width in (0.0625, 0.25)]
    assert list(one) == [(name, count) for count in counts for name in ("paddle", "torch")]
    alone = sum(size for (_, count), size in one.items() if count == counts[0])
    assert min(memory["check-width"].values()) > alone, "a check also has its own process and a twin"
    assert [work for _, work in memory["check-steps"]] == [2, 4]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--parts", "batch,check-steps", "--frameworks", "torch"),
            "--parts: check-steps compares both frameworks: leave --frameworks out",
        ),
        (("--parts", "batch,widht"), "--parts: 'widht' is not one of batch, width, processes"),
        (("--batch-sizes", "16"), "--batch-sizes '16' is one point, which has no slope"),
        (("--batch-sizes", "16,many"), "--batch-sizes '16,many': give numbers such as 16,32,64,128,256"),
        (("--batch-sizes", "16,9999"), "--batch-sizes: a batch has at most 5120 images"),
        (("--widths", "0.5,2"), "--widths '0.5,2': give numbers such as"),
        (("--widths", "0.001,0.002"), "have equally many parameters"),
        (("--check-steps", "1,4"), "--check-steps: a check needs at least 2 steps"),
        (("--processes", "1,5"), "--processes: a batch of 8 images leaves some of 5 processes less than 2 images"),
        (("--against", "true"), "--against is not for growth"),
        (("--amp", "bf16", "--frameworks", "torch"), "--amp is not for growth"),
        (("--frameworks", "onnx"), "'onnx' is not one of paddle, torch for growth"),
        (("--update", "page.md"), "--update needs --report"),
        (("--update", "/nowhere/page.md", "--report", "log"), "cannot read /nowhere/page.md"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [one for one in TINY if one not in ("--batch-sizes", "2,6")] if "--batch-sizes" in words else TINY
    assert main([*given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_what_only_other_parts_need_is_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = ("--network", "INPUT -> FC", "--data", "nothing")  # the data set is refused last
    for words in (("--parts", "batch", "--batch-size", "2"), ("--parts", "batch,processes")):
        assert main(["growth", *pattern, *words]) == 2
        assert "unknown data set 'nothing'" in capsys.readouterr().err
    assert main(["growth", *pattern, "--parts", "width"]) == 2
    assert "has no widths" in capsys.readouterr().err


def test_points_of_growth_are_refused_by_other_subjects(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--parts", "--widths", "--processes", "--check-steps", "--update"):
        assert main(["train", flag, "1"]) == 2
        assert capsys.readouterr().err.splitlines() == [f"error: {flag} is for growth: leave it out"]
