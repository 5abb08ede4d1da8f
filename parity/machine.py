"""What this machine is, and which process settings follow from it.

Not by psutil: on Linux it knows no processor names, no limits of control groups, no peak memory, and it counts cores beyond the affinity.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import sys
from pathlib import Path


def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """One line: processor, cores, Python."""
    return f"{cpu_name()}, {cores()} cores, Python {platform.python_version()}"


MKL_KINDS = {"avx512f avx512dq avx512bw avx512vl": "7", "avx2 fma": "5"}
"""Instructions -> MKL's number for Intel's processors that have them."""


def mkl_kind(cpuinfo: str) -> str | None:
    """The value of MKL_DEBUG_CPU_TYPE for the AMD processor that `cpuinfo` (/proc/cpuinfo) describes; None for another one."""
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    kinds = (kind for needed, kind in MKL_KINDS.items() if set(needed.split()) <= set(flags))
    return next(kinds, None) if "AuthenticAMD" in cpuinfo else None


def paddle_environment() -> dict[str, str]:
    """Environment variables that Paddle must find when it is imported.

    Its old MKL takes a slow path on AMD processors unless it is told which of Intel's they are like (docs/performance.md).
    """
    try:
        kind = mkl_kind(Path("/proc/cpuinfo").read_text())
    except OSError:
        kind = None
    return {"GLOG_minloglevel": "2"} | ({"MKL_DEBUG_CPU_TYPE": kind} if kind else {})


def torch_environment() -> dict[str, str]:
    """Environment variables that PyTorch must find when it is imported: large tensors lie on large pages (docs/performance.md)."""
    return {"THP_MEM_ALLOC_ENABLE": "1"}


GLIBC = platform.libc_ver()[0] == "glibc"
"""Whether the C library is one that `keep_memory` knows."""

_MALLOPT = {-4: (0, 65536), -3: (32 << 20, 32 << 20), -1: (-1, 64 << 20), -2: (64 << 20, 128 << 10), -8: (1, 0)}
"""glibc's M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX: where memory is kept, and elsewhere.

Elsewhere they are what glibc comes to by itself where large blocks come and go; arenas are never more again.
"""


def keep_memory(kept: bool) -> bool:
    """Sets whether what this process frees stays its own, to be taken again without Linux clearing page after page; whether it can.

    That is faster where large arrays come and go (docs/performance.md).
    """
    set_ = [ctypes.CDLL(None).mallopt(option, values[not kept]) for option, values in _MALLOPT.items() if GLIBC]
    return bool(set_) and all(set_)


def set_threads(threads: int | None) -> int:
    """Sets the thread count that frameworks read from the environment at import (None: all cores); returns it."""
    count = threads or cores()
    os.environ["OMP_NUM_THREADS"] = str(count)
    return count


def _said(file: str, name: str) -> list[int]:
    """The bytes that Linux says in `file` of `name`; none where it does not."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]


def available_memory() -> float:
    """Bytes that processes here may still take before the system, or their control group, runs short; infinity where neither says."""
    found: list[float] = [*_said("/proc/meminfo", "MemAvailable")]
    with contextlib.suppress(OSError, ValueError):  # "max", where there is no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{what}").read_text()) for what in ("max", "current"))
        found.append(limit - used)
    return min(found, default=math.inf)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    # On Linux the figure that every system has begins with that of the process that began this one.
    for own in _said("/proc/self/status", "VmHWM"):
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load_average() -> float:
    """Processes that wanted a core during the last minute, on average: a machine for measuring has less than one."""
    return os.getloadavg()[0]
