"""Process-wide settings of Paddle: device, threads, versions. Paddle's CPU settings are read when it is imported."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import warnings

from parity import machine
from parity.errors import InputError
from parity.recipe import precision
from parity.threads import THREADS

# DIFFERS: Paddle's MKL reads its settings at import, so they are set before it.
os.environ.update({name: value for name, value in machine.paddle_environment().items() if name not in os.environ})

# Paddle warns, at import, of every thread count but one, and of a missing compiler cache: neither is of use to anybody here.
warnings.filterwarnings("ignore", "No ccache found")
with contextlib.redirect_stderr(io.StringIO()) as _said:
    import paddle
print(
    *(line for line in _said.getvalue().splitlines() if "OMP_NUM_THREADS" not in line),
    sep="\n",
    end="",
    file=sys.stderr,
)


def start(device: str = "auto", threads: int | None = None) -> str:
    """Sets the number of CPU `threads` (None: leave it) and returns the device to use: "cpu" or "gpu".

    `device` is auto, cpu or gpu; `InputError` if a GPU is asked for and there is none.
    """
    if threads:
        use_threads(threads)
    found = _has_gpu()
    if device == "gpu" and not found:
        raise InputError("Paddle finds no GPU here: use --device cpu or auto")
    chosen = "gpu" if found and device != "cpu" else "cpu"
    paddle.set_device(chosen)
    be_fast(chosen)
    return chosen


def use_threads(threads: int) -> None:
    """From now on so many CPU threads."""
    # DIFFERS: of several threads, Paddle's kernels use little more than one; its layers share the images out instead.
    THREADS.use(threads)
    THREADS.give(threads, paddle.base.core.set_num_threads)


def _has_gpu() -> bool:
    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0)


def tuning(device: str) -> str:
    """What is set for speed on `device`, for people; "" where nothing is."""
    if device == "gpu":
        return precision.GPU_TUNING
    kind = os.environ.get("MKL_DEBUG_CPU_TYPE")
    said = [f"layers share the images out to {THREADS.count} threads"] if THREADS.count > 1 else []
    said += ["freed memory is kept"] if machine.GLIBC else []
    return ", ".join(said + ([f"MKL_DEBUG_CPU_TYPE={kind}"] if kind else []))


def be_fast(device: str) -> None:
    """On a GPU: TF32, and the fastest of cuDNN's algorithms for each shape; nobody has run it there yet.

    On a CPU: whatever settings of memory make the framework faster.
    """
    # DIFFERS: Paddle takes fresh memory for every tensor, which Linux clears page by page.
    machine.keep_memory(device == "cpu")
    if paddle.device.is_compiled_with_cuda():
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # TF32 is what Paddle does unless it is told otherwise
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True, "FLAGS_cudnn_deterministic": False})


def be_exact() -> None:
    """On a GPU: no TF32, deterministic algorithms only. Undoes `be_fast`, on a CPU as far as memory goes that is freed from now on."""
    machine.keep_memory(False)
    if paddle.device.is_compiled_with_cuda():
        # DIFFERS: TF32 is an environment variable of CUDA's libraries, read when they are first used.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": False, "FLAGS_cudnn_deterministic": True})
        paddle.set_flags({"FLAGS_embedding_deterministic": 1})


def wait(device: str) -> None:
    """Until `device` has computed all that it was given: a GPU works on while the program does."""
    # DIFFERS: in Paddle 2 the time between two of the device's own events is always 0, so both sides wait and read the host's clock.
    if device == "gpu":
        paddle.device.synchronize()


def peak_memory(device: str) -> int:
    """Peak memory in bytes so far: of the process, or what its tensors took on a GPU."""
    return paddle.device.cuda.max_memory_allocated() if device == "gpu" else machine.peak_memory()


def versions() -> dict[str, str]:
    """Versions of the framework and of what it computes with."""
    return {
        "paddle": paddle.__version__,
        "cuda": f"{paddle.version.cuda()}, {paddle.device.cuda.get_device_name()}" if _has_gpu() else "none",
    }


def multiply_peak(device: str, size: int = 2048, times: int = 8) -> float:
    """The most GFLOP/s (2 * size**3 operations each) that `times` float32 products of square matrices reached on `device` now."""
    THREADS.give(THREADS.count, paddle.base.core.set_num_threads)
    a = paddle.rand([size, size])  # on the device that `start` chose
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9
