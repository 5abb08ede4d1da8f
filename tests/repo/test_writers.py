"""Every command writes its files with `parity.files.atomic`, so a killed process leaves no half-written file."""

from __future__ import annotations

import ast

from helpers.paths import ROOT

WRITES = ("write_bytes", "write_text")
WRITERS = {"parity/cli/bench.py": 1}
"""Files that write temporary files only: a model to time."""


def test_every_command_writes_its_files_atomically() -> None:
    found: dict[str, int] = {}
    for path in [path for folder in ("parity", "paddle_impl", "torch_impl") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
                name = str(path.relative_to(ROOT))
                found[name] = found.get(name, 0) + 1
    assert found == WRITERS
