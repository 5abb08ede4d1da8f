"""The reports of a parity check: what they show for every verdict, and that no text and no number breaks them."""

from __future__ import annotations

import itertools
import json
import math
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
from parity.report.charts import trajectory_chart
from parity.report.heat_map import guilty_place, heat_map
from parity.report.text import precise, readable

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
VOID = {"meta", "link", "wbr"}
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

    def opening(self) -> list[str]:
        """The tags at which a region opens."""
        return [tag for tag, attributes in self.tags if "opens" in attributes.get("class", "").split()]


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
    result["first_divergence"] = None
    assert "No first divergence was recorded" in page(tmp_path, result).text
    found = page(tmp_path, result | {"sentence": "different: only PyTorch has drop1_1"})
    assert "different: only PyTorch has drop1_1" in found.pieces
    assert found.opening() == ["td", "i"]  # both models at the first layer without a partner, and the trajectory


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


def heat_cells(found: Page) -> list[dict[str, str]]:
    """The cells of the heat map that hold an error."""
    return [attributes for attributes in found.all("td") if "title" in attributes]


def test_every_error_of_every_layer_is_in_the_heat_map_and_in_the_table(tmp_path: Path) -> None:
    result = equal()
    found = page(tmp_path, result)
    titles = " ".join(cell["title"] for cell in heat_cells(found))
    for layer in result["layers"]:
        assert f"{layer['layer']}, eval: error {layer['errors']['eval']:.2e}, tolerance 1e-12" in titles
        for phase, error in layer["errors"].items():
            assert f"{phase}: error {error:.2e}, tolerance 1e-12" in titles
            assert f"{error:.2e}" in found.text
    assert len(heat_cells(found)) == sum(len(set(layer["errors"]) - {"gradient"}) for layer in result["layers"])


def test_the_heat_map_has_a_column_for_each_stage_and_axis_titles(tmp_path: Path) -> None:
    found = page(tmp_path, equal())
    assert "layer, in the order of computation ↓" in found.pieces
    head = found.pieces[found.pieces.index("phase (stage of the check) →") :]
    names = ["eval", "forward", "backward", "update", "trajectory"]
    assert [piece for piece in head if piece.strip()][1:6] == names


def test_colours_and_signs_follow_error_over_tolerance() -> None:
    errors = {"eval": 1e-15, "forward": 9e-13, "backward": 2e-12, "update": 1e-8, "onnx": 1.0, "trajectory": math.nan}
    layer = {"layer": "fc", "errors": errors, "bounds": dict.fromkeys(errors, 1e-12)}
    result = {"layers": [layer], "stages": dict.fromkeys(errors)}
    (row,) = heat_map(result).rows
    found = dict(zip(heat_map(result).columns, row.cells, strict=True))
    levels = {name: cell.level for name, cell in found.items() if cell}
    assert levels == {"eval": 0, "forward": 1, "backward": 2, "update": 3, "onnx": 4, "trajectory": 5}
    assert [name for name, cell in found.items() if cell and not cell.above] == ["eval", "forward"]


def test_the_worst_phase_stands_for_its_stage() -> None:
    errors, bounds = {"backward": 1e-13, "gradient": 1e-14}, {"backward": 1e-12, "gradient": 1e-15}
    result = {"layers": [{"layer": "fc", "errors": errors, "bounds": bounds}], "stages": {"backward": None}}
    (cell,) = heat_map(result).rows[0].cells
    assert cell is not None
    assert (cell.error, cell.above) == (1e-14, True)


def test_the_layer_of_the_first_divergence_is_marked_wherever_it_is_shown(tmp_path: Path) -> None:
    found = page(tmp_path, different())
    assert len(found.styled("guilty")) == 2
    assert found.opening() == ["th", "td", "i"]  # the heat map, both models, the trajectory
    assert [cell["title"].split(":")[0] for cell in heat_cells(found) if "here" in cell["class"]] == ["bn2_1, forward"]
    assert page(tmp_path, equal()).styled("guilty") == page(tmp_path, equal()).styled("opens") == []


@pytest.mark.parametrize(
    "step, phase, layer, place",
    [
        (1, "statistics", "bn1_1", ("bn1_1", "update")),
        (1, "gradient", "conv1_1", ("conv1_1", "backward")),
        (1, "loss", "", ("(model)", "forward")),
        (4, "update", "fc3", ("fc3", "trajectory")),
    ],
)
def test_every_first_divergence_has_a_place_in_the_heat_map(
    step: int, phase: str, layer: str, place: tuple[str, str]
) -> None:
    first = {"step": step, "phase": phase, "layer": layer}
    assert guilty_place(equal() | {"first_divergence": first}) == place


def test_the_worst_elements_have_indices_both_values_and_the_difference(tmp_path: Path) -> None:
    result = different()
    found = page(tmp_path, result)
    assert "8 x 128 x 16 x 16" in found.pieces
    assert "Paddle - PyTorch" in found.pieces
    for element in result["first_divergence"]["elements"]:
        assert str(element["index"]) in found.pieces
        assert f"{element['difference']:.2e}" in found.pieces
    result["first_divergence"] |= {"shapes": [[2, 3], None], "elements": []}
    found = page(tmp_path, result)
    assert {"shape, PyTorch", "2 x 3", "shape, Paddle", "none"} <= set(found.pieces)
    assert "differ most" not in found.text


def test_values_are_shown_with_the_digits_in_which_they_differ() -> None:
    assert precise(0.406086149550, 0.405842026983) == "0.406086"
    assert precise(1.0, 1.0 + 2**-52) == "1" and precise(1.0 + 2**-52, 1.0) == "1.0000000000000002"
    assert [precise(value, 1.0) for value in (math.nan, math.inf, "inf", "nan")] == ["NaN", "inf", "inf", "NaN"]


def test_both_models_are_trees_side_by_side(tmp_path: Path) -> None:
    found = page(tmp_path, different())
    assert "2 of 60 rows have a layer on one side only." in found.text
    assert found.pieces.count("classifier") == 2
    assert len(found.styled("alone")) == found.pieces.count("no partner") == 2
    assert "Both models" not in page(tmp_path, equal()).text


def test_a_long_trajectory_has_points_that_do_not_touch() -> None:
    steps = [{"step": n, "rate": 0.1 / n, "error": 1e-9 * n, "twin": 2e-9, "bound": 2e-6} for n in range(1, 1001)]
    chart = trajectory_chart(steps)
    for series in chart.series:
        places = [point.x for point in series.points]
        assert min(b - a for a, b in itertools.pairwise(places)) >= 9
    assert len([line for line in chart.lines if line.style == "rate"]) <= 110
    assert chart.opens is None
    steps[700]["error"] = 1.0
    assert trajectory_chart(steps).opens in [
        point.x for point in trajectory_chart(steps).series[0].points if point.above
    ]


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
    titles = " ".join(cell["title"] for cell in heat_cells(found))
    assert "inf, NaN" in found.text
    assert "conv2_1, forward: error inf" in titles
    assert "backward: error NaN" in titles
    assert "conv1_1, start: error 0, tolerance 0; forward: error 0," in titles
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
def test_a_report_of_any_magnitude_has_a_short_axis(tmp_path: Path, value: float) -> None:
    result = equal() | {
        "layers": [{"layer": "fc", "errors": {"loss": value, "mystery": value}, "bounds": {"loss": value}}],
        "trajectory": [{"step": n, "rate": 0.1, "error": value, "bound": value} for n in (1, 2)],
    }
    found = page(tmp_path, result)
    assert any("fc, mystery: error" in cell["title"] for cell in heat_cells(found))
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
    # small: the stages that we know; span and wbr: the parts of a path, which a dot ends
    tags = [[tag for tag, _ in one.tags if tag not in ("small", "span", "wbr")] for one in (found, plain)]
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
