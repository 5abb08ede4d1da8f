"""Mutations of files: bytes in, bytes out, each decided by a seeded random generator."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from typing import Any

WORDS: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "\0",
    "\ud800", "a" * 10_000, "../../x", [], [[]], {}, [0] * 1000, {"": ""}, [None], "1", "weight[1/0]",
]  # fmt: skip
"""What stands in the place of a value of JSON."""


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
    """Every container of a JSON document with every key of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key])
    return found


def mutate_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON document with a value replaced, dropped, renamed, copied or nested very deep; now and then its bytes are mutated."""
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


def mutate_zip(data: bytes, draw: random.Random) -> bytes:
    """A zip archive with a member changed, renamed, dropped or doubled and all checksums right; or bytes of the archive itself."""
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
                content = mutate_bytes(content, draw) if kind < 2 else content
            renamed = draw.choice((f"../{name}", "x", name * 2)) if name == victim and kind == 2 else name
            copy.writestr(renamed, content)
            if name == victim and kind == 4:
                copy.writestr(f"{name}2", content)
    return sink.getvalue()


def mutate_tar(data: bytes, draw: random.Random) -> bytes:
    """A tar archive, plain or compressed: a member changed, renamed, dropped, doubled or made a link; or bytes of the archive itself."""
    packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if packed else data
    if draw.random() < 0.5:
        plain = mutate_bytes(plain, draw)
    else:
        sink = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive, tarfile.open(fileobj=sink, mode="w") as copy:
            members = archive.getmembers()
            victim, kind = draw.choice(members).name, draw.randrange(6)
            for member in members:
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if member.name == victim:
                    if kind == 3:
                        continue
                    content = mutate_bytes(content, draw) if kind < 2 else content
                    member.name = draw.choice(("../x", "", "/etc/x", "a" * 300)) if kind == 2 else member.name
                    if kind == 5:
                        member.type, member.linkname, content = tarfile.SYMTYPE, "/etc/passwd", b""
                for _ in range(2 if member.name == victim and kind == 4 else 1):
                    member.size = len(content)
                    copy.addfile(member, io.BytesIO(content))
        plain = sink.getvalue()
    if not packed:
        return plain
    again = gzip.compress(plain, 1)
    return mutate_bytes(again, draw) if draw.random() < 0.2 else again


def mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with its header's JSON mutated and the length of it right; or bytes of the file."""
    if draw.random() < 0.5:
        return mutate_bytes(data, draw)
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate_onnx(data: bytes, draw: random.Random) -> bytes:
    """An ONNX model with dims, attributes, operators, names or an initialiser's bytes changed; or bytes of the file."""
    import onnx

    if draw.random() < 0.4:
        return mutate_bytes(data, draw)
    model = onnx.load_from_string(data)
    graph = model.graph
    node, array, kind = draw.choice(graph.node), draw.choice(graph.initializer), draw.randrange(8)
    if kind == 0:
        array.dims[:] = [draw.choice((0, -1, 1, 7, 2**40)) for _ in range(draw.randint(0, 5))]
    elif kind == 1:
        array.raw_data = mutate_bytes(array.raw_data, draw)
    elif kind == 2:
        array.data_type = draw.randint(-1, 20)
    elif kind == 3:
        node.op_type = draw.choice(("Loop", "Relu", "Conv", "Nothing", "", "If", "Gemm"))
    elif kind == 4 and node.attribute:
        attribute = draw.choice(node.attribute)
        attribute.ints[:] = [draw.choice((0, -1, 2**40)) for _ in range(draw.randint(0, 9))]
    elif kind == 5:
        node.input[:] = [draw.choice(("", "x", graph.input[0].name, *node.output)) for _ in range(draw.randint(0, 4))]
    elif kind == 6:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = draw.choice((0, -1, 3, 10**9))
    else:
        model.opset_import[0].version = draw.choice((-1, 0, 1, 7, 99, 2**62))
    return bytes(model.SerializeToString())
