"""A program in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from helpers.paths import ROOT


def alone(program: str, *arguments: object) -> str:
    """What `program` prints in a process of its own: two frameworks in one do not live together."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
