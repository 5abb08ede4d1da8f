"""Reads and writes files of state dicts in Paddle's format."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_impl.backend import Backend
from paddle_impl.model import NAMES, TRANSPOSED
from parity.files import pickles
from parity.files.atomic import write_atomically
from parity.files.digest import check_digest, make_trailer
from parity.weights import state_dict_names
from parity.weights.canonical_state import State


def read_arrays(path: Path) -> State:
    """The arrays in a state dict's file, with the names and the layout that the file has. No code in the file is run.

    `InputError` if the file is not a readable file of named values, or if it carries a digest that is not theirs.
    """
    # DIFFERS: the framework's own load runs code in a pickle, so files are read without it.
    content, stored = pickles.read_with_digest(path.read_bytes())
    content.pop("StructuredToParameterName@@", None)
    state_dict_names.check_content(content, path.stat().st_size)
    check_digest(stored, content)
    return content


def read_file(path: Path) -> State:
    """The arrays of a state dict's file, by the file's names and in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: a file does not say to which kind of layer they belong. No code in the file is run.
    `InputError` unless it holds only named floating-point arrays.
    """
    return state_dict_names.to_canonical(read_arrays(path), path.stat().st_size, NAMES, nn.Linear in TRANSPOSED)


def write_file(path: Path, model: nn.Layer) -> None:
    """Write the model's state dict atomically; any model with the same names can load it."""
    _write(path, model.state_dict())


def write_arrays(path: Path, arrays: State) -> None:
    """Write named arrays as the file of a state dict, atomically."""
    _write(path, {name: paddle.to_tensor(np.asarray(array, order="C")) for name, array in arrays.items()})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    buffer = io.BytesIO()
    paddle.save(dict(tensors), buffer)
    buffer.write(make_trailer({name: Backend().to_numpy(tensor) for name, tensor in tensors.items()}))
    write_atomically(path, buffer.getbuffer())
