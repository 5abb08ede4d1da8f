"""Our child processes import nothing from the working directory, and end with the process that started them."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from helpers.paths import ROOT
from parity.backend.registry import FRAMEWORKS
from parity.network import articles
from parity.weights import canonical_state

NETWORK = articles.get_network("vgg_mini@0.05")
PLANTED = "open({path!r}, 'a').write(__name__)\nraise SystemExit('imported from the working directory')\n"
SUFFIX = {"paddle": ".pdparams", "torch": ".pt"}


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a hostile file for each installed module, and the file that lists those that were imported."""
    folder, seen = tmp_path / "untrusted", tmp_path / "imported"
    folder.mkdir()
    import setuptools  # noqa: F401 - it puts the packages that it brings along last on the path

    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
    specs = {name: PathFinder.find_spec(name) for name in names if name.isidentifier()}
    # A namespace package is found only if no folder on the path has a file of its name.
    installed = {name for name, spec in specs.items() if spec and spec.origin} | {"parity", "paddle_impl", "torch_impl"}
    assert {"json", "numpy", "onnx", "safetensors"} <= installed
    for name in {*installed, "sitecustomize", "usercustomize"}:
        (folder / f"{name}.py").write_text(PLANTED.format(path=str(seen)))
    return folder, seen


def run(folder: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_conversion_runs_no_code_of_the_working_directory(framework: str, planted: tuple[Path, Path]) -> None:
    folder, seen = planted
    canonical_state.save(folder / "a.safetensors", NETWORK, canonical_state.initialise(NETWORK, 0))
    file = folder / f"b{SUFFIX[framework]}"
    for source, target in ((folder / "a.safetensors", file), (file, folder / "c.safetensors")):
        done = run(folder, "convert_weights.py", "--network", NETWORK.name, source, target)
        assert done.returncode == 0, done.stderr
    assert not seen.exists()


MODELS = """
import {framework}
class Net({framework}.nn.{base}):
    def __init__(self):
        super().__init__()
        self.a = {framework}.nn.Linear(3, 4)
    def forward(self, x):
        return self.a(x)
"""


@pytest.mark.parametrize(
    "form",
    ["mine_{}.py:Net", *(pytest.param(form, marks=pytest.mark.slow) for form in ("mine_{}:Net", "copy/copy.py:{}"))],
)
def test_the_users_folder_comes_after_all_installed_packages(form: str, planted: tuple[Path, Path]) -> None:
    folder, seen = planted
    (folder / "copy").mkdir()
    for framework, base in (("torch", "Module"), ("paddle", "Layer")):
        (folder / f"mine_{framework}.py").write_text(MODELS.format(framework=framework, base=base))
    (folder / "copy" / "copy.py").write_text(
        "def torch():\n    from mine_torch import Net\n    return Net()\n"
        "def paddle():\n    from mine_paddle import Net\n    return Net()\n"
    )
    sides = [word for name in ("torch", "paddle") for word in (f"--{name}", form.format(name))]
    done = run(folder, "check_parity.py", *sides, "--input-shape", "2,3", "--steps", "1", "--twins", "1")
    assert done.returncode == 0, done.stdout + done.stderr + (seen.read_text() if seen.exists() else "")
    assert not seen.exists()


@pytest.mark.parametrize("entry", ["{}", ":{}", "{}:"])
def test_pythonpath_is_used_but_an_empty_entry_is_not_the_working_directory(
    entry: str, planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = planted
    own = tmp_path / "own"
    own.mkdir()
    (own / "of_the_user.py").write_text("import sys\nprint(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", entry.format(own))
    monkeypatch.chdir(folder)
    from parity.backend.launch import launch

    with launch("of_the_user", ("found",), stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=60)[0] == b"found\n"
    assert not seen.exists()


# The end

BUSY = """
import threading, sys, subprocess
from parity.backend.launch import launch
def begin():
    global process
    process = launch("busy", (), stdout=subprocess.PIPE)
    print(process.pid, process.stdout.readline(), flush=True)
thread = threading.Thread(target=begin)  # which ends before the parent does
thread.start()
thread.join()
sys.stdin.read()
"""
HOLDS_THE_LOCK = """
print("busy", flush=True)
nested = (1,)
for _ in range(80):
    nested = (nested, nested)
hash(nested)
"""
WITHOUT_LINUX = """
import fcntl
for name in ("F_SETSIG", "F_SETOWN"):
    delattr(fcntl, name)
"""
COMPUTES = """
import numpy
print("busy", flush=True)
while True:
    numpy.ones((500, 500)) @ numpy.ones((500, 500))
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["kernel", "thread"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_computing_process_ends_with_its_parent(kind: str, sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(HOLDS_THE_LOCK if kind == "kernel" else COMPUTES)
    if kind == "thread":
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_LINUX)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT, env=environment, **pipes) as parent:
        assert parent.stdout
        pid, said = parent.stdout.readline().split()
        assert said == "b'busy\\n'"
        time.sleep(0.5)
        assert is_running(int(pid))
        parent.send_signal(sent)
    end = time.monotonic() + 10
    while is_running(int(pid)):
        if time.monotonic() > end:
            os.kill(int(pid), signal.SIGKILL)
            pytest.fail("it goes on alone")
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_the_workers_of_a_killed_command_end(sent: signal.Signals, tmp_path: Path) -> None:
    words = ["--network", "vgg16_bn_drop@0.25", "--data", "shapes10", "--steps", "200", "--batch-size", "64"]
    command = [sys.executable, "scripts/check_parity.py", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids: list[int] = []
        end = time.monotonic() + 60
        while len(pids) < 3:  # both sides and a twin
            assert process.poll() is None and time.monotonic() < end
            pids = [int(pid) for pid in children.read_text().split()]
            time.sleep(0.05)
        time.sleep(4)
        process.send_signal(sent)
        stderr = process.communicate(timeout=30)[1]
    assert process.returncode == (-9 if sent == signal.SIGKILL else 130)
    assert stderr.splitlines() == ([] if sent == signal.SIGKILL else ["interrupted"])
    time.sleep(1)
    assert [pid for pid in pids if is_running(pid)] == []
