"""Mutations that know a format: pickles by opcode, protobuf messages by field, PNG by chunk, .npy by header."""

from __future__ import annotations

import pickletools
import random
import re
import struct
import zlib

from helpers.mutations import mutate_bytes, mutate_json

DOUBLED = b"})q\0000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60)) + b"h\x3cK\x01s"
"""A dict with a key of 60 nested tuples, each of which holds the previous one twice: its hash takes 2**60 steps."""

OPCODES = (
    *(b"(", b"t", b"l", b"d", b"0", b"1", b"2", b"}", b"]", b")", b"e", b"u", b"a", b"s", b"b", b"R", b"\x85", b"\x86"),
    *(b"\x81", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"N", b"\x88", b"Q", b"."),
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"cnumpy\nndarray\n",
        b"ios\nsystem\n",
        b"Ixx\n",
        b"L99999999999999999L\n",
    ),
    *(b"h\0", b"h\xff", b"q\0", b"K\x01", b"\x8a\xff", b"J\xff\xff\xff\x7f", b"G\x7f\xf0\0\0\0\0\0\0"),
    *(b"X\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 8, b"\x82\x01", b"\x80\x05"),
    *(DOUBLED, b"(" * 5000, b"]" * 5000 + b"a" * 4999),
)
"""Opcodes that are inserted between two others."""


def mutate_pickle(data: bytes, draw: random.Random) -> bytes:
    """A pickle with opcodes removed, repeated, exchanged or inserted, with an argument changed, or with mutated bytes."""
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    ends = [*places[1:], places[-1] + 1]
    at, kind = draw.randrange(len(places)), draw.randrange(7)
    start, end = places[at], ends[at]
    if kind <= 1:
        return data[:start] + draw.choice(OPCODES) + data[start:]
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:start] + data[start:end] * draw.choice((2, 3, 1000)) + data[end:]
    if kind == 4:
        other = draw.randrange(len(places))
        parts = [data[first:last] for first, last in zip(places, ends, strict=True)]
        parts[at], parts[other] = parts[other], parts[at]
        return b"".join(parts) + data[ends[-1] :]
    inside = start if kind == 5 else draw.randrange(start, end)
    return data[:inside] + bytes([draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))]) + data[inside + 1 :]


# Protobuf

NUMBERS = (0, 1, 2, 7, 100, 2**16, 400_000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63, 2**64 - 1)

Field = tuple[int, int, "int | bytes"]
"""Number, wire type, value."""


def mutate_message(data: bytes, draw: random.Random) -> bytes:
    """A protobuf message with a field changed, dropped, doubled, moved or renumbered, also in nested messages; or with mutated bytes.

    The lengths of all messages around a change of a field are right.
    """
    if draw.random() < 0.1:
        return mutate_bytes(data, draw)
    fields = parse_message(data)
    if not fields:
        return data + bytes([draw.randrange(256)])
    at, other, kind = draw.randrange(len(fields)), draw.randrange(len(fields)), draw.randrange(10)
    number, wire, value = fields[at]
    if isinstance(value, bytes) and wire == 2 and draw.random() < 0.8 and is_message(value):
        fields[at] = (number, wire, mutate_message(value, draw))
    elif kind <= 4:
        fields[at] = (number, wire, _other_value(wire, value, draw))
    elif kind == 5:
        del fields[at]
    elif kind == 6:
        fields.insert(at, fields[at])
    elif kind == 7:
        fields[at], fields[other] = fields[other], fields[at]
    elif kind == 8:
        fields[at] = (draw.choice((1, 2, 3, 4, 5, 7, 8, 9, 14, 20, 2**20)), wire, value)
    else:
        fields[at] = (number, 0, 1) if wire else (number, 2, b"\x01\x02")
    return b"".join(_field(*field) for field in fields)


def _other_value(wire: int, value: int | bytes, draw: random.Random) -> int | bytes:
    if isinstance(value, int):
        return draw.choice((*NUMBERS, value + 1, max(value - 1, 0)))
    if wire != 2:
        return draw.randbytes(len(value))
    cut = value[: draw.randrange(len(value) + 1)]
    return draw.choice((b"", b"x", b"\xff\xfe", cut, value * 2, value + b"\0", bytes(len(value)), b"\xff" * len(value)))


def is_message(value: bytes) -> bool:
    """Whether `value` can be parsed as a message with fields."""
    try:
        return len(value) > 1 and bool(parse_message(value))
    except ValueError:
        return False


def parse_message(data: bytes) -> list[Field]:
    """The fields of a message; `ValueError` if it is none."""
    fields: list[Field] = []
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, wire = key >> 3, key & 7
        if not number or wire not in (0, 1, 2, 5):
            raise ValueError("no message")
        if wire == 0:
            value, place = _read_varint(data, place)
            fields.append((number, wire, value))
            continue
        size, place = _read_varint(data, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
        if size > len(data) - place:
            raise ValueError("no message")
        fields.append((number, wire, data[place : place + size]))
        place += size
    return fields


def _field(number: int, wire: int, value: int | bytes) -> bytes:
    key = _varint(number << 3 | wire)
    if isinstance(value, int):
        return key + _varint(value)
    return key + (_varint(len(value)) if wire == 2 else b"") + value


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("no message")


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


# PNG and .npy

CHUNKS = (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"IEND")


def mutate_png(data: bytes, draw: random.Random) -> bytes:
    """A PNG with a chunk changed, renamed, dropped, doubled or moved, with right CRCs; or with mutated bytes."""
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    chunks, place = [], 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    at, other, kind = draw.randrange(len(chunks)), draw.randrange(len(chunks)), draw.randrange(7)
    name, content = chunks[at]
    if kind <= 1:
        sizes = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        which = draw.randrange(len(sizes))
        most = 2**32 if which < 2 else 256
        sizes[which] = draw.choice((0, 1, 3, 4, 16, 255, 20_000, 80_000_000, 2**31 - 1)) % most
        chunks[0] = (chunks[0][0], struct.pack(">IIBBBBB", *sizes))
    elif kind == 2:
        chunks[at] = (name, mutate_bytes(content, draw))
    elif kind == 3:
        chunks[at] = (draw.choice(CHUNKS), content)
    elif kind == 4:
        del chunks[at]
    elif kind == 5:
        chunks.insert(at, chunks[at])
    else:
        chunks[at], chunks[other] = chunks[other], chunks[at]
    whole = [(struct.pack(">I", len(body)), mark + body) for mark, body in chunks]
    return data[:8] + b"".join(size + body + struct.pack(">I", zlib.crc32(body)) for size, body in whole)


DTYPES = ("<i1", "<i2", "<u2", "<u4", "<u8", "<f2", ">f4", "<c8", "<c16", "|b1", "|O", "<U4", "|S3", "|V8", "<M8[s]")

SHAPES = ("()", "(0,)", "(-1,)", "(2**40,)", f"({2**40},)", f"({2**62}, 4)", "(1.5,)", "(1, 0)", "(" + "1," * 99 + ")")

HEADERS = ("{}", "[" * 3000, "1", "{'descr': []}", "__import__('os')")


def mutate_npy(data: bytes, draw: random.Random) -> bytes:
    """A .npy file with another dtype, shape, order or header, with fewer or more numbers, or with mutated bytes."""
    if draw.random() < 0.2:
        return mutate_bytes(data, draw)
    length = int.from_bytes(data[8:10], "little")
    header, rest, kind = data[10 : 10 + length].decode("latin1"), data[10 + length :], draw.randrange(7)
    if kind <= 2:
        start = header.index("'descr': ") + 9
        header = header[:start] + repr(draw.choice(DTYPES)) + header[header.index(",", start) :]
    elif kind == 3:
        header = header[: header.index("'shape': ") + 9] + draw.choice(SHAPES) + ", }"
    elif kind == 4:
        header = header.replace("False", "True")
    elif kind == 5:
        header = draw.choice((*HEADERS, header.replace("'", '"', 1)))
    else:
        rest = draw.choice((rest[:-1], b"", rest * 2, rest + b"x"))
    text = header.rstrip().encode("latin1") + b"\n"
    return data[:8] + (len(text) & 0xFFFF).to_bytes(2, "little") + text + rest


MEMBERS = {
    r"\.pkl|/data_batch_\d|/test_batch": mutate_pickle,
    r"\.npy": mutate_npy,
    r"\.protobuf": mutate_message,
    r"\.png": mutate_png,
    r"\.json": mutate_json,
}
"""Regular expression for the end of a member's name -> the mutation for such members of an archive."""


def mutate_member(name: str, data: bytes, draw: random.Random) -> bytes:
    """The mutated content of the archive's member `name`: by its format if that is known, else by bytes."""
    known = [mutate for end, mutate in MEMBERS.items() if re.search(f"({end})$", name)]
    return known[0](data, draw) if known else mutate_bytes(data, draw)
