"""Process-wide settings of PyTorch: device, threads, versions."""

from __future__ import annotations

import os
import time

from parity import machine
from parity.errors import InputError
from parity.recipe import precision

os.environ.update({name: value for name, value in machine.torch_environment().items() if name not in os.environ})

import torch
import torch.nn.functional as F


def start(device: str = "auto", threads: int | None = None) -> str:
    """Set the number of CPU `threads` (None: do not change it) and return the device to use: "cpu" or "gpu".

    `device` is auto, cpu or gpu; `InputError` if it is gpu and there is none.
    """
    machine.end_at_crashes()
    if threads:
        use_threads(threads)
    found = _has_gpu()
    if device == "gpu" and not found:
        raise InputError("PyTorch finds no GPU here: use --device cpu or auto")
    chosen = "gpu" if found and device != "cpu" else "cpu"
    be_fast(chosen)
    return chosen


def use_threads(threads: int) -> None:
    """Use `threads` CPU threads from now on."""
    torch.set_num_threads(threads)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


def tuning(device: str, layout: str) -> str:
    """The settings for speed on `device` with images in memory `layout`, as text for users; "" if there are none."""
    if device == "gpu":
        return precision.GPU_TUNING
    large = ", large pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else ""
    return f"{layout.replace('_', ' ')}{large}, {torch.get_num_threads()} threads"


def be_fast(device: str) -> None:
    """Set `device` for speed. On a GPU: TF32 and cuDNN's fastest algorithm for each shape. This is unmeasured on GPUs.

    On a CPU: the memory settings that make the framework faster.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def be_exact() -> None:
    """Undo `be_fast`. On a GPU: no TF32, and only deterministic algorithms. On a CPU, it concerns memory that is freed from now on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if _has_gpu():
        torch.use_deterministic_algorithms(True, warn_only=True)


def wait(device: str) -> None:
    """Wait until `device` has finished its queued work: a GPU computes while the program continues."""
    if device == "gpu":
        torch.cuda.synchronize()


def peak_memory(device: str) -> int:
    """The peak memory so far, in bytes: of the process, or on a GPU of its tensors."""
    return torch.cuda.max_memory_allocated() if device == "gpu" else machine.peak_memory()


def versions() -> dict[str, str]:
    """The versions of the framework and of CUDA."""
    return {
        "torch": torch.__version__,
        "cuda": f"{torch.version.cuda}, {torch.cuda.get_device_name()}" if _has_gpu() else "none",
    }


def multiply_peak(
    device: str, dtype: str = "float32", size: int = 2048, times: int = 24, limit_seconds: float = 2.0
) -> float:
    """The highest GFLOP/s of products of square matrices in `dtype` (2 * size**3 operations each), measured on `device` now.

    There are `times` products, or as many as begin within `limit_seconds`.
    """
    a = torch.rand(size, size, device="cuda" if device == "gpu" else "cpu").to(getattr(torch, dtype))
    # DIFFERS: as a convolution of 1 by 1, the product runs in oneDNN. On AMD's processors, that is twice as fast as MKL's float32.
    pixels, kernel = (
        a.view(shape).contiguous(memory_format=torch.channels_last) for shape in ((1, size, -1, 32), (size, size, 1, 1))
    )
    seconds: list[float] = []
    for _ in range(times):
        if sum(seconds) > limit_seconds:
            break
        for multiply, factors in ((torch.mm, (a, a)), (F.conv2d, (pixels, kernel))):
            started = time.perf_counter()
            product = multiply(*factors)
            product[(0,) * product.ndim].item()  # waits for a GPU; `flatten` would copy channels_last
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def numeric_settings() -> dict[str, bool | str]:
    """The settings of the process that change numbers: TF32 in products and convolutions, and deterministic kernels."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    forced = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    return {
        "TF32 in matrix products": cuda.allow_tf32 and not forced,
        "TF32 in convolutions": cudnn.allow_tf32 and not forced,
        "deterministic kernels": torch.are_deterministic_algorithms_enabled() or cudnn.deterministic,
    }


def initial_seed() -> int:
    """The seed of the framework's random numbers."""
    return torch.initial_seed()


def count_threads() -> int:
    """The number of CPU threads."""
    return torch.get_num_threads()
