"""Process-wide settings of PyTorch: device, threads, versions."""

from __future__ import annotations

import os
import time

from parity import machine
from parity.errors import InputError
from parity.recipe import precision

os.environ.update({name: value for name, value in machine.torch_environment().items() if name not in os.environ})

import torch


def start(device: str = "auto", threads: int | None = None) -> str:
    """Sets the number of CPU `threads` (None: leave it) and returns the device to use: "cpu" or "gpu".

    `device` is auto, cpu or gpu; `InputError` if a GPU is asked for and there is none.
    """
    if threads:
        use_threads(threads)
    found = _has_gpu()
    if device == "gpu" and not found:
        raise InputError("PyTorch finds no GPU here: use --device cpu or auto")
    chosen = "gpu" if found and device != "cpu" else "cpu"
    be_fast(chosen)
    return chosen


def use_threads(threads: int) -> None:
    """From now on so many CPU threads."""
    torch.set_num_threads(threads)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def tuning(device: str) -> str:
    """What is set for speed on `device`, for people; "" where nothing is."""
    if device == "gpu":
        return precision.GPU_TUNING
    large = ", large pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else ""
    return f"channels last{large}, {torch.get_num_threads()} threads"


def be_fast(device: str) -> None:
    """On a GPU: TF32, and the fastest of cuDNN's algorithms for each shape; nobody has run it there yet.

    On a CPU: whatever settings of memory make the framework faster.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def be_exact() -> None:
    """On a GPU: no TF32, deterministic algorithms only. Undoes `be_fast`, on a CPU as far as memory goes that is freed from now on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if _has_gpu():
        torch.use_deterministic_algorithms(True, warn_only=True)


def wait(device: str) -> None:
    """Until `device` has computed all that it was given: a GPU works on while the program does."""
    if device == "gpu":
        torch.cuda.synchronize()


def peak_memory(device: str) -> int:
    """Peak memory in bytes so far: of the process, or what its tensors took on a GPU."""
    return torch.cuda.max_memory_allocated() if device == "gpu" else machine.peak_memory()


def versions() -> dict[str, str]:
    """Versions of the framework and of what it computes with."""
    return {
        "torch": torch.__version__,
        "cuda": f"{torch.version.cuda}, {torch.cuda.get_device_name()}" if _has_gpu() else "none",
    }


def multiply_peak(device: str, size: int = 2048, times: int = 8) -> float:
    """The most GFLOP/s (2 * size**3 operations each) that `times` float32 products of square matrices reached on `device` now."""
    a = torch.rand(size, size, device="cuda" if device == "gpu" else "cpu")
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9
