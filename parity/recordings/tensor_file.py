"""Write a safetensors file tensor by tensor, without the whole of it in memory.

A safetensors file begins with a header that lists all tensors. It may end with spaces, so that room for it is left at the beginning, and
it is written last. The file has its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.files.atomic import temporary_name

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""numpy's dtype -> that of safetensors. https://github.com/huggingface/safetensors#format"""

ROOM = 1 << 16
"""Bytes that are left for the header of a file, unless more are asked for."""

CHUNK = 1 << 22
"""Bytes that are copied at once where the header needs more room than was left."""


class TensorWriter:
    """Writes the file `path`. `room` bytes are left for the header; a longer one costs a copy of the file.

    `InputError` from all methods if the file cannot be written.
    """

    def __init__(self, path: Path, room: int = ROOM) -> None:
        self.path, self._room = path, room
        self._scratch = temporary_name(path)
        self.header: dict[str, Any] = {}
        self._end = 0
        self._file: IO[bytes] = self._open(self._scratch)
        self._file.seek(8 + room)

    def __contains__(self, name: str) -> bool:
        return name in self.header

    def add(self, name: str, array: Array) -> None:
        """Append one tensor; a complex one gets an axis of its two parts.

        `ValueError` for a name that was given before, or a dtype that safetensors does not have.
        """
        if name in self.header:
            raise ValueError(f"{name} is written twice")
        if array.dtype.kind == "c":
            array = np.stack([array.real, array.imag], -1)
        if array.dtype.name not in DTYPES:
            raise ValueError(f"{name} has the dtype {array.dtype}, which safetensors does not have")
        array = np.asarray(array, order="C")
        end = self._end + array.nbytes
        row = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [self._end, end]}
        try:
            self._file.write(array.reshape(-1).view(np.uint8).data if array.size else b"")
        except OSError as error:
            raise self._failed(error) from None
        self.header[name], self._end = row, end

    def close(self, metadata: Mapping[str, str]) -> int:
        """Write the header, and give the file its name. Return the size of the header."""
        text = json.dumps({"__metadata__": dict(metadata), **self.header}, separators=(",", ":")).encode()
        try:
            if len(text) > self._room:
                self._make_room(len(text) + -len(text) % 8)
            self._file.seek(0)
            self._file.write(struct.pack("<Q", self._room) + text.ljust(self._room))
            self._file.close()
            self._scratch.replace(self.path)
        except OSError as error:
            raise self._failed(error) from None
        return len(text)

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._scratch.unlink(missing_ok=True)

    def _make_room(self, room: int) -> None:
        scratch = temporary_name(self.path)
        self._file.seek(8 + self._room)
        with self._file as source:
            file = self._open(scratch)
            file.seek(8 + room)
            shutil.copyfileobj(source, file, CHUNK)
        self._scratch.unlink()
        self._file, self._scratch, self._room = file, scratch, room

    def _open(self, path: Path) -> IO[bytes]:
        try:
            return path.open("x+b")
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self.path}: {error.strerror or os.strerror(error.errno or 0)}")
