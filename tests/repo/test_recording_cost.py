"""The table of what recording costs is that of its logs."""

from __future__ import annotations

import importlib.util
import json

from helpers.paths import ROOT
from parity.files import generated_block


def test_the_page_shows_the_logs() -> None:
    spec = importlib.util.spec_from_file_location("measure_recording", ROOT / "scripts" / "measure_recording.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = ROOT / "docs" / "bench" / "recording"
    logs = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("torch", "paddle")}
    page = ROOT / "docs" / "recordings.md"
    before, behind = generated_block.around(page, script.MARK)
    assert page.read_text() == f"{before}\n{script.table(logs)}\n\n{behind}"
    assert all(log["steps"] >= 8 and log["command"] and log["commit"] for log in logs.values())
