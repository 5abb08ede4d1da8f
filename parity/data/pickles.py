"""Reads the pickles inside the CIFAR-10 archive without running what a pickle can ask for.

The batches were written by Python 2 (protocol 2): a dict of a uint8 array, a list of ints and strings. The few
globals such a stream names are answered with stand-ins of our own, so that not even numpy's reconstruction code
sees the stream; any other global is refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity.errors import InputError


def read_batch(data: bytes) -> dict[str, Any]:
    """Return the dict of one pickled CIFAR-10 batch: keys str, arrays uint8 and read-only, Python 2 strings bytes.

    Raises InputError for anything that is not such a pickle, in particular one that wants to run code.
    """
    try:
        content = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    except InputError:
        raise
    except Exception as error:  # a damaged stream can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"a pickle of {type(content).__name__} where a dict was expected")
    return {_text(key): value.array() if isinstance(value, _Array) else value for key, value in content.items()}


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Uint8:
    """Stands in for numpy.dtype: the batches know no other type."""

    def __init__(self, name: object, *_align_and_copy: object) -> None:
        if name not in ("u1", b"u1"):
            raise InputError("a pickled array that is not of bytes")

    def __setstate__(self, state: object) -> None:
        """Accept byte order and alignment, which mean nothing for a single byte."""


class _Array:
    """Stands in for numpy.ndarray: keeps shape and bytes, checked, until `array` is asked for."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.raw = b""

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, raw = state
        sizes = [size for size in shape if type(size) is int and 0 <= size <= len(raw)]
        plain = isinstance(kind, _Uint8) and not fortran_order and type(raw) is bytes and len(sizes) == len(shape) == 2
        if not plain or sizes[0] * sizes[1] != len(raw):
            raise InputError("a pickled array that is not a plain table of bytes")
        self.shape, self.raw = (sizes[0], sizes[1]), raw

    def array(self) -> NDArray[np.uint8]:
        """Return the uint8 array; it shares the pickle's memory and is read-only."""
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape)


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
    ("numpy", "dtype"): _Uint8,
    ("_codecs", "encode"): _encode,
}


# The unpickler written in Python: the one in C sets aside whatever memory a damaged memo index asks for.
class _BatchUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(f"a pickle that asks for {(module, name)}, which no CIFAR-10 batch needs")
        return _ADMITTED[module, name]
