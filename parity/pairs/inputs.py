"""The inputs of a pair of models: from a .npz file, from the caller, or drawn at random."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.errors import InputError

DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
"""Dtypes that both frameworks accept."""

MOST = 2**31
"""Limit of the size of all inputs, in bytes: far more than a comparison needs."""


def take_inputs(shapes: Any, inputs: Any, seed: int) -> list[Array]:
    """Return the inputs of `shapes` or `inputs`, one of which is None; `InputError` where they cannot be used."""
    if (shapes is None) == (inputs is None):
        raise InputError("pass the inputs or their shapes: one of --inputs FILE.npz and --input-shape 4,3,64,64")
    if isinstance(inputs, str | Path):
        return read_inputs(Path(inputs))
    if inputs is not None:
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        return [_check_dtype(_as_array(x), f"input {number}") for number, x in enumerate(several)]
    several = [shapes] if isinstance(shapes, str) or (shapes and isinstance(shapes[0], int)) else shapes
    return [drawn(shape, seed, i) for i, shape in enumerate(several)]


def _as_array(x: Any) -> Array:
    """Copy an array, a number, or a tensor of either framework."""
    for method in ("detach", "cpu", "numpy"):
        x = getattr(x, method)() if hasattr(x, method) else x
    return np.array(x)


def read_inputs(path: Path) -> list[Array]:
    """Read the arrays of a .npz file in its order; `InputError` where it is damaged or holds dtypes outside `DTYPES`."""
    try:
        found = _read_members(path)
    except MemoryError:
        raise InputError(f"cannot read {path}: its header states more bytes than fit in memory") from None
    except Exception as error:  # zipfile, its decoders and numpy raise different errors for a damaged file
        said = str(error) or "the file ends too early"
        raise InputError(f"cannot read {path}: {said}; save the inputs with numpy.savez") from None
    return [_check_dtype(array, f"{path}: array {name}") for name, array in found.items()]


def _read_members(path: Path) -> dict[str, Array]:
    """Read the arrays by name, without pickle; each member is exactly one array."""
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise InputError("it is a .npy file with one unnamed array")
    read_array: Callable[..., Array] = np.lib.format.read_array  # numpy 1 gives it no types
    found: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if not members:
            raise InputError("it holds no arrays")
        if sum(member.file_size for member in members) > MOST:
            raise InputError(f"its arrays take more than {MOST // 2**30} GiB")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in found:
                raise InputError(f"it holds two arrays {name!r}")
            data = io.BytesIO(archive.read(member))
            found[name] = read_array(data, allow_pickle=False)
            if data.read(1):
                raise InputError(f"array {name!r} has more bytes than its shape needs")
    return found


def _check_dtype(array: Array, place: str) -> Array:
    """Return `array` in the byte order of this machine."""
    if array.dtype.name not in DTYPES:
        raise InputError(f"{place} has dtype {array.dtype}: convert it to one of {', '.join(DTYPES)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def drawn(shape: str | Sequence[int], seed: int, number: int) -> Array:
    """Draw a random input; "2,7:100" means integers below 100."""
    text = shape if isinstance(shape, str) else ",".join(map(str, shape))
    sizes, colon, below = text.partition(":")
    try:
        found = [int(size) for size in sizes.split(",") if size]
        if min(found, default=1) < 1 or (colon and not 1 <= int(below) < 2**63):
            raise ValueError
    except ValueError:
        raise InputError(f"{text!r} is no shape: write 4,3,64,64, or 2,7:100 for integers below 100") from None
    if len(found) > 32 or 8 * math.prod(found) > MOST:
        raise InputError(f"{text!r} is too large: an input has at most 32 axes and {MOST // 8:,} numbers")
    random = stream(seed, "pair input", number)
    return random.integers(0, int(below), found) if colon else random.standard_normal(found)
