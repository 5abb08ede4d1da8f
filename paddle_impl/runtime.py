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

# DIFFERS: Paddle's MKL reads its settings at import, so set them first.
os.environ.update({name: value for name, value in machine.paddle_environment().items() if name not in os.environ})

# At import, Paddle warns of every thread count except 1 and of a missing compiler cache. Neither concerns this project.
warnings.filterwarnings("ignore", "No ccache found")
with contextlib.redirect_stderr(io.StringIO()) as _import_messages:
    import paddle
print(
    *(line for line in _import_messages.getvalue().splitlines() if "OMP_NUM_THREADS" not in line),
    sep="\n",
    end="",
    file=sys.stderr,
)


def start(device: str = "auto", threads: int | None = None) -> str:
    """Set the number of CPU `threads` (None: do not change it) and return the device to use: "cpu" or "gpu".

    `device` is auto, cpu or gpu; `InputError` if it is gpu and there is none.
    """
    # DIFFERS: Paddle's handlers of crashes need memory, and wait for ever if the heap is damaged.
    paddle.disable_signal_handler()
    machine.end_at_crashes()
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
    """Use `threads` CPU threads from now on."""
    # DIFFERS: with several threads, Paddle's kernels use little more than one. Layers here give each thread some of the images instead.
    THREADS.use(threads)
    THREADS.give(threads, paddle.base.core.set_num_threads)


def _has_gpu() -> bool:
    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0)


def tuning(device: str, layout: str) -> str:
    """The settings for speed on `device` with images in memory `layout`, as text for users; "" if there are none."""
    if device == "gpu":
        return precision.GPU_TUNING
    kind = os.environ.get("MKL_DEBUG_CPU_TYPE")
    settings = [f"large layers split the images among {THREADS.count} threads"] if THREADS.count > 1 else []
    settings += ["freed memory is kept"] if machine.GLIBC else []
    return ", ".join(settings + ([f"MKL_DEBUG_CPU_TYPE={kind}"] if kind else []))


def be_fast(device: str) -> None:
    """Set `device` for speed. On a GPU: TF32 and cuDNN's fastest algorithm for each shape. This is unmeasured on GPUs.

    On a CPU: the memory settings that make the framework faster.
    """
    # DIFFERS: Paddle allocates new memory for every tensor, and Linux clears it page by page.
    machine.keep_memory(device == "cpu")
    if paddle.device.is_compiled_with_cuda():
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)  # TF32 is Paddle's default
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True, "FLAGS_cudnn_deterministic": False})


def be_exact() -> None:
    """Undo `be_fast`. On a GPU: no TF32, and only deterministic algorithms. On a CPU, it concerns memory that is freed from now on."""
    machine.keep_memory(False)
    if paddle.device.is_compiled_with_cuda():
        # DIFFERS: TF32 is an environment variable of CUDA's libraries, read when they are first used.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": False, "FLAGS_cudnn_deterministic": True})
        paddle.set_flags({"FLAGS_embedding_deterministic": 1})


def wait(device: str) -> None:
    """Wait until `device` has finished its queued work: a GPU computes while the program continues."""
    # DIFFERS: in Paddle 2 the time between two events of the device is always 0, so both frameworks wait and use the host's clock.
    if device == "gpu":
        paddle.device.synchronize()


def peak_memory(device: str) -> int:
    """The peak memory so far, in bytes: of the process, or on a GPU of its tensors."""
    return paddle.device.cuda.max_memory_allocated() if device == "gpu" else machine.peak_memory()


def versions() -> dict[str, str]:
    """The versions of the framework and of CUDA."""
    return {
        "paddle": paddle.__version__,
        "cuda": f"{paddle.version.cuda()}, {paddle.device.cuda.get_device_name()}" if _has_gpu() else "none",
    }


def multiply_peak(
    device: str, dtype: str = "float32", size: int = 2048, times: int = 24, limit_seconds: float = 2.0
) -> float:
    """The highest GFLOP/s of products of square matrices in `dtype` (2 * size**3 operations each), measured on `device` now.

    There are `times` products, or as many as begin within `limit_seconds`.
    """
    THREADS.give(THREADS.count, paddle.base.core.set_num_threads)
    a = paddle.rand([size, size]).astype(dtype)  # on the device that `start` chose
    seconds: list[float] = []
    for _ in range(times):
        if sum(seconds) > limit_seconds:
            break
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def numeric_settings() -> dict[str, bool | str]:
    """The settings of the process that change numbers: TF32 in products and convolutions, and deterministic kernels."""
    # DIFFERS: CUDA's libraries use TF32 by default, and a variable switches it off.
    forced = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    flags = {"FLAGS_cudnn_deterministic": False}
    if paddle.device.is_compiled_with_cuda():
        flags = paddle.get_flags(list(flags))
    return {
        "TF32 in matrix products": not forced,
        "TF32 in convolutions": not forced,
        "deterministic kernels": bool(flags["FLAGS_cudnn_deterministic"]),
    }


def initial_seed() -> int:
    """The seed of the framework's random numbers."""
    return int(paddle.base.core.default_cpu_generator().initial_seed())


def count_threads() -> int:
    """The number of CPU threads."""
    return int(os.environ.get("OMP_NUM_THREADS") or 1)  # DIFFERS: there is no function that returns it
