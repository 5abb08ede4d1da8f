"""Runs ONNX Runtime in a child process, so that its memory can be measured alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from parity import machine
from parity.arrays import Array
from parity.backend.child_process import Process, Record, serve
from parity.onnx import runtime


class RuntimeProcess(Process):
    """The ONNX model in `path`, whose only input is `image`, on `device` with `threads`. Errors as in `parity.onnx.runtime.session`."""

    def __init__(self, path: Path, threads: int, device: str = "cpu") -> None:
        super().__init__("onnxruntime process", __name__, (str(path), str(threads), device))

    def infer(self, images: Array, times: int) -> float:
        """Images/s of `times` predictions of the preprocessed `images` float32 [N,C,H,W], without the time to send them."""
        return float(self.call("infer", {"images": images}, times=times)[1])

    def version(self) -> str:
        """The version of ONNX Runtime."""
        return str(self.call("version")[1])

    def memory(self) -> int:
        """The peak memory of the process so far, in bytes."""
        return int(self.call("memory")[1])


class _Server:
    """The end in the child process: one method for each call, (arrays, arguments) -> (arrays, result)."""

    def __init__(self, path: str, threads: str, device: str) -> None:
        self.session = runtime.session(Path(path), int(threads), device)

    def infer(self, arrays: Record, times: int) -> tuple[Record, Any]:
        inputs = {"image": arrays["images"]}
        started = time.perf_counter()
        for _ in range(times):
            self.session.run(None, inputs)
        return {}, times * len(inputs["image"]) / (time.perf_counter() - started)

    def version(self, arrays: Record) -> tuple[Record, Any]:
        return {}, runtime.version()

    def memory(self, arrays: Record) -> tuple[Record, Any]:
        return {}, machine.peak_memory()


if __name__ == "__main__":
    serve(lambda: _Server(*sys.argv[1:]))
