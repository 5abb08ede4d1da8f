"""Windows and macOS, as far as Linux can imitate them: without the modules and functions that they lack, commands give the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers.endless_onnx import loop_body
from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT, TESTS
from helpers.training_runs import Ended, execute
from parity.network import articles
from parity.weights import canonical_state
from parity.weights.canonical_state import initialise

WINDOWS = """
import os, signal, subprocess, sys
import pathlib, threading  # before anything is taken away
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, names in {
    os: "fchmod fork getloadavg killpg sched_getaffinity set_blocking setsid sysconf",
    signal: "SIGKILL SIGALRM SIGHUP SIGUSR1 ITIMER_REAL alarm getitimer setitimer",
}.items():
    for name in names.split():
        delattr(module, name)
start = subprocess.Popen.__init__
def windows_start(self, *words, pass_fds=(), **options):
    assert not pass_fds, "pass_fds not supported on Windows."
    start(self, *words, **options)
subprocess.Popen.__init__ = windows_start
subprocess.Popen.kill = subprocess.Popen.terminate
"""
MACOS = """
import fcntl, os, resource, sys
del fcntl.F_SETSIG, fcntl.F_SETPIPE_SZ, os.sched_getaffinity
def setrlimit(kind, limits):
    raise ValueError("current limit exceeds maximum limit")
resource.setrlimit = setrlimit
"""
HIDDEN = """
import pathlib
read_text = pathlib.Path.read_text
def without_proc(self, *words, **options):
    if str(self).startswith(("/proc", "/sys")) and self.name != "cpuinfo":  # which decides how Paddle rounds
        raise FileNotFoundError(2, "No such file or directory", str(self))
    return read_text(self, *words, **options)
pathlib.Path.read_text = without_proc
"""
NAMES = {"windows": "win32", "macos": "darwin"}
SYSTEMS = {"windows": WINDOWS + HIDDEN, "macos": MACOS + HIDDEN}

NETWORK = articles.get_network("vgg_mini@0.05")


@pytest.fixture(
    params=["windows", pytest.param("macos", marks=pytest.mark.slow)]
)  # Windows lacks what macOS lacks, and more
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def imitate(system: str, folder: Path) -> dict[str, str]:
    """The environment in which each Python process, also of a worker, lacks what `system` lacks."""
    (folder / "sitecustomize.py").write_text(SYSTEMS[system])
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def other(system: str, folder: Path, *words: object) -> Ended:
    """What a command prints in the imitation of `system`."""
    return execute([sys.executable, "-m", "parity", *map(str, words)], imitate(system, folder))


def test_describe_and_predict_give_the_same_answers(
    system: str, processes: dict[str, FrameworkProcess], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    canonical_state.save(tmp_path / "a.safetensors", NETWORK, initialise(NETWORK, 0))
    calls: list[tuple[str, list[object]]] = [
        ("torch", ["describe", "--network", "lenet", "--json"]),
        ("torch", ["predict", tmp_path / "a.png", "--json"]),
    ]
    for framework in ("paddle", "torch"):
        model = ("--model", tmp_path / "a.safetensors", "--framework", framework)
        calls.append((framework, ["predict", *model, tmp_path / "a.png", "--top", "10", "--json"]))
    for framework, (command, *words) in calls:
        linux = processes[framework].execute(command, *words)
        found = other(system, tmp_path, command, *words)
        assert (found.code, found.stdout, found.stderr) == (0, linux.stdout, linux.stderr), words
        assert json.loads(found.stdout)


def test_the_name_of_the_system_changes_nothing(system: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    # The name is set after the imports, because Python's library and the frameworks load other modules by it.
    program = f"import sys, parity.cli.predict as command; sys.platform = {NAMES[system]!r}; sys.exit(command.main(sys.argv[1:]))"
    words = [f"{tmp_path / 'a.png'}", "--json"]
    other = execute([sys.executable, "-c", program, *words], imitate(system, tmp_path))
    assert other.code == 0, other.stderr
    assert other.stdout == execute([sys.executable, "-m", "parity", "predict", *words]).stdout


@pytest.mark.slow
def test_convert_writes_the_same_bytes_and_keeps_the_mode_of_a_file(system: str, tmp_path: Path) -> None:
    canonical_state.save(tmp_path / "a.safetensors", NETWORK, initialise(NETWORK, 0))
    for suffix in ("pdparams", "pth", "tar"):
        linux, other = tmp_path / f"linux.{suffix}", tmp_path / f"other.{suffix}"
        other.touch(mode=0o600)
        command = [sys.executable, "-m", "parity", "convert", f"{tmp_path / 'a.safetensors'}"]
        assert execute([*command, f"{linux}"]).code == 0
        done = execute([*command, f"{other}"], imitate(system, tmp_path))
        assert done.code == 0, done.stderr
        assert other.stat().st_mode & 0o777 == 0o600
        back = tmp_path / f"back-{suffix}.safetensors"
        command = [*command[:4], f"{other}", "--network", "vgg_mini@0.05", f"{back}"]
        done = execute(command, imitate(system, tmp_path))
        assert done.code == 0, done.stderr
        state = canonical_state.load(back)[1]
        for name, array in canonical_state.load(tmp_path / "a.safetensors")[1].items():
            assert array.tobytes() == state[name].tobytes(), name


def test_compare_finds_equal_models_equal(system: str, tmp_path: Path) -> None:
    helpers = TESTS / "helpers"
    models = ("--torch", f"{helpers}/pair_models_torch.py:Net", "--paddle", f"{helpers}/pair_models_paddle.py:Net")
    ended = other(system, tmp_path, "compare", *models, "--input-shape", "2,3,8,8", "--json")
    assert ended.code == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["verdict"] == "equal" and all(stage["compared"] > 0 for stage in result["stages"].values())


def endless(path: Path) -> Path:
    """An ONNX file that never ends."""
    body = loop_body()
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Loop", ["trips", "true", "flat"], ["logits"], body=body),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 6, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array(2**62), "trips"),
            numpy_helper.from_array(np.array(True), "true"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_an_endless_onnx_file_is_ended(system: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    program = (
        "import sys; from parity.onnx import limited_process; limited_process.SECONDS = 3; "
        "from parity.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["predict", "--model", f"{endless(tmp_path / 'a.onnx')}", f"{tmp_path / 'a.png'}"]
    done = execute([sys.executable, "-c", program, *words], imitate(system, tmp_path))
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'a.onnx'} takes more than 3 s to run: use another model\n"


STARTS = """
import sys, time
from pathlib import Path
from parity.onnx.runtime_process import RuntimeProcess
process = RuntimeProcess(Path("none.onnx"), 1)
print(process._process.pid, flush=True)
time.sleep(60)
"""


def test_a_child_process_ends_with_its_parent(system: str, tmp_path: Path) -> None:
    environment = imitate(system, tmp_path)
    with subprocess.Popen([sys.executable, "-c", STARTS], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        place = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
        assert place.exists()
        parent.kill()
    for _ in range(100):
        if not place.exists() or not place.read_bytes():
            return
        time.sleep(0.1)
    pytest.fail("the child process goes on alone")
