"""Experiments in the session's workers, and a look at the tables and pictures that they end with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parity.backend.worker import Worker
from parity.experiments.remote import Crew
from scripts import script_main

main = script_main("experiment")

Execute = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def execute(workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Runs an experiment in the session's workers; returns its JSON and what it said."""
    monkeypatch.setattr(Crew, "worker", lambda crew, framework: workers[framework])

    def run(*arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
        assert main([*map(str, arguments), "--json", "--threads", "1"]) == code
        told = capsys.readouterr()
        found: dict[str, Any] = json.loads(told.out.splitlines()[-1])
        return found, told.err

    return run


def assert_drawn(file: Path, width: int, height: int) -> None:
    """A PNG at least that large, of many colours: something is drawn on it."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] >= width and picture.size[1] >= height
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours and len(colours) > 20
        assert max(count for count, _ in colours) < 0.97 * picture.size[0] * picture.size[1], "blank"


def table_rows(folder: Path, first: str) -> list[list[str]]:
    """The rows of the table in table.md whose head starts with `first`, as cells."""
    lines = (folder / "table.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
