"""A worker as a trainer, so that the one training loop drives a framework that lives in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from parity.arrays import Array
from parity.backend.worker import Worker
from parity.process_group import SINGLE_PROCESS
from parity.weights.canonical_state import State


class Remote:
    """The `parity.backend.protocol.TrainerLike` of a `worker` that was started."""

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
        """One update; nothing is recorded."""
        _, cost, wrong = self.worker.step(images, labels, masks, rate, divisor)
        return cost, wrong

    def predict(self, images: Array) -> Array:
        """Logits in inference mode."""
        return self.worker.predict(images)["logits"]

    def scale_velocity(self, factor: float) -> None:
        """Multiplies the momentum buffers."""
        self.worker.scale_velocity(factor)

    def total(self, *values: float) -> list[float]:
        """The values: there is one process of each framework."""
        return list(values)

    def state(self) -> State:
        """The canonical state with optimizer slots."""
        return self.worker.state()

    def load(self, state: State, updates: int) -> None:
        """Takes a canonical state over."""
        self.worker.load(state, updates)


class Crew:
    """One worker a framework, started when it is first asked for. Use as a context manager.

    The workers do not hear Ctrl-C or SIGTERM, which may be sent to all processes: this one finishes the batch at hand with them and saves.
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
        """The worker of `framework`."""
        if framework not in self._workers:
            python = self.pythons[framework]
            self._workers[framework] = Worker(framework, python, self.threads, self.device, own_session=True)
        return self._workers[framework]

    def versions(self, framework: str) -> dict[str, str]:
        """The versions of `framework`'s worker, asked for once."""
        if framework not in self._versions:
            self._versions[framework] = self.worker(framework).versions()
        return self._versions[framework]
