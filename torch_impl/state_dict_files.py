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
from torch_impl.backend import Backend
from torch_impl.model import NAMES, TRANSPOSED

_OLD_PICKLES = 5
"""The pickles at the start of a file that is no zip: magic number, version, machine, state dict, names of the storages."""


def read_arrays(path: Path) -> State:
    """The arrays in a state dict's file, with the names and the layout that the file has. No code in the file is run.

    `InputError` if the file is not a readable file of named values, or if it carries a digest that is not theirs.
    """
    try:
        stored = _check_file(path)
        content = torch.load(path, "cpu", weights_only=True)
        state_dict_names.check_content(content, path.stat().st_size)
        if stored is not None:
            check_digest(stored, {name: value.numpy() for name, value in content.items()})
        return {name: _array(value) for name, value in content.items()}
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail in any way, RecursionError and MemoryError included
        raise InputError(f"not a readable file of named tensors ({type(error).__name__})") from None


def read_file(path: Path) -> State:
    """The arrays of a state dict's file, by the file's names and in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: a file does not say to which kind of layer they belong. No code in the file is run.
    `InputError` unless it holds only named floating-point arrays.
    """
    content = read_arrays(path)
    # DIFFERS: batch norms also count their batches, in an integer that this project does not use.
    kept = {name: array for name, array in content.items() if not str(name).endswith("num_batches_tracked")}
    return state_dict_names.to_canonical(kept, path.stat().st_size, NAMES, nn.Linear in TRANSPOSED)


def _array(value: Any) -> Any:
    """A numpy view of a floating-point tensor; anything else unchanged."""
    floats = (torch.float16, torch.float32, torch.float64)
    return value.detach().numpy() if isinstance(value, Tensor) and value.dtype in floats else value


def _check_file(path: Path) -> str | None:
    """The digest in a file, or None. `InputError` for a file that must not be loaded; other errors if it is no such file at all.

    A zip must not be loaded if its members are larger than the file: the framework's own files are never compressed. Nor must one with
    damaged records, since the framework's load does not check CRCs, or pickles whose nested tuples take forever to hash.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # the test of the framework's own load
            for _ in range(_OLD_PICKLES):
                pickles.check_structure(content)
            return None
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise InputError("a zip file whose members are larger than itself")
        if damaged := archive.testzip():
            raise InputError(f"{damaged} in it is damaged: its CRC-32 does not match")
        stored = read_record(archive)
    pickles.check_structure(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
    return stored


def write_file(path: Path, model: nn.Module) -> None:
    """Write the model's state dict atomically; any model with the same names can load it."""
    _write(path, model.state_dict())


def write_arrays(path: Path, arrays: State) -> None:
    """Write named arrays as the file of a state dict, atomically."""
    _write(path, {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    add_record(buffer, {name: Backend().to_numpy(tensor) for name, tensor in tensors.items()})
    write_atomically(path, buffer.getbuffer())
