"""The parameter files of PaddlePaddle v2: `parameters.to_tar`, the article's `params_pass_N.tar`.

A plain tar. Each parameter has two members: NAME holds struct "<IIQ" (0, 4, count) and `count` float32 numbers, NAME.protobuf is a
serialized ParameterConfig. Our files end with a member `sha256`, the digest of the parameters. v2 ignores it, because it reads only what
a ParameterConfig names. Shapes and names are those of v0.11 (python/paddle/v2/parameters.py, python/paddle/trainer/config_parser.py): a
linear weight is [in, out], a convolution's weight is one row of its numbers in OIHW order.
"""

from __future__ import annotations

import io
import math
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.files.digest import KEY, check_digest, compute_digest
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Linear, Node, Parameter, Shape
from parity.weights.canonical_state import State, check

KINDS: dict[type[Node], str] = {Conv: "conv", BatchNorm: "batch_norm", Linear: "fc_layer"}
"""Kind of node -> v2's name for its layers, which v2 numbers from 0."""

ARRAYS = {"weight": "w0", "bias": "wbias", "gamma": "w0", "mean": "w1", "variance": "w2", "beta": "wbias"}
"""Canonical array name -> v2's."""

HEADER = struct.Struct("<IIQ")
"""The header in front of the numbers: format version 0, 4 bytes per number, count."""

NAME, SIZE, DIMS = 1, 2, 9
"""Field numbers of ParameterConfig."""

LARGEST_CONFIG = 4096
"""The largest ParameterConfig that is accepted, in bytes; v2's have about a hundred."""

LONGEST_VARINT = 10
"""The most bytes of a varint of 64 bits, which holds seven bits in a byte."""

PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)
"""The names that a parameter may have: none leads to another folder."""

BLOCK, CONFIG = tarfile.BLOCKSIZE, ".protobuf"


def names(network: Network) -> dict[str, str]:
    """Canonical name of every parameter and statistic -> v2's name, such as `___conv_0__.w0`.

    `InputError` for a node whose parameters have no name in v2.
    """
    counts, found = Counter[str](), {}
    for layer in network.layers.values():
        node, own = layer.node, layer.node.parameters(layer.input)
        if not own:
            continue
        if type(node) not in KINDS:
            raise InputError(f"{node.name}: Paddle v2 has no name for the parameters of a {type(node).__name__}")
        kind = KINDS[type(node)]
        for parameter in own:
            found[parameter.name] = f"___{kind}_{counts[kind]}__.{ARRAYS[parameter.name.rpartition('.')[2]]}"
        counts[kind] += 1
    return found


def encode(network: Network, state: Mapping[str, Array]) -> bytes:
    """The tar of a canonical `state`: equal numbers make equal bytes.

    `InputError` unless it fits `network` and float32 holds all its numbers exactly, whatever their dtype.
    """
    check(network, state)
    known, buffer, held = names(network), io.BytesIO(), {}
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, parameter in network.parameters.items():
            values = _float32(name, state[name])
            values = np.ascontiguousarray(values.T if values.ndim == 2 else values)
            dims = _dims(parameter, known[name])
            held[known[name]] = values.reshape(dims or (1, values.size))
            _add(tar, known[name], HEADER.pack(0, 4, values.size) + values.tobytes())
            _add(tar, known[name] + CONFIG, _config(known[name], values.size, dims))
        _add(tar, KEY, compute_digest(held).encode())
    return buffer.getvalue()


def _float32(name: str, array: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype("<f4")
    if not np.array_equal(rounded, array, equal_nan=True):
        raise InputError(
            f"{name} holds {array.dtype} numbers that float32 would round: a tar of Paddle v2 holds float32 only"
        )
    return rounded


def _dims(parameter: Parameter, name: str) -> Shape:
    """The dims that v2's config_parser gives a parameter: none for the w0 of a convolution or batch norm."""
    if len(parameter.shape) == 2:
        return parameter.shape[::-1]
    if name.endswith(".w0"):
        return ()
    return (*parameter.shape, 1) if name.startswith("___conv") else (1, *parameter.shape)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # with time 0 and user 0, as in v2's files
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def decode(data: bytes, network: Network, what: str) -> State:
    """The canonical state in a tar; `InputError`, naming `what`, if it is damaged or does not fit `network` exactly."""
    try:
        return fit(network, read(data))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def fit(network: Network, arrays: Mapping[str, Array]) -> State:
    """The canonical state of the `arrays` that `read` returned; `InputError` unless they fit `network` exactly."""
    known = names(network)
    if missing := [name for name in known.values() if name not in arrays]:
        raise InputError(f"{missing[0]} is missing ({len(missing)} in all): it is not of network {network.name}")
    if extra := sorted(set(arrays) - set(known.values())):
        raise InputError(f"{extra[0]} is not a parameter of network {network.name} ({len(extra)} such arrays in all)")
    return {
        name: _fitted(parameter, known[name], arrays[known[name]]) for name, parameter in network.parameters.items()
    }


def _fitted(parameter: Parameter, name: str, array: Array) -> Array:
    matrix = len(parameter.shape) == 2
    if (matrix and array.shape != parameter.shape[::-1]) or array.size != math.prod(parameter.shape):
        raise InputError(
            f"{name} has shape {array.shape}, which does not fit {parameter.name} of shape {parameter.shape}"
        )
    return np.array(array.T if matrix else array.reshape(parameter.shape), np.float32, order="C")


def read(data: bytes) -> dict[str, Array]:
    """Every parameter in a tar by its v2 name, in v2's shape: its dims, or (1, size).

    The arrays are views of `data`, so that no memory is allocated for a size that a header states. `InputError` if the file is damaged or
    its digest is not that of the parameters.
    """
    members = _members(data)
    digest = _take_digest(members)
    if not members:
        raise InputError("it holds no parameters")
    found = {}
    for name, raw in members.items():
        if not name.endswith(CONFIG):
            if name + CONFIG not in members:
                raise InputError(f"{name} has no {name}{CONFIG}")
            values = _values(name, raw)
            found[name] = values.reshape(_shape(name, members[name + CONFIG], values.size))
        elif name.removesuffix(CONFIG) not in members:
            raise InputError(f"{name} has no {name.removesuffix(CONFIG)}")
    check_digest(digest, found)
    return found


def has_digest(data: bytes) -> bool:
    """Whether the readable tar `data` carries a digest."""
    return _take_digest(_members(data)) is not None


def _take_digest(members: dict[str, memoryview]) -> str | None:
    """Remove the digest from `members` and return it. (A parameter with the name of the digest would have a ParameterConfig.)"""
    if KEY not in members or KEY + CONFIG in members:
        return None
    return bytes(members.pop(KEY)).decode("latin1")


def _members(data: bytes) -> dict[str, memoryview]:
    """Every file in a tar. tarfile's own loop would also follow links and read extended headers of any length."""
    found: dict[str, memoryview] = {}
    place, view = 0, memoryview(data)
    while any(block := data[place : place + BLOCK]):
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise InputError(f"it is no complete tar file ({error} at byte {place})") from None
        start, name = place + BLOCK, info.name
        place = start - (-info.size // BLOCK) * BLOCK
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise InputError(f"{name!r} in it is no regular file, but of type {info.type.decode('latin1')!r}")
        if not PLAIN.fullmatch(name):
            raise InputError(f"{name!r} in it cannot be the name of a parameter")
        if info.size < 0 or place > len(data):
            raise InputError(f"{name} should have {info.size} bytes, but {len(data) - start} are left")
        if name in found:
            raise InputError(f"{name} is in it twice")
        found[name] = view[start : start + info.size]
    if data.count(0, place) != max(len(data) - place, 0):
        raise InputError(f"there is more data after its end at byte {place}")
    return found


def _values(name: str, raw: memoryview) -> Array:
    if len(raw) < HEADER.size:
        raise InputError(f"{name} has {len(raw)} bytes, but its header alone needs {HEADER.size}")
    version, width, count = HEADER.unpack_from(raw)
    if (version, width) != (0, 4):
        raise InputError(f"{name} has a header of version {version} and {width} bytes per number, not 0 and 4")
    if HEADER.size + 4 * count != len(raw):
        raise InputError(f"{name} should hold {count} numbers, but {len(raw) - HEADER.size} bytes follow its header")
    return np.frombuffer(raw, "<f4", offset=HEADER.size)


def _shape(name: str, config: memoryview, count: int) -> Shape:
    """The shape in a ParameterConfig, which must describe the parameter `name` of `count` numbers."""
    if len(config) > LARGEST_CONFIG:
        raise InputError(f"{name}{CONFIG} has {len(config)} bytes, but at most {LARGEST_CONFIG} are allowed")
    fields = list(_fields(name, config))
    called, size = ([value for number, value in fields if number == wanted] for wanted in (NAME, SIZE))
    dims = [value for number, value in fields if number == DIMS]
    if called != [name.encode()] or size != [count] or not all(isinstance(value, int) for value in dims):
        raise InputError(f"{name}{CONFIG} describes another parameter: name {called}, size {size}")
    shape = tuple(value for value in dims or (1, count) if isinstance(value, int))
    if len(shape) != 2 or math.prod(shape) != count or max(shape) > count:
        raise InputError(f"{name}{CONFIG} has dims {shape}, but {name} has {count} numbers")
    return shape


def _config(name: str, size: int, dims: Shape) -> bytes:
    """A ParameterConfig in the wire format of protobuf: the fields that v2 requires, and dims."""
    text = name.encode()
    parts = [_varint(NAME << 3 | 2), _varint(len(text)), text, _varint(SIZE << 3), _varint(size)]
    return b"".join(parts + [_varint(DIMS << 3) + _varint(side) for side in dims])


def _varint(value: int) -> bytes:
    """`value` as a varint: seven bits in each byte, the lowest first; all bytes but the last have the eighth bit set."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _fields(name: str, data: memoryview) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of every field of a protobuf message: an int for a varint, bytes for everything else."""
    place = 0
    while place < len(data):
        key, place = _read_varint(name, data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _read_varint(name, data, place)
            yield number, value
            continue
        length, place = _read_varint(name, data, place) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), place)
        if not 0 <= length <= len(data) - place:
            raise InputError(f"{name}{CONFIG} is damaged")
        yield number, bytes(data[place : place + length])
        place += length


def _read_varint(name: str, data: memoryview, place: int) -> tuple[int, int]:
    """The varint at `place`, and the place behind it."""
    value = 0
    for count, byte in enumerate(data[place : place + LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, place + count + 1
    raise InputError(f"{name}{CONFIG} is damaged")
