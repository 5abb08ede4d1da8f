"""The conditions of a measurement: what the log of every benchmark holds, and the lines that say so in its report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from parity import machine
from parity.experiments.tables import counted
from parity.version import git_commit

PACKAGES = {"onnx": "onnxruntime"}
"""Contestant -> the package whose version counts, where their names differ."""


def start_log(command: str) -> dict[str, Any]:
    """Return what holds before the measurement: the command, the time, the commit and the machine."""
    return {
        "command": command,
        "started": datetime.now().isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": machine.describe(),
        "instruction_sets": machine.instruction_sets(),
        "load_before": machine.load_average(),
    }


def describe_conditions(result: Mapping[str, Any], rounds: int) -> dict[str, str]:
    """Return the conditions in the log `result` of `rounds` rounds as text. Older logs lack some, whose text is then empty."""
    load = f", load average before: {result['load_before']}" if "load_before" in result else ""
    versions = [_version(name, found) for name, found in result.get("versions", {}).items()]
    return {
        "Measured": f"{counted(rounds, 'round')}, started {result['started']}{load}",
        "Machine": f"{result['machine']}, {counted(result['threads'], 'thread')} each",
        "Instruction sets": ", ".join(result.get("instruction_sets", [])),
        "Versions": ", ".join([*versions, *([f"commit {result['commit']}"] if result.get("commit") else [])]),
    }


def _version(contestant: str, versions: Mapping[str, str]) -> str:
    """Return what has which version: a contestant, or its package where their names differ."""
    name, *variant = contestant.split(maxsplit=1)
    package = PACKAGES.get(name, name)
    return " ".join([package, *variant, versions[package]])
