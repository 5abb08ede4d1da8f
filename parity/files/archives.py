"""Reads single files of a .tar.gz within limits of memory and time. The sizes that the archive states cannot raise the limits."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from parity.errors import InputError

MOST_MEMBERS = 10_000
"""Largest number of entries of an archive. The data sets have fewer than a hundred."""

_CHUNK = 1 << 20


def read_tgz(path: Path, wanted: Mapping[str, str], most_file: int, most_bytes: int) -> dict[str, bytes]:
    """Return the files of `path` that the keys of `wanted` name, under the values of `wanted`. Nothing is unpacked to disk.

    A wanted file has at most `most_file` bytes, and the unpacked archive at most `most_bytes`. Names longer than the 256 characters of a
    plain header are not found: extended headers are skipped like other files, because `tarfile` loads them whole. `InputError` for an
    archive that is damaged or too large, or a file that is not regular. `OSError` is not caught.
    """
    if path.exists() and not path.is_file():
        raise InputError("it is not a regular file")
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
            _skip_to_end(stream, most_bytes)  # at the end gzip compares its checksum
            return found
        entry = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        # `tar` writes the names that it was given: "./a" and "a" are one file.
        if (name := entry.name.removeprefix("./")) in wanted:
            if entry.type not in _PLAIN or not 0 <= entry.size <= most_file:
                raise InputError(f"{entry.name} in it is not a file of the expected size")
            found[wanted[name]] = data = stream.read(entry.size)
            if len(data) < entry.size:
                raise EOFError(f"{entry.name} ends early")
            _skip(stream, -entry.size % tarfile.BLOCKSIZE, most_bytes)
        elif entry.isreg() or entry.type not in tarfile.SUPPORTED_TYPES or entry.type in _EXTENDED:
            if entry.size < 0:
                raise tarfile.HeaderError("an entry of a negative size")
            _skip(stream, entry.size + -entry.size % tarfile.BLOCKSIZE, most_bytes)
    raise InputError(f"it has more than {MOST_MEMBERS} entries")


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
        raise InputError(f"it unpacks to more than {most_bytes:,} bytes, the limit")
