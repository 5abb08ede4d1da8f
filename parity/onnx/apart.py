"""ONNX Runtime in a process of its own, so that the memory that it takes is its own, too."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from parity import machine
from parity.onnx import runtime
from parity.onnx.writing import INPUT
from parity.worker import WorkerFailed

Result = TypeVar("Result")

_session: Any = None
"""Of the process that computes."""


class Apart:
    """The model in `path`, started on the first call, by `threads` on `device`. A context manager; `InputError` as of `runtime.session`."""

    def __init__(self, path: Path, threads: int, device: str = "cpu") -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._model = (path, threads, device)

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def infer(self, images: np.ndarray, times: int) -> float:
        """Images/s of `times` predictions of the preprocessed `images` float32 [N,C,H,W], sending them there not counted."""
        return self._call(_infer, self._model, images, times)

    def memory(self) -> int:
        """The peak memory of the process so far, in bytes."""
        return self._call(machine.peak_memory)

    def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function` there; `WorkerFailed` where the process dies."""
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise WorkerFailed("the process of onnxruntime died: out of memory?") from None


def _infer(model: tuple[Path, int, str], images: np.ndarray, times: int) -> float:
    global _session  # noqa: PLW0603 - a process has one, and functions that are sent to it have no other place
    if _session is None:
        _session = runtime.session(*model)
    started = time.perf_counter()
    for _ in range(times):
        _session.run(None, {INPUT: images})
    return times * len(images) / (time.perf_counter() - started)
