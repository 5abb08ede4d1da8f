"""Orders of axes and dtypes that differ between two models: of inputs, of outputs, and of layers that hold channels last.

Everything is compared in PyTorch's order. Only what enters or leaves Paddle's model is changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import distance
from parity.errors import InputError
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_values import digest
from parity.pairs.model_server import ModelRun

CHANNELS_LAST = {"NLC": 3, "NHWC": 4, "NDHWC": 5}
"""Data format of a layer -> the number of axes of its arrays."""

SWAPPED = (("NCHW", "NHWC"), ("NHWC", "NCHW"))
"""The layouts of PyTorch and Paddle that images may have without a word from the user."""

FORMATS = ("data_format", "_data_format")
"""The attributes of Paddle's layers that hold a data format."""


@dataclass(frozen=True)
class Form:
    """How an input or output of Paddle's model differs from PyTorch's: its dtype ("" as it is), and PyTorch's axes in Paddle's order."""

    dtype: str = ""
    axes: tuple[int, ...] = ()

    def enter(self, side: str, array: Array) -> Array:
        """Return PyTorch's array as the model of `side` takes it."""
        if side != SIDES[1]:
            return array
        turned = array.transpose(self.axes) if array.ndim == len(self.axes) else array
        return _in_order(turned.astype(self.dtype or array.dtype))

    def leave(self, side: str, array: Array) -> Array:
        """Return an output of `side`, or a gradient of an input, in PyTorch's order of axes."""
        if side != SIDES[1] or array.ndim != len(self.axes):
            return array
        return _in_order(array.transpose(np.argsort(self.axes)))


def _in_order(array: Array) -> Array:
    """Return an array whose numbers lie in the order of its axes. A single number stays one: `ascontiguousarray` would give it an axis."""
    return np.asarray(array, order="C")


def axes_between(layouts: Sequence[str], place: str) -> tuple[int, ...]:
    """Return the axes of the first layout in the order of the second, () if both are the same; `InputError` for other letters."""
    first, second = layouts
    if sorted(first) != sorted(second) or len(set(first)) != len(first):
        raise InputError(f"{place}: {first}|{second} is no order of the same axes: write one such as NCHW|NHWC")
    return () if first == second else tuple(first.index(letter) for letter in second)


def parse_layouts(texts: Sequence[str]) -> dict[str, Form]:
    """Return output ("" all with as many axes) -> form, of texts NAME=NCHW|NHWC or NCHW|NHWC."""
    found: dict[str, Form] = {}
    for text in texts:
        name, equals, layouts = text.rpartition("=")
        first, bar, second = layouts.partition("|")
        if not bar or (equals and not name):
            raise InputError(
                f"the layout {text!r} has not both sides: write NCHW|NHWC, or NAME=NCHW|NHWC for one output"
            )
        found[name] = Form(axes=axes_between((first, second), f"the layout {text!r}"))
    return found


def find_layout(torch: Array, paddle: Array, limit: float) -> str:
    """Return the layouts, such as NCHW|NHWC, by which two arrays of images are equal up to a relative error of `limit`; "" if none."""
    for layouts in SWAPPED if torch.ndim == paddle.ndim == len(SWAPPED[0][0]) else ():
        turned = torch.transpose(axes_between(layouts, "an output"))
        if turned.shape == paddle.shape and distance(turned, paddle) <= limit:
            return "|".join(layouts)
    return ""


def find_form(forms: Mapping[str, Form], name: str, array: Array) -> Form:
    """Return the form of an output: that of its name, or the one for all outputs if it has as many axes."""
    for form in (forms.get(name), forms.get("")):
        if form and len(form.axes) == array.ndim:
            return form
    return Form()


def channels_last(modules: Sequence[Mapping[str, Any]]) -> dict[str, Form]:
    """Return the path of each layer whose data format has channels last -> the form of its arrays."""
    found = {}
    for module in modules:
        formats = [module["attributes"].get(name) for name in FORMATS]
        count = next((CHANNELS_LAST[f] for f in formats if f in CHANNELS_LAST), 0)
        if count:
            found[module["path"]] = Form(axes=(0, *range(2, count), 1))
    return found


def channels_first(
    run: ModelRun, forms: Mapping[str, Form], passing: Collection[str]
) -> tuple[ModelRun, dict[str, Form]]:
    """Return a Paddle run in which the arrays of layers with channels last have PyTorch's order; and key of an array -> its form.

    The layers `passing` have no weights and no data format. They have that of the layer whose output they get.
    """
    if not forms:
        return run, {}
    arrays, changed = dict(run.arrays), dict[str, Form]()
    known: dict[bytes, Form] = {}
    for note in run.calls:
        form = forms.get(note["path"])
        if form is None and note["path"] in passing and note["inputs"]:
            form = known.get(digest([run.arrays[note["inputs"][0]]]))
        if form is None:
            continue
        for key in (*note["inputs"], *note["outputs"]):
            if run.arrays[key].ndim == len(form.axes):
                arrays[key], changed[key] = form.leave(SIDES[1], run.arrays[key]), form
        known |= {digest([run.arrays[key]]): form for key in note["outputs"] if key in changed}
    return dataclasses.replace(run, arrays=arrays), changed
