"""A process of one framework that runs the scripts as often as it is asked: its start takes longer than a short run.

As a script it reads JSON lines, each a [folder, name of a script, words], and answers each with the exit code, stdout and stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT, environment_with_helpers
from helpers.scripts import script_main
from helpers.training_runs import Ended


class FrameworkProcess:
    """The process of `framework`. It starts at the first call."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._process: subprocess.Popen[str] | None = None

    def execute(self, script: str, *words: object, code: int = 0, folder: Path = ROOT) -> Ended:
        """Run `scripts/SCRIPT.py` with `words` in `folder`, on one thread. It must end with `code`."""
        if not self._process:
            command = [sys.executable, "-m", "helpers.framework_process", self.framework]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment_with_helpers(), **pipes)
        assert self._process.stdin and self._process.stdout
        call = [str(folder), script, [*map(str, words), "--threads", "1"]]
        print(json.dumps(call), file=self._process.stdin, flush=True)
        ended = Ended(**json.loads(self._process.stdout.readline()))
        assert ended.code == code, ended.stderr
        return ended

    def train(self, *words: object, code: int = 0, folder: Path = ROOT) -> Ended:
        """Do `execute` with the training script of the framework."""
        return self.execute(f"train_{self.framework}", *words, code=code, folder=folder)

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.communicate()


def _run(folder: str, script: str, words: list[str]) -> Ended:
    os.chdir(folder)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = script_main(script)(words)
    return Ended(code, stdout.getvalue(), stderr.getvalue())


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints by itself is no answer
    importlib.import_module(f"{sys.argv[1]}_impl.backend")
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(_run(*json.loads(line)))), file=answers, flush=True)
