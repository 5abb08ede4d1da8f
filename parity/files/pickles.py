"""Reads pickles of plain arrays. A pickle can ask to run code; nothing of it is run.

Such a pickle names a few globals, and this module replaces them by its own classes. NumPy's reconstruction code never sees the pickle, and
it does not matter which NumPy wrote it. Every other global is refused. Refused, too, is everything that a dict of arrays does not need:
objects of classes, sets, keys that are not strings, and deeply nested tuples. If each tuple holds the next one twice, its hash or text
takes practically forever.
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

SIZES = {"b1": 1, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2, "u4": 4, "f2": 2, "f4": 4, "f8": 8}
"""NumPy's code of a number that an array may hold -> its bytes."""

MOST_SIDES = 8

MOST_ITEMS, MOST_NESTED = 16, 3
"""Limits: items of a tuple, and depth of nested tuples. Pickles of arrays and tensors have up to 8 and 3."""

LEAVES = (str, bytes, int, float, bool, type(None))
"""What a list may hold."""


def read(data: bytes) -> dict[str, Any]:
    """Return the dict pickled in `data`: keys are str, arrays are read-only with dtypes of `SIZES`, Python 2 strings are bytes, lists flat.

    Together, the arrays need at most as much memory as `data`. `InputError` for anything that is not such a pickle, for example one that
    asks to run code.
    """
    return read_with_digest(data)[0]


def read_with_digest(data: bytes) -> tuple[dict[str, Any], str | None]:
    """Return what `read` returns, and the digest after the pickle (`parity.files.digest`), unchecked, or None."""
    stream = io.BytesIO(data)
    try:
        content = _Unpickler(stream, len(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged stream can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"a pickle of {type(content).__name__}, expected a dict")
    return _plain_dict(content, {}), read_trailer(stream.read())


def _plain_dict(content: dict[Any, Any], made: dict[int, dict[str, Any]], depth: int = 0) -> dict[str, Any]:
    """A dict, and those in it, with arrays for their stand-ins. `made` holds what was made, by id: a pickle may name a dict again."""
    if depth > MOST_NESTED:
        raise InputError("a pickle of dicts inside dicts, deeper than any state dict")
    if id(content) not in made:
        made[id(content)] = {_text(key): _plain(value, made, depth) for key, value in content.items()}
    return made[id(content)]


def _plain(value: Any, made: dict[int, dict[str, Any]], depth: int) -> Any:
    if isinstance(value, dict):
        return _plain_dict(value, made, depth + 1)
    if type(value) is tuple and len(value) == 2 and isinstance(value[1], _Array):
        return value[1].array()  # a tensor in a dict in a dict, as Paddle saves it: its name and its numbers
    return value.array() if isinstance(value, _Array) else value


def check_structure(stream: Any) -> None:
    """Raise `InputError` if hashing or printing the pickle at the position of the file `stream` would cost too much.

    Nothing is built and nothing is called: a placeholder replaces every global. The pickle is loaded afterwards by another reader, which
    has its own list of allowed globals. Other errors are raised if it is not a pickle.
    """
    _Structure(stream, 0).load()


def _text(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin1")
    raise InputError(f"a pickle with a {type(key).__name__}, expected a text")


class _Kind:
    """Replaces numpy.dtype."""

    def __init__(self, code: object, *_align_and_copy: object) -> None:
        self.code = _text(code)
        if self.code not in SIZES:
            raise InputError("a pickled array of something else than real numbers")

    def __setstate__(self, state: Any) -> None:
        """Check that the byte order is little-endian, or does not matter."""
        if _text(state[1]) not in ("<", "|"):
            raise InputError("a pickled array in another byte order than little-endian")


class _Array:
    """Replaces numpy.ndarray. Holds checked shape and bytes, from which `array` makes the array."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.code, self.raw = "u1", b""
        self.order: Literal["C", "F"] = "C"

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran_order, raw = state
        if not isinstance(kind, _Kind) or type(raw) is not bytes or type(fortran_order) is not bool:
            raise InputError("a pickled array that is not a plain one")
        sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= len(raw))
        if not len(sizes) == len(shape) <= MOST_SIDES or math.prod(sizes) * SIZES[kind.code] != len(raw):
            raise InputError("a pickled array whose shape does not fit its bytes")
        self.shape, self.raw = sizes, raw
        self.code, self.order = kind.code, "F" if fortran_order else "C"

    def array(self) -> Array:
        """Return the array. It shares the memory of the pickle, and is read-only."""
        return np.frombuffer(self.raw, f"<{self.code}").reshape(self.shape, order=self.order)


def _reconstruct(*_class_shape_and_kind: object) -> _Array:
    return _Array()


def _tuple(items: object) -> tuple[Any, ...]:
    """Stands in for tuple: a tensor inside a dict is pickled by Paddle as a call of it."""
    if type(items) is not tuple:
        raise InputError("a pickled tuple that is not plain")
    return items


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",  # only as an argument of _reconstruct
    ("numpy", "dtype"): _Kind,
    ("builtins", "tuple"): _tuple,
    ("__builtin__", "tuple"): _tuple,
}

_UNUSED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    pickle.BYTEARRAY8,  # the unpickler allocates the length that the stream states
)
"""Opcodes that a dict of arrays does not need."""


_Load = Callable[[Any], None]
"""The action of an unpickler for an opcode."""

_PLAIN: dict[int, _Load] = {
    code: load for code, load in vars(pickle)["_Unpickler"].dispatch.items() if bytes([code]) not in _UNUSED
}
"""The actions of the unpickler written in Python. The one in C allocates as much memory as a damaged memo index asks for."""


def _checked(check: _Load, *opcodes: bytes, after: bool = False) -> dict[int, _Load]:
    """Return the actions of `opcodes` with a `check` before each, or `after` it."""

    def checked(load: _Load) -> _Load:
        first, second = (load, check) if after else (check, load)

        def both(unpickler: Any) -> None:
            first(unpickler)
            second(unpickler)

        return both

    return {code: checked(_PLAIN[code]) for (code,) in opcodes}


class _Unpickler(vars(pickle)["_Unpickler"]):  # type: ignore[misc]
    """Reads `stream` within limits. `room` is the number of string bytes to decode, because a stream may repeat a string often."""

    KEYS: tuple[type, ...] = (str, bytes)
    stack: list[Any]

    def __init__(self, stream: Any, room: int) -> None:
        super().__init__(stream, encoding="bytes")
        self.room = room
        self.depths: dict[
            int, tuple[int, tuple[Any, ...]]
        ] = {}  # by id; holding the tuple keeps its id from being reused

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _ADMITTED:
            raise InputError(f"a pickle that asks for {(module, name)}, which a plain array does not need")
        return _ADMITTED[module, name]

    def _encode(self, text: object, encoding: object) -> bytes:
        """Replace _codecs.encode, which Python 3 uses for bytes in protocol 2."""
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise InputError("a pickled string in an unexpected encoding")
        self.room -= len(text)
        if self.room < 0:
            raise InputError("a pickle that unpacks to more than its own size")
        return text.encode("latin1")

    def _check_tuple(self) -> None:
        made = self.stack[-1]
        depth = 1 + max((self.depths[id(item)][0] for item in made if type(item) is tuple and item), default=0)
        if len(made) > MOST_ITEMS or depth > MOST_NESTED:
            raise InputError("a pickle of larger or deeper tuples than an array needs")
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
            raise InputError("a pickle that sets the state of something else than an array")

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
    """Replaces a global, and the result of a call of it."""

    def __call__(self, *_: object) -> _Nothing:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        """Nothing."""


class _Structure(_Unpickler):
    """Checks the structure of a pickle with any globals."""

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

    # Lists may be nested here, because they cannot be hashed.
    dispatch = (
        _Unpickler.dispatch
        | {code: _PLAIN[code] for (code,) in (pickle.LIST, pickle.APPEND, pickle.APPENDS)}
        | _checked(_check_called, pickle.REDUCE)
        | {pickle.BUILD[0]: _load_build}
    )
