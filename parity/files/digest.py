"""The SHA-256 of the arrays in our files of weights, and its place in each format.

A .safetensors file holds it in its metadata, a tar of Paddle v2 in a member that v2 does not read. A .pdparams file has it after the end of
its pickle, and a .pt file in a record beside `data.pkl`; the `load` of the frameworks ignores both.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.standard_streams import printable

KEY = "sha256"
"""Name of the digest in metadata, of the member of a tar and of the record of a zip."""

RECORD = f".data/{KEY}"
"""The record in a .pt file. PyTorch keeps its own notes in `.data`, too."""

TRAILER = re.compile(rb"\nsha256 ([0-9a-f]{64})\n")
"""The text after the pickle of a .pdparams file."""

TRAILER_BYTES = 73


def compute_digest(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256, in hex, of names, dtypes, shapes and bytes of `arrays`, and of all `metadata` except a digest.

    The order of the arrays in the mapping, and their layout in memory, make no difference.
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode() + b"\n")
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    texts = {key: text for key, text in (metadata or {}).items() if key != KEY}
    found.update(json.dumps(texts, sort_keys=True).encode())
    return found.hexdigest()


def check_digest(stored: str | None, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Raise `InputError` if the digest `stored` in a file does not match its `arrays` and `metadata`. None matches."""
    if stored is None:
        return
    plain = all(isinstance(array, np.ndarray) for array in arrays.values())
    if not plain or compute_digest(arrays, metadata) != stored:
        raise InputError("its content does not match the SHA-256 in it: the file is damaged or was changed")


def make_trailer(arrays: Mapping[str, Array]) -> bytes:
    """Return the digest of `arrays` as the text after the pickle of a .pdparams file."""
    return f"\n{KEY} {compute_digest(arrays)}\n".encode()


def read_trailer(rest: bytes) -> str | None:
    """Return the digest in the bytes after a pickle, or None if there are none. `InputError` for other bytes."""
    if not rest:
        return None
    if not (found := TRAILER.fullmatch(rest)):
        raise InputError(f"unknown data follows the end of the pickle ({len(rest)} bytes)")
    return found[1].decode()


def add_record(buffer: io.BytesIO, arrays: Mapping[str, Array]) -> None:
    """Add the digest of the `arrays` to a .pt file in `buffer`."""
    with zipfile.ZipFile(buffer, "a") as file:
        folder = file.namelist()[0].partition("/")[0]
        file.writestr(zipfile.ZipInfo(f"{folder}/{RECORD}"), compute_digest(arrays))


def read_record(file: zipfile.ZipFile) -> str | None:
    """Return the digest in a .pt file, or None."""
    name = _record(file)
    return None if name is None else file.read(name).decode("latin1")


def _record(file: zipfile.ZipFile) -> str | None:
    return next((name for name in file.namelist() if name.endswith(f"/{RECORD}")), None)


def is_in_state_dict(path: Path) -> bool:
    """Return whether the .pt or .pdparams file at `path`, which was read before, has a digest."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _record(archive) is not None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TRAILER_BYTES, 0))
        return TRAILER.fullmatch(file.read()) is not None


def name_unverified(path: Path, metadata: Mapping[str, str]) -> None:
    """Call `say_unverified` for a .safetensors file whose `metadata` has no digest."""
    if KEY not in metadata:
        say_unverified(path)


def say_unverified(path: Path) -> None:
    """Print one line on stderr: the file at `path`, which was read, has no digest."""
    line = f"note: {path} carries no SHA-256 of its arrays: unverified (vgg-parity convert writes files with one)"
    print(printable(line), file=sys.stderr, flush=True)
