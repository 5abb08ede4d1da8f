"""docs/networks.md lists every network of the registry, and its verdicts are those of the logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import ROOT
from helpers.refusals import the_error
from helpers.scripts import script_main
from parity.compare.verdicts import STAGES
from parity.files import generated_block
from parity.network import articles
from parity.report.networks_table import read, table

main = script_main("describe")


def result(network: str, verdict: str = "equal", **lanes: str) -> dict[str, Any]:
    """What the table reads of a result of `vgg-parity check`."""
    sides = {f"{name} (reference)" * (name == "torch") or name: {name: version} for name, version in lanes.items()}
    stages = {stage: {"compared": 200 + (stage == "onnx") * 34} for stage in STAGES}
    return {"network": network, "verdict": verdict, "stages": stages, "lanes": sides}


PAGE = ROOT / "docs" / "networks.md"

LANES = {"torch": "2.14.1+cu130", "paddle": "2.6.2"}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "own.md"
    path.parent.mkdir()
    path.write_text("before\n<!-- networks -->\nold\n<!-- /networks -->\nbehind\n")
    return path


def written(path: Path, *results: dict[str, Any]) -> Path:
    path.write_text(json.dumps(results[0] if len(results) == 1 else {"verdict": "equal", "results": results}))
    return path


def generated_table() -> str:
    """The table in docs/networks.md."""
    before, behind = generated_block.around(PAGE, "networks")
    return PAGE.read_text()[len(before) : -len(behind)].strip()


def test_the_page_lists_every_network_with_its_counts_and_source() -> None:
    text = generated_table()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    wanted = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in table(list(articles.NETWORKS.values())).splitlines()
    ]
    assert [[*row[:4], row[-1]] for row in rows[2:]] == wanted[2:]


def test_the_page_has_the_verdicts_of_the_logs_of_full_networks() -> None:
    logs = [read(path) for path in sorted((ROOT / "docs" / "proofs").glob("full-*.json"))]
    assert len(logs) == 2 and all(log.cell(name).endswith(", full size") for log in logs for name in articles.NETWORKS)
    assert generated_table() == table(list(articles.NETWORKS.values()), logs, PAGE.parent)


def test_the_table_has_a_column_of_verdicts_for_every_log(document: Path, tmp_path: Path) -> None:
    one = result("vgg_mini", "chaotic but equal", **LANES)
    first = written(tmp_path / "one.json", result("vgg_d@0.125x64", **LANES), one)
    second = written(document.parent / "two.json", result("vgg_d@0.125x64", "different", **LANES | {"paddle": "3.3.1"}))
    assert main(["--update", str(document), "--verdicts", str(first), str(second)]) == 0
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "behind") and "old" not in lines
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[5:7]] for line in lines if "|" in line
    }
    assert rows["network"] == [
        "[PyTorch 2.14.1 and Paddle 2.6.2](../one.json)",
        "[PyTorch 2.14.1 and Paddle 3.3.1](two.json)",
    ]
    assert rows["`vgg_d`"] == ["equal, 1,234 tensors, small cousin", "**different**, 1,234 tensors, small cousin"]
    assert rows["`vgg_mini`"] == ["chaotic but equal, 1,234 tensors, full size", ""]
    assert len(rows) == 2 + len(articles.NETWORKS)
    assert main(["--update", str(document), "--verdicts", str(first), str(second)]) == 0
    assert document.read_text().splitlines() == lines, "once more changes nothing"


def test_a_real_log_of_the_project_is_read() -> None:
    log = read(ROOT / "docs" / "proofs" / "vgg16_bn_drop-paddle26-paddle33.json")
    assert log.sides == "Paddle 3.3.1 and Paddle 2.6.2", "the reference stands first"
    assert log.cell("vgg16_bn_drop") == "equal, 40,488 tensors, full size, without onnx"
    assert log.cell("vgg_mini") == ""


WRONG = {
    "has no <!-- networks -->": ("--update", "plain.md"),
    "cannot read none.md": ("--update", "none.md"),
    "cannot read none.json": ("--update", "own.md", "--verdicts", "none.json"),
    "JSONDecodeError": ("--update", "own.md", "--verdicts", "plain.md"),
    "KeyError: 'network'": ("--update", "own.md", "--verdicts", "empty.json"),
    "RecursionError": ("--update", "own.md", "--verdicts", "deep.json"),
    "an unknown verdict": ("--update", "own.md", "--verdicts", "lying.json"),
    "nothing was compared of vgg_d": ("--update", "own.md", "--verdicts", "bare.json"),
    "nothing was compared of vgg_e": ("--update", "own.md", "--verdicts", "nothing.json"),
    "a network twice": ("--update", "own.md", "--verdicts", "twice.json"),
    "several lanes: PyTorch 2.14.1 and Paddle 2.6.2; ": ("--update", "own.md", "--verdicts", "lanes.json"),
    "--verdicts is for --update": ("--verdicts", "lying.json"),
    "--update prints another table: leave out --network": ("--update", "own.md", "--network", "vgg_d"),
    "--kernels prints another table: leave out --update": ("--kernels", "--update", "own.md"),
}


@pytest.mark.parametrize("said", WRONG)
def test_bad_input_is_one_line_and_leaves_the_document_as_it_was(
    said: str, document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(document.parent)
    Path("plain.md").write_text("nothing\n")
    Path("empty.json").write_text("{}")
    Path("deep.json").write_text("[" * 200_000)
    written(Path("lying.json"), result("vgg_d", "fine", **LANES))
    one = result("vgg_d", **LANES)
    written(Path("bare.json"), one | {"stages": {}})
    written(Path("nothing.json"), one | {"network": "vgg_e", "stages": one["stages"] | {"onnx": {"compared": 0}}})
    written(Path("twice.json"), one, result("vgg_d@0.125x64", **LANES))
    written(Path("lanes.json"), one, result("vgg_e", **LANES | {"paddle": "3.3.1"}))
    before = document.read_text()
    assert main([*WRONG[said], "--json"]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and said in the_error(stderr.splitlines())
    assert document.read_text() == before
