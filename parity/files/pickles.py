"""Reads pickles of plain arrays without running what a pickle can ask for.

The few globals that such a stream names are answered with stand-ins of our own, so that not even numpy's reconstruction
code sees the stream, and that it does not matter which numpy wrote it; any other global is refused. So is what no dict of
arrays needs: objects of classes, sets, keys that are no strings, and tuples in tuples in tuples, whose hash or text can take
a million years to make where a tuple holds the same one twice, and that one another twice.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.files.digest import read_trailer

SIZES = {"u1": 1, "f2": 2, "f4": 4, "f8": 8}
"""numpy's codes of the numbers that an array may hold -> their bytes."""

MOST_SIDES = 8

MOST_ITEMS, MOST_NESTED = 16, 3
"""Items of a tuple, and tuples inside one another: arrays and tensors are pickled with 8 and 3."""

LEAVES = (str, bytes, int, float, bool, type(None))
"""What a list may hold."""


def read(data: bytes) -> dict[str, Any]:
    """The dict pickled in `data`: keys str, arrays read-only and of one of `SIZES`, Python 2 strings bytes, lists flat.

    The arrays share the memory of `data`'s copies, which is at most its length. `InputError` for anything that is not such
    a pickle, in particular one that wants to run code.
    """
    return read_with_digest(data)[0]


def read_with_digest(data: bytes) -> tuple[dict[str, Any], str | None]:
    """What `read` gives, and the digest behind the pickle (`parity.files.digest`), which is not checked yet; None where there is none."""
    stream = io.BytesIO(data)
    try:
        content = _Unpickler(stream, len(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged stream can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"a pickle of {type(content).__name__} where a dict was expected")
    found = {_text(key): value.array() if isinstance(value, _Array) else value for key, value in content.items()}
    return found, read_trailer(stream.read())


def check_structure(stream: Any) -> None:
    """`InputError` unless the pickle at the place of the file `stream` keeps within what hashing or printing it may cost.

    Nothing is built and nothing is called: every global stands for nothing, so this is for pickles that another reader, with
    a list of its own of what it admits, is to load after. Other errors where it is no pickle.
    """
    _Structure(stream, 0).load()


def _text(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin1")
    raise InputError(f"a pickle with a {type(key).__name__} where text was expected")


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
        self.code, self.raw = "u1", b""
        self.order: Literal["C", "F"] = "C"

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, raw = state
        if not isinstance(kind, _Kind) or type(raw) is not bytes or type(fortran_order) is not bool:
            raise InputError("a pickled array that is not plain")
        sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= len(raw))
        if not len(sizes) == len(shape) <= MOST_SIDES or math.prod(sizes) * SIZES[kind.code] != len(raw):
            raise InputError("a pickled array whose shape does not fit its bytes")
        self.shape, self.raw = sizes, raw
        self.code, self.order = kind.code, "F" if fortran_order else "C"

    def array(self) -> Array:
        """The array; it shares the pickle's memory and is read-only."""
        return np.frombuffer(self.raw, f"<{self.code}").reshape(self.shape, order=self.order)


def _reconstruct(*_class_shape_and_kind: object) -> _Array:
    return _Array()


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Kind,
}

_UNUSED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    pickle.BYTEARRAY8,  # for which the unpickler sets aside the length that the stream claims
)
"""Opcodes that no dict of arrays needs."""


_Load = Callable[[Any], None]
"""What an unpickler does at an opcode."""

_PLAIN: dict[int, _Load] = {
    code: load for code, load in vars(pickle)["_Unpickler"].dispatch.items() if bytes([code]) not in _UNUSED
}
"""What the unpickler written in Python does. The one in C sets aside whatever memory a damaged memo index asks for."""


def _checked(check: _Load, *opcodes: bytes, after: bool = False) -> dict[int, _Load]:
    """Loads of `opcodes` with a `check` before each, or `after` it."""

    def checked(load: _Load) -> _Load:
        first, second = (load, check) if after else (check, load)

        def both(unpickler: Any) -> None:
            first(unpickler)
            second(unpickler)

        return both

    return {code: checked(_PLAIN[code]) for (code,) in opcodes}


class _Unpickler(vars(pickle)["_Unpickler"]):  # type: ignore[misc]
    """Reads `stream` within limits; `room` is how many bytes may be decoded of strings, which a stream may name again and again."""

    KEYS: tuple[type, ...] = (str, bytes)
    stack: list[Any]

    def __init__(self, stream: Any, room: int) -> None:
        super().__init__(stream, encoding="bytes")
        self.room = room
        self.depths: dict[int, tuple[int, tuple[Any, ...]]] = {}  # by id, with the tuple, so that no other takes its id

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _ADMITTED:
            raise InputError(f"a pickle that asks for {(module, name)}, which no plain array needs")
        return _ADMITTED[module, name]

    def _encode(self, text: object, encoding: object) -> bytes:
        """Stand in for _codecs.encode, by which Python 3 writes bytes at protocol 2."""
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise InputError("a pickled string in an unexpected encoding")
        self.room -= len(text)
        if self.room < 0:
            raise InputError("a pickle that would unpack to more than it is")
        return text.encode("latin1")

    def _check_tuple(self) -> None:
        made = self.stack[-1]
        depth = 1 + max((self.depths[id(item)][0] for item in made if type(item) is tuple and item), default=0)
        if len(made) > MOST_ITEMS or depth > MOST_NESTED:
            raise InputError("a pickle of larger tuples than any array needs")
        self.depths[id(made)] = depth, made

    def _check_keys(self) -> None:
        for key in self.stack[::2]:
            if type(key) not in self.KEYS:
                raise InputError(f"a pickle of a dict with a {type(key).__name__} as a key")

    def _check_key(self) -> None:
        if type(self.stack[-2]) not in self.KEYS:
            raise InputError(f"a pickle of a dict with a {type(self.stack[-2]).__name__} as a key")

    def _check_items(self) -> None:
        if any(type(item) not in LEAVES for item in self.stack):
            raise InputError("a pickle of a list that is not flat")

    def _check_item(self) -> None:
        if type(self.stack[-1]) not in LEAVES:
            raise InputError("a pickle of a list that is not flat")

    def _check_built(self) -> None:
        if not isinstance(self.stack[-2], _Kind | _Array):
            raise InputError("a pickle that changes something other than an array")

    dispatch: dict[int, _Load] = (
        _PLAIN
        | _checked(_check_keys, pickle.DICT, pickle.SETITEMS)
        | _checked(_check_key, pickle.SETITEM)
        | _checked(_check_items, pickle.LIST, pickle.APPENDS)
        | _checked(_check_item, pickle.APPEND)
        | _checked(_check_built, pickle.BUILD)
        | _checked(_check_tuple, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, after=True)
    )


class _Nothing:
    """What a global stands for, and what comes of calling it."""

    def __call__(self, *_: object) -> _Nothing:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        """Nothing."""


class _Structure(_Unpickler):
    """Goes through a pickle whose globals it does not know."""

    KEYS = (*_Unpickler.KEYS, int)

    def find_class(self, module: str, name: str) -> Any:
        return _Nothing()

    def persistent_load(self, pid: object) -> Any:
        return _Nothing()

    def _check_called(self) -> None:
        if not isinstance(self.stack[-2], _Nothing):
            raise InputError(f"a pickle that calls a {type(self.stack[-2]).__name__}")

    def _load_build(self) -> None:
        self.stack.pop()

    # Lists need not be flat here: nobody hashes them.
    dispatch = (
        _Unpickler.dispatch
        | {code: _PLAIN[code] for (code,) in (pickle.LIST, pickle.APPEND, pickle.APPENDS)}
        | _checked(_check_called, pickle.REDUCE)
        | {pickle.BUILD[0]: _load_build}
    )
