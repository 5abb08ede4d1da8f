"""ONNX Runtime in a child process: its memory is measured alone, and it ends with the process that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import ROOT
from parity import machine
from parity.backend.child_process import WorkerFailed
from parity.errors import InputError
from parity.network import articles
from parity.onnx import graph_writer, operators
from parity.onnx.runtime_process import RuntimeProcess
from parity.weights.canonical_state import initialise

NETWORK = articles.get_network("vgg_mini@0.05")
IMAGES = np.zeros((3, *NETWORK.input_shape), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("apart") / "network.onnx"
    chain = operators.operators(NETWORK, initialise(NETWORK, 0))
    path.write_bytes(graph_writer.write(NETWORK, chain).SerializeToString())
    return path


def test_its_memory_excludes_that_of_the_process_that_started_it(model: Path) -> None:
    np.ones(80_000_000)  # 640 MB, which the system's peak memory of a process started now would include
    assert machine.peak_memory() > 600e6
    with RuntimeProcess(model, 1) as apart:
        assert apart.infer(IMAGES, 2) > 0
        assert 20e6 < apart.memory() < 400e6


def test_peak_memory_never_falls() -> None:
    """Linux 6.16 counts a mapping exactly while it is there, and less exactly once it is gone (100 of 100 fell)."""
    program = """
import mmap
from parity import machine
falls = 0
for pages in range(100, 200):
    mapping = mmap.mmap(-1, pages * mmap.PAGESIZE)
    for page in range(pages):
        mapping[page * mmap.PAGESIZE] = 1
    before = machine.peak_memory()
    mapping.close()
    falls += machine.peak_memory() < before
print(falls)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "0\n"


def test_an_unreadable_file_and_a_dead_process_are_reported(model: Path, tmp_path: Path) -> None:
    with (
        RuntimeProcess(tmp_path / "none.onnx", 1) as apart,
        pytest.raises(InputError, match=r"cannot read .*none\.onnx"),
    ):
        apart.infer(IMAGES, 1)
    with RuntimeProcess(model, 1) as apart:
        apart.memory()
        apart._process.kill()
        with pytest.raises(WorkerFailed, match=r"the onnxruntime process died \(exit code -9\)"):
            apart.memory()


BEGINS = """
import sys, time
from pathlib import Path
from parity.onnx.runtime_process import RuntimeProcess
apart = RuntimeProcess(Path(sys.argv[1]), 1)
apart.memory()
print(apart._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(model: Path, sent: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", BEGINS, model], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        place = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
        assert b"parity.onnx.runtime_process" in place.read_bytes()
        parent.send_signal(sent)
    for _ in range(100):
        if not place.exists() or not place.read_bytes():
            return
        time.sleep(0.1)
    pytest.fail("the process of onnxruntime goes on alone")
