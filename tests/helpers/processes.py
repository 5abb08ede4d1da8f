"""Runs a program in its own process."""

from __future__ import annotations

import subprocess
import sys

from helpers.paths import ROOT


def alone(program: str, *arguments: object) -> str:
    """The output of `program`, run in its own process, because two frameworks in one process may crash."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
