"""Runs ONNX files of any origin in a child process with limits of time and memory.

A graph of a few bytes can loop forever, make tensors of any size or crash ONNX Runtime. No list of operators prevents that, so all are
allowed, and the process that loads and runs the file is limited instead. Windows and macOS limit its time only.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.child_process import Process, Record, WorkerFailed, serve
from parity.errors import InputError
from parity.onnx import runtime

SECONDS, BYTES_A_SECOND = 9, 20_000_000
"""The time limit of loading and of each call: `SECONDS`, and one second more for each `BYTES_A_SECOND` bytes of the file."""

MEMORY, MEMORY_A_BYTE = 2_500_000_000, 8
"""Bytes that the process may allocate: `MEMORY`, and `MEMORY_A_BYTE` for each byte of the file."""

SLOWER = 10
"""Each picture may take so many times as long as the first call."""

MOST_INPUT = 2**28
"""The most bytes of a fixed batch of float32 pictures."""

MOST_CLASSES = 100_000

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
"""ONNX Runtime's name of a type that pictures can have -> numpy's."""

STACK = 2**24
"""Bytes of address space of a thread: its stack, and what the system allocates around it."""


class Value(NamedTuple):
    """An input or output of a graph: its name, ONNX Runtime's name of its type, and its shape. A free size is a name or None."""

    name: str
    type: str
    shape: list[Any]


class LimitedProcess:
    """The ONNX file `path`, run by `threads` CPU threads in a process with limits.

    `inputs`, `outputs` and `metadata` are those that the file declares. `InputError` if it cannot be loaded within the limits, or has no
    output. The process ends when this object is garbage-collected.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        arguments = (str(path), str(threads), str(SECONDS), str(MEMORY))
        self._process = Process("onnxruntime process", __name__, arguments, environment=ENVIRONMENT)
        weakref.finalize(self, self._process.kill)
        described = self._call("describe")[1]
        self.inputs, self.outputs = ([Value(*value) for value in described[end]] for end in ("inputs", "outputs"))
        self.metadata: dict[str, str] = described["metadata"]
        if not self.outputs:
            raise InputError(f"{path} has no output: take another copy")

    def last_operator(self) -> str | None:
        """The last operator before the first output (`parity.onnx.last_operator`). None if the file does not show it."""
        found: str | None = self._call("last_operator")[1]
        return found

    def run(self, images: Array, batch: int | None, larger: float = 1.0) -> Array:
        """The first output, float64 [N,K], for `images` as the only input. They are repeated to fill a fixed `batch` (None: any size).

        `larger` is the number of pixels of a picture relative to the first call: the limits grow with it. `InputError` if the output is
        not one row of scores for each picture, or a limit is exceeded.
        """
        return self._call("run", {"images": images}, batch=batch, larger=larger)[0]["scores"]

    def _call(self, name: str, arrays: Record | None = None, **arguments: Any) -> tuple[Record, Any]:
        started = time.monotonic()
        try:
            return self._process.call(name, arrays, **arguments)
        except WorkerFailed as error:
            code = self._process.exit_code
            if code == machine.TIMED_OUT and time.monotonic() - started >= SECONDS:
                verb = "run" if name == "run" else "load"
                raise InputError(f"{self.path} takes more than {SECONDS} s to {verb}: use another model") from None
            if code is None:
                raise  # a bug of this project
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise InputError(f"{self.path} crashes onnxruntime ({reason}): use another model") from error


ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Each arena of the allocator takes address space, and address space is what is limited."""


class _Server:
    """The end in the limited process: one method for each call, (arrays, arguments) -> (arrays, result)."""

    def __init__(self, path: str, threads: str, seconds: str, memory: str) -> None:
        self.path = Path(path)
        size = 0
        with contextlib.suppress(OSError):
            size = self.path.stat().st_size
        self.seconds = int(seconds) + size / BYTES_A_SECOND
        self.room = machine.address_space() + int(memory) + MEMORY_A_BYTE * size + STACK * int(threads)
        self.first = 0.0
        with self._limited(1.0, 0.0):
            self.session = runtime.session(self.path, int(threads))

    @contextlib.contextmanager
    def _limited(self, larger: float, seconds: float) -> Any:
        """A context in which this process has its limits. After the time limit the system ends it, whatever it computes."""
        machine.limit_memory(int(self.room * max(1.0, larger)))
        machine.end_after(self.seconds + seconds)
        try:
            yield
        finally:
            machine.end_after(0)

    def describe(self, arrays: Record) -> tuple[Record, Any]:
        """The inputs, outputs and metadata that the file declares."""
        try:
            metadata = self.session.get_modelmeta().custom_metadata_map
            ends = {"inputs": self.session.get_inputs(), "outputs": self.session.get_outputs()}
            values = {end: [(one.name, one.type, one.shape) for one in found] for end, found in ends.items()}
        except UnicodeDecodeError:  # onnxruntime decodes names and metadata when they are asked for
            raise InputError(f"{self.path} holds names that are not UTF-8: take another copy") from None
        return {}, {**values, "metadata": metadata}

    def last_operator(self, arrays: Record) -> tuple[Record, Any]:
        """The last operator before the first output."""
        import onnx  # large, and only files of others need it

        from parity.onnx.last_operator import last_operator

        with self._limited(1.0, 0.0), contextlib.suppress(Exception):  # a file that only onnxruntime can read
            return {}, last_operator(onnx.load(self.path, load_external_data=False))
        return {}, None

    def run(self, arrays: Record, batch: int | None, larger: float) -> tuple[Record, Any]:
        """The scores of the pictures, which are repeated to fill a fixed batch."""
        images = arrays["images"]
        count = batch or len(images)
        given, output = self.session.get_inputs()[0], self.session.get_outputs()[0].name
        pixels = np.resize(images, (count, *images.shape[1:])).astype(TYPES[given.type], copy=False)
        started = time.monotonic()
        with self._limited(larger, SLOWER * self.first * len(images) * larger):
            try:
                (scores,) = self.session.run([output], {given.name: pixels})
            except Exception as error:  # onnxruntime has a class of its own for every kind of failure
                raise InputError(
                    f"{self.path}: onnxruntime cannot run it ({runtime.first_line(error)}): use another model"
                ) from None
            scores = self._checked(scores, output, count)
        self.first = self.first or time.monotonic() - started
        return {"scores": scores[: len(images)].astype(np.float64)}, None

    def _checked(self, scores: Any, output: str, count: int) -> Array:
        if isinstance(scores, np.ndarray) and scores.shape[2:] and set(scores.shape[2:]) == {1}:
            scores = scores.reshape(scores.shape[:2])  # the score map [N,K,1,1] of a network without a linear layer
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.ndim != 2 or not scores.shape[1]:
            raise InputError(f"{self.path}: its output {output} is not a row of scores for each picture")
        if len(scores) != count:
            raise InputError(f"{self.path}: its output {output} has {len(scores)} rows for {count} pictures")
        if scores.shape[1] > MOST_CLASSES:
            raise InputError(f"{self.path}: its output {output} has scores for more than {MOST_CLASSES:,} classes")
        return scores


def check_batch(path: Path, batch: int, size: tuple[int, ...]) -> None:
    """Raise `InputError` if a fixed `batch` of pictures of `size` (C, H, W) has more than `MOST_INPUT` bytes."""
    if batch * math.prod(size) * 4 > MOST_INPUT:
        raise InputError(
            f"{path} takes only batches of {batch} pictures, more than {MOST_INPUT:,} bytes: export it with a smaller or a free batch size"
        )


if __name__ == "__main__":
    serve(lambda: _Server(*sys.argv[1:]))
