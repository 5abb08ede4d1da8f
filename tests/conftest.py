"""Fixtures of all folders: data sets, real pictures of CIFAR-10, and one worker process for each framework and test session.

| folder | tests of |
|---|---|
| `unit` | networks, recipes, weights and their files, without a framework |
| `backends` | each framework's layers, optimizers and model, its worker process, its process group |
| `compare` | verdicts, tolerances, planted faults, reports |
| `pairs` | any two models |
| `recordings` | recordings of training loops, their comparison and their replay |
| `onnx` | export, verification, ONNX Runtime |
| `cli` | the other commands as users run them: train, convert, predict, evaluate, describe, bench, experiment |
| `data` | data sets, batches, pictures, downloads |
| `repo` | the repository's own form |

`helpers` holds code that several tests share, `golden` arrays computed by another program, `recorded` verdicts of an earlier version.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers import cifar_files
from helpers.framework_process import FrameworkProcess
from helpers.pair_models import open_workers
from helpers.random_numbers import seed_random_numbers
from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.cli import check
from parity.data import Dataset, Say, cifar10, fetch
from parity.pairs.model_worker import ModelWorker

ONCE = ("cifar10", "shapes10")
PER_BATCH = 10

# Without byte code, each process would compile every module again. Most users have it, so tests ignore the shell's setting.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_sessionstart() -> None:
    """Pause Python's collector of cycles: it would look at all modules and tests again and again while they are collected."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let the collector run again."""
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def data_sets_are_read_once() -> Iterator[None]:
    """Read and verify each data set only once, because it takes as long as many tests. Files in a test's own folder are always read."""
    home = fetch.cache_folder()

    def once(load: Callable[[Path | None, Say], Dataset]) -> Callable[[Path | None, Say], Dataset]:
        @cache
        def kept() -> Dataset:
            dataset = load(None, print)
            for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
                np.asarray(array).flags.writeable = False  # read-only, since tests share it
            return dataset

        return lambda folder, say: kept() if folder is None and fetch.cache_folder() == home else load(folder, say)

    with pytest.MonkeyPatch.context() as patch:
        for name in ONCE:
            patch.setitem(data.DATASETS, name, once(data.DATASETS[name]))
        yield


@pytest.fixture(autouse=True)
def random_numbers_are_seeded() -> None:
    """Give every test the same random numbers in each run, whatever ran before it in this process."""
    seed_random_numbers()


@pytest.fixture(scope="session")
def real_cifar10() -> Dataset:
    """All of CIFAR-10, from the cache or the network."""
    return data.load("cifar10")


@pytest.fixture
def small_cifar10(real_cifar10: Dataset, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Ten real pictures in each batch, and their hashes."""
    arrays = cifar_files.uint8_arrays(real_cifar10.limit(5 * PER_BATCH, PER_BATCH))
    proofs = {name: (array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for name, array in arrays.items()}
    monkeypatch.setattr(cifar10, "PROOFS", proofs)
    return arrays


@pytest.fixture
def cifar10_batches(small_cifar10: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The pictures of `small_cifar10` as pickled batches, by name."""
    return {name: cifar_files.python2_pickle(*batch) for name, batch in cifar_files.split(small_cifar10).items()}


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    """A worker of each framework. Both must be installed: a lane that cannot run fails."""
    made = {framework: Worker(framework, threads=1) for framework in FRAMEWORKS}
    yield made
    for worker in made.values():
        worker.close()


@pytest.fixture(scope="session")
def spare(workers: dict[str, Worker]) -> Iterator[dict[str, list[Worker]]]:
    """Framework -> its workers that are not in use."""
    free = {framework: [worker] for framework, worker in workers.items()}
    yield free
    for worker in itertools.chain(*free.values()):
        if worker not in workers.values():
            worker.close()


@pytest.fixture(scope="session")
def pair_workers() -> Iterator[dict[str, ModelWorker]]:
    """Workers of both sides and of a one-ULP twin, for other people's models."""
    yield from open_workers()


@pytest.fixture
def at_hand(spare: dict[str, list[Worker]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make `check_parity.py` use the session's workers, and start more for twins; return what it asked for, in order."""
    asked: list[str] = []

    @contextmanager
    def lent(framework: str, *_: object) -> Iterator[Worker]:
        asked.append(framework)
        worker = spare[framework].pop(0) if spare[framework] else Worker(framework, threads=1)
        try:
            yield worker
        finally:
            spare[framework].append(worker)

    monkeypatch.setattr(check, "Worker", lent)
    return asked


@pytest.fixture(scope="session")
def processes() -> Iterator[dict[str, FrameworkProcess]]:
    """A process of each framework that runs scripts."""
    made = {framework: FrameworkProcess(framework) for framework in FRAMEWORKS}
    yield made
    for process in made.values():
        process.close()


@pytest.fixture(params=list(FRAMEWORKS))
def framework(request: pytest.FixtureRequest) -> str:
    """Each framework in turn: one test id for each."""
    return str(request.param)


@pytest.fixture
def worker(framework: str, workers: dict[str, Worker]) -> Worker:
    """The worker of `framework`."""
    return workers[framework]


@pytest.fixture
def process(framework: str, processes: dict[str, FrameworkProcess]) -> FrameworkProcess:
    """The process of `framework` that runs scripts."""
    return processes[framework]
