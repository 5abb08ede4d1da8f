"""Reads and writes files of state dicts in Paddle's format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_impl.backend import Backend
from paddle_impl.model import NAMES, TRANSPOSED
from parity.errors import InputError
from parity.files import pickles
from parity.files.atomic import write_atomically
from parity.files.digest import check_digest, make_trailer
from parity.weights import state_dict_names
from parity.weights.canonical_state import State
from parity.weights.half_precision import note_halves, round_to_bfloat16, widen, widen_bfloat16
from parity.weights.state_dict_content import REMEDY, find_state_dict

_BFLOAT16 = {"<u2": "bfloat16"}
"""numpy's code of the bits of such numbers in the framework's files -> the dtype."""


def read_arrays(path: Path) -> tuple[State, list[str]]:
    """The arrays in a state dict's file, with the names and the layout that the file has, and one line for each thing taken off.

    bfloat16 and float16 are read as float32. No code in the file is run. `InputError` if the file is not a readable file of named values,
    or if it carries a digest that is not theirs.
    """
    # DIFFERS: the framework's own load runs code in a pickle, so files are read without it.
    try:
        content, stored = pickles.read_with_digest(path.read_bytes())
    except InputError as error:
        damaged = "not a readable pickle" in str(error)
        raise InputError(str(error) if damaged else f"{error}: {REMEDY}") from None
    content.pop("StructuredToParameterName@@", None)
    found, notes = find_state_dict(content, lambda value: isinstance(value, np.ndarray))
    found.pop("StructuredToParameterName@@", None)
    state_dict_names.check_content(found, path.stat().st_size)
    if not {"LR_Scheduler", "master_weights"}.isdisjoint(content) or any(map(_is_slot, found)):
        raise InputError("it is the state of an optimizer (.pdopt), not of a model: save model.state_dict()")
    if stored is not None:
        check_digest(stored, {name: _widened(value) for name, value in content.items()})
    halves = {
        _BFLOAT16.get(value.dtype.str, str(value.dtype)) for value in found.values() if isinstance(value, np.ndarray)
    }
    return {name: _widened(value) for name, value in found.items()}, notes + note_halves(halves)


def read_file(path: Path) -> tuple[State, list[str]]:
    """What `read_arrays` returns, in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: a file does not say to which kind of layer they belong. `InputError` unless the
    file holds only named floating-point arrays.
    """
    content, notes = read_arrays(path)
    return state_dict_names.to_canonical(content, path.stat().st_size, NAMES, nn.Linear in TRANSPOSED), notes


def _is_slot(name: str) -> bool:
    return name.endswith(("_moment1_0", "_velocity_0", "_beta1_pow_acc_0"))


def _widened(value: Any) -> Any:
    # DIFFERS: numpy has no bfloat16, so the framework saves its bits as uint16.
    if not isinstance(value, np.ndarray):
        return value
    return widen_bfloat16(value) if value.dtype.str in _BFLOAT16 else widen(value)


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    # DIFFERS: Paddle 2.6 cuts digits off where PyTorch and Paddle 3 round to the nearest, so numpy rounds.
    numbers = Backend().to_numpy(tensor)
    return paddle.to_tensor(round_to_bfloat16(numbers) if dtype == "bfloat16" else numbers.astype(dtype))


def write_file(path: Path, model: nn.Layer, dtype: str | None = None) -> None:
    """Write the model's state dict atomically, its floating-point numbers in `dtype` (None: as they are)."""
    _write(path, model.state_dict(), dtype)


def write_arrays(path: Path, arrays: State, dtype: str | None = None) -> None:
    """Write named arrays as the file of a state dict, atomically, in `dtype` (None: as they are)."""
    _write(path, {name: paddle.to_tensor(np.asarray(array, order="C")) for name, array in arrays.items()}, dtype)


def _write(path: Path, tensors: Mapping[str, Tensor], dtype: str | None) -> None:
    if dtype:
        tensors = {
            name: _cast(tensor, dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
    buffer = io.BytesIO()
    paddle.save(dict(tensors), buffer)
    buffer.write(make_trailer({name: _widened(Backend().to_numpy(tensor)) for name, tensor in tensors.items()}))
    write_atomically(path, buffer.getbuffer())
