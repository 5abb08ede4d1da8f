"""Reads pickles of plain arrays without running what a pickle can ask for.

The few globals that such a stream names are answered with stand-ins of our own, so that not even numpy's reconstruction
code sees the stream, and that it does not matter which numpy wrote it; any other global is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from parity.errors import InputError

SIZES = {"u1": 1, "f2": 2, "f4": 4, "f8": 8}
"""numpy's codes of the numbers that an array may hold -> their bytes."""

MOST_SIDES = 8


def read(data: bytes) -> dict[str, Any]:
    """The dict pickled in `data`: keys str, arrays read-only and of one of `SIZES`, Python 2 strings bytes.

    The arrays share the memory of `data`'s copies, which is at most its length. `InputError` for anything that is not such
    a pickle, in particular one that wants to run code.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except InputError:
        raise
    except Exception as error:  # a damaged stream can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"a pickle of {type(content).__name__} where a dict was expected")
    return {_text(key): value.array() if isinstance(value, _Array) else value for key, value in content.items()}


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Kind:
    """Stands in for numpy.dtype."""

    def __init__(self, code: object, *_align_and_copy: object) -> None:
        self.code = _text(code)
        if self.code not in SIZES:
            raise InputError("a pickled array that holds neither bytes nor floats")

    def __setstate__(self, state: Any) -> None:
        """Accept a state whose byte order is little-endian, or that of single bytes."""
        if _text(state[1]) not in ("<", "|"):
            raise InputError("a pickled array of another byte order")


class _Array:
    """Stands in for numpy.ndarray: keeps shape and bytes, checked, until `array` is asked for."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.code, self.order, self.raw = "u1", "C", b""

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, raw = state
        if not isinstance(kind, _Kind) or type(raw) is not bytes or type(fortran_order) is not bool:
            raise InputError("a pickled array that is not plain")
        sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= len(raw))
        if not len(sizes) == len(shape) <= MOST_SIDES or math.prod(sizes) * SIZES[kind.code] != len(raw):
            raise InputError("a pickled array whose shape does not fit its bytes")
        self.shape, self.raw = sizes, raw
        self.code, self.order = kind.code, "F" if fortran_order else "C"

    def array(self) -> np.ndarray:
        """The array; it shares the pickle's memory and is read-only."""
        return np.frombuffer(self.raw, f"<{self.code}").reshape(self.shape, order=self.order)  # type: ignore[call-overload]


def _reconstruct(*_class_shape_and_kind: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object) -> bytes:
    """Stand in for _codecs.encode, by which Python 3 writes bytes at protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise InputError("a pickled string in an unexpected encoding")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


# The unpickler written in Python: the one in C sets aside whatever memory a damaged memo index asks for.
class _Unpickler(pickle._Unpickler):
    # Without the one opcode by which this one does: a bytearray of the length that the stream claims.
    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(f"a pickle that asks for {(module, name)}, which no plain array needs")
        return _ADMITTED[module, name]
