"""A transformer of 12 layers, hidden 256, batch 4, length 128 is compared over ten steps within the memory and time of a laptop."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time

import psutil
import pytest

from helpers.paths import ROOT

MODEL = "_impl.transformer:Transformer(layers=12, width=256, heads=8, groups=4, words=1000, places=128)"
MEMORY = 6e9
"""Bytes of all processes together. Measured: 4.4e9 with Paddle 2.6.2."""
CPU_TIME = 180.0
"""Seconds of all processes together, which does not depend on what else runs. Measured: 62 with Paddle 2.6.2."""


def resident(process: psutil.Process) -> int:
    """The resident bytes of a process and its children."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def cpu_time() -> float:
    """The CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twelve_layers_and_ten_steps_fit_into_six_gigabytes_and_three_minutes() -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "parity",
        "compare",
        "--torch",
        f"torch{MODEL}",
        "--paddle",
        f"paddle{MODEL}",
    ]
    command += ["--input-shape", "4,128:1000", "--input-shape", "4,128:2"]
    peak, before = 0, cpu_time()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        process = psutil.Process(program.pid)
        while program.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
        assert program.stdout
        said = program.stdout.read()
    assert program.returncode == 0, said
    assert "equal: 2405 tensors, 10 steps" in said
    assert peak < MEMORY
    assert cpu_time() - before < CPU_TIME
