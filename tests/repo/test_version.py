"""The version is the same wherever it is written."""

from __future__ import annotations

import re

from helpers.paths import ROOT
from parity.version import __version__


def read(name: str, pattern: str) -> list[str]:
    """The groups of the first place in file `name` that `pattern` fits."""
    hit = re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)
    assert hit, f"{name} has no {pattern}"
    return list(hit.groups())


def test_package_citation_and_changelog_have_one_version() -> None:
    assert read("pyproject.toml", r'^version = "(.*)"$') == [__version__]
    assert read("CITATION.cff", r"^version: (.*)$") == [__version__]
    version, date = read("CHANGELOG.md", r"^## \[(\d.*)\] - (\d{4}-\d\d-\d\d)$")
    assert version == __version__
    assert read("CITATION.cff", r"^date-released: (.*)$") == [date]


def test_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
