"""Mutations of files: bytes in, bytes out, each decided by a seeded random generator."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

WORDS: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "\0",
    "\ud800", "a" * 10_000, "../../x", [], [[]], {}, [0] * 1000, {"": ""}, [None], "1", "weight[1/0]",
]  # fmt: skip
"""The values that replace a value of a JSON document."""


def mutate_json_lines(data: bytes, draw: random.Random) -> bytes:
    """JSON lines with one line changed, dropped, doubled, exchanged with another or cut."""
    lines = data.splitlines(keepends=True)
    at, other, kind = draw.randrange(len(lines)), draw.randrange(len(lines)), draw.randrange(7)
    if kind <= 2:
        lines[at] = mutate_json(lines[at], draw) + b"\n"
    elif kind == 3:
        del lines[at]
    elif kind == 4:
        lines.insert(at, lines[at])
    elif kind == 5:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = lines[at].rstrip(b"\n") + draw.choice((b"", b"\r", b"\0\n", b" \n"))
    return b"".join(lines)


Member = Callable[[str, bytes, random.Random], bytes]
"""(name, content, random generator) -> the changed content of a member of an archive."""


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four random edits of bytes: a flip, a cut, an insertion, a copy, zeros, two blocks exchanged, a number at its limit."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        size = len(found)
        if not size:
            return bytes(draw.randbytes(draw.randint(0, 40)))
        at, other, count = draw.randrange(size), draw.randrange(size), draw.choice((1, 2, 4, 8, 64, 1000))
        kind = draw.randrange(7)
        if kind == 0:
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            found[at:at] = draw.randbytes(count)
        elif kind == 3:
            found[at:at] = found[other : other + count]
        elif kind == 4:
            found[at : at + count] = bytes(min(count, size - at))
        elif kind == 5:
            one, two = bytes(found[at : at + count]), bytes(found[other : other + count])
            found[at : at + count], found[other : other + count] = two, one
        else:
            found[at : at + 8] = draw.choice((0, 1, 2**31 - 1, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
    return bytes(found)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key])
    return found


def mutate_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON document with a value replaced, dropped, renamed, copied or nested very deeply; sometimes its bytes are mutated."""
    if draw.random() < 0.2:
        return mutate_bytes(data, draw)
    document = json.loads(data)
    for _ in range(draw.choice((1, 1, 2))):
        if not (all_places := places(document)):
            break
        container, key = draw.choice(all_places)
        kind = draw.randrange(6)
        if kind <= 2:
            container[key] = draw.choice(WORDS)
        elif kind == 3:
            del container[key]
        elif kind == 4 and isinstance(container, dict):
            container[draw.choice((f"{key}x", "", "__metadata__"))] = container[key]
        else:
            container[key] = [container[key]] * draw.choice((2, 50))
    text = json.dumps(document)
    if draw.random() < 0.03:
        text = text.replace(":", ": " + "[" * 100_000, 1)
    return text.encode("utf-8", "surrogatepass")


def mutate_zip(data: bytes, draw: random.Random, member: Member) -> bytes:
    """A zip archive with a member changed, renamed, dropped or doubled, with right checksums; or with mutated bytes."""
    if draw.random() < 0.4:
        return mutate_bytes(data, draw)
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(sink, "w") as copy:
        names = archive.namelist()
        victim, kind = draw.choice(names), draw.randrange(5)
        for name in names:
            content = archive.read(name)
            if name == victim:
                if kind == 3:
                    continue
                content = member(name, content, draw) if kind < 2 else content
            renamed = draw.choice((f"../{name}", "x", name * 2)) if name == victim and kind == 2 else name
            copy.writestr(renamed, content)
            if name == victim and kind == 4:
                copy.writestr(f"{name}2", content)
    return sink.getvalue()


def mutate_tar(data: bytes, draw: random.Random, member: Member) -> bytes:
    """A tar archive, plain or compressed, with a member changed, with right checksums; or with mutated bytes.

    The member has another content, name, type or size, is dropped or doubled, or has an extended header before it.
    """
    packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if packed else data
    plain = mutate_bytes(plain, draw) if draw.random() < 0.3 else _mutate_members(plain, draw, member)
    if not packed:
        return plain
    again = gzip.compress(plain, 1)
    return mutate_bytes(again, draw) if draw.random() < 0.2 else again


EXTENDED = (b"12 path=abc\n", b"99999 path=x\n", b"0 size=1\n", b"19 size=8589934592\n", bytes(2**20))
"""The contents of extended headers."""

TYPES = b"123567SxgLKV\xff"


def _mutate_members(data: bytes, draw: random.Random, member: Member) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = [(entry, file.read() if (file := archive.extractfile(entry)) else b"") for entry in archive]
    at, kind, claimed = draw.randrange(len(entries)), draw.randrange(9), None
    entry, content = entries[at]
    if kind <= 2:
        entries[at] = (entry, member(entry.name, content, draw))
    elif kind == 3:
        entry.name = draw.choice(("../x", "", "/etc/x", "a" * 300))
    elif kind == 4:
        del entries[at]
    elif kind == 5:
        entries.insert(at, entries[at])
    elif kind == 6:
        entry.type, entry.linkname = bytes([draw.choice(TYPES)]), draw.choice(("", entry.name, "/etc/passwd"))
    elif kind == 7:
        claimed = draw.choice((0, 1, 511, 513, 2**20, 2**31, 2**33 - 1))
    else:
        extended = tarfile.TarInfo("././@PaxHeader")
        extended.type = draw.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME))
        entries.insert(at, (extended, draw.choice(EXTENDED)))
    parts = []
    for header, body in entries:
        header.size = claimed if header is entry and claimed is not None else len(body)
        parts += [header.tobuf(tarfile.GNU_FORMAT), body, bytes(-len(body) % tarfile.BLOCKSIZE)]
    return b"".join(parts) + bytes(2 * tarfile.BLOCKSIZE)


def mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header has mutated JSON and the right length; or with mutated bytes."""
    if draw.random() < 0.5:
        return mutate_bytes(data, draw)
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
