"""Starts scripts in two processes with the launcher of each framework, and finds these processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from helpers.paths import ROOT
from helpers.training_runs import PATIENCE, Ended, script

PROCESSES = 2
RANK = {"paddle": b"PADDLE_TRAINER_ID=", "torch": b"RANK="}

TORCH = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
PADDLE = {
    "PADDLE_TRAINER_ID": "3",
    "PADDLE_TRAINERS_NUM": "8",
    "PADDLE_RANK_IN_NODE": "1",
    "PADDLE_LOCAL_SIZE": "2",
}
LAUNCHED = {"torch": TORCH, "paddle": PADDLE}
"""The variables that a launcher of eight processes sets for rank 3."""


def launched(framework: str, logs: Path, command: list[str]) -> list[str]:
    """Return the command that runs `command` in two processes. Paddle writes the output of each to a file in `logs`."""
    own = {
        "paddle": ["paddle.distributed.launch", "--log_dir", str(logs)],
        "torch": ["torch.distributed.run", "--standalone"],
    }
    module, *flags = own[framework]
    return [command[0], "-m", module, *flags, "--nproc_per_node", str(PROCESSES), *command[1:]]


def training(framework: str, logs: Path, *arguments: object) -> list[str]:
    """Return the command that runs the training script in two processes of one thread each."""
    return launched(framework, logs, script(framework, *arguments))


def ranks(framework: str, launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Return rank -> process id of the launcher's processes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        said = [value.partition(b"=")[2] for value in variables if value.startswith(RANK[framework])]
        if parent == launcher.pid and said:
            found[int(said[0])] = int(folder.name)
    return found


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start `command` in the root of the repository, in its own session."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def end(process: subprocess.Popen[str], logs: Path) -> tuple[Ended, float]:
    """Wait for the end of the launcher. Return how it ended, with the output of its processes, and the seconds until then."""
    since = time.monotonic()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    kept = "".join(path.read_text() for path in sorted(logs.glob("workerlog.*")))
    return Ended(process.returncode, stdout, stderr + kept), time.monotonic() - since


def execute(framework: str, logs: Path, *arguments: object) -> Ended:
    """Run the training script in two processes to its end. It must succeed."""
    ended, _ = end(start(training(framework, logs, *arguments)), logs)
    assert ended.code == 0, ended.stderr
    return ended


def step(framework: str, logs: Path, file: Path, run: Path | None) -> None:
    """Run `distributed_step.py` in two processes, or in one process that also trains `run` to its end."""
    command = [sys.executable, "tests/helpers/distributed_step.py", framework, str(file), *([str(run)] if run else [])]
    ended, _ = end(start(command if run else launched(framework, logs, command)), logs)
    assert ended.code == 0, ended.stderr
