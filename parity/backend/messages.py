"""Messages between processes: a size in bytes, then arrays and JSON in the safetensors format. Nothing is pickled."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from parity import machine
from parity.arrays import Array

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
"""safetensors' names of dtypes -> numpy's."""

LARGE = 2**28
"""Messages of at least so many bytes go to an unnamed temporary file if memory is `SCARCE`, so that the system can page them out.

A step of a network of 140 million weights is four gigabytes in float64. Both sides' steps are held at once, and one of the step before.
"""

SCARCE = 2**33
"""A large message is kept in memory only if so many bytes remain available: both workers may still allocate them while it arrives."""

ALIGNED = 64
"""The address of every received array is a multiple of so many bytes.

PyTorch computes on the received memory without a copy, and its kernels round differently for different alignments. Without this, results
would depend on the length of the header.
"""

_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


def send(file: IO[bytes], arrays: Mapping[str, Array], message: dict[str, Any]) -> None:
    """Write one message. The arrays are not copied first: a step of a whole network is hundreds of megabytes."""
    header: dict[str, Any] = {"__metadata__": {"message": json.dumps(message)}}
    parts, end = [np.ascontiguousarray(array) for array in arrays.values()], 0
    for name, part in zip(arrays, parts, strict=True):
        start = end + -end % ALIGNED
        end = start + part.nbytes
        header[name] = {"dtype": _NAMES[part.dtype], "shape": arrays[name].shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    file.write((8 + len(text) + end).to_bytes(8, "little") + len(text).to_bytes(8, "little") + text)
    written = 0
    for part in parts:
        file.write(bytes(-written % ALIGNED))
        file.write(part.reshape(-1).view(np.uint8).data)
        written += -written % ALIGNED + part.nbytes
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read one message. The arrays are views of one buffer, which is a mapped file if the message is `LARGE` and memory is `SCARCE`."""
    size = int.from_bytes(_read(file, 8), "little")
    blob = _read(file, size)
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start].tobytes())
    message: dict[str, Any] = json.loads(header.pop("__metadata__")["message"])
    arrays = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        arrays[name] = blob[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, message


def _read(file: IO[bytes], size: int) -> Array:
    buffer = _on_disk(size) if size > LARGE and machine.available_memory() < size + SCARCE else _in_memory(size)
    done = 0
    while done < size:
        count = file.readinto(buffer[done:].data)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return buffer


def _on_disk(size: int) -> Array:
    """A buffer of `size` bytes in the folder for temporary files, or in memory if that folder has no space."""
    try:
        with tempfile.TemporaryFile(prefix="vgg-parity-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full only later would end the process by SIGBUS
            return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)  # the file lives as long as the mapping
    except (OSError, AttributeError):  # not every system has posix_fallocate
        return _in_memory(size)


def _in_memory(size: int) -> Array:
    whole = np.empty(size + ALIGNED, np.uint8)
    return whole[-whole.ctypes.data % ALIGNED :][:size]
