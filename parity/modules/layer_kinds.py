"""The kinds of layers: their class names in each framework, the layout of their arrays, and their settings.

All of it is data. `KINDS` is the table; `read_kinds` returns a table with the kinds of a JSON file added, for layers of your own.

A spelling says where an array is stored on one side: `weight`, `weight.T` (transposed: a Linear is [in, out] in Paddle),
`in_proj_weight[1/3]` (the second of three equal parts along the first axis), `q_proj.weight.T` (in a layer inside). `weight.T[:,1/3]` is
a part along the second axis of the stored array, `weight[1/3 in 4]` the second third of each of four equal groups (heads), and
`weight[0:8]` the first eight rows (`weight[0:8 in 2]`: of each of two groups). `weight.reshape(8,3)` is the stored array in another
shape, of which `weight.reshape(8,3).T[:,1/3]` takes a part. `in_proj_weight[0/3]|q_proj_weight` is the first that the layer holds. A
setting's spelling is an attribute of the layer:
`_epsilon`, `1-momentum` (one minus it), `!exclusive` (not it), `stride|ksize` (the first that is not None), or a constant, `=0.5`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.files.strict_json import MissingFile, from_fields, parse_any_json, read_text

SIDES = ("torch", "paddle")
"""The sides of a pair, the reference first."""

OTHER_SIDE = dict(zip(SIDES, reversed(SIDES), strict=True))
"""Side -> the other one."""

Spellings = Mapping[str, Mapping[str, str]]
"""Canonical name -> side -> spelling."""


@dataclass(frozen=True)
class Kind:
    """A kind of layer. The single name "*" in `arrays` stands for all arrays of the layer, with the same names on both sides.

    `whole`: layers inside belong to this one and are not matched alone. `note` explains a permanent difference.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    arrays: Spellings = field(default_factory=dict)
    settings: Spellings = field(default_factory=dict)
    whole: bool = False
    note: str = ""


def _kind(name: str, paddle: str, torch: str, arrays: str = "", settings: str = "", **more: Any) -> Kind:
    """Make a row of the table: class names, arrays and settings are separated by spaces, the latter two as NAME:PADDLE,TORCH."""
    classes = {"torch": torch.split(), "paddle": paddle.split()}
    return Kind(name, classes, _pairs(arrays), _pairs(settings), **more)


def _pairs(text: str) -> dict[str, dict[str, str]]:
    """Parse the spellings in a row of the table; `ValueError` for one that is not NAME:PADDLE,TORCH, or for a repeated name."""
    found: dict[str, dict[str, str]] = {}
    for row in text.split():
        parts = re.fullmatch(r"([^:]+):([^,]+),(.+)", row)
        if not parts or parts[1] in found:
            raise ValueError(f"{row!r} is not NAME:PADDLE,TORCH with a unique name")
        found[parts[1]] = {"torch": parts[3], "paddle": parts[2]}
    return found


_AFFINE = "weight:weight,weight bias:bias,bias "
_CONV = "stride:_stride,stride padding:_padding,padding dilation:_dilation,dilation groups:_groups,groups "
_CONV += "padding_mode:_padding_mode,padding_mode "
_EPS = "eps:_epsilon,eps "
_WINDOW = "kernel:ksize|kernel_size,kernel_size stride:stride|ksize|kernel_size,stride padding:padding,padding "
_WINDOW += "ceil_mode:ceil_mode,ceil_mode "

_TABLE = [
    _kind("Linear", "Linear", "Linear", "weight:weight.T,weight bias:bias,bias"),
    _kind("Conv1d", "Conv1D", "Conv1d", _AFFINE, _CONV),
    _kind("Conv2d", "Conv2D", "Conv2d", _AFFINE, _CONV),
    _kind("Conv3d", "Conv3D", "Conv3d", _AFFINE, _CONV),
    _kind("ConvTranspose1d", "Conv1DTranspose", "ConvTranspose1d", _AFFINE, _CONV + "output_padding:output_padding,output_padding"),
    _kind("ConvTranspose2d", "Conv2DTranspose", "ConvTranspose2d", _AFFINE, _CONV + "output_padding:output_padding,output_padding"),
    _kind("ConvTranspose3d", "Conv3DTranspose", "ConvTranspose3d", _AFFINE, _CONV + "output_padding:output_padding,output_padding"),
    _kind(
        "BatchNorm",
        "BatchNorm BatchNorm1D BatchNorm2D BatchNorm3D SyncBatchNorm",
        "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm",
        _AFFINE + "mean:_mean,running_mean variance:_variance,running_var",
        _EPS + "momentum_of_the_old:_momentum,1-momentum activation:_act,=None",
    ),
    _kind("LayerNorm", "LayerNorm", "LayerNorm", _AFFINE, _EPS + "shape:_normalized_shape,normalized_shape"),
    _kind("GroupNorm", "GroupNorm", "GroupNorm", _AFFINE, _EPS + "groups:_num_groups,num_groups"),
    _kind(
        "InstanceNorm",
        "InstanceNorm1D InstanceNorm2D InstanceNorm3D",
        "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
        "weight:scale,weight bias:bias,bias",
        _EPS,
        note="PyTorch has weight and bias only with affine=True; Paddle always has them",
    ),
    _kind("Embedding", "Embedding", "Embedding", "weight:weight,weight", "padding_idx:_padding_idx|=-1,padding_idx|=-1"),
    _kind("PReLU", "PReLU", "PReLU", "weight:_weight,weight"),
    _kind("Bilinear", "Bilinear", "Bilinear", "weight:weight,weight bias:bias,bias"),
    _kind("LSTM", "LSTM", "LSTM", "*:*,*", "batch_first:!time_major,batch_first dropout:dropout,dropout", whole=True),
    _kind("GRU", "GRU", "GRU", "*:*,*", "batch_first:!time_major,batch_first dropout:dropout,dropout", whole=True),
    _kind("RNN", "SimpleRNN", "RNN", "*:*,*", "batch_first:!time_major,batch_first mode:mode,mode", whole=True),
    _kind("LSTMCell", "LSTMCell", "LSTMCell", "*:*,*", whole=True),
    _kind("GRUCell", "GRUCell", "GRUCell", "*:*,*", whole=True),
    _kind("RNNCell", "SimpleRNNCell", "RNNCell", "*:*,*", whole=True),
    _kind(
        "MultiheadAttention",
        "MultiHeadAttention",
        "MultiheadAttention",
        "query.weight:q_proj.weight.T,in_proj_weight[0/3]|q_proj_weight "
        "key.weight:k_proj.weight.T,in_proj_weight[1/3]|k_proj_weight "
        "value.weight:v_proj.weight.T,in_proj_weight[2/3]|v_proj_weight query.bias:q_proj.bias,in_proj_bias[0/3] "
        "key.bias:k_proj.bias,in_proj_bias[1/3] value.bias:v_proj.bias,in_proj_bias[2/3] "
        "out.weight:out_proj.weight.T,out_proj.weight out.bias:out_proj.bias,out_proj.bias",
        "heads:num_heads,num_heads dropout:dropout,dropout batch_first:=True,batch_first",
        whole=True,
    ),
    _kind("MaxPool1d", "MaxPool1D", "MaxPool1d", "", _WINDOW),
    _kind("MaxPool2d", "MaxPool2D", "MaxPool2d", "", _WINDOW),
    _kind("MaxPool3d", "MaxPool3D", "MaxPool3d", "", _WINDOW),
    _kind("AvgPool1d", "AvgPool1D", "AvgPool1d", "", _WINDOW + "count_include_pad:!exclusive,count_include_pad"),
    _kind("AvgPool2d", "AvgPool2D", "AvgPool2d", "", _WINDOW + "count_include_pad:!exclusive,count_include_pad"),
    _kind("AvgPool3d", "AvgPool3D", "AvgPool3d", "", _WINDOW + "count_include_pad:!exclusive,count_include_pad"),
    _kind("AdaptiveAvgPool1d", "AdaptiveAvgPool1D", "AdaptiveAvgPool1d", "", "size:output_size|_output_size,output_size"),
    _kind("AdaptiveAvgPool2d", "AdaptiveAvgPool2D", "AdaptiveAvgPool2d", "", "size:output_size|_output_size,output_size"),
    _kind("AdaptiveMaxPool2d", "AdaptiveMaxPool2D", "AdaptiveMaxPool2d", "", "size:output_size|_output_size,output_size"),
    _kind("Dropout", "Dropout", "Dropout", "", "p:p,p mode:mode,=upscale_in_train"),
    _kind("Dropout2d", "Dropout2D", "Dropout2d", "", "p:p,p"),
    _kind("Dropout3d", "Dropout3D", "Dropout3d", "", "p:p,p"),
    _kind("ReLU", "ReLU", "ReLU"),
    _kind("ReLU6", "ReLU6", "ReLU6"),
    _kind("LeakyReLU", "LeakyReLU", "LeakyReLU", "", "slope:_negative_slope,negative_slope"),
    _kind("ELU", "ELU", "ELU", "", "alpha:_alpha,alpha"),
    _kind("GELU", "GELU", "GELU", "", "tanh:_approximate,?approximate=tanh"),
    _kind("SiLU", "Silu Swish", "SiLU"),
    _kind("Sigmoid", "Sigmoid", "Sigmoid"),
    _kind("Tanh", "Tanh", "Tanh"),
    _kind("Hardswish", "Hardswish", "Hardswish"),
    _kind(
        "Hardsigmoid",
        "Hardsigmoid",
        "Hardsigmoid",
        "",
        f"slope:=0.1666667,={1 / 6!r}",
    ),
    _kind("Softplus", "Softplus", "Softplus", "", "beta:_beta,beta threshold:_threshold,threshold"),
    _kind("Softmax", "Softmax", "Softmax", "", "axis:_axis,dim"),
    _kind("Flatten", "Flatten", "Flatten", "", "start:start_axis,start_dim end:stop_axis,end_dim"),
    _kind("Identity", "Identity", "Identity"),
    _kind("Upsample", "Upsample", "Upsample", "", "mode:mode,mode align_corners:align_corners|=False,align_corners|=False"),
    _kind("PixelShuffle", "PixelShuffle", "PixelShuffle", "", "factor:_upscale_factor,upscale_factor"),
]  # fmt: skip

Kinds = Mapping[str, Kind]
"""Kinds by name."""

KINDS: Kinds = MappingProxyType({kind.name: kind for kind in _TABLE})
"""The built-in kinds."""


def read_kinds(path: Path) -> Kinds:
    """Return `KINDS` with the kinds of a JSON file; `InputError` where the file does not fit.

    The file is a list of objects with the fields of `Kind`: name, classes {torch: [...], paddle: [...]}, and optionally arrays and settings
    {NAME: {torch: SPELLING, paddle: SPELLING}}, whole, note. A class of your own is named MODULE.CLASS. A kind replaces a built-in one of
    the same name.
    """
    try:
        rows = parse_any_json(read_text(path, "kinds of layers"), "kinds")
        if not isinstance(rows, list):
            raise InputError(f"expected a list, not {type(rows).__name__}")
        added = [_checked(from_fields(Kind, row, f"kind {number}")) for number, row in enumerate(rows, start=1)]
        if twice := [name for name, count in Counter(kind.name for kind in added).items() if count > 1]:
            raise InputError(f"the kind {twice[0]} appears twice")
        kinds = {**KINDS, **{kind.name: kind for kind in added}}
        _check_classes(kinds)
    except MissingFile:
        raise
    except InputError as error:
        raise InputError(f"{path} holds no kinds of layers ({error}): see parity/modules/layer_kinds.py") from None
    return kinds


def _check_classes(kinds: Kinds) -> None:
    """`InputError` where a class belongs to two kinds: only the first of them would be used."""
    for side in SIDES:
        owner: dict[str, str] = {}
        for kind in kinds.values():
            for name in kind.classes[side]:
                if owner.setdefault(name, kind.name) != kind.name:
                    raise InputError(
                        f"kind {kind.name}: the {side} class {name!r} already belongs to kind {owner[name]}"
                    )


def _checked(kind: Kind) -> Kind:
    """Return `kind`; `InputError` unless each of its rows has both sides and usable spellings. Its fields have the right types."""
    for what, spelled in (("classes", kind.classes), *kind.arrays.items(), *kind.settings.items()):
        if set(spelled) != set(SIDES):
            raise InputError(f"kind {kind.name}: {what!r} needs exactly {' and '.join(map(repr, SIDES))}")
    if not all(kind.classes.values()):
        raise InputError(f"kind {kind.name}: each side needs a class")
    if "*" in kind.arrays and len(kind.arrays) > 1:
        raise InputError(f"kind {kind.name}: '*' names all arrays of the layer, so it must be the only name")
    if empty := [name for name, spelled in kind.settings.items() if not all(spelled.values())]:
        raise InputError(f"kind {kind.name}: the setting {empty[0]!r} has an empty spelling")
    try:
        for side in SIDES:
            check_each_once(spelled[side].partition("|")[0] for spelled in kind.arrays.values())
    except InputError as error:
        raise InputError(f"kind {kind.name}: {error}") from None
    return kind


def kind_of(side: str, classes: Sequence[str], kinds: Kinds = KINDS) -> Kind:
    """Return the kind of a layer by the qualified names of its classes, the nearest first.

    The table lists a framework's classes by their bare names, and your own by MODULE.CLASS. A class in no row gets its name in small
    letters as its kind, so that Paddle's ZeroPad2D and PyTorch's ZeroPad2d are one kind; its arrays keep their names.
    """
    for name in classes:
        known = name.rpartition(".")[2] if name.startswith(f"{side}.") else name
        for kind in kinds.values():
            if known in kind.classes[side]:
                return kind
    return Kind(classes[0].rpartition(".")[2].lower(), {}, {"*": {}})


_PART = r"(?P<part>[0-9]{1,9})/(?P<parts>[0-9]{1,9})|(?P<first>[0-9]{1,9}):(?P<last>[0-9]{1,9})"
_SPELLING = re.compile(
    r"(?P<name>.+?)(?:\.reshape\((?P<shape>[0-9]{1,9}(?:,[0-9]{1,9})*)\))?"
    rf"(?P<transposed>\.T)?(?:\[(?P<second>:,)?(?:{_PART})(?: in (?P<groups>[0-9]{{1,9}}))?\])?"
)


@dataclass(frozen=True)
class Spelling:
    """A parsed spelling: part number `part` of `parts` equal ones along `axis` of the array `name`, in each of `groups` equal groups.

    Where `rows` is not None, it replaces the equal parts: the rows of each group from the first number to the one before the second.
    With `reshaped`, the array is first brought into that shape.
    """

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    axis: int = 0
    groups: int = 1
    rows: tuple[int, int] | None = None
    reshaped: tuple[int, ...] | None = None

    @property
    def whole(self) -> bool:
        """Whether it names the whole array."""
        return self.parts == 1 and self.rows is None

    def __str__(self) -> str:
        shape = f".reshape({','.join(map(str, self.reshaped))})" if self.reshaped else ""
        name = f"{self.name}{shape}{'.T' if self.transposed else ''}"
        if self.whole:
            return name
        part = f"{self.rows[0]}:{self.rows[1]}" if self.rows else f"{self.part}/{self.parts}"
        groups = f" in {self.groups}" if self.groups > 1 else ""
        return f"{name}[{':,' if self.axis else ''}{part}{groups}]"

    def view(self, array: Array) -> Array:
        """Return the canonical array of a side's own `array`. `InputError` where it cannot be divided into the parts."""
        array = array.reshape(self._shape(array.shape))
        if not self.whole:
            array = array[self._index(array.shape)]
        return array.T if self.transposed else array

    def put(self, array: Array, canonical: Array) -> None:
        """Write a canonical array to its place in a side's own `array`; raises `InputError` as `view` does."""
        own = canonical.T if self.transposed else canonical
        whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        view = whole.reshape(self._shape(array.shape))
        view[self._index(view.shape) if not self.whole else ...] = own
        if whole is not array:
            array[...] = whole

    def shape(self, own: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in canonical layout of a side's own array of shape `own`; raises `InputError` as `view` does."""
        own = self._shape(own)
        found = list(own)
        if not self.whole:
            self._check(own)
            rows = self.groups * (self.rows[1] - self.rows[0]) if self.rows else own[self.axis] // self.parts
            found[self.axis] = rows
        return tuple(reversed(found)) if self.transposed else tuple(found)

    def index(self, size: int) -> slice | Array:
        """Return the index of the part along an axis of `size`."""
        if self.rows and self.groups == 1:
            return slice(*self.rows)
        if self.rows:
            return np.arange(size).reshape(self.groups, -1)[:, slice(*self.rows)].ravel()
        if self.groups == 1:
            rows = size // self.parts
            return slice(self.part * rows, (self.part + 1) * rows)
        return np.arange(size).reshape(self.groups, self.parts, -1)[:, self.part].ravel()

    def _shape(self, own: Sequence[int]) -> Sequence[int]:
        """Return the shape in which the array is read; `InputError` where it does not have as many numbers as the array."""
        if self.reshaped is None:
            return own
        if math.prod(self.reshaped) != math.prod(own):
            raise InputError(f"array {self.name!r} of shape {list(own)} cannot be brought into {list(self.reshaped)}")
        return self.reshaped

    def _index(self, own: Sequence[int]) -> Any:
        self._check(own)
        return (*[slice(None)] * self.axis, self.index(own[self.axis]))

    def _check(self, own: Sequence[int]) -> None:
        size = own[self.axis] if len(own) > self.axis else 0
        if self.rows and self.rows[1] > size // self.groups:
            raise InputError(f"array {self.name!r} of shape {list(own)} has no rows {self.rows[0]}:{self.rows[1]}")
        if not size or size % (self.parts * self.groups):
            raise InputError(
                f"array {self.name!r} of shape {list(own)} cannot be divided into {self.parts} equal parts"
                + (f" in {self.groups} groups" if self.groups > 1 else "")
            )


@functools.cache
def parse_spelling(text: str) -> Spelling:
    """Parse the spelling of an array; `InputError` where it is none."""
    found = _SPELLING.fullmatch(text)
    if not found:
        raise InputError(f"{text!r} names no array: write NAME, NAME.T, NAME[PART/PARTS] or NAME[FIRST:LAST]")
    part, parts, groups = int(found["part"] or 0), int(found["parts"] or 1), int(found["groups"] or 1)
    if part >= parts or not groups:
        raise InputError(f"{text!r} is no part of an array: parts count from 0, as in weight[0/3] to weight[2/3]")
    rows = (int(found["first"]), int(found["last"])) if found["first"] else None
    if rows and rows[0] >= rows[1]:
        raise InputError(f"{text!r} has no rows: write the first row and the row after the last one, as in weight[0:8]")
    shape = tuple(map(int, found["shape"].split(","))) if found["shape"] else None
    return Spelling(
        found["name"], bool(found["transposed"]), part, parts, int(bool(found["second"])), groups, rows, shape
    )


def check_each_once(spellings: Iterable[str], shapes: Mapping[str, Sequence[int]] | None = None) -> None:
    """`InputError` unless every array of `spellings`, all of one side, is named once: whole, or in all of its parts.

    Whether the last rows of an array are named is known only with its shape, from `shapes`.
    """
    named: dict[str, list[Spelling]] = {}
    for text in spellings:
        spelling = parse_spelling(text)
        named.setdefault(spelling.name, []).append(spelling)
    for name, found in named.items():
        layouts = {(spelling.parts, spelling.groups, spelling.axis, spelling.rows is None) for spelling in found}
        places = {spelling.rows or spelling.part for spelling in found}
        if len(layouts) > 1 or len(places) < len(found):
            raise InputError(f"the array {name!r} is named twice")
        if found[0].rows:
            rows = sorted(spelling.rows for spelling in found if spelling.rows)
            end = shapes[name][found[0].axis] // found[0].groups if shapes and name in shapes else rows[-1][1]
            _check_rows(name, [*rows, (end, end)])
        elif len(found) < found[0].parts:
            raise InputError(f"only {len(found)} of {found[0].parts} parts of the array {name!r} are named")


def _check_rows(name: str, found: Sequence[tuple[int, int]]) -> None:
    last = 0
    for first, after in found:
        if first != last:
            problem = "are named twice" if first < last else "are not named"
            raise InputError(f"rows {min(first, last)} to {max(first, last) - 1} of the array {name!r} {problem}")
        last = after


def name_in(spelling: str) -> str:
    """Return the array that a spelling names."""
    return parse_spelling(spelling).name


def read(spelling: str, arrays: Mapping[str, Array]) -> Array:
    """Read the canonical array of a spelling from a side's own `arrays`."""
    found = parse_spelling(spelling)
    return found.view(arrays[found.name])


def write(spelling: str, arrays: dict[str, Array], canonical: Array, shape: Sequence[int]) -> None:
    """Write a canonical array to the place of a spelling; `shape` is that of the side's own array, which is created if it is missing.

    `InputError` where the canonical array does not have the shape and dtype of that place.
    """
    found = parse_spelling(spelling)
    if str(found) == found.name and tuple(shape) != canonical.shape and math.prod(shape) == canonical.size:
        raise InputError(
            f"array {found.name!r} has the shape {list(shape)}, that of the other side {list(canonical.shape)}: write "
            f"{found.name}.reshape({','.join(map(str, canonical.shape))}) in a map (--map)"
        )
    if found.shape(shape) != canonical.shape:
        raise InputError(
            f"array {found.name!r} of shape {list(shape)} needs {list(found.shape(shape))} for {spelling}, not {list(canonical.shape)}"
        )
    array = arrays.setdefault(found.name, np.zeros(shape, canonical.dtype))
    if array.dtype != canonical.dtype:
        raise InputError(
            f"the parts of array {found.name!r} have different dtypes: {array.dtype} and {canonical.dtype}"
        )
    found.put(array, canonical)


def setting(spelling: str, attributes: Mapping[str, Any]) -> Any:
    """Read a setting from a layer's `attributes`, in one form: equal values for all axes become one value."""
    for word in spelling.split("|"):
        value = _setting(word, attributes)
        if value is not None:
            return _plain(value)
    return None


def _setting(word: str, attributes: Mapping[str, Any]) -> Any:
    if word.startswith("="):
        try:
            return json.loads(word[1:].replace("None", "null").replace("True", "true").replace("False", "false"))
        except (ValueError, RecursionError):
            return word[1:]
    if word.startswith("?"):
        name, _, wanted = word[1:].partition("=")
        return attributes.get(name) == wanted
    value = attributes.get(word.removeprefix("1-").removeprefix("!"))
    if value is None:
        return None
    if word.startswith("1-"):
        return round(1 - value, 12) if isinstance(value, int | float) else value
    return not value if word.startswith("!") else value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        values = [_plain(one) for one in value]
        return values[0] if values and all(one == values[0] for one in values) else values
    return value
