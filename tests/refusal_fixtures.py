"""A training command that must be refused. A test module asks for it with `pytest_plugins = ["refusal_fixtures"]`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from refusals import Refused, contents, the_error

from parity import data
from parity.backend.registry import FRAMEWORKS
from scripts import script_main


@pytest.fixture(scope="module")
def shapes() -> data.Dataset:
    return data.load("shapes10")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: data.Dataset) -> Path:
    """The working directory. In it no framework can be imported, and shapes10 is at hand without being drawn each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(data.DATASETS, "shapes10", lambda data_dir, say: shapes)
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


@pytest.fixture
def refused(folder: Path, framework: str, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must refuse its input as it should; returns what it said after `error: `."""

    def run(*arguments: object, json_too: bool = True) -> str:
        before = contents(folder)
        try:
            code = script_main(f"train_{framework}")([*map(str, arguments), *(["--json"] if json_too else [])])
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
        stdout, stderr = capsys.readouterr()
        assert (code, stdout) == (2, "")
        assert contents(folder) == before
        return the_error(stderr.splitlines())

    return run
