"""Every command writes its files by `parity.files.atomic`, so that no kill leaves half a file."""

from __future__ import annotations

import ast

from helpers.paths import ROOT

WRITES = ("write_bytes", "write_text")
WRITERS = {"parity/cli/bench.py": 1}
"""Files whose calls write what nobody keeps: a model to time, in a temporary folder."""


def test_every_command_writes_its_files_by_the_one_writer() -> None:
    found: dict[str, int] = {}
    for path in [path for folder in ("parity", "paddle_impl", "torch_impl") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
                name = str(path.relative_to(ROOT))
                found[name] = found.get(name, 0) + 1
    assert found == WRITERS
