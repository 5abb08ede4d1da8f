"""The canonical state: every array of a network under its layer's name, in a layout of its own, and its safetensors files.

Layouts: conv weights OIHW, linear weights [out, in], batch norm `gamma`, `beta`, `mean`, `variance` [channels], optimizer slots as
`optimizer.SLOT.PARAMETER` in their parameter's shape. Pickles are never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.files.digest import KEY, check_digest, compute_digest
from parity.network.network import Network
from parity.network.nodes import Parameter
from parity.weights import whitening
from parity.weights.half_precision import rename_dtype, round_to_bfloat16, widen, widen_bfloat16

State = dict[str, Array]

DIRAC_NOISE = np.float32(0.01)
"""The factor of the random part of a filter that starts as the identity.

The far tail of a GELU is exactly zero. Behind it, the identity alone would make exact ties in the next max pool, which each framework
breaks in its own way.
"""


def initialise(network: Network, seed: int) -> State:
    """Fresh float32 parameters and statistics of `network`; the same bits for the same seed on both sides."""
    return {name: _fresh(parameter, seed) for name, parameter in network.parameters.items()}


def _fresh(parameter: Parameter, seed: int) -> Array:
    init = parameter.init
    fan = {"none": 1, "in": parameter.fan_in, "both": parameter.fan_in + parameter.fan_out}[init.fan]
    scale = init.scale / np.sqrt(fan) if fan != 1 else init.scale
    if init.distribution == "constant":
        return np.full(parameter.shape, scale, np.float32)
    if init.distribution == "whitening":
        return whitening.make_filters(parameter.shape) * np.float32(scale)
    random = stream(seed, "init", parameter.name)
    uniform = init.distribution == "uniform"
    draw = random.uniform(-1, 1, parameter.shape) if uniform else random.standard_normal(parameter.shape)
    while init.distribution == "truncated" and (far := np.abs(draw) > 2).any():
        draw[far] = random.standard_normal(np.count_nonzero(far))
    drawn: Array = (scale * draw).astype(np.float32)
    if init.dirac:
        filters, channels, *kernel = parameter.shape
        middle = tuple(size // 2 for size in kernel)
        drawn[:channels] *= DIRAC_NOISE
        for i in range(min(filters, channels)):
            drawn[(i, i, *middle)] += 1
    return drawn


TILE = 128
"""Rows and columns of the blocks that are transposed one after the other, which fit into a processor's caches."""


def copy_transposed(matrix: Array) -> Array:
    """A copy of the transpose of a `matrix`, contiguous in memory."""
    turned = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, matrix.shape[0], TILE):
        for column in range(0, matrix.shape[1], TILE):
            turned[column : column + TILE, row : row + TILE] = matrix[row : row + TILE, column : column + TILE].T
    return turned


def slot_names(network: Network, slots: Iterable[str]) -> dict[str, str]:
    """Canonical name of every optimizer slot -> name of the parameter it belongs to."""
    trainable = [name for name, parameter in network.parameters.items() if parameter.trainable]
    return {f"optimizer.{slot}.{name}": name for slot in slots for name in trainable}


def check(network: Network, state: Mapping[str, Array], slots: Iterable[str] = ()) -> None:
    """Raise `InputError` unless `state` holds exactly the floating-point arrays of `network` (and of its optimizer `slots`)."""
    shapes = {name: parameter.shape for name, parameter in network.parameters.items()}
    shapes |= {slot: shapes[name] for slot, name in slot_names(network, slots).items()}
    if missing := [name for name in shapes if name not in state]:
        raise InputError(
            f"{missing[0]} is missing from the weights ({len(missing)} in all): they are not of network {network.name}"
        )
    if extra := [name for name in state if name not in shapes]:
        raise InputError(f"{extra[0]} is not a parameter of network {network.name} ({len(extra)} such arrays in all)")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise InputError(f"{name} has shape {state[name].shape}, network {network.name} needs {shape}")
        if state[name].dtype.kind != "f":
            raise InputError(f"{name} holds {state[name].dtype}, not floats")


def encode(state: Mapping[str, Array], metadata: Mapping[str, str], dtype: str | None = None) -> bytes:
    """The bytes of a safetensors file, with a digest of arrays and metadata in its metadata (`parity.files.digest`).

    The numbers are stored in `dtype` (None: as they are); the digest is of those in the file, of bfloat16 numbers as uint16.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    if dtype == "bfloat16":
        arrays = {name: round_to_bfloat16(array) for name, array in arrays.items()}
    elif dtype:
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(arrays, {**metadata, KEY: compute_digest(arrays, metadata)})
    return rename_dtype(data, "U16", "BF16") if dtype == "bfloat16" else data


def decode(data: bytes, what: str) -> tuple[State, dict[str, str]]:
    """The arrays and metadata of safetensors bytes, verified by the digest if the metadata holds one.

    bfloat16 and float16 numbers become float32. `InputError`, naming `what`, if the bytes are damaged.
    """
    try:
        halves = rename_dtype(data, "BF16", "U16")
        state = safetensors.numpy.load(halves)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, KeyError) and str(error.args[0]).startswith("F"):  # a dtype that numpy lacks
            raise InputError(
                f"{what} holds {error.args[0]} numbers: save a state_dict() whose tensors are float32"
            ) from None
        raise InputError(f"{what} is not a whole safetensors file ({error}): take another copy") from None
    metadata = header.get("__metadata__") or {}
    try:
        check_digest(metadata.get(KEY), state, metadata)
    except InputError as error:
        raise InputError(f"{what}: {error}; take another copy") from None
    is_bfloat16 = halves is not data
    return {
        n: widen_bfloat16(a) if is_bfloat16 and a.dtype == np.uint16 else widen(a) for n, a in state.items()
    }, metadata


def save(
    path: Path,
    network: Network,
    state: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> None:
    """Write `state` atomically in `dtype` (None: as it is), with the network's JSON (and `metadata`) in the header."""
    write_atomically(path, encode(state, {"network": network.to_json(), **(metadata or {})}, dtype))


def load(path: Path) -> tuple[Network, State, dict[str, str]]:
    """The network, arrays and metadata of a file that `save` wrote; `InputError` if it is missing, damaged or without a network.

    The arrays are verified if the metadata holds a digest (`KEY`).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a .safetensors file that a run wrote") from None
    state, metadata = decode(data, str(path))
    if "network" not in metadata:
        raise InputError(f"{path} has no network in its metadata: give a .safetensors file that a run wrote")
    return Network.from_json(metadata["network"]), state, metadata
