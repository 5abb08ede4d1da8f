"""Messages between processes, framed: arrays and JSON in the format of safetensors, behind their size in bytes. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
"""safetensors' names of dtypes -> numpy's."""

_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


def send(file: IO[bytes], arrays: Mapping[str, np.ndarray], message: dict[str, Any]) -> None:
    """Writes one message. The arrays go from their own memory into the pipe: a step of a whole network is hundreds of megabytes."""
    header: dict[str, Any] = {"__metadata__": {"message": json.dumps(message)}}
    parts, end = [np.ascontiguousarray(array) for array in arrays.values()], 0
    for name, part in zip(arrays, parts, strict=True):
        start, end = end, end + part.nbytes
        header[name] = {"dtype": _NAMES[part.dtype], "shape": arrays[name].shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write((8 + len(text) + end).to_bytes(8, "little") + len(text).to_bytes(8, "little") + text)
    for part in parts:
        file.write(part.reshape(-1).view(np.uint8).data)
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads one message. The arrays are views of its one buffer."""
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


def _read(file: IO[bytes], size: int) -> np.ndarray:
    buffer = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = file.readinto(buffer[done:].data)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return buffer
