"""bfloat16 and float16 numbers, which are read exactly into float32 and written on request.

numpy has no bfloat16: here it is the upper half of a float32, in uint16. Paddle's files keep it in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

import numpy as np

from parity.arrays import Array
from parity.errors import InputError

HALVES = ("bfloat16", "float16")

SAFETENSORS = {"BF16": "bfloat16", "F16": "float16"}
"""Their names in the safetensors format."""

LARGEST = {"bfloat16": 3.3895313892515355e38, "float16": 65504.0}
"""The largest finite number of each dtype."""


def widen_bfloat16(bits: Array) -> Array:
    """Return the float32 numbers whose upper halves are `bits`, uint16 of any shape. Every bfloat16 number is a float32 number."""
    widened: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return widened


def round_to_bfloat16(array: Array) -> Array:
    """Return the bits, uint16, of float32 or float64 numbers rounded to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    found: Array = np.where(np.isnan(array), (bits >> 16) | 0x40, rounded).astype(np.uint16).reshape(array.shape)
    return found


def round_to(array: Array, dtype: str) -> Array:
    """Return numbers rounded to `dtype`: in an array of that dtype, or in float32, which holds every number of `HALVES`."""
    if dtype == "bfloat16":
        return widen_bfloat16(round_to_bfloat16(array))
    with np.errstate(over="ignore"):  # beyond the range of float16 they are infinite
        return widen(array.astype(dtype, copy=False))


def widen(array: Array) -> Array:
    """Return float16 numbers as float32, and all others unchanged."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def note_halves(dtypes: Collection[str]) -> list[str]:
    """Return one line if `dtypes`, as a framework names them, hold a half-precision one."""
    found = sorted({dtype.removeprefix("torch.") for dtype in dtypes if re.search(r"bfloat16|float16|float8", dtype)})
    return [f"read {' and '.join(found)} numbers exactly into float32"] if found else []


def check_range(name: str, array: Array, dtype: str) -> None:
    """Raise `InputError` if a finite number of `array` exceeds the range of `dtype`."""
    if dtype not in LARGEST:
        return
    finite = np.abs(array[np.isfinite(array)])
    if finite.size and finite.max() > LARGEST[dtype]:
        raise InputError(
            f"{name} holds {finite.max():.3g}, beyond the range of {dtype}: choose --dtype bfloat16 or float32"
        )


def stored_dtypes(data: bytes) -> set[str]:
    """The dtypes of the arrays of a safetensors file, as its header names them. An error if its header is not a whole one."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def rename_dtype(data: bytes, old: str, new: str) -> bytes:
    """Return the bytes of a safetensors file in which the dtype `old` is called `new`, of the same size. Unchanged without `old`."""
    length = int.from_bytes(data[:8], "little")
    if f'"{old}"'.encode() not in data[8 : 8 + length]:
        return data
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == old:
            entry["dtype"] = new
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
