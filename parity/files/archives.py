"""Reads single files out of a .tar.gz, within limits of memory and time. What the archive says of its sizes does not change them."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from parity.errors import InputError

MOST_MEMBERS = 10_000
"""Entries of an archive: those of the data sets have fewer than a hundred."""

_CHUNK = 1 << 20


def read_tgz(path: Path, wanted: Mapping[str, str], most_file: int, most_bytes: int) -> dict[str, bytes]:
    """Return the files named by the keys of `wanted` that `path` holds, under the values of `wanted`; nothing is unpacked to disk.

    A wanted file has at most `most_file` bytes; the archive has at most `most_bytes` unpacked. Names longer than the 256 characters of
    a plain header are not read: extended headers are skipped like other files, since `tarfile` loads them whole. InputError for anything
    that is damaged, larger or no regular file; OSError passes through.
    """
    if path.exists() and not path.is_file():
        raise InputError("not a regular file")
    try:
        with gzip.open(path) as stream:
            return _read_files(stream, wanted, most_file, most_bytes)  # type: ignore[arg-type]
    except (gzip.BadGzipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"truncated, damaged or not a .tar.gz ({' '.join(str(error).split())})") from error


def _read_files(stream: IO[bytes], wanted: Mapping[str, str], most_file: int, most_bytes: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for _ in range(MOST_MEMBERS):
        block = stream.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            _skip_to_end(stream, most_bytes)  # there gzip compares its checksum
            return found
        entry = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        if entry.name in wanted:
            if entry.type not in _PLAIN or not 0 <= entry.size <= most_file:
                raise InputError(f"{entry.name} in it is no file of the expected size")
            found[wanted[entry.name]] = data = stream.read(entry.size)
            if len(data) < entry.size:
                raise EOFError(f"{entry.name} ends early")
            _skip(stream, -entry.size % tarfile.BLOCKSIZE, most_bytes)
        elif entry.isreg() or entry.type not in tarfile.SUPPORTED_TYPES or entry.type in _EXTENDED:
            if entry.size < 0:
                raise tarfile.HeaderError("an entry of a negative size")
            _skip(stream, entry.size + -entry.size % tarfile.BLOCKSIZE, most_bytes)
    raise InputError(f"more than {MOST_MEMBERS} entries")


_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _skip(stream: IO[bytes], size: int, most_bytes: int) -> None:
    _check_unpacked(stream.tell() + size, most_bytes)
    while size:
        data = stream.read(min(size, _CHUNK))
        if not data:
            raise EOFError("an entry ends early")
        size -= len(data)


def _skip_to_end(stream: IO[bytes], most_bytes: int) -> None:
    while stream.read(_CHUNK):
        _check_unpacked(stream.tell(), most_bytes)


def _check_unpacked(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise InputError(f"unpacks to far more than it should, over {most_bytes:,} bytes")
