"""The parameter tars of Paddle v2: a hand-made v2 tar is read, our tars can be read by v2's code, hostile tars are refused."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.errors import InputError
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import ONES, AvgPool, BatchNorm, Conv, Flatten, Linear, MaxPool, Node, Parameter, ReLU, Shape
from parity.weights import v2_tar
from parity.weights.canonical_state import State

TINY = Network(
    "tiny",
    (3, 4, 4),
    (
        Conv("first", 2),
        BatchNorm("norm"),
        ReLU("relu"),
        MaxPool("pool"),
        Conv("second", 4, kernel=1, padding=0),
        Flatten("flat"),
        Linear("fc", 4),
        BatchNorm("norm_fc"),
        Linear("scores", 5),
    ),
)


# ------------------------------------------------------------------ a tar of 2017, built without any code of the project


def field(number: int, wire: int, value: bytes) -> bytes:
    return bytes([number * 8 + wire]) + value


def varint(value: int) -> bytes:
    groups = []
    while True:
        groups.append(value % 128)
        value //= 128
        if not value:
            break
    return bytes(group + 128 for group in groups[:-1]) + bytes(groups[-1:])


def config_of_2017(name: str, size: int, dims: Iterable[int], static: bool = False) -> bytes:
    """A ParameterConfig with the fields that config_parser of v0.11 sets."""
    parts = [
        field(1, 2, varint(len(name)) + name.encode()),
        field(2, 0, varint(size)),
        field(3, 1, struct.pack("<d", 1.0 / 128)),  # learning_rate
        field(5, 1, struct.pack("<d", 0.0)),  # initial_mean
        field(6, 1, struct.pack("<d", 0.1)),  # initial_std
        *(field(9, 0, varint(side)) for side in dims),
        field(11, 0, varint(0)),  # initial_strategy
        field(12, 0, varint(1)),  # initial_smart
        bytes([18 * 8 % 128 + 128, 18 * 8 // 128]) + varint(static),  # is_static
    ]
    return b"".join(parts)


def octal(value: int, width: int) -> bytes:
    return f"{value:0{width - 1}o}".encode() + b"\0"


def member(name: bytes, data: bytes, kind: bytes = b"0", size: int | bytes | None = None) -> bytes:
    """A header block in the GNU format that Python 2.7's tarfile wrote, and the data, padded to whole blocks."""
    length = size if isinstance(size, bytes) else octal(len(data) if size is None else size, 12)
    fields = [name.ljust(100, b"\0"), octal(0o644, 8), octal(0, 8), octal(0, 8), length, octal(0, 12)]
    rest = [kind, bytes(100), b"ustar  \0", bytes(32), bytes(32), octal(0, 8), octal(0, 8), bytes(155), bytes(12)]
    total = sum(b"".join(fields)) + 8 * 32 + sum(b"".join(rest))
    header = b"".join(fields) + f"{total:06o}".encode() + b"\0 " + b"".join(rest)
    assert len(header) == 512
    return header + data + bytes(-len(data) % 512)


def numbers(values: np.ndarray) -> bytes:
    return struct.pack("<IIQ", 0, 4, values.size) + struct.pack(f"<{values.size}f", *values.ravel().tolist())


def tar_of_2017() -> tuple[bytes, State]:
    """A tar as v2's `to_tar` wrote it for `TINY`, in arbitrary order like a Python 2 dict, and its canonical state."""
    random, members, state = np.random.default_rng(17), [], {}

    def add(v2: str, name: str, stored: np.ndarray, dims: Iterable[int], meant: np.ndarray) -> None:
        members.append(member(v2.encode(), numbers(stored)))
        config = config_of_2017(v2, stored.size, dims, static=v2[-2:] in ("w1", "w2"))
        members.append(member(v2.encode() + b".protobuf", config))
        state[name] = meant

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype("<f4")

    for v2, name, channels in (("___batch_norm_1__", "norm_fc", 4), ("___batch_norm_0__", "norm", 2)):
        for array, v2_array in (("variance", "w2"), ("gamma", "w0"), ("beta", "wbias"), ("mean", "w1")):
            row = draw(1, channels)
            add(f"{v2}.{v2_array}", f"{name}.{array}", row, () if v2_array == "w0" else (1, channels), row[0])
    for v2, name, size, units in (("___fc_layer_1__", "scores", 4, 5), ("___fc_layer_0__", "fc", 16, 4)):
        weight, bias = draw(size, units), draw(1, units)  # [in, out]
        add(f"{v2}.w0", f"{name}.weight", weight, (size, units), np.transpose(weight))
        add(f"{v2}.wbias", f"{name}.bias", bias, (1, units), bias[0])
    for v2, name, shape in (("___conv_0__", "first", (2, 3, 3, 3)), ("___conv_1__", "second", (4, 2, 1, 1))):
        weight, bias = draw(*shape), draw(shape[0], 1)
        add(f"{v2}.wbias", f"{name}.bias", bias, (shape[0], 1), bias[:, 0])
        add(f"{v2}.w0", f"{name}.weight", weight, (), weight)
    return b"".join(members), state


@pytest.mark.parametrize("end", [0, 1024, 4096], ids=["not closed, as by v2", "closed", "padded"])
def test_a_tar_that_v2_wrote_is_read_number_by_number(end: int) -> None:
    data, meant = tar_of_2017()
    state = v2_tar.decode(data + bytes(end), TINY, "it")
    assert list(state) == list(TINY.parameters)
    assert set(state) == set(meant)
    for name, array in state.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.writeable
        assert np.array_equal(array, meant[name]), name


# -------------------------------------------------------------------------------------------------------- what we write


def parameter_config() -> type:
    """The message ParameterConfig in protobuf's own library, with the fields that `to_tar` needs."""
    file = descriptor_pb2.FileDescriptorProto(name="ParameterConfig.proto", package="paddle", syntax="proto2")
    message, field_of = file.message_type.add(name="ParameterConfig"), descriptor_pb2.FieldDescriptorProto
    message.field.add(name="name", number=1, label=field_of.LABEL_REQUIRED, type=field_of.TYPE_STRING)
    message.field.add(name="size", number=2, label=field_of.LABEL_REQUIRED, type=field_of.TYPE_UINT64)
    message.field.add(name="dims", number=9, label=field_of.LABEL_REPEATED, type=field_of.TYPE_UINT64)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("paddle.ParameterConfig"))


def as_v2_reads(data: bytes) -> dict[str, np.ndarray]:
    """Read a tar as `Parameters.from_tar` of v0.11 does: with tarfile and protobuf's library, skipping 16 bytes, as float32."""
    found, message = {}, parameter_config()
    with tarfile.TarFile(fileobj=io.BytesIO(data), mode="r") as tar:
        for info in tar:
            file = tar.extractfile(info)
            assert file
            if info.name.endswith(".protobuf"):
                config = message.FromString(file.read())  # type: ignore[attr-defined]
                values = tar.extractfile(config.name)
                assert values
                assert values.read(16) == struct.pack("<IIQ", 0, 4, config.size)
                shape = tuple(config.dims) or (1, config.size)
                found[config.name] = np.frombuffer(values.read(), "<f4").reshape(shape)
                assert info.name == f"{config.name}.protobuf"
    return found


def drawn(network: Network, seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(p.shape).astype(np.float32) for name, p in network.parameters.items()}


def test_the_articles_network_makes_the_176_members_of_its_tar_and_a_digest() -> None:
    network = articles.get_network("vgg16_bn_drop")
    data = v2_tar.encode(network, {name: np.zeros(p.shape, np.float32) for name, p in network.parameters.items()})
    with tarfile.TarFile(fileobj=io.BytesIO(data)) as tar:
        found = tar.getnames()
    layers = {"conv": 13, "batch_norm": 14, "fc_layer": 3}
    arrays = {"conv": ("w0", "wbias"), "fc_layer": ("w0", "wbias"), "batch_norm": ("w0", "w1", "w2", "wbias")}
    expected = {f"___{kind}_{i}__.{array}" for kind, n in layers.items() for i in range(n) for array in arrays[kind]}
    digest = found.pop()
    assert (digest, len(found)) == ("sha256", 176)
    assert set(found) == expected | {f"{name}.protobuf" for name in expected}
    shapes = {name: array.shape for name, array in as_v2_reads(data).items()}
    assert shapes["___conv_12__.w0"] == (1, 512 * 512 * 9)
    assert shapes["___conv_12__.wbias"] == (512, 1)
    assert shapes["___batch_norm_13__.w0"] == shapes["___batch_norm_13__.w2"] == (1, 512)
    assert shapes["___fc_layer_2__.w0"] == (512, 10)
    assert shapes["___fc_layer_2__.wbias"] == (1, 10)


def test_v2_reads_the_numbers_of_the_state_from_our_tar() -> None:
    state = drawn(TINY)
    found = as_v2_reads(v2_tar.encode(TINY, state))
    for name, v2 in v2_tar.names(TINY).items():
        expected = state[name].T if state[name].ndim == 2 else state[name]
        assert np.array_equal(found[v2].ravel(), expected.ravel()), name
    assert set(found) == set(v2_tar.names(TINY).values())


@pytest.mark.parametrize(
    "network", [TINY, articles.get_network("vgg16_bn_drop@0.03125"), articles.get_network("vgg_mini@0.03125")]
)
def test_a_tar_returns_every_bit_of_the_state(network: Network) -> None:
    state = drawn(network)
    special = np.array([np.nan, -np.inf, -0.0, 1e-45], np.float32)
    special.view(np.uint32)[0] |= 0xABC  # the payload of a NaN, too
    for array in state.values():
        array.ravel()[:4] = special[: array.size]
    back = v2_tar.decode(v2_tar.encode(network, state), network, "it")
    assert {name: array.tobytes() for name, array in back.items()} == {n: a.tobytes() for n, a in state.items()}
    assert {name: array.shape for name, array in back.items()} == {n: a.shape for n, a in state.items()}


def test_equal_numbers_always_make_equal_bytes() -> None:
    state = {name: np.arange(np.prod(p.shape), dtype="f4").reshape(p.shape) for name, p in TINY.parameters.items()}
    data = v2_tar.encode(TINY, state)
    assert hashlib.sha256(data).hexdigest() == "cd4dc2c9dbe19b4c770705a34397a5fec1e437f650598b2c14d27120ce03f832"


def test_float64_is_written_if_float32_holds_the_numbers_exactly_else_refused() -> None:
    state = {name: array.astype(np.float64) for name, array in drawn(TINY).items()}
    assert v2_tar.encode(TINY, state) == v2_tar.encode(TINY, drawn(TINY))
    for wrong in (state["fc.bias"] * (1 + 1e-12), state["fc.bias"] * 1e300):
        with pytest.raises(InputError, match=r"^fc\.bias holds float64 numbers that float32 would round"):
            v2_tar.encode(TINY, state | {"fc.bias": wrong})


def test_a_state_that_does_not_fit_the_network_is_not_written() -> None:
    state = drawn(TINY)
    with pytest.raises(InputError, match=r"^optimizer\.velocity\.fc\.bias is not a parameter of network tiny"):
        v2_tar.encode(TINY, state | {"optimizer.velocity.fc.bias": state["fc.bias"]})


@dataclass(frozen=True)
class Scale(Node):
    """A node that v2 does not have."""

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter(f"{self.name}.gamma", shape[:1], ONES),)


def test_a_node_without_a_name_in_v2_is_refused_and_named() -> None:
    network = replace(TINY, nodes=(Scale("scale"), *TINY.nodes))
    with pytest.raises(InputError, match=r"^scale: Paddle v2 has no name for the parameters of a Scale"):
        v2_tar.names(network)
    assert len(v2_tar.names(replace(TINY, nodes=(AvgPool("mean", 1, 1), *TINY.nodes)))) == len(v2_tar.names(TINY))


# ---------------------------------------------------------------------------------------------------------- hostile tars

WHOLE = tar_of_2017()[0]
NAME = b"___fc_layer_0__.w0"
PLACE = WHOLE.index(NAME)
"""The place of the header of a linear weight [16, 4]; its data of 272 bytes and its .protobuf follow."""


def instead(data: bytes, name: bytes = NAME, **header: bytes | int) -> bytes:
    """The tar with another member instead of the linear weight."""
    return WHOLE[:PLACE] + member(name, data, **header) + WHOLE[PLACE + 1024 :]  # type: ignore[arg-type]


def with_config(config: bytes) -> bytes:
    start = PLACE + 1024
    return WHOLE[:start] + member(NAME + b".protobuf", config) + WHOLE[start + 1024 :]


def added(*members: bytes) -> bytes:
    return WHOLE + b"".join(members)


def without(name: bytes) -> bytes:
    place = WHOLE.index(name + b"\0")
    size = int(WHOLE[place + 124 : place + 135], 8)
    return WHOLE[:place] + WHOLE[place + 512 + -(-size // 512) * 512 :]


GIB = 2**30
RIGHT = numbers(np.zeros(64))
LIE = struct.pack("<IIQ", 0, 4, 2**61) + RIGHT[16:]
BIG = b"\x80" + (2**50).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + b"\xfe\x00"
OVERLAP = member(b"___fc_layer_0__.w0", RIGHT)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no parameters"),
    "zeros": (bytes(10240), "no parameters"),
    "a text": (b"<html>404</html>" * 99, "no complete tar file"),
    "a damaged header": (WHOLE[:PLACE] + b"?" + WHOLE[PLACE + 1 :], "no complete tar file"),
    "bytes behind the end": (WHOLE + bytes(1024) + OVERLAP, "more data after its end"),
    "a member that is missing": (without(NAME), "___fc_layer_0__.w0.protobuf has no ___fc_layer_0__.w0"),
    "a config that is missing": (without(NAME + b".protobuf"), "___fc_layer_0__.w0 has no ___fc_layer_0__.w0.protobuf"),
    "a parameter that is missing": (WHOLE[:PLACE] + WHOLE[PLACE + 2048 :], "___fc_layer_0__.w0 is missing"),
    "a parameter too many": (
        added(
            member(b"___fc_layer_9__.w0", RIGHT),
            member(b"___fc_layer_9__.w0.protobuf", config_of_2017("___fc_layer_9__.w0", 64, (16, 4))),
        ),
        "___fc_layer_9__.w0 is not a parameter of network tiny",
    ),
    "a member twice": (added(OVERLAP), "___fc_layer_0__.w0 is in it twice"),
    "a config twice": (added(member(NAME + b".protobuf", config_of_2017(NAME.decode(), 64, (16, 4)))), "protobuf is in it twice"),
    "a name that climbs": (instead(RIGHT, b"../../etc/passwd"), "'../../etc/passwd' in it cannot be the name of a parameter"),
    "a name from the root": (instead(RIGHT, b"/etc/passwd"), "'/etc/passwd' in it cannot be the name of a parameter"),
    "a name in a folder": (instead(RIGHT, b"./" + NAME), "cannot be the name of a parameter"),
    "a name of Windows": (instead(RIGHT, b"C:\\boot"), "cannot be the name of a parameter"),
    "a name of two lines": (instead(RIGHT, b"a\nb"), "cannot be the name of a parameter"),
    "a name that is not ASCII": (instead(RIGHT, b"\xc3\xa4"), "no complete tar file"),
    "no name": (instead(RIGHT, b""), "'' in it cannot be the name of a parameter"),
    "a symbolic link": (instead(b"", kind=b"2"), "no regular file, but of type '2'"),
    "a hard link": (instead(b"", kind=b"1"), "no regular file"),
    "a folder": (instead(b"", kind=b"5"), "no regular file"),
    "a device": (instead(b"", kind=b"3"), "no regular file"),
    "a sparse file": (instead(RIGHT, kind=b"S"), "no regular file"),
    "a size of a gigabyte": (instead(RIGHT, size=GIB), f"should have {GIB} bytes"),
    "a size of a petabyte": (instead(RIGHT, size=BIG), f"should have {2**50} bytes"),
    "a negative size": (instead(RIGHT, size=NEGATIVE), "should have -512 bytes"),
    "a size that is no number": (instead(RIGHT, size=b"9" * 12), "no complete tar file"),
    "an extended header of a gigabyte": (instead(b"30 path=x\n", kind=b"x", size=GIB), "no regular file, but of type 'x'"),
    "a global header of a gigabyte": (instead(b"", kind=b"g", size=GIB), "no regular file"),
    "a long name of a gigabyte": (instead(b"x", b"././@LongLink", kind=b"L", size=GIB), "no regular file"),
    "a long link of a gigabyte": (instead(b"x", b"././@LongLink", kind=b"K", size=GIB), "no regular file"),
    "an extended header of the right name": (instead(b"30 path=x\n" * 10, kind=b"x"), "no regular file"),
    "a count that lies": (instead(LIE), f"should hold {2**61} numbers, but 256 bytes follow"),
    "a count too few": (instead(struct.pack("<IIQ", 0, 4, 63) + RIGHT[16:]), "should hold 63 numbers"),
    "half a number": (instead(RIGHT[:-2]), "but 254 bytes follow"),
    "float64": (instead(struct.pack("<IIQ", 0, 8, 64) + bytes(512)), "8 bytes per number"),
    "another version": (instead(struct.pack("<IIQ", 1, 4, 64) + RIGHT[16:]), "version 1"),
    "less than a header": (instead(RIGHT[:15]), "15 bytes, but its header alone needs 16"),
    "nothing": (instead(b""), "0 bytes"),
    "numbers for another shape": (instead(numbers(np.zeros(60))), "describes another parameter"),
    "dims exchanged": (with_config(config_of_2017(NAME.decode(), 64, (4, 16))), "has shape (4, 16)"),
    "no dims": (with_config(config_of_2017(NAME.decode(), 64, ())), "has shape (1, 64)"),
    "dims that do not fit": (with_config(config_of_2017(NAME.decode(), 64, (2**40, 2**40))), "has 64 numbers"),
    "dims of one": (with_config(config_of_2017(NAME.decode(), 64, (64,))), "dims (64,)"),
    "a thousand dims": (with_config(config_of_2017(NAME.decode(), 64, [1] * 200)), "has 64 numbers"),
    "the config of another": (with_config(config_of_2017("___fc_layer_1__.w0", 64, (16, 4))), "describes another parameter"),
    "a config without a name": (with_config(field(2, 0, varint(64))), "describes another parameter"),
    "a config with two sizes": (with_config(config_of_2017(NAME.decode(), 64, (16, 4)) + field(2, 0, varint(1))), "describes another"),
    "a size that is a text": (with_config(field(1, 2, b"\x12" + NAME) + field(2, 2, b"\x00")), "describes another"),
    "a config cut short": (with_config(config_of_2017(NAME.decode(), 64, (16, 4))[:10]), "is damaged"),
    "a string of a gigabyte": (with_config(field(1, 2, varint(GIB)) + NAME), "is damaged"),
    "a number without end": (with_config(field(1, 0, b"\xff" * 99)), "is damaged"),
    "a group": (with_config(field(1, 3, b"")), "is damaged"),
    "an empty config": (with_config(b""), "describes another parameter"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_is_refused_in_one_line_and_takes_no_memory(what: str) -> None:
    data, message = HOSTILE[what]
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            v2_tar.decode(data, TINY, "x.tar")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("x.tar: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 10 * len(WHOLE)


def test_dims_with_zero_and_a_huge_number_are_refused() -> None:
    data = member(b"a", numbers(np.zeros(0))) + member(b"a.protobuf", config_of_2017("a", 0, (0, 2**63)))
    with pytest.raises(InputError, match=r"^a\.protobuf has dims \(0, 9223372036854775808\), but a has 0 numbers$"):
        v2_tar.read(data)


def test_a_config_of_gigabytes_is_not_read() -> None:
    config = config_of_2017(NAME.decode(), 64, (16, 4)) + field(9, 0, b"\x01") * 10**6
    place = PLACE + 1024
    with pytest.raises(InputError, match=r"has 2000\d+ bytes, but at most 4096"):
        v2_tar.decode(WHOLE[:place] + member(NAME + b".protobuf", config) + WHOLE[place + 1024 :], TINY, "x.tar")


def test_a_tar_is_refused_wherever_it_was_cut() -> None:
    data = WHOLE + bytes(1024)
    for length in {*range(0, len(WHOLE), 97), *range(0, len(WHOLE), 512), *range(len(WHOLE) - 520, len(WHOLE))}:
        with pytest.raises(InputError):
            v2_tar.decode(data[:length], TINY, "x.tar")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_tar_damaged_in_any_way_is_refused_or_read_as_a_state_of_the_network(draw: st.DataObject) -> None:
    data = bytearray(WHOLE)
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
        data[place] = draw.draw(st.integers(0, 255))
    try:
        state = v2_tar.decode(bytes(data), TINY, "x.tar")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert {name: array.shape for name, array in state.items()} == {n: p.shape for n, p in TINY.parameters.items()}


@pytest.mark.parametrize("what", ["a member twice", "bytes behind the end", "dims exchanged"])
def test_v2s_own_reader_would_accept_some_hostile_tars(what: str) -> None:
    assert set(as_v2_reads(HOSTILE[what][0])) == set(v2_tar.names(TINY).values())
