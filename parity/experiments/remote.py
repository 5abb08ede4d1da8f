"""A worker as a trainer, so that the one training loop trains a framework that runs in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from parity.arrays import Array
from parity.backend.worker import Worker
from parity.process_group import SINGLE_PROCESS
from parity.weights.canonical_state import State


class Remote:
    """A `parity.backend.protocol.TrainerLike` on a started `worker`."""

    process_group = SINGLE_PROCESS

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def step(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
    ) -> tuple[float, int]:
        """Do one update, without recording tensors; return summed loss and wrong predictions."""
        _, cost, wrong = self.worker.step(images, labels, masks, rate, divisor)
        return cost, wrong

    def predict(self, images: Array) -> Array:
        """Return logits in inference mode."""
        return self.worker.predict(images)["logits"]

    def scale_velocity(self, factor: float) -> None:
        """Multiply the momentum buffers by `factor`."""
        self.worker.scale_velocity(factor)

    def total(self, *values: float) -> list[float]:
        """Return the values: there is one process of each framework."""
        return list(values)

    def state(self) -> State:
        """Return the canonical state with optimizer slots."""
        return self.worker.state()

    def load(self, state: State, updates: int) -> None:
        """Load a canonical state."""
        self.worker.load(state, updates)


class Crew:
    """One worker for each framework, started on first use. Use it as a context manager.

    The workers ignore Ctrl-C and SIGTERM, which may be sent to all processes. This process finishes the current batch with them and saves.
    """

    def __init__(self, pythons: Mapping[str, Path | None], threads: int, device: str) -> None:
        self.pythons, self.threads, self.device = pythons, threads, device
        self._workers: dict[str, Worker] = {}
        self._versions: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.__exit__(kind, error, trace)

    def worker(self, framework: str) -> Worker:
        """Return the worker of `framework`."""
        if framework not in self._workers:
            python = self.pythons[framework]
            self._workers[framework] = Worker(framework, python, self.threads, self.device, own_session=True)
        return self._workers[framework]

    def versions(self, framework: str) -> dict[str, str]:
        """Return the versions of `framework`'s worker."""
        if framework not in self._versions:
            self._versions[framework] = self.worker(framework).versions()
        return self._versions[framework]
