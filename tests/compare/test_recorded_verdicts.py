"""Verdicts, first divergences, tensor counts, causes and exported bytes are those that `recorded/record.py` wrote down.

A change that is meant to alter them records them anew with both versions of Paddle, and says so. The part `resumed` is not held here: its
weights depend on the processor.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest

from helpers.paths import ROOT, TESTS
from recorded import record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def recorded(part: str) -> Any:
    """What was recorded with the installed version of Paddle."""
    packages = {package.name: package.version for package in metadata.distributions()}
    installed = packages.get("paddlepaddle") or packages["paddlepaddle-gpu"]
    file = TESTS / "recorded" / f"paddle{''.join(installed.split('.')[:2])}" / f"{part}.json"
    assert file.exists(), f"nothing is recorded with Paddle {installed}: record it with tests/recorded/record.py"
    return json.loads(file.read_text())


def changes(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Name -> what was recorded and what was found, where these differ."""
    pairs = {name: (before.get(name, "nothing"), found.get(name, "nothing")) for name in [*before, *found]}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("part", ["networks", "pairs"])
def test_every_verdict_is_the_recorded_one(part: str) -> None:
    assert changes(recorded(part), record.PARTS[part](ROOT)) == {}


def test_every_export_is_the_recorded_one_to_the_byte() -> None:
    before = recorded("exports")
    found = record.exports(ROOT, before["versions"])
    versions = changes(before["versions"], found["versions"])
    why = f"perhaps since versions differ from those recorded: {versions}" if versions else "with the recorded versions"
    assert changes(before["digests"], found["digests"]) == {}, why
