"""The inputs of a pair of models: from a .npz file, from the caller, or drawn at random."""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.errors import InputError, suggest
from parity.modules.layer_kinds import SIDES
from parity.pairs.layouts import Form, axes_between

DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
"""Dtypes that both frameworks accept."""

MOST = 2**31
"""Limit of the size of all inputs, in bytes: far more than a comparison needs."""


Names = Mapping[str, list[str | None]]
"""By side, the argument of `forward` that each input is for: "" for the next one in order, None if that side does not get it."""


@dataclass(frozen=True)
class Asked:
    """An input that is drawn: its sizes for PyTorch, the limit of whole numbers (0: normal numbers), and dtypes and layouts by side."""

    sizes: tuple[int, ...]
    below: int
    dtypes: tuple[str, str]
    layouts: tuple[str, str]

    @property
    def form(self) -> Form:
        """How Paddle's input differs from PyTorch's."""
        axes = axes_between(self.layouts, "the input") if self.layouts[0] else ()
        return Form(self.dtypes[1] if self.dtypes[1] != self.dtypes[0] else "", axes)


def take_inputs(
    shapes: Any, inputs: Any, seed: int, by_name: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[Array], Names, dict[int, Form]]:
    """Return the inputs of `shapes` or `inputs`, and of `by_name`, for PyTorch; their names; and number -> form of Paddle's input.

    `by_name` holds arrays or shapes by the name of an argument, for "both" sides and for each side alone. The first one for PyTorch alone
    and the first one for Paddle alone are the same input if their shapes, or their arrays, are equal; and so on. A layout without a shape,
    such as "NCHW|NHWC", is that of an input in order. `InputError` where they cannot be used.
    """
    named = dict(by_name or {})
    layouts = {n: w for n, w in named.get("both", {}).items() if isinstance(w, str) and "|" in w and w[:1].isalpha()}
    named["both"] = {name: what for name, what in named.get("both", {}).items() if name not in layouts}
    found = _named(named, seed)
    if (shapes is not None and inputs is not None) or (shapes is None and inputs is None and not found):
        raise InputError(
            "pass the inputs or their shapes: one of --inputs FILE.npz and --input-shape 4,3,64,64, and --input NAME=4,7 for each "
            "argument by name"
        )
    ordered = [] if shapes is None and inputs is None else _in_order(shapes, inputs, seed)
    arrays = [*(array for _, array, _ in ordered), *(array for array, _, _ in found)]
    forms = dict(enumerate([*(form for _, _, form in ordered), *(form for _, form, _ in found)]))
    for name, layout in layouts.items():
        numbers = [i for i, (own, _, _) in enumerate(ordered) if own == name] or list(range(len(ordered)))
        if len(numbers) != 1:
            raise InputError(f"input '{name}={layout}' has a layout and no shape: write {name}=4,3,8,8:{layout}")
        form = Form(axes=axes_between(layout.split("|", 1), f"input {name!r}"))
        _check_axes(arrays[numbers[0]].ndim, form, f"input {name!r}")
        forms[numbers[0]] = form
    names = {side: [*[""] * len(ordered), *(names[side] for _, _, names in found)] for side in SIDES}
    return arrays, names, {number: form for number, form in forms.items() if form != Form()}


def _named(by_name: Mapping[str, Mapping[str, Any]], seed: int) -> list[tuple[Array, Form, dict[str, str | None]]]:
    """Return each input by name with its form, and the argument that it is for on each side."""
    rows: list[tuple[Any, dict[str, str | None]]] = [
        (what, dict.fromkeys(SIDES, name)) for name, what in by_name.get("both", {}).items()
    ]
    alone = [list(by_name.get(side, {}).items()) for side in SIDES]
    for one, two in itertools.zip_longest(*alone):
        if one and two and (same := _joined(one[1], two[1])) is not None:
            rows.append((same, dict(zip(SIDES, (one[0], two[0]), strict=True))))
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
    return [(*_taken(what, seed, f"{number} by name"), named) for number, (what, named) in enumerate(rows)]


def _joined(one: Any, two: Any) -> Any:
    """Return the one input that both sides get: PyTorch's array, or what to draw; None if the two are not the same."""
    if not (isinstance(one, str) or isinstance(two, str)):
        return one if np.array_equal(as_array(one), as_array(two)) else None
    if not (isinstance(one, str) and isinstance(two, str)):
        return None
    a, b = parse_shape(one), parse_shape(two)
    layouts = (a.layouts[0], b.layouts[1])
    sizes = b.sizes
    if all(layouts) and sorted(layouts[0]) == sorted(layouts[1]):
        sizes = tuple(b.sizes[b.layouts[0].index(letter)] for letter in layouts[0])
    if (any(layouts) and not all(layouts)) or (a.sizes, a.below) != (sizes, b.below):
        return None
    return Asked(a.sizes, a.below, (a.dtypes[0], b.dtypes[1]), layouts)


def _taken(what: Any, seed: int, number: int | str) -> tuple[Array, Form]:
    """Return an input and its form: `what` is an array, a shape, or an input to draw."""
    asked = parse_shape(what) if isinstance(what, str) else what
    if isinstance(asked, Asked):
        return _draw(asked, seed, number), asked.form
    return check_dtype(as_array(what), f"input {number}"), Form()


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


def _in_order(shapes: Any, inputs: Any, seed: int) -> list[tuple[str, Array, Form]]:
    """Return the inputs in the order of the arguments: the name in a file, the array and its form."""
    if inputs is not None and isinstance(inputs, str | Path):
        return [(name, array, Form()) for name, array in read_inputs(Path(inputs)).items()]
    if inputs is not None:
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        return [("", *_taken(as_array(x), seed, number)) for number, x in enumerate(several)]
    several = [shapes] if isinstance(shapes, str) or (shapes and isinstance(shapes[0], int)) else shapes
    return [
        ("", *_taken(shape if isinstance(shape, str) else ",".join(map(str, shape)), seed, i))
        for i, shape in enumerate(several)
    ]


def as_array(x: Any) -> Array:
    """Copy an array, a number, or a tensor of either framework."""
    for method in ("detach", "cpu", "numpy"):
        x = getattr(x, method)() if hasattr(x, method) else x
    return np.array(x)


def read_inputs(path: Path) -> dict[str, Array]:
    """Read the arrays of a .npz file by name, in its order; `InputError` where it is damaged or holds dtypes outside `DTYPES`."""
    try:
        found = _read_members(path)
    except MemoryError:
        raise InputError(f"cannot read {path}: its header states more bytes than fit in memory") from None
    except Exception as error:  # zipfile, its decoders and numpy raise different errors for a damaged file
        said = str(error) or "the file ends too early"
        raise InputError(f"cannot read {path}: {said}; save the inputs with numpy.savez") from None
    return {name: check_dtype(array, f"{path}: array {name}") for name, array in found.items()}


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


def check_dtype(array: Array, place: str) -> Array:
    """Return `array` in the byte order of this machine."""
    if array.dtype.name not in DTYPES:
        raise InputError(f"{place} has dtype {array.dtype}: convert it to one of {', '.join(DTYPES)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def drawn(shape: str | Sequence[int], seed: int, number: int | str) -> Array:
    """Draw a random input of a shape or its text, see `parse_shape`, in PyTorch's layout and dtype."""
    return _draw(parse_shape(shape if isinstance(shape, str) else ",".join(map(str, shape))), seed, number)


def parse_shape(text: str) -> Asked:
    """Parse the sizes of an input, and after colons in any order a limit, a dtype and a layout, each for both sides or TORCH|PADDLE.

    "2,7:100" are whole numbers below 100, "2,7:bool" booleans, "4,3,8,8:NCHW|NHWC" are sizes of PyTorch's input. `InputError` otherwise.
    """
    sizes, *words = text.split(":")
    below, dtypes, layouts = 0, ("", ""), ("", "")
    try:
        found = tuple(int(size) for size in sizes.split(",") if size)
        if min(found, default=1) < 1:
            raise ValueError
    except ValueError:
        raise _no_shape(text) from None
    if len(found) > 32 or 8 * math.prod(found) > MOST:
        raise InputError(f"{text!r} is too large: an input has at most 32 axes and {MOST // 8:,} numbers")
    for word in words:
        first, bar, second = word.partition("|")
        both = (first, second if bar else first)
        if word.isdecimal() and 1 <= int(word) < 2**63 and not below:
            below = int(word)
        elif set(both) <= set(DTYPES) and not dtypes[0]:
            dtypes = both
        elif all(one.isalpha() and one.isupper() for one in both) and not layouts[0]:
            axes = axes_between(both, f"input {text!r}")
            _check_axes(len(found), Form(axes=axes or tuple(range(len(first)))), f"input {text!r}")
            layouts = both
        else:
            raise _no_shape(text, next((one for one in both if one not in DTYPES), ""))
    whole = [dtype for dtype in dtypes if dtype and not dtype.startswith("float")]
    below = below or (2 if whole else 0)
    for dtype in whole:
        if below > 2 ** {"bool": 1, "uint8": 8, "int32": 31}.get(dtype, 63):
            raise InputError(f"{text!r} asks for numbers below {below:,}, which {dtype} does not hold")
    return Asked(found, below, dtypes, layouts)


def _no_shape(text: str, word: str = "") -> InputError:
    near = suggest(word, DTYPES) if word else ""
    return InputError(
        f"{text!r} is no shape{near}: write 4,3,64,64, or 2,7:100 for integers below 100, 2,7:bool for a dtype, 4,3,8,8:NCHW|NHWC for "
        "layouts"
    )


def _check_axes(count: int, form: Form, place: str) -> None:
    if form.axes and len(form.axes) != count:
        raise InputError(f"{place}: the layout has {len(form.axes)} axes and the shape has {count}")


def _draw(asked: Asked, seed: int, number: int | str) -> Array:
    random = stream(seed, "pair input", number)
    array: Array = random.integers(0, asked.below, asked.sizes) if asked.below else random.standard_normal(asked.sizes)
    return array.astype(asked.dtypes[0] or array.dtype)
