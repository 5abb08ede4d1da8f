"""The reports of a parity check: what they show for every verdict, and that no text and no number breaks them."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from helpers.report_samples import HOSTILE, LANES, SAMPLES, different, edges, equal, hostile, layer_names, several
from parity import report
from parity.compare.relative_error import NothingCompared
from parity.errors import InputError
from parity.report.text import readable

FILES = {"report.json", "junit.xml", "report.html"}
LOADING = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "action",
    "data",
    "poster",
    "background",
    "formaction",
    "ping",
    "content",
}
VOID = {"meta", "link"}
VISIBLE_HOSTILE = readable(HOSTILE)


class Page(HTMLParser):
    """Every tag with its attributes, and all text, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.pieces, self.open = "", list[str](), list[str]()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
            self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def styled(self, style: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.tags if style in attributes.get("class", "").split()]


def page(folder: Path, result: dict[str, Any]) -> Page:
    report.write(folder, result)
    return Page((folder / "report.html").read_text("utf-8"))


def suites(folder: Path, result: dict[str, Any]) -> list[ElementTree.Element]:
    report.write(folder, result)
    root = ElementTree.parse(folder / "junit.xml").getroot()
    assert root.tag == "testsuites"
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert sum(float(case.attrib["time"]) for case in cases) == pytest.approx(float(suite.attrib["time"]), abs=0.01)
    assert int(root.attrib["failures"]) == len(root.findall(".//failure"))
    return list(root)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


# ------------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", SAMPLES)
def test_a_report_is_three_files_and_nothing_else(tmp_path: Path, name: str) -> None:
    report.write(tmp_path / "a" / "b", SAMPLES[name]())
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == FILES


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    report.write(tmp_path, different())
    assert "Equal" in page(tmp_path, equal()).text
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_crash_while_a_file_is_replaced_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.write(tmp_path, equal())
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def crash(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path, different())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        report.write(tmp_path / "file", equal())


@pytest.mark.parametrize("result", [{"results": [], "verdict": "equal"}, equal() | {"stages": {}}])
def test_a_report_of_nothing_is_an_error_and_writes_nothing(tmp_path: Path, result: dict[str, Any]) -> None:
    with pytest.raises(NothingCompared):
        report.write(tmp_path / "report", result)
    assert not (tmp_path / "report").exists()


# ------------------------------------------------------------------------------------------------------------------ JSON


def test_the_json_is_the_result(tmp_path: Path) -> None:
    for result in (equal(), several()):
        report.write(tmp_path, result)
        assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse) == result


def test_infinities_and_nan_are_strings_in_the_json_and_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    result = edges() | {"more": [-np.inf, np.float32(0.5), np.int64(3), np.bool_(True), Path("x")]}
    report.write(tmp_path, result)
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert read["layers"][8]["errors"]["forward"] == "inf"
    assert read["layers"][8]["errors"]["backward"] == "nan"
    assert read["more"] == ["-inf", 0.5, 3, True, "x"]


def test_the_page_can_be_made_again_from_the_json(tmp_path: Path) -> None:
    report.write(tmp_path, edges())
    html = (tmp_path / "report.html").read_bytes()
    report.write(tmp_path / "again", json.loads((tmp_path / "report.json").read_text()))
    assert (tmp_path / "again" / "report.html").read_bytes() == html


# ------------------------------------------------------------------------------------------------------------------ page


@pytest.mark.parametrize(
    "name, words", [("equal", "Equal: "), ("different", "Different: "), ("chaotic", "Chaotic but equal: ")]
)
def test_the_headline_says_the_verdict_in_words_and_with_a_sign_of_its_own(
    tmp_path: Path, name: str, words: str
) -> None:
    found = page(tmp_path, SAMPLES[name]())
    assert words in found.text
    assert len(found.all("h1")) == 1
    assert found.styled("verdict")[0]["class"] == f"verdict {name}"
    outlines = {attributes["d"] for attributes in page(tmp_path, SAMPLES[name]()).styled("outline")[:1]}
    assert not outlines & {
        page(tmp_path, SAMPLES[other]()).styled("outline")[0]["d"]
        for other in {"equal", "different", "chaotic"} - {name}
    }


def test_an_unknown_verdict_does_not_look_equal(tmp_path: Path) -> None:
    assert page(tmp_path, equal() | {"verdict": "perhaps"}).styled("verdict")[0]["class"] == "verdict unknown"


def test_a_difference_is_explained_before_anything_else(tmp_path: Path) -> None:
    text = page(tmp_path, different()).text
    order = [
        text.index(part)
        for part in (different()["first_divergence"]["sentence"], "eps 1e-3 instead of 1e-5", "Verdict per stage")
    ]
    assert order == sorted(order)


def test_a_difference_without_a_cause_or_without_a_first_divergence_says_so(tmp_path: Path) -> None:
    result = different()
    result["first_divergence"]["cause"] = None
    assert "none of the known mistakes fits" in page(tmp_path, result).text
    assert "No first divergence was recorded" in page(tmp_path, result | {"first_divergence": None}).text


def test_an_equal_page_does_not_mention_a_divergence(tmp_path: Path) -> None:
    found = page(tmp_path, equal())
    assert "First divergence" not in found.text
    assert found.styled("over") == []


def test_the_stages_the_versions_and_the_command_are_there(tmp_path: Path) -> None:
    result = equal()
    found = page(tmp_path, result)
    text = found.text
    assert result["command"] in found.pieces
    for stage in result["stages"].values():
        assert stage["worst"] in text
        assert f"{stage['max_error']:.2e}" in text
    assert {version for lane in LANES.values() for version in lane.values()} <= set(found.pieces)
    assert "TF32" not in text and "TF32 is off" in page(tmp_path, result | {"device": "gpu"}).text


def test_every_error_of_every_layer_is_a_point_and_a_number_in_the_table(tmp_path: Path) -> None:
    result = equal()
    found = page(tmp_path, result)
    for layer in result["layers"]:
        for phase, error in layer["errors"].items():
            assert f"{layer['layer']}, {phase}: error {error:.2e}, tolerance 1e-12" in found.text
    points = sum(len(layer["errors"]) for layer in result["layers"])
    legend = 5 + 1
    assert len(found.styled("point")) == points + len(result["trajectory"]) + legend


def test_phases_have_different_shapes(tmp_path: Path) -> None:
    shapes = {attributes["class"].split()[1]: attributes["d"] for attributes in page(tmp_path, equal()).styled("point")}
    assert len(set(shapes.values())) == len(shapes) == 5


def test_the_layer_of_the_first_divergence_is_marked_in_the_chart(tmp_path: Path) -> None:
    assert len(page(tmp_path, different()).styled("marked")) == 1
    assert page(tmp_path, equal()).styled("marked") == []


def test_tolerances_that_differ_between_phases_have_lines_of_their_own(tmp_path: Path) -> None:
    assert "tolerance of update" in page(tmp_path, edges()).text
    assert "tolerance of update" not in page(tmp_path, equal()).text


def test_the_trajectory_shows_the_twin_and_the_drops_of_the_rate(tmp_path: Path) -> None:
    found = page(tmp_path, SAMPLES["chaotic"]())
    assert len(found.styled("rate")) == 2
    assert "rate 0.001 from step 49" in found.text
    assert "error of the one-ULP twin" in found.text
    assert "error / twin" in found.text
    assert "twin" not in page(tmp_path, equal()).text


def test_isolated_layers_are_counted_and_unfolded_if_one_differs(tmp_path: Path) -> None:
    found = page(tmp_path, different())
    assert f"1 of {len(layer_names())} layers differ: bn2_1." in found.text
    assert [("open" in attributes) for attributes in found.all("details")] == [False, False, True]


def test_zero_infinity_and_nan_are_inside_the_charts_and_marked(tmp_path: Path) -> None:
    found = page(tmp_path, edges())
    assert "inf, NaN" in found.text
    assert "conv2_1, forward: error inf" in found.text
    assert "conv2_1, backward: error NaN" in found.text
    assert "conv1_1, eval: error 0," in found.text
    for attributes in found.styled("point"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", attributes["transform"])]
        assert len(numbers) == 2
        assert all(0 <= number < 2000 for number in numbers)


def test_the_page_leaves_out_what_the_check_left_out(tmp_path: Path) -> None:
    result = {
        key: value
        for key, value in equal().items()
        if key not in ("layers", "trajectory", "isolated", "seconds", "command", "data")
    }
    found = page(tmp_path, result)
    assert found.all("details") == []
    assert "Error per layer" not in found.text


@pytest.mark.parametrize("value", [5e-324, 1.7e308, 1e-12])
def test_a_chart_of_any_magnitude_has_a_short_axis(tmp_path: Path, value: float) -> None:
    result = equal() | {
        "layers": [{"layer": "fc", "errors": {"loss": value, "mystery": value}, "bounds": {"loss": value}}]
    }
    found = page(tmp_path, result)
    assert "fc, mystery: error" in found.text
    assert len(found.styled("grid")) < 30


def test_several_networks_have_an_overview_and_a_section_each(tmp_path: Path) -> None:
    found = page(tmp_path, several())
    assert "Different: 1 of 4 networks: vgg16_bn_drop" in found.text
    links = [attributes["href"].removeprefix("#") for attributes in found.all("a")]
    assert set(links) <= {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert len(found.all("article")) == 4


# -------------------------------------------------------------------------------------------------------------- harmless


@pytest.mark.parametrize("name", SAMPLES)
def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path, name: str) -> None:
    found = page(tmp_path, SAMPLES[name]())
    assert not {"script", "iframe", "img", "object", "embed", "base", "form", "use", "image"} & {
        tag for tag, _ in found.tags
    }
    for tag, attributes in found.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in LOADING & set(attributes):
            assert "//" not in attributes[key], (tag, key)
            assert tag == "meta" or attributes[key].startswith(("#", "data:"))
        assert "url(" not in attributes.get("style", "")
    style = (tmp_path / "report.html").read_text("utf-8").split("<style>")[1].split("</style>")[0]
    assert not re.search(r"//|url\(|@import", style)


def test_hostile_text_is_shown_and_not_executed(tmp_path: Path) -> None:
    found = page(tmp_path, hostile())
    plain = page(tmp_path, different())
    tags = [[tag for tag, _ in one.tags if tag != "small"] for one in (found, plain)]  # small: the stages that we know
    assert tags[0] == tags[1]
    assert different()["command"] + VISIBLE_HOSTILE in found.text
    assert not set("\x00\x1b\u202e") & set((tmp_path / "report.html").read_text("utf-8"))


def test_hostile_text_survives_the_junit_file(tmp_path: Path) -> None:
    (suite,) = suites(tmp_path, hostile())
    assert suite.attrib["name"] == f"vgg16_bn_drop{VISIBLE_HOSTILE}.float64{VISIBLE_HOSTILE}"
    assert all(case.find("failure") is not None for case in suite.findall("testcase"))


def test_halves_of_surrogate_pairs_can_be_written(tmp_path: Path) -> None:
    assert "--data-dir \\udcff" in page(tmp_path, equal() | {"command": "check --data-dir \udcff"}).text


# ----------------------------------------------------------------------------------------------------------------- JUnit


def test_a_stage_is_a_test_case(tmp_path: Path) -> None:
    (suite,) = suites(tmp_path, equal())
    cases = [(case.attrib["classname"], case.attrib["name"]) for case in suite.findall("testcase")]
    assert cases == [("vgg16_bn_drop.float64", stage) for stage in ("forward", "backward", "update", "trajectory")]
    assert suite.attrib["failures"] == "0"
    assert suite.attrib["time"] == "21.500"


def test_a_failure_holds_the_sentence_the_cause_and_the_command(tmp_path: Path) -> None:
    (suite,) = suites(tmp_path, different())
    for case in suite.findall("testcase"):
        failure = case.find("failure")
        assert failure is not None
        assert failure.attrib["message"] == different()["first_divergence"]["sentence"]
        assert failure.text
        assert "eps 1e-3 instead of 1e-5" in failure.text
        assert different()["command"] in failure.text


def test_chaos_is_no_failure_and_a_difference_outside_the_stages_is_one(tmp_path: Path) -> None:
    (suite,) = suites(tmp_path, SAMPLES["chaotic"]())
    assert suite.attrib["failures"] == "0"
    (suite,) = suites(tmp_path, equal() | {"verdict": "different"})
    assert [case.attrib["name"] for case in suite.iterfind("testcase[failure]")] == ["verdict"]


def test_every_network_is_a_suite(tmp_path: Path) -> None:
    found = suites(tmp_path, several())
    assert [suite.attrib["failures"] for suite in found] == ["0", "0", "4", "0"]
    assert [suite.attrib["name"] for suite in found][:2] == ["vgg16_bn_drop@0.25.float64", "vgg_mini.float64"]
