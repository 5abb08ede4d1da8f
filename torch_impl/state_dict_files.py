"""Reads and writes files of state dicts in PyTorch's format."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.errors import InputError
from parity.files import pickles
from parity.files.atomic import write_atomically
from parity.files.digest import add_record, check_digest, read_record
from parity.weights import state_dict_names
from parity.weights.canonical_state import State
from parity.weights.half_precision import note_halves
from parity.weights.state_dict_content import REMEDY, check_globals, find_state_dict
from torch_impl.backend import Backend
from torch_impl.model import NAMES, TRANSPOSED

_OLD_PICKLES = 5
"""The pickles at the start of a file that is no zip: magic number, version, machine, state dict, names of the storages."""


def read_arrays(path: Path) -> tuple[State, list[str]]:
    """The arrays in a state dict's file, with the names and the layout that the file has, and one line for each thing taken off.

    bfloat16 and float16 are read as float32. No code in the file is run. `InputError` if the file is not a readable file of named values,
    or if it carries a digest that is not theirs.
    """
    try:
        stored = _check_file(path)
        content = torch.load(path, "cpu", weights_only=True)
        found, notes = find_state_dict(content, lambda value: isinstance(value, Tensor))
        state_dict_names.check_content(found, path.stat().st_size)
        if stored is not None:
            check_digest(stored, {name: _widened(value).numpy() for name, value in content.items()})
        halves = {str(value.dtype) for value in found.values() if isinstance(value, Tensor)}
        return {name: _array(name, value) for name, value in found.items()}, notes + note_halves(halves)
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable file of named tensors ({type(error).__name__})") from None


def read_file(path: Path) -> tuple[State, list[str]]:
    """What `read_arrays` returns, in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: a file does not say to which kind of layer they belong. `InputError` unless the
    file holds only named floating-point arrays.
    """
    content, notes = read_arrays(path)
    return state_dict_names.to_canonical(content, path.stat().st_size, NAMES, nn.Linear in TRANSPOSED), notes


def _widened(tensor: Tensor) -> Tensor:
    exact = tensor.dtype in (torch.float32, torch.float64) or not tensor.is_floating_point()
    return tensor if exact else tensor.float()


def _array(name: str, value: Any) -> Any:
    """The numbers of a floating-point tensor; anything else unchanged."""
    if not isinstance(value, Tensor):
        return value
    if value.layout != torch.strided or value.is_quantized:
        kind, dense = ("quantized", "dequantize") if value.is_quantized else ("sparse", "to_dense")
        raise InputError(f"{name} in it is a {kind} tensor: save {name}.{dense}() in the state_dict()")
    return _widened(value.detach()).numpy() if value.dtype.is_floating_point else value


def _check_file(path: Path) -> str | None:
    """The digest in a file, or None. `InputError` for a file that must not be loaded; other errors if it is no such file at all.

    A zip must not be loaded if its members are larger than the file: the framework's own files are never compressed. Nor must one with
    damaged records, since the framework's load does not check CRCs, or pickles whose nested tuples take forever to hash.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # the test of the framework's own load
            for number in range(_OLD_PICKLES):
                start = content.tell()
                if number == _OLD_PICKLES - 2:  # the state dict
                    check_globals(content)
                    content.seek(start)
                pickles.check_structure(content)
            return None
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise InputError(f"it is a TorchScript program, not a state dict: {REMEDY}")
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise InputError("a zip file whose members are larger than itself")
        if damaged := archive.testzip():
            raise InputError(f"{damaged} in it is damaged: its CRC-32 does not match")
        stored = read_record(archive)
    pickle = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    check_globals(io.BytesIO(pickle))
    pickles.check_structure(io.BytesIO(pickle))
    return stored


def write_file(path: Path, model: nn.Module, dtype: str | None = None) -> None:
    """Write the model's state dict atomically, its floating-point numbers in `dtype` (None: as they are)."""
    _write(path, model.state_dict(), dtype)


def write_arrays(path: Path, arrays: State, dtype: str | None = None) -> None:
    """Write named arrays as the file of a state dict, atomically, in `dtype` (None: as they are)."""
    _write(path, {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}, dtype)


def _write(path: Path, tensors: Mapping[str, Tensor], dtype: str | None) -> None:
    if dtype:
        tensors = {
            n: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
            for n, tensor in tensors.items()
        }
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    add_record(buffer, {name: Backend().to_numpy(_widened(tensor)) for name, tensor in tensors.items()})
    write_atomically(path, buffer.getbuffer())
