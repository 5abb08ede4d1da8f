"""What the reports show of the stage init: page, Markdown and JUnit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from helpers.report_samples import equal, initialised
from parity import report
from parity.report.initialisers import HEIGHT, MOST_PICTURES, WIDTH, histograms, outline


def test_the_page_shows_what_differs_with_pictures(tmp_path: Path) -> None:
    report.write(tmp_path, initialised())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "32 fresh models of each side" in text and "2 of 4 arrays" in text
    assert text.count("<figure>") == 2  # the equal arrays have none
    assert text.count('class="outline-0"') == 1 + 2 and text.count('class="outline-1"') == 1 + 2  # with the legend
    rows = re.findall(r'<th scope="row" class="place">(.*?)</tr>', text, re.DOTALL)
    assert len(rows) == 2 + 4
    assert "kaiming_uniform(a=sqrt 5)" in rows[0] and "mean 1e-05, std 0.144, -0.25 to 0.25" in rows[0]
    assert "fresh" not in re.sub(r"(?s)<style>.*?</style>", "", page_without(tmp_path))


def page_without(folder: Path) -> str:
    report.write(folder / "none", equal())
    return (folder / "none" / "report.html").read_text(encoding="utf-8")


def test_a_name_cannot_leave_its_cell(tmp_path: Path) -> None:
    result = initialised()
    for row in result["initialisation"]["rows"]:
        row["layer"], row["array"] = "<img src=x>", '"><script>'
        row["torch"]["initialiser"] = "<b>"
    report.write(tmp_path, result)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text and "<script" not in text and "<b>" not in text


def test_the_outline_has_the_full_height_at_the_highest_bin() -> None:
    assert outline([0.25, 0.5, 0.25]) == (
        f"M0 {HEIGHT}V{HEIGHT / 2}H{WIDTH / 3:.1f}V0.0H{WIDTH * 2 / 3:.1f}V{HEIGHT / 2}H{WIDTH:.1f}V{HEIGHT}"
    )


def test_each_kind_of_difference_has_one_picture_and_the_pictures_are_few() -> None:
    row = initialised()["initialisation"]["rows"][0]
    sides = ["torch", "paddle"]
    assert len(histograms([row | {"layer": f"fc{i}"} for i in range(50)], sides)) == 1
    assert len(histograms([row | {"kind": f"kind{i}"} for i in range(50)], sides)) == MOST_PICTURES


def test_markdown_lists_the_arrays_that_differ(tmp_path: Path) -> None:
    report.write_markdown(tmp_path / "result.md", initialised())
    text = (tmp_path / "result.md").read_text(encoding="utf-8")
    assert "Initialisation, over 32 seeds: 2 of 4 arrays differ beyond sampling." in text
    assert (
        "| `fc3.bias` | uniform(±1/sqrt(fan\\_in)) | 0 |" in text
        or "| `fc3.bias` | uniform(±1/sqrt(fan_in)) | 0 |" in text
    )
    assert "`fc2.bias`" not in text
    assert "| init | different | 4 |  |  | `init/fc3.bias` |" in text


def test_junit_and_json_say_what_differs(tmp_path: Path) -> None:
    report.write(tmp_path, initialised())
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["init"]
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.get("message", "").startswith(
        "init: different, 2 of 4 arrays over 32 seeds; init"
    )
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert kept["initialisation"]["rows"][1]["error"] == "inf"
