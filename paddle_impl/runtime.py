"""Process-wide settings of Paddle: device, threads, versions. Paddle's CPU settings are read when it is imported."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import warnings
from contextlib import AbstractContextManager

from parity import machine, precision
from parity.errors import InputError
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
        # DIFFERS: of several threads, Paddle's kernels use little more than one; its layers share the images out instead.
        THREADS.use(threads)
        THREADS.give(threads, paddle.base.core.set_num_threads)
    found = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "gpu" and not found:
        raise InputError("Paddle finds no GPU here: use --device cpu or auto")
    chosen = "gpu" if found and device != "cpu" else "cpu"
    paddle.set_device(chosen)
    return chosen


def tuning(device: str) -> str:
    """What is set for speed on `device`, for people; "" where nothing is."""
    kind = os.environ.get("MKL_DEBUG_CPU_TYPE")
    said = [f"convolutions share the images out to {THREADS.count} threads"] if THREADS.count > 1 else []
    return ", ".join(said + ([f"MKL_DEBUG_CPU_TYPE={kind}"] if kind else [])) if device == "cpu" else ""


def be_exact() -> None:
    """On a GPU: no TF32, deterministic algorithms only."""
    if paddle.device.is_compiled_with_cuda():
        # DIFFERS: TF32 is an environment variable of CUDA's libraries, read when they are first used.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        paddle.set_flags({"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1})


def place(device: str) -> paddle.CPUPlace | paddle.CUDAPlace:
    """Paddle's name for our device name."""
    return paddle.CUDAPlace(paddle.distributed.ParallelEnv().device_id) if device == "gpu" else paddle.CPUPlace()


def autocast(amp: str) -> AbstractContextManager[None]:
    """Within it convolutions and linear layers compute as `amp` of `parity.precision.PRECISIONS` asks, on a GPU."""
    if amp == "off":
        return contextlib.nullcontext()
    return paddle.amp.auto_cast(dtype=precision.DTYPES[amp])


def scaler(amp: str) -> paddle.amp.GradScaler:
    """What scales the loss in fp16, and otherwise hands it on as it is."""
    settings = (precision.FIRST_SCALE, precision.GROWTH, precision.BACKOFF, precision.INTERVAL)
    return paddle.amp.GradScaler(amp == "fp16", *settings)


def versions() -> dict[str, str]:
    """Versions of the framework and of what it computes with."""
    return {
        "paddle": paddle.__version__,
        "cuda": str(paddle.version.cuda()) if paddle.device.is_compiled_with_cuda() else "none",
    }


def multiply_peak(size: int = 2048, times: int = 8) -> float:
    """The most GFLOP/s (2 * size**3 operations each) that `times` float32 products of square matrices reached here and now."""
    THREADS.give(THREADS.count, paddle.base.core.set_num_threads)
    a = paddle.rand([size, size])
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9
