"""The Markdown of a result: what a pull request shows, how long it is, and that no text breaks it or its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.report_samples import SAMPLES, different, equal, several
from parity import report
from parity.cli.check import main as check
from parity.cli.compare import main as compare
from parity.compare.relative_error import NothingCompared
from parity.report.markdown import MOST_LINES, MOST_ROWS

MOST_CHARACTERS = 6000


def markdown(folder: Path, result: dict[str, Any]) -> str:
    report.write_markdown(folder / "result.md", result)
    assert [path.name for path in folder.iterdir()] == ["result.md"]
    return (folder / "result.md").read_text("utf-8")


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table. A bar behind a backslash is text."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_it_has_verdict_cause_layers_map_versions_and_command(tmp_path: Path) -> None:
    result = different()
    text = markdown(tmp_path, result)
    order = [
        "### Different: `vgg16_bn_drop`",
        "**First divergence:** step 1, forward, layer bn2_1, tensor bn2_1: error 3.02e-02, tolerance 1.00e-12",
        "**Likely cause:** eps 1e-3 instead of 1e-5",
        "| forward | different | 122 | **8.11e-02** | 1e-12 | `forward/bn5_3` |",
        "The layers from the first divergence on:",
        "Map of layers: 58 of 60 have one name on both sides.",
        "PyTorch 2.6.0; Paddle 2.6.2; Python 3.11.7; NumPy 1.26.4; CUDA none",
        result["command"],
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_first_row_of_layers_is_that_of_the_first_divergence(tmp_path: Path) -> None:
    text = markdown(tmp_path, different())
    rows = next(table for table in tables(text) if table[0][0].strip() == "layer")[2:]
    assert rows[0][0].strip() == "`bn2_1`" and rows[1][0].strip() == "`relu2_1`"
    assert len(rows) == MOST_ROWS
    names = [layer["layer"] for layer in different()["layers"]]
    later = len(names) - names.index("bn2_1")
    assert f"{later - MOST_ROWS} more layers are left out." in text


def test_no_layer_before_the_first_divergence_is_listed(tmp_path: Path) -> None:
    result = different()
    names = [layer["layer"] for layer in result["layers"]]
    for phase, expected in (("forward", names[-3:]), ("backward", names[-3::-1][:MOST_ROWS])):
        result["first_divergence"] |= {"layer": names[-3], "phase": phase}
        rows = next(table for table in tables(markdown(tmp_path, result)) if table[0][0].strip() == "layer")[2:]
        assert [row[0].strip(" `") for row in rows] == expected


def test_equal_sides_show_the_layers_nearest_to_their_tolerance(tmp_path: Path) -> None:
    result = equal()
    text = markdown(tmp_path, result)
    errors = sorted((max(layer["errors"].values()) for layer in result["layers"]), reverse=True)
    rows = next(table for table in tables(text) if table[0][0].strip() == "layer")[2:]
    assert [row[2].strip() for row in rows] == [f"{error:.2e}" for error in errors[:MOST_ROWS]]
    assert "First divergence" not in text and "**" not in text


def test_the_map_lists_layers_of_other_names_and_without_a_partner(tmp_path: Path) -> None:
    result = equal() | {
        "models": [
            {"torch": {"path": "fc", "kind": "Linear"}, "paddle": {"path": "fc", "kind": "Linear"}},
            {"torch": {"path": "q", "kind": "Linear"}, "paddle": {"path": "query", "kind": "Linear"}},
            {"torch": {"path": "act", "kind": "ReLU"}, "paddle": None},
        ],
        "mapping": {"how": "names", "notes": ["neither names nor values decide"]},
    }
    text = markdown(tmp_path, result)
    assert "Map of layers, by names: 1 of 3 have one name on both sides." in text
    assert "| `q` Linear | `query` Linear |\n| `act` ReLU | – |" in text
    assert "neither names nor values decide" in text
    result["first_divergence"] = different()["first_divergence"] | {"layer": "act#2"}
    assert "| `act` ReLU | – |\n| `q` Linear | `query` Linear |" in markdown(tmp_path, result)


def test_it_is_short_and_says_what_is_left_out(tmp_path: Path) -> None:
    result = different() | {"differences": [f"setting {n} differs" for n in range(40)], "explained": ["long " * 1000]}
    text = markdown(tmp_path, result)
    assert len(text) < MOST_CHARACTERS
    assert f"{40 - MOST_LINES} more are left out." in text


def test_of_several_networks_only_those_that_differ_are_shown(tmp_path: Path) -> None:
    text = markdown(tmp_path, several())
    assert text.startswith("### Different: 1 of 4 networks: vgg16_bn_drop\n")
    assert text.count("#### ") == 1
    assert len(tables(text)[0]) == 2 + 4


@pytest.mark.parametrize("name", SAMPLES)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(tmp_path: Path, name: str) -> None:
    found = tables(markdown(tmp_path, SAMPLES[name]()))
    assert len(found) >= 2
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    tail = " | `x` </td> <script>alert(1)</script> [a](javascript:x) **b**\n\n# c ``` |"
    result = different()
    result["network"] += tail
    result["first_divergence"] |= {"cause": "eps" + tail, "where": "step 1" + tail}
    result["layers"][0]["layer"] += tail
    result["command"] += tail
    result["models"][0]["torch"] = {"path": "a" + tail, "kind": "b" + tail}
    text = markdown(tmp_path, result)
    without_command = re.sub(r"^(`{3,})console\n.*\n\1$", "", text, flags=re.MULTILINE)
    assert result["command"].split("\n")[0] not in without_command
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", without_command)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\[", outside)
    assert not [line for line in text.splitlines() if line.startswith("# ")]


def test_a_result_of_nothing_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NothingCompared):
        report.write_markdown(tmp_path / "result.md", equal() | {"stages": {}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [check, compare])
@pytest.mark.parametrize("name", ["", "folder", "file/result.md", "/dev/null"])
def test_a_path_that_cannot_be_written_is_refused_before_the_work(
    command: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    models = ["--torch", "no_module:Net", "--paddle", "no_module:Net"] if command is compare else []
    assert command([*models, "--markdown", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write ") and line.endswith("choose another --markdown")
