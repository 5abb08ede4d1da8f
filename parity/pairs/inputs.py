"""The inputs of a pair of models: from a .npz file, from the caller, or drawn at random."""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.modules.layer_kinds import SIDES

DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
"""Dtypes that both frameworks accept."""

MOST = 2**31
"""Limit of the size of all inputs, in bytes: far more than a comparison needs."""


Names = Mapping[str, list[str | None]]
"""By side, the argument of `forward` that each input is for: "" for the next one in order, None if that side does not get it."""


def take_inputs(
    shapes: Any, inputs: Any, seed: int, by_name: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[Array], Names]:
    """Return the inputs of `shapes` or `inputs`, and of `by_name`, and their names; `InputError` where they cannot be used.

    `by_name` holds arrays or shapes by the name of an argument, for "both" sides and for each side alone. The first one for PyTorch alone
    and the first one for Paddle alone are the same input if their shapes, or their arrays, are equal; and so on.
    """
    found = _named(by_name or {}, seed)
    if (shapes is not None and inputs is not None) or (shapes is None and inputs is None and not found):
        raise InputError(
            "pass the inputs or their shapes: one of --inputs FILE.npz and --input-shape 4,3,64,64, and --input NAME=4,7 for each "
            "argument by name"
        )
    ordered = [] if shapes is None and inputs is None else _in_order(shapes, inputs, seed)
    arrays = [*ordered, *(array for array, _ in found)]
    return arrays, {side: [*[""] * len(ordered), *(names[side] for _, names in found)] for side in SIDES}


def _named(by_name: Mapping[str, Mapping[str, Any]], seed: int) -> list[tuple[Array, dict[str, str | None]]]:
    """Return each input by name with the argument that it is for on each side."""
    rows: list[tuple[Any, dict[str, str | None]]] = [
        (what, dict.fromkeys(SIDES, name)) for name, what in by_name.get("both", {}).items()
    ]
    alone = [list(by_name.get(side, {}).items()) for side in SIDES]
    for one, two in itertools.zip_longest(*alone):
        if one and two and _is_same(one[1], two[1]):
            rows.append((one[1], dict(zip(SIDES, (one[0], two[0]), strict=True))))
            continue
        rows += [
            (row[1], {s: row[0] if s == side else None for s in SIDES})
            for side, row in zip(SIDES, (one, two), strict=True)
            if row
        ]
    for side in SIDES:
        names = [named[side] for _, named in rows if named[side] is not None]
        for name in names:
            if not str(name).isidentifier() or names.count(name) > 1:
                problem = "is given twice" if str(name).isidentifier() else "is no name of an argument"
                raise InputError(f"input {name!r} {problem}: write NAME=SHAPE, such as attention_mask=2,7:2")
    return [(_array_of(what, seed, f"{number} by name"), named) for number, (what, named) in enumerate(rows)]


def _is_same(one: Any, two: Any) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return bool(isinstance(one, str) and isinstance(two, str) and one == two)
    return np.array_equal(_as_array(one), _as_array(two))


def _array_of(what: Any, seed: int, number: str) -> Array:
    return drawn(what, seed, number) if isinstance(what, str) else _check_dtype(_as_array(what), f"input {number}")


def parse_named(texts: Sequence[str]) -> dict[str, str]:
    """Return NAME -> SHAPE of texts NAME=SHAPE."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, shape = text.partition("=")
        if not equals or name in found:
            problem = "gives this name twice" if equals else "has no name"
            raise InputError(f"input {text!r} {problem}: write NAME=SHAPE, such as attention_mask=2,7:2")
        found[name] = shape
    return found


def _in_order(shapes: Any, inputs: Any, seed: int) -> list[Array]:
    if inputs is not None and isinstance(inputs, str | Path):
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


def drawn(shape: str | Sequence[int], seed: int, number: int | str) -> Array:
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
