"""The files of state dicts that PyTorch saves and loads."""

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
"""Pickles at the start of a file that is no zip: mark, version, machine, state dict, names of the storages."""


def read_arrays(path: Path) -> State:
    """The arrays in a state dict's file, by the names and in the layout that they have there. No code in the file is run.

    `InputError` unless it is a readable file of named things, and, where it carries their digest, this is theirs.
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
    """The arrays of a state dict's file, by the names in it and in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: nothing in a file says what they belong to. No code in the file is run.
    `InputError` unless it holds named arrays of floats and nothing else.
    """
    content = read_arrays(path)
    # DIFFERS: batch norms also count their batches, in an integer that nothing here reads.
    kept = {name: array for name, array in content.items() if not str(name).endswith("num_batches_tracked")}
    return state_dict_names.canonical(kept, path.stat().st_size, NAMES, nn.Linear in TRANSPOSED)


def _array(value: Any) -> Any:
    """A view of a tensor of floats; anything else as it is."""
    floats = (torch.float16, torch.float32, torch.float64)
    return value.detach().numpy() if isinstance(value, Tensor) and value.dtype in floats else value


def _check_file(path: Path) -> str | None:
    """The digest in a file, None where it has none. `InputError` for one that must not be loaded; other errors where it is none.

    That is a zip that would unpack to more than it is (the framework's own files are never compressed), damaged records, of which the
    framework's load does not check the CRCs, and pickles whose tuples it would hash forever.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"PK\3\4":  # as the framework's load decides it
            for _ in range(_OLD_PICKLES):
                pickles.check_structure(content)
            return None
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise InputError("a zip file whose members are larger than itself")
        if damaged := archive.testzip():
            raise InputError(f"{damaged} in it is damaged: its CRC-32 is another")
        stored = read_record(archive)
    pickles.check_structure(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
    return stored


def write_file(path: Path, model: nn.Module) -> None:
    """Writes the model's state dict atomically, for everyone who has a model of the same names to load."""
    _write(path, model.state_dict())


def write_arrays(path: Path, arrays: State) -> None:
    """Writes named arrays as the file of a state dict, atomically."""
    _write(path, {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    add_record(buffer, {name: Backend().to_numpy(tensor) for name, tensor in tensors.items()})
    write_atomically(path, buffer.getbuffer())
