"""Ctrl-C and SIGTERM end a command at any time with exit code 130 and one line, also before its work begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.paths import ROOT

SENT = [signal.SIGINT, signal.SIGTERM]

SIGNALS_ITSELF = """
import os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder)
"""
"""Write a sitecustomize.py that sends the signal while `module` is imported."""


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("compare_runs.py", "parity.cli.runs"),
        ("predict.py", "numpy"),
        ("train_torch.py", "parity.training.loop"),
        ("train_torch.py", "torch.nn"),
        ("train_paddle.py", "paddle.nn"),
        ("train_paddle.py", "paddle_impl.backend"),  # after the import of Paddle, which sets its own handlers
    ],
)
def test_a_signal_during_imports_is_one_line(script: str, module: str, sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNALS_ITSELF.format(module=module, number=int(sent)))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ["--network", "vgg_mini@0.05", "--data", "shapes10", "--out", tmp_path / "run"]
    command = [sys.executable, f"scripts/{script}", *(arguments if script.startswith("train") else [])]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()) == (130, ["interrupted"])


HANGS = """
import sys, threading
from parity.cli import entry
import parity.cli.describe as command
entry.PATIENCE = 0.5
def main(words):
    print("begun", flush=True)
    {hang}
command.main = main
entry.script("describe")
"""
SWALLOWS = """
    try:
        threading.Event().wait()
    except BaseException:
        threading.Event().wait()
"""
BLOCKS = "import ctypes; [ctypes.CDLL(None).sleep(20) for _ in range(9)]"


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("hang", [SWALLOWS.strip(), BLOCKS], ids=["swallowed", "in a call that runs no handler"])
def test_a_command_that_does_not_answer_is_ended(hang: str, sent: signal.Signals) -> None:
    command = [sys.executable, "-c", HANGS.format(hang=hang)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(sent)
        started = time.monotonic()
        stderr = process.communicate(timeout=30)[1]
    assert (process.returncode, stderr.splitlines()) == (130, ["interrupted"])
    assert time.monotonic() - started < 10


def test_signals_that_the_caller_ignores_stay_ignored() -> None:
    program = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HANGS.format(
        hang="import os; os.kill(os.getpid(), signal.SIGINT); return 0"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun\n", "")
