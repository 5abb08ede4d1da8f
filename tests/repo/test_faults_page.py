"""docs/faults.md lists every planted fault, and README's summary line has the numbers of its table."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.paths import ROOT
from parity.cli.selftest import COUNTS, LIST, OURS, PORTS, SUMMARY, TRAININGS, headline
from parity.files import generated_block
from parity.selftest.catalogue import FAULTS
from parity.selftest.innocent_changes import INNOCENT
from parity.selftest.of_programs import PROGRAMS, SPELLED
from parity.selftest.of_transformers import ALIKE, TRANSFORMERS

PAGE = ROOT / "docs" / "faults.md"


def block(file: Path, word: str) -> str:
    """The generated text of `file` between the marks with `word`."""
    before, behind = generated_block.around(file, word)
    return file.read_text()[len(before) : -len(behind)].strip()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split(" |")]


def totals_of_page() -> tuple[dict[str, int], dict[str, int]]:
    """Faults caught and false alarms, by criterion, from the table of the page."""
    head, *rows = block(PAGE, COUNTS).splitlines()
    names = [cell.strip() for cell in head.split("|")[2:-1]]
    caught, alarms = (dict(zip(names, map(int, cells(row)[1:]), strict=True)) for row in rows[-2:])
    return caught, alarms


def test_the_page_lists_every_fault_with_its_sentence() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| step ", block(PAGE, LIST), re.MULTILINE)
    assert rows == [(fault.name, fault.sentence) for fault in FAULTS.values()]


def test_the_page_counts_every_fault_and_every_change_of_one_thread() -> None:
    rows = block(PAGE, COUNTS).splitlines()
    assert f"**all faults ({len(FAULTS)})**" in rows[-2]
    assert f"({sum(change.threads == 1 for change in INNOCENT.values())} innocent changes)" in rows[-1]
    caught, alarms = totals_of_page()
    assert (caught[OURS], alarms[OURS]) == (len(FAULTS), 0)


def test_the_page_lists_every_change_of_transformers() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| ", block(PAGE, PORTS), re.MULTILINE)
    assert rows == [(edit.name, edit.sentence) for edit in (*TRANSFORMERS, *ALIKE)]
    found, equal = len(TRANSFORMERS), len(ALIKE)
    assert f"finds {found} of {found} faults of transformers" in block(PAGE, PORTS)
    assert f"calls {equal} of {equal} innocent changes equal" in block(PAGE, PORTS)


def test_the_page_lists_every_change_of_training() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| ", block(PAGE, TRAININGS), re.MULTILINE)
    assert rows == [(edit.name, edit.sentence) for edit in (*PROGRAMS, *SPELLED)]
    found, equal = len(PROGRAMS), len(SPELLED)
    assert f"finds {found} of {found} faults of training" in block(PAGE, TRAININGS)
    assert f"calls {equal} of {equal} innocent changes equal" in block(PAGE, TRAININGS)


def test_the_headline_gives_the_range_of_the_other_criteria() -> None:
    caught, alarms = {OURS: 9, "one": 3, "other": 5}, {OURS: 0, "one": 4, "other": 2}
    assert headline(caught, alarms, 9, 4).splitlines() == [
        "This check finds 9 of 9 planted faults and reports 0 of 4 innocent changes.",
        "Means and thresholds, as other tools compare, find 3 to 5 of these faults",
        "and report 2 to 4 of these innocent changes.",
    ]


def test_the_readme_has_the_headline_of_the_page() -> None:
    caught, alarms = totals_of_page()
    changes = sum(change.threads == 1 for change in INNOCENT.values())
    assert block(ROOT / "README.md", SUMMARY) == headline(caught, alarms, len(FAULTS), changes)
