"""A process of one framework that runs scripts and programs as often as it is asked: its start takes longer than a short run.

As a script it reads JSON lines, each a [folder, name of a script or a program, words], and answers each with the exit code, stdout and
stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

from helpers.paths import ROOT, environment_with_helpers
from helpers.random_numbers import seed_random_numbers
from helpers.scripts import script_main
from helpers.training_runs import Ended
from parity import machine
from parity.cli.scripts import SCRIPTS


class FrameworkProcess:
    """The process of `framework`. It starts at the first call, with the environment of now."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._environment = environment_with_helpers()
        self._process: subprocess.Popen[str] | None = None

    def execute(self, script: str, *words: object, code: int = 0, folder: Path = ROOT) -> Ended:
        """Run `scripts/SCRIPT.py` with `words` in `folder`. It must end with `code`."""
        if not self._process:
            command = [sys.executable, "-m", "helpers.framework_process", self.framework]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, **pipes)
        assert self._process.stdin and self._process.stdout
        call = [str(folder), script, [str(word) for word in words]]
        print(json.dumps(call), file=self._process.stdin, flush=True)
        try:
            ended = Ended(**json.loads(self._process.stdout.readline()))
        except BaseException:  # also a timeout: the next call must not get the answer to this one
            self.close()
            raise
        assert ended.code == code, ended.stderr
        return ended

    def train(self, *words: object, code: int = 0, folder: Path = ROOT) -> Ended:
        """Do `execute` with the training script of the framework, on one thread."""
        return self.execute(f"train_{self.framework}", *words, "--threads", "1", code=code, folder=folder)

    def run(self, program: str, *words: object) -> str:
        """Return the output of a Python `program` whose arguments are `words`. It must succeed."""
        return self.execute(program, *words).stdout

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _run(folder: str, script: str, words: list[str]) -> Ended:
    os.chdir(folder)
    sys.argv = [f"scripts/{script}.py", *words]  # which messages repeat
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = script_main(script)(words) if script in SCRIPTS else _program(script, words)
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def _program(text: str, words: list[str]) -> int:
    sys.argv = ["-c", *words]
    seed_random_numbers()
    try:
        exec(compile(text, "program", "exec"), {"__name__": "__main__"})
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints by itself is no answer
    with machine.paused_collector():
        importlib.import_module(f"{sys.argv[1]}_impl.backend")
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(_run(*json.loads(line)))), file=answers, flush=True)
