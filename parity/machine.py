"""Facts about this machine and its system, and the process settings that follow from them.

Windows lacks `fcntl`, `resource` and interval timers. macOS lacks parts of them. What a system lacks is left out here, and nowhere else.

psutil is not used. On Linux it knows no processor name, no memory limit of a control group and no peak memory, and it counts
cores that this process may not use.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import math
import mmap
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def _unix_module(name: str) -> Any:
    """Return a module of the standard library that only Unix has, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_FCNTL, _RESOURCE = _unix_module("fcntl"), _unix_module("resource")

PASSES_PIPES = _FCNTL is not None
"""Whether a child process can inherit a pipe by its number. Windows cannot do that."""

_HAS_TIMER = hasattr(signal, "setitimer")

_peaks_read = [0]
"""The largest VmHWM that `peak_memory` has read, in bytes."""

TIMED_OUT = -signal.SIGALRM if _HAS_TIMER else 1
"""Exit code of a process that `end_after` has ended, as `subprocess` reports it."""


def end_after(seconds: float) -> None:
    """Let the system end this process after `seconds`, whatever it computes. 0 cancels that."""
    if _HAS_TIMER:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    elif seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def end_at_crashes() -> None:
    """After a crash, write Python's stack to stderr and let the system end this process.

    Call it after a framework has installed or removed handlers of its own.
    """
    restore_sigterm()
    if not faulthandler.is_enabled():
        faulthandler.enable(2)


def restore_sigterm() -> None:
    """Install Python's handler of SIGTERM again, if there is one: a framework replaces it without Python's knowledge."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def limit_memory(size: int) -> None:
    """Limit the address space of this process to `size` bytes, where the system has this limit. Windows and macOS have none."""
    if _RESOURCE:
        with contextlib.suppress(OSError, ValueError):
            _RESOURCE.setrlimit(_RESOURCE.RLIMIT_AS, (size, _RESOURCE.RLIM_INFINITY))


def address_space() -> int:
    """Return how many bytes of address space this process uses now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    except (OSError, ValueError):
        return 0


def lock_file(file: IO[bytes]) -> None:
    """Lock an open file until it is closed. Nothing is locked where the system or the file system has no locks.

    `BlockingIOError` if another process holds the lock.
    """
    # Not with the package filelock: up to 4.1 it empties the file that it locks, and 3.25 deletes the file when the lock ends.
    try:
        if _FCNTL:
            _FCNTL.flock(file, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def release_memory() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps arrays of up to 32 MB for itself."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Pause Python's collector of cycles, for work that makes many objects and frees few, such as the import of a framework.

    The collector would look at the new objects again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def enlarge_pipe(pipe: IO[bytes], size: int) -> None:
    """Give a pipe a buffer of `size` bytes, where the system can. Linux limits the sum over all pipes of a user."""
    if hasattr(_FCNTL, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            _FCNTL.fcntl(pipe, _FCNTL.F_SETPIPE_SZ, size)


def _cpuinfo() -> str:
    """Return what Linux says of the processor; "" on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def cpu_name() -> str:
    """Return the model name of the processor."""
    lines = _cpuinfo().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpu_flags(cpuinfo: str) -> set[str]:
    """Return the instruction sets in `cpuinfo`, the text of /proc/cpuinfo."""
    return set(next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), []))


def is_intel() -> bool:
    """Whether the processor is Intel's, as far as the system says."""
    return "GenuineIntel" in _cpuinfo()


BFLOAT16 = {"avx512_bf16", "amx_bf16"}
"""Instruction sets that multiply matrices of bfloat16."""


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16, as far as the system says."""
    return bool(BFLOAT16 & _cpu_flags(_cpuinfo()))


INSTRUCTION_SETS = ("fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Those that decide the speed of products of matrices."""


def instruction_sets() -> list[str]:
    """Return which of `INSTRUCTION_SETS` the processor has, as far as the system says."""
    flags = _cpu_flags(_cpuinfo())
    return [name for name in INSTRUCTION_SETS if name in flags]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """Return processor, cores and Python version in one line."""
    return f"{cpu_name()}, {cores()} cores, Python {platform.python_version()}"


MKL_KINDS = {"avx512f avx512dq avx512bw avx512vl": "7", "avx2 fma": "5"}
"""Instruction sets -> the number that MKL gives to Intel processors with these instructions."""


def mkl_kind(cpuinfo: str) -> str | None:
    """Return MKL_DEBUG_CPU_TYPE for the AMD processor in `cpuinfo`, the text of /proc/cpuinfo; None for other processors."""
    kinds = (kind for needed, kind in MKL_KINDS.items() if set(needed.split()) <= _cpu_flags(cpuinfo))
    return next(kinds, None) if "AuthenticAMD" in cpuinfo else None


def paddle_environment() -> dict[str, str]:
    """Return the environment variables that Paddle needs when it is imported.

    Its old MKL takes a slow path on AMD processors, unless a variable names a similar Intel processor (docs/performance.md).
    """
    kind = mkl_kind(_cpuinfo())
    return {"GLOG_minloglevel": "2"} | ({"MKL_DEBUG_CPU_TYPE": kind} if kind else {})


def torch_environment() -> dict[str, str]:
    """Return the environment variables that PyTorch needs when it is imported.

    They put large tensors on large memory pages (docs/performance.md).
    """
    return {"THP_MEM_ALLOC_ENABLE": "1"}


GLIBC = platform.libc_ver()[0] == "glibc"
"""Whether `keep_memory` knows the C library."""

_MALLOPT = {-4: (0, 65536), -3: (32 << 20, 32 << 20), -1: (-1, 64 << 20), -2: (64 << 20, 128 << 10), -8: (1, 0)}
"""glibc's M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX: values with and without kept memory.

The second values are what glibc chooses by itself when large blocks are allocated and freed. Only M_ARENA_MAX has no way back.
"""


def keep_memory(kept: bool) -> bool:
    """Keep the memory that this process frees, or give it back to Linux; return whether the C library allows it.

    Kept memory is faster where large arrays are allocated and freed, because Linux need not clear its pages (docs/performance.md).
    """
    set_ = [ctypes.CDLL(None).mallopt(option, values[not kept]) for option, values in _MALLOPT.items() if GLIBC]
    return bool(set_) and all(set_)


def set_threads(threads: int | None) -> int:
    """Set the thread count that frameworks read from the environment at import, and return it. None means all cores."""
    count = threads or cores()
    os.environ["OMP_NUM_THREADS"] = str(count)
    return count


def _read_bytes(file: str, name: str) -> list[int]:
    """Return the bytes that the line `name` of a Linux status file holds, as a list of one; an empty list without such a line."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]


def available_memory() -> float:
    """Return how many bytes this machine or control group still has free; infinity where neither is known."""
    limits: list[float] = [*_read_bytes("/proc/meminfo", "MemAvailable")]
    with contextlib.suppress(OSError, ValueError):  # "max", where there is no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{what}").read_text()) for what in ("max", "current"))
        limits.append(limit - used)
    return min(limits, default=math.inf)


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes; 0 on Windows, where it is not known."""
    # On Linux, ru_maxrss starts with the peak of the parent process. VmHWM does not.
    for own in _read_bytes("/proc/self/status", "VmHWM"):
        # Linux 6.16 and later count exactly when asked, but less exactly when memory is freed: VmHWM can fall by some
        # hundred kilobytes. What was read once was used.
        _peaks_read[0] = max(_peaks_read[0], own)
        return _peaks_read[0]
    if not _RESOURCE:
        return 0
    peak: int = _RESOURCE.getrusage(_RESOURCE.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load_average() -> float | None:
    """Return how many processes wanted a core during the last minute, on average. Measurements need less than one.

    None on Windows, where it is not known.
    """
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
