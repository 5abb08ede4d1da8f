"""Splitting images among threads changes results only by rounding, and old libraries are told the kind of the processor."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from helpers.compared import compare
from parity import data, machine
from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare.program import Program, run_in_lockstep
from parity.compare.step_inputs import make_run_inputs
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, ReLU
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.threads import Threads

NETWORK = Network(
    "shared_out",
    (3, 32, 32),
    (
        Conv("first", 96, 5),  # with fewer values, Paddle would not split the images
        Dropout("drop", 0.3),
        Conv("grouped", 24, 3, groups=2, bias=False, frozen=True),
        BatchNorm("norm"),
        ReLU("relu"),
        Conv("turned", 5, 3),
        MaxPool("pool", 4, 4),
        Conv("few_pixels", 5, 3),
        Conv("one_pixel", 8, 2, stride=2, padding=0),
        Flatten("flat"),
        Linear("fc", 10),
    ),
)
BATCH = 17


@pytest.fixture(scope="module")
def threaded() -> Iterator[Callable[[str, int], Worker]]:
    """Workers by framework and number of threads."""
    made: dict[tuple[str, int], Worker] = {}

    def worker(framework: str, threads: int) -> Worker:
        if (framework, threads) not in made:
            made[framework, threads] = Worker(framework, threads=threads)
        return made[framework, threads]

    yield worker
    for one in made.values():
        one.close()


def steps(worker: Worker, dtype: str, count: int = 2) -> list[Record]:
    images = data.load("cifar10").limit(2 * BATCH, 1)
    given = make_run_inputs(NETWORK, changed(presets.get_recipe("article"), batch_size=BATCH), images, 0, dtype)
    return [step.records["side"] for step in run_in_lockstep({"side": Program(worker, given)}, count)]


@pytest.mark.parametrize("threads", [2, 3])
def test_training_on_several_threads_equals_one_thread_up_to_rounding(
    threads: int, worker: Worker, framework: str, threaded: Callable[[str, int], Worker]
) -> None:
    several = threaded(framework, threads)
    for one, more in zip(steps(worker, "float64"), steps(several, "float64"), strict=True):
        assert set(one) == set(more)
        for difference in compare(one, more, 1e-12):
            assert difference.equal, difference


def test_equal_numbers_of_threads_round_equally_every_time(
    framework: str, threaded: Callable[[str, int], Worker]
) -> None:
    first, *others = (steps(threaded(framework, 2), "float32")[-1] for _ in range(8))
    for other in others:
        assert all(first[name].tobytes() == other[name].tobytes() for name in first)


def test_few_images_are_split_too(framework: str, threaded: Callable[[str, int], Worker]) -> None:
    several = threaded(framework, 4)
    several.start(NETWORK, presets.get_recipe("article").optimizer, feed_state(), "float64")
    images = np.linspace(-1, 1, 13 * 3 * 32 * 32).reshape(13, 3, 32, 32)
    together = several.predict(images)["logits"]
    alone = [several.predict(images[i : i + 1])["logits"] for i in range(13)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-12, atol=1e-14)


def test_unwatched_layers_compute_what_watched_layers_do(
    framework: str, threaded: Callable[[str, int], Worker]
) -> None:
    images = data.load("cifar10").limit(BATCH, 1)
    given = make_run_inputs(NETWORK, changed(presets.get_recipe("article"), batch_size=BATCH), images, 0, "float32")
    batch = next(given.steps())
    several, moved = threaded(framework, 2), []
    for record in (), ("gradient",):
        several.start(NETWORK, given.optimizer, given.state, "float32")
        several.step(batch.images, batch.labels, batch.masks, 0.1, BATCH, record)
        moved.append(several.state())
    alone, watched = (several.predict(batch.images, record)["logits"] for record in (False, True))
    assert all(array.tobytes() == moved[1][name].tobytes() for name, array in moved[0].items())
    assert alone.tobytes() == watched.tobytes()


@pytest.mark.parametrize("record", [False, True])
def test_a_changed_layer_stays_changed_on_several_threads(
    record: bool, framework: str, threaded: Callable[[str, int], Worker]
) -> None:
    images = data.load("cifar10").limit(BATCH, 1)
    given = make_run_inputs(NETWORK, changed(presets.get_recipe("article"), batch_size=BATCH), images, 0, "float64")
    batch = next(given.steps())
    several, found = threaded(framework, 2), []
    for error in "0", "1e-3":
        several.start(NETWORK, given.optimizer, given.state, "float64")
        several.patch("parity.selftest.worker_patches:scale_output", "few_pixels", error)
        logits = several.predict(batch.images, record)["logits"]
        several.step(batch.images, batch.labels, batch.masks, 0.1, BATCH, ("loss",) if record else ())
        found.append((logits, several.state()["first.weight"]))
    assert all(1e-9 < abs(one - other).max() < 1e-2 for one, other in zip(*found, strict=True))


def feed_state() -> dict[str, np.ndarray]:
    images = data.load("cifar10").limit(BATCH, 1)
    return dict(replace(make_run_inputs(NETWORK, presets.get_recipe("article"), images, 0, "float64")).state)


@pytest.mark.parametrize(
    ("images", "threads", "sizes"), [(7, 2, [4, 3]), (7, 3, [3, 2, 2]), (2, 4, [1, 1]), (1, 2, [1]), (8, 1, [8])]
)
def test_images_are_split_evenly_and_every_thread_gets_one(images: int, threads: int, sizes: list[int]) -> None:
    made = Threads()
    made.use(threads)
    assert made.sizes(images) == sizes


def test_parts_come_back_in_order_and_a_failure_is_raised() -> None:
    made = Threads()
    made.use(3)
    assert made.map(lambda part: part * 2, [1, 2, 3]) == [2, 4, 6]
    with pytest.raises(ZeroDivisionError):
        made.map(lambda part: 1 // part, [1, 0])


@pytest.mark.parametrize(
    ("vendor", "flags", "kind"),
    [
        ("AuthenticAMD", "fma avx2 avx512f avx512dq avx512bw avx512vl", "7"),
        ("AuthenticAMD", "fma avx2", "5"),
        ("AuthenticAMD", "fma avx2 avx512f", "5"),
        ("AuthenticAMD", "sse2", None),
        ("GenuineIntel", "fma avx2 avx512f avx512dq avx512bw avx512vl", None),
    ],
)
def test_mkl_is_told_what_an_amd_processor_can_do(vendor: str, flags: str, kind: str | None) -> None:
    assert machine.mkl_kind(f"vendor_id\t: {vendor}\nflags\t\t: fpu {flags} rdseed\n") == kind
    assert machine.mkl_kind("") is None


def test_the_collector_is_paused_and_runs_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), machine.paused_collector():
        with machine.paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


CHANGES = """
import sys
import numpy as np
import paddle
from paddle_impl import shared_images
from paddle_impl.backend import Backend
from parity.backend.model_state import build
from parity.network.network import Network
from parity.threads import THREADS

def hooked(model):
    model.turned.register_forward_post_hook(lambda layer, given, out: out * 3)
    model.norm.register_forward_post_hook(lambda layer, given, out: out * 2)

def replaced(model):
    paddle.seed(0)
    model.turned = paddle.nn.Conv2D(24, 5, 3, padding=1).to(dtype="float64")
    model.relu = paddle.nn.PReLU().to(dtype="float64")

def learning(model):
    model.eval()
    model.norm.train()

network, images = Network.from_json(sys.argv[1]), np.random.default_rng(0).normal(size=(17, 3, 32, 32))
for change in hooked, replaced, learning, lambda model: None:
    found = []
    for threads in 1, 2:
        THREADS.use(threads)
        model = build(Backend(), network, 0, "float64")
        change(model)
        mask = {"drop": paddle.to_tensor(images[:, :1, 1:31, 1:31] > 0).tile([1, 96, 1, 1])}
        run = shared_images.split_nodes(model, network.nodes, mask)[0]
        assert threads == 1 or change is replaced or shared_images.part_sizes(model, run, mask["drop"], mask) == [9, 8]
        if model.training:
            model(paddle.to_tensor(images), mask).square().sum().backward()
        with paddle.no_grad():
            model(paddle.to_tensor(images), mask)
        tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers()]
        found.append([tensor.numpy() for tensor in tensors if tensor is not None])
    assert len(found[0]) > 10 and all(np.allclose(*pair, 1e-10, 1e-10) for pair in zip(*found, strict=True)), change
"""


def test_changes_of_a_model_work_on_several_threads_as_on_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHANGES, NETWORK.to_json()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


LOOK = """
import ctypes, resource, sys

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no large pages: PR_SET_THP_DISABLE

def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = b"x" * (100 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

exec(sys.argv[1])
first, again = taken(), taken()
exec(sys.argv[2])
taken()
print(first, again, taken(), resource.getpagesize())
"""


@pytest.mark.parametrize(
    ("keep", "let_go"),
    [
        ("from parity import machine; assert machine.keep_memory(True)", "assert machine.keep_memory(False)"),
        ("from paddle_impl import runtime; runtime.start('cpu')", "runtime.be_exact()"),
    ],
    ids=["by itself", "paddle"],
)
def test_kept_memory_is_reused_without_the_system(keep: str, let_go: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK, keep, let_go], capture_output=True, text=True, check=True)
    first, again, at_last, page = map(int, done.stdout.split())
    pages = (100 << 20) // page
    assert again < pages / 100 < pages * 0.9 < min(first, at_last), done.stdout
