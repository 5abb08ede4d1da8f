"""Checks the tables and pictures that experiments write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

RunExperiment = Callable[..., tuple[dict[str, Any], str]]


def assert_drawn(file: Path, width: int, height: int) -> None:
    """Assert that a PNG has at least that size and many colours, so that something is drawn on it."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] >= width and picture.size[1] >= height
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours and len(colours) > 20
        assert max(count for count, _ in colours) < 0.97 * picture.size[0] * picture.size[1], "blank"


def table_rows(folder: Path, first: str) -> list[list[str]]:
    """The cells, row by row, of the table in table.md whose header starts with `first`."""
    lines = (folder / "table.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
