"""Every file of weights that this project writes carries a digest of its arrays, and every load compares it."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from helpers.conversion_samples import NAME, NETWORK, bits, special
from helpers.processes import alone
from helpers.refusals import saved_run, the_error
from parity.backend.worker import Worker
from parity.cli import convert as convert_command
from parity.errors import InputError
from parity.files.digest import KEY, TRAILER_BYTES, compute_digest, is_in_state_dict
from parity.training.run_folder import read_checkpoint
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import State

FORMATS = [".safetensors", ".tar", ".pdparams", ".pt"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, workers: dict[str, Worker]) -> dict[str, bytes]:
    """One file of each format, as this project writes it."""
    place = tmp_path_factory.mktemp("written")
    canonical_state.save(place / "a.safetensors", NETWORK, special(), {"made": "here"})
    (place / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    workers["paddle"].write_file(place / "a.pdparams", NETWORK, special(), "float32")
    workers["torch"].write_file(place / "a.pt", NETWORK, special(), "float32")
    return {path.suffix: path.read_bytes() for path in place.iterdir()}


Convert = Callable[[str, str], tuple[int, list[str]]]


@pytest.fixture
def convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: dict[str, Worker]
) -> Convert:
    """Run the command in a folder; return the exit code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert_command, "Worker", lambda framework: nullcontext(workers[framework]))

    def run(source: str, destination: str) -> tuple[int, list[str]]:
        code = convert_command.main([source, destination, "--network", NAME])
        return code, capsys.readouterr().err.splitlines()

    return run


# ------------------------------------------------------------------------------------------------------------ the digest

STATE = {"a.weight": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.array(0.5)}
CHANGES: dict[str, State] = {
    "a number": STATE | {"b": np.array(np.nextafter(0.5, 1))},
    "the sign of a zero": STATE | {"a.weight": STATE["a.weight"] * np.float32(-1)},
    "a shape": STATE | {"a.weight": STATE["a.weight"].reshape(3, 2)},
    "a dtype": STATE | {"a.weight": STATE["a.weight"].view("<i4")},
    "a name": {"a.weight": STATE["a.weight"], "c": STATE["b"]},
    "names exchanged": {"b": STATE["a.weight"], "a.weight": STATE["b"]},
    "an array less": {"b": STATE["b"]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_anything_in_an_array_changes_the_digest(what: str) -> None:
    assert compute_digest(CHANGES[what]) != compute_digest(STATE)


def test_the_digest_never_changes_and_ignores_order_in_the_dict_and_in_memory() -> None:
    assert compute_digest(STATE) == "e72d71e813c5b9df813c0e667cc74c38acac4cd9413753fd37e03294f48dd56e"
    other = {"b": STATE["b"], "a.weight": np.asfortranarray(STATE["a.weight"])}
    assert compute_digest(other) == compute_digest(STATE)
    assert compute_digest(STATE, {"a": "1", "b": "2"}) == compute_digest(STATE, {"b": "2", KEY: "3", "a": "1"})
    assert compute_digest(STATE, {"a": "2"}) != compute_digest(STATE, {"a": "1"}) != compute_digest(STATE)


# ------------------------------------------------------------------------------------------------------------ damage


def places(data: bytes, state: State, count: int) -> list[int]:
    """Places in `data` that hold bytes of its larger arrays."""
    chosen = random.Random(4)
    arrays = [array for array in state.values() if array.size > 1000]
    bodies = [body for array in arrays for body in (array.tobytes(), array.T.tobytes()) if body in data]
    return [data.index(body) + chosen.randrange(len(body)) for body in chosen.choices(bodies, k=count)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_flipped_bit_in_an_array_is_refused_in_one_line(
    suffix: str, files: dict[str, bytes], convert: Convert
) -> None:
    for place in places(files[suffix], special(), 8):
        damaged = bytearray(files[suffix])
        damaged[place] ^= 1 << place % 8
        Path(f"a{suffix}").write_bytes(damaged)
        code, lines = convert(f"a{suffix}", "b.safetensors")
        assert code == 2
        assert f"a{suffix}" in the_error(lines)
        assert ("CRC-32" if suffix == ".pt" else "does not match the SHA-256 in it") in lines[0]
        assert not Path("b.safetensors").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_flipped_bit_anywhere_is_refused_or_changes_no_number(
    suffix: str, files: dict[str, bytes], convert: Convert, workers: dict[str, Worker]
) -> None:
    chosen = random.Random(5)
    for place in chosen.sample(range(len(files[suffix])), 60):
        damaged = bytearray(files[suffix])
        damaged[place] ^= 1 << chosen.randrange(8)
        Path(f"a{suffix}").write_bytes(damaged)
        code, lines = convert(f"a{suffix}", "b.safetensors")
        if code == 0:
            assert bits(canonical_state.load(Path("b.safetensors"))[1]) == bits(special()), place
            Path("b.safetensors").unlink()
        else:
            assert (code, len(lines)) == (2, 1), lines


def test_a_pt_file_with_other_numbers_and_their_crc_is_refused(files: dict[str, bytes], convert: Convert) -> None:
    with zipfile.ZipFile(io.BytesIO(files[".pt"])) as old, zipfile.ZipFile("a.pt", "w") as new:
        for name in old.namelist():
            content = bytearray(old.read(name))
            if name == "archive/data/0":
                content[5] ^= 1
            new.writestr(name, bytes(content))
    code, lines = convert("a.pt", "b.tar")
    assert (code, "does not match the SHA-256 in it" in the_error(lines)) == (2, True)


def test_a_pt_file_of_others_is_refused_where_a_crc_does_not_match(tmp_path: Path, convert: Convert) -> None:
    torch.save({"a": torch.arange(64.0)}, tmp_path / "a.pt")
    data = bytearray(Path("a.pt").read_bytes())
    data[data.index(np.arange(64, dtype="<f4").tobytes()) + 9] ^= 64
    Path("a.pt").write_bytes(data)
    code, lines = convert("a.pt", "b.tar")
    assert (code, "data/0 in it is damaged: its CRC-32 does not match" in the_error(lines)) == (2, True)


def test_a_changed_letter_in_the_metadata_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run")
    run.last.write_bytes(run.last.read_bytes().replace(b"shapes10", b"shapes11"))
    with pytest.raises(InputError, match=r"last\.safetensors: its content does not match the SHA-256 in it"):
        read_checkpoint(run.folder)


def test_other_data_than_a_digest_after_the_pickle_is_refused(files: dict[str, bytes], convert: Convert) -> None:
    for data in (files[".pdparams"] + b"\n", files[".pdparams"].replace(b"\nsha256 ", b"\nsha257 ")):
        Path("a.pdparams").write_bytes(data)
        code, lines = convert("a.pdparams", "b.tar")
        assert (code, "unknown data follows the end of the pickle" in the_error(lines)) == (2, True)


# ------------------------------------------------------------------------------------------------------------ old files


def old(data: bytes, suffix: str) -> bytes:
    """A file from before digests were introduced."""
    if suffix == ".safetensors":
        state, metadata = canonical_state.decode(data, "it")
        return safetensors.numpy.save(state, {key: text for key, text in metadata.items() if key != KEY})
    if suffix == ".tar":
        return data[: data.index(b"sha256\0")]
    if suffix == ".pdparams":
        return data[:-TRAILER_BYTES]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(buffer, "w") as plain:
        for name in whole.namelist():
            if not name.endswith(KEY):
                plain.writestr(name, whole.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_without_a_digest_is_read_named_and_converted_to_one_with_it(
    suffix: str, files: dict[str, bytes], convert: Convert
) -> None:
    Path(f"a{suffix}").write_bytes(old(files[suffix], suffix))
    code, lines = convert(f"a{suffix}", f"b{suffix}")
    note = "carries no SHA-256 of its arrays: unverified (vgg-parity convert writes files with one)"
    assert (code, lines) == (0, [f"note: a{suffix} {note}"])
    assert convert(f"b{suffix}", f"c{suffix}") == (0, [])


def test_a_checkpoint_without_a_digest_is_read_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run(tmp_path / "run")
    read_checkpoint(run.folder)
    assert capsys.readouterr().err == ""
    run.last.write_bytes(old(run.last.read_bytes(), ".safetensors"))
    for read in (lambda: read_checkpoint(run.folder), lambda: run.restore(20)):
        read()
        line = capsys.readouterr().err
        assert (line.count("\n"), line.startswith(f"note: {run.last} carries no SHA-256")) == (1, True)


# ------------------------------------------------------------------------------------------------------------ frameworks

KEYS = {
    "paddle": "import sys, paddle; print(*sorted(paddle.load(sys.argv[1])))",
    "torch": "import sys, torch; print(*sorted(torch.load(sys.argv[1], weights_only=True)))",
}


def test_the_framework_loads_the_file_and_sees_the_names_of_the_arrays_only(
    framework: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    suffix = {"paddle": ".pdparams", "torch": ".pt"}[framework]
    (tmp_path / f"a{suffix}").write_bytes(files[suffix])
    assert is_in_state_dict(tmp_path / f"a{suffix}")
    found = {name.rpartition(".")[0] for name in alone(KEYS[framework], tmp_path / f"a{suffix}").split()}
    assert found == {name.partition(".")[0] for name in NETWORK.parameters}
