"""Checkpoint files are whole or refused, if they are truncated, damaged or foreign, and after writes that fail or are killed."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from helpers.refusals import files_end_at
from parity.errors import InputError
from parity.files import atomic
from parity.files.atomic import write_atomically
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Linear, ReLU
from parity.weights.canonical_state import check, initialise, load, save, slot_names

SMALL = articles.get_network("vgg16_bn_drop@0.03125")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_returns_what_was_saved_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    state = {name: array.astype(dtype) for name, array in initialise(SMALL, 0).items()}
    state |= {slot: state[name] * 2 for slot, name in slot_names(SMALL, ("velocity",)).items()}
    state["fc2.weight"] = np.asfortranarray(state["fc2.weight"])
    state["bn_fc1.mean"] = np.repeat(state["bn_fc1.mean"], 2)[::2]
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    save(path, SMALL, state, {"position": '{"epoch": 3}', "umlaut": "ü\n"})
    network, back, metadata = load(path)
    del metadata["sha256"]
    assert network == SMALL
    assert metadata == {"network": SMALL.to_json(), "position": '{"epoch": 3}', "umlaut": "ü\n"}
    assert set(back) == set(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small checkpoint."""
    network = Network("tiny", (3,), (Linear("a", 4), BatchNorm("bn"), ReLU("relu"), Linear("b", 2)))
    path = tmp_path_factory.mktemp("whole") / "tiny.safetensors"
    save(path, network, initialise(network, 0))
    return path.read_bytes()


def header_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_a_truncated_file_is_an_input_error_at_every_length(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.safetensors is not a whole safetensors file") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_bytes_after_the_end_are_an_input_error(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="long"):
        load(path)


@pytest.mark.parametrize("flip", [0x01, 0x0F, 0x20, 0x80])
def test_a_flipped_byte_in_the_header_never_changes_an_array_unseen(tmp_path: Path, whole: bytes, flip: int) -> None:
    path = tmp_path / "whole.safetensors"
    path.write_bytes(whole)
    network, state, metadata = load(path)
    refused = 0
    for position in range(header_size(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            other, arrays, text = load(path)
            check(other, arrays)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), (position, str(error))
            continue
        where = (position, whole[max(0, position - 20) : position + 20])
        assert other != network or text != metadata or damaged[position : position + 1].isspace(), where
        for name, array in arrays.items():
            assert array.dtype == state[name].dtype, where
            assert array.tobytes() == state[name].tobytes(), where
    assert refused > header_size(whole) / 2


HEADERS = {
    "no metadata": b"{}",
    "metadata null": b'{"__metadata__": null}',
    "no network": b'{"__metadata__": {"a": "b"}}',
    "a network that is not JSON": b'{"__metadata__": {"network": "vgg"}}',
    "a network that does not fit": b'{"__metadata__": {"network": "{}"}}',
    "metadata a list": b'{"__metadata__": []}',
    "not an object": b"[]",
    "an array outside the file": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "an unknown type": b'{"a": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}',
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_does_not_fit_is_an_input_error_of_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(HEADERS[what]).to_bytes(8, "little") + HEADERS[what])
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12])
def test_a_header_with_a_huge_size_is_an_input_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="huge"):
        load(path)


class Payload:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "model.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"fc.weight": Payload(marker)}, protocol))
    with pytest.raises(InputError, match=r"model\.safetensors is not a whole safetensors file"):
        load(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the pickle was harmless: the test proves nothing"


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*nothing\.safetensors: No such file"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match=r"^cannot read .*: Is a directory"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------- atomic writes


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_atomically(path, b"old" * 100)
    with files_end_at(100_000), pytest.raises(InputError, match=r"^cannot write .*last\.safetensors: "):
        write_atomically(path, bytes(1_000_000))
    assert path.read_bytes() == b"old" * 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_write_that_is_interrupted_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_write_replaces_the_old_file_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"", b"three" * 1000):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["a file/weights.safetensors", "a folder", "/proc/parity/weights.safetensors"])
def test_a_path_that_cannot_be_written_is_an_input_error_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_text("in the way")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(InputError, match=rf"^cannot write .*{place}: ") as caught:
        write_atomically(tmp_path / place, b"data")
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a file", "a folder"]


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "folder" / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444, 0o755])
def test_an_old_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)


@pytest.mark.parametrize("target", ["../store/file", "../store/new", "../store/link"])
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path, target: str) -> None:
    store, path = tmp_path / "store", tmp_path / "run" / "last.safetensors"
    for folder in (store, path.parent):
        folder.mkdir()
    (store / "file").write_bytes(b"old")
    (store / "file").chmod(0o640)
    (store / "link").symlink_to("file")
    path.symlink_to(target)
    write_atomically(path, b"new")
    assert path.readlink() == Path(target)
    assert path.read_bytes() == (path.parent / target).read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == (0o644 if target.endswith("new") else 0o640)
    assert (store / "link").readlink() == Path("file")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == sorted(
        {"store", "run", "file", "link", path.name, Path(target).name}
    )


def test_only_a_plain_file_is_replaced(tmp_path: Path) -> None:
    pipe, circle = tmp_path / "pipe", tmp_path / "circle"
    os.mkfifo(pipe)
    circle.symlink_to("circle")
    for path in (pipe, circle):
        with pytest.raises(InputError, match=rf"^cannot write .*{path.name}: it is not a regular file$"):
            write_atomically(path, b"new")
    assert pipe.is_fifo() and circle.is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["circle", "pipe"]


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "结" * 85):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


ENDLESS = """
import itertools, sys
from pathlib import Path
from parity.files.atomic import write_atomically
for k in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([k % 256]) * (2_000_000 + k % 7))
    if k == 1:
        print("ready", flush=True)
"""


def test_a_kill_at_any_moment_of_a_loop_of_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    path, waits = tmp_path / "last.safetensors", random.Random(1)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            time.sleep(waits.uniform(0.005, 0.05))
            with suppress(ProcessLookupError):
                process.kill()
        data = path.read_bytes()
        assert process.returncode == -signal.SIGKILL
        assert data == data[:1] * (2_000_000 + len(data) % 2_000_000)
        assert 2_000_000 <= len(data) < 2_000_007


def test_the_folder_of_a_links_target_is_made(tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to("nowhere/target.bin")
    atomic.write_atomically(tmp_path / "link.bin", b"data")
    assert (tmp_path / "nowhere" / "target.bin").read_bytes() == b"data"
    assert (tmp_path / "link.bin").is_symlink()
