"""What can be sent between a service and its callers, and which methods a process offers."""

from __future__ import annotations

import gc
import io
import platform
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.paths import ROOT
from parity.backend import messages
from parity.backend.child_process import WorkerFailed
from parity.backend.remote import KINDS, decode, encode, public_methods
from parity.backend.trainer_service import TrainerService
from parity.backend.worker import Worker
from parity.network import articles
from parity.pairs.model_server import ModelRun, ModelService
from parity.pairs.model_worker import ModelWorker
from parity.recipe import presets
from parity.weights.canonical_state import initialise

OPTIMIZER = presets.get_recipe("article").optimizer


def travelled(value: Any, kinds: Any = KINDS) -> Any:
    """`value` as it arrives at the other end of a pipe."""
    arrays, plain = encode(value, kinds)
    file = io.BytesIO()
    messages.send(file, arrays, {"value": plain})
    file.seek(0)
    found, message = messages.receive(file)
    return decode(found, message["value"], kinds)


PLAIN = [
    None,
    True,
    -3,
    0.1,
    float("inf"),
    "a/b",
    b"\0\xff",
    b"",
    [],
    (),
    {},
    [1, (2, [3.5, None])],
    {"list": [1], "dict": {"array": "0"}},
    {2: "two", "2": 2},
    Path("/tmp/a"),
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    found = travelled(value)
    assert found == value
    assert type(found) is type(value)


def test_arrays_arrive_anywhere_and_to_the_bit() -> None:
    arrays = [np.float32([[1, np.nan]]), np.array(7), np.zeros((0, 4)), np.arange(6.0).reshape(2, 3).T]
    first, named = travelled((arrays, {"masks": {"a/b": arrays[0] > 0}}))
    for found, sent in zip([*first, named["masks"]["a/b"]], [*arrays, arrays[0] > 0], strict=True):
        assert (found.dtype, found.shape, found.tobytes()) == (sent.dtype, sent.shape, sent.tobytes())


def test_networks_optimizers_and_recipes_arrive_equal() -> None:
    recipes = list(presets.RECIPES.values())
    assert travelled(recipes) == recipes
    assert travelled([recipe.optimizer for recipe in recipes]) == [recipe.optimizer for recipe in recipes]
    network = articles.get_network("googlenet_naive")
    assert travelled(network) == network


def test_a_run_of_a_model_arrives_with_its_arrays() -> None:
    run = ModelRun({"": np.ones(2)}, {"0/inputs/0": np.zeros(3)}, [{"path": "a"}], [{"p": 0.5}], ["a"], [], [])
    found = travelled(run, ModelService.KINDS)
    assert isinstance(found, ModelRun)
    assert (found.calls, found.dropouts, found.random) == (run.calls, run.dropouts, run.random)
    assert np.array_equal(found.arrays["0/inputs/0"], np.zeros(3))
    with pytest.raises(TypeError, match="a ModelRun cannot be sent"):
        encode(run)


@pytest.mark.parametrize(
    "value", [object(), np.int64(1), {1: print}, np.dtype(float)], ids=["object", "int64", "function", "dtype"]
)
def test_objects_of_unlisted_classes_are_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        encode(value)


def test_arrays_are_freed_at_once_without_garbage_collection() -> None:
    gc.collect()
    gc.disable()
    try:
        array = np.ones(10)
        held = weakref.ref(array)
        arrays, found = encode(({"a": [array]}, b"bytes"))
        decode(arrays, found)
        del array, arrays, found
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("found", [{"Path": "/"}, {"array": "1"}, {"list": [], "dict": []}, {}], ids=repr)
def test_unknown_encodings_are_not_decoded(found: Any) -> None:
    with pytest.raises((KeyError, ValueError)):
        decode({"0": np.ones(1)}, found)


@pytest.mark.parametrize(("proxy", "service"), [(Worker, TrainerService), (ModelWorker, ModelService)])
def test_a_worker_forwards_every_public_method_and_runs_no_other_in_its_own_process(proxy: type, service: type) -> None:
    forwarded = public_methods(service)  # type: ignore[arg-type]
    assert len(forwarded) > 8
    assert all(vars(proxy)[name].__wrapped__ is method for name, method in forwarded.items())
    own = {name for name in vars(service) if not name.startswith("_")} - {"KINDS", *forwarded}
    of_models = {"open", "draw", "note_scaled", "sample_fresh", "take_program"}
    assert own == {Worker: {"step"}, ModelWorker: of_models}[proxy]


@pytest.mark.parametrize("method", ["_make_room", "__init__", "step", "KINDS", "quit"])
def test_a_process_refuses_methods_that_its_service_does_not_offer(method: str, workers: dict[str, Worker]) -> None:
    with pytest.raises(WorkerFailed, match=f"TrainerService offers no method '{method}'"):
        workers["torch"].call("invoke", method=method, arguments=encode(((), {}))[1])


CRASHES = """
import ctypes
C = ctypes.CDLL(None)
C.malloc.restype = ctypes.c_void_p
def read_null():
    C.strlen(None)
def free_twice():
    block, _ = C.malloc(5000), C.malloc(5000)
    for _ in range(2):
        C.free(ctypes.c_void_p(block))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc ends a process that frees twice")
@pytest.mark.parametrize(
    ("crash", "line", "said"),
    [("read_null", 6, r"-11\): Segmentation fault"), ("free_twice", 10, r"-6\): Aborted")],
)
def test_a_crash_of_a_worker_is_one_line(framework: str, crash: str, line: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "crashes.py").write_text(CRASHES)
    with ModelWorker(framework, threads=1) as worker, pytest.raises(WorkerFailed) as failed:
        worker.open(f"crashes.py:{crash}", OPTIMIZER, folder=str(tmp_path))
    place = rf"{tmp_path}/crashes\.py, line {line}"
    assert re.fullmatch(rf"the {framework} worker died \(exit code {said} in {crash} \({place}\)", str(failed.value))


IN_PROCESS = """
import sys
import numpy as np
from parity.backend.trainer_service import TrainerService
from parity.network import articles
from parity.recipe import presets
from parity.weights.canonical_state import initialise
network = articles.get_network("vgg_mini@0.05")
service = TrainerService(sys.argv[1], 1, "cpu")
service.start(network, presets.get_recipe("article").optimizer, initialise(network, 0))
images = np.random.default_rng(0).standard_normal((2, *network.input_shape))
found, *_ = service.step(images, np.arange(2), {}, 0.1, 2, ["loss", "update"])
np.savez(sys.argv[2], **found)
"""


def test_a_service_in_this_process_computes_what_its_worker_does(
    framework: str, workers: dict[str, Worker], tmp_path: Path
) -> None:
    network = articles.get_network("vgg_mini@0.05")
    path = tmp_path / "found.npz"
    subprocess.run([sys.executable, "-c", IN_PROCESS, framework, str(path)], cwd=ROOT, check=True, timeout=200)
    worker = workers[framework]
    worker.start(network, presets.get_recipe("article").optimizer, initialise(network, 0))
    images = np.random.default_rng(0).standard_normal((2, *network.input_shape))
    wanted, *_ = worker.step(images, np.arange(2), {}, 0.1, 2, ["loss", "update"])
    with np.load(path) as found:
        assert sorted(found) == sorted(wanted)
        for name, array in wanted.items():  # a kernel may round differently for another alignment of an array
            np.testing.assert_allclose(found[name], array, 1e-10, 1e-13, err_msg=name)


RELEASE = """
import numpy as np, psutil
from parity import machine
resident = lambda: psutil.Process().memory_info().rss
held = [np.ones(2**13) for _ in range(4000)]
last = np.ones(2**13)  # above the others in the heap, which can only shrink from its end
del held
before = resident()
machine.release_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc offers it")
def test_freed_memory_is_returned_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", RELEASE], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) > 200e6
