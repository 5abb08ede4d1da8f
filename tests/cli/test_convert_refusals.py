"""`convert_weights.py` refuses bad files and bad usage: exit code 2, one line that names the problem, nothing half-written."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from helpers.conversion_samples import NAME, NETWORK, SUFFIXES, special
from helpers.paths import ROOT
from helpers.refusals import Payload, Refused, contents, the_error
from parity.backend.worker import Worker
from parity.cli import convert
from parity.network import articles
from parity.weights import canonical_state, v2_tar


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: dict[str, Worker]
) -> Refused:
    """Run the command in a folder, where it must refuse its input and change nothing. Return its message after `error: `."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert, "Worker", lambda framework: nullcontext(workers[framework]))

    def run(*arguments: str) -> str:
        before = contents(tmp_path)
        try:
            code = convert.main([*arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        stdout, stderr = capsys.readouterr()
        assert (code, stdout) == (2, "")
        assert contents(tmp_path) == before
        return the_error(stderr.splitlines())

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, workers: dict[str, Worker]) -> dict[str, bytes]:
    """A good file of each format."""
    place = tmp_path_factory.mktemp("good")
    canonical_state.save(place / "a.safetensors", NETWORK, special())
    (place / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    workers["paddle"].write_file(place / "a.pdparams", NETWORK, special(), "float32")
    workers["torch"].write_file(place / "a.pt", NETWORK, special(), "float32")
    return {path.suffix: path.read_bytes() for path in place.iterdir()}


FORMATS = [".safetensors", ".tar", ".pdparams", ".pt"]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a byte": lambda data: b"\x80",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by 3000 bytes": lambda data: data[:-12000],
    "zeros": lambda data: bytes(len(data)),
    "a text": lambda data: b"<html>404</html>" * 99,
    "twice as long as it can be": lambda data: data + bytes(2**22),
    "a pickle of a number": lambda data: pickle.dumps(3),
    "a pickle of a list": lambda data: pickle.dumps([1, 2]),
    "a pickle of whole numbers": lambda data: pickle.dumps({"fc1.weight": np.arange(3)}, 4),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_nothing_is_written(
    damage: str, suffix: str, files: dict[str, bytes], refused: Refused
) -> None:
    Path(f"a{suffix}").write_bytes(DAMAGE[damage](files[suffix]))
    Path("b.tar").write_text("old")
    assert f"a{suffix}" in refused(f"a{suffix}", "b.tar", "--network", NAME)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_a_file_of_another_format_is_refused(
    suffix: str, other: str, files: dict[str, bytes], refused: Refused
) -> None:
    if suffix == other:
        suffix, other = ".pt", ".zip"
        with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data.pkl", bytes(10**6))
        files = {other: Path("a.zip").read_bytes()}
    Path(f"a{suffix}").write_bytes(files[other])
    assert f"a{suffix}" in refused(f"a{suffix}", "b.tar", "--network", NAME)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    suffix: str, protocol: int, tmp_path: Path, refused: Refused
) -> None:
    content = pickle.dumps({"fc1.weight": Payload(tmp_path / "ran")}, protocol)
    Path(f"a{suffix}").write_bytes(content)
    refused(f"a{suffix}", "b.safetensors", "--network", NAME)
    with zipfile.ZipFile("z.pt", "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    refused("z.pt", "b.safetensors", "--network", NAME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".tar", ".pdparams", ".pt"])
def test_a_file_of_a_terabyte_is_refused_before_it_is_read(suffix: str, tmp_path: Path, refused: Refused) -> None:
    with (tmp_path / "x.bin").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "x.bin").rename(f"{tmp_path}/../huge{suffix}")
    try:
        message = refused(f"../huge{suffix}", "b.safetensors", "--network", NAME)
    finally:
        (tmp_path / f"../huge{suffix}").unlink()
    assert "1,099,511,627,776 bytes" in message


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(
    tmp_path: Path, workers: dict[str, Worker], refused: Refused
) -> None:
    zeros = {name: array * 0 for name, array in canonical_state.initialise(NETWORK, 0).items()}
    workers["torch"].write_file(tmp_path / "a.pt", NETWORK, zeros, "float32")
    with zipfile.ZipFile("a.pt") as plain, zipfile.ZipFile("b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    assert "a zip file whose members are larger than itself" in refused("b.pt", "c.tar", "--network", NAME)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": (("nothing.tar", "b.pt"), "nothing.tar is not a file"),
    "a run without a checkpoint": (("empty", "b.pt"), "empty/last.safetensors is not a file"),
    "an unknown source": (("a.npz", "b.pt"), "a.npz: the suffix must be one of .safetensors, .tar"),
    "an unknown destination": (("a.tar", "b"), "b: the suffix must be one of"),
    "the source itself": (("a.tar", "empty/../a.tar", "--network", NAME), "is the source file"),
    "an unknown network": (("a.tar", "b.pt", "--network", "vgg99"), "unknown network 'vgg99'"),
    "another network": (("a.tar", "b.pt", "--network", "vgg_mini"), "not a parameter of network vgg_mini"),
    "another width": (("a.tar", "b.pt", "--network", "vgg16_bn_drop"), "has shape"),
    "none of the known": (("a.tar", "b.pt"), "it fits none of the known networks"),
    "not the network it names": (("a.safetensors", "b.pt", "--network", "vgg_mini"), f"holds network {NAME}, not vgg_mini"),
    "a folder as destination": (("a.tar", "empty.pt", "--network", NAME), "empty.pt: Is a directory"),
    "a destination below a file": (("a.tar", "a.tar/b.tar", "--network", NAME), "cannot write a.tar/b.tar"),
    "float64 for v2": (("wide.safetensors", "b.tar"), "float64 numbers that float32 would round"),
    "two kinds of floats": (("mixed.safetensors", "b.pt"), "a .pt file needs all weights in float32, or all in float64"),
    "only one name": (("a.tar",), "missing argument 'DST'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_usage_is_refused(what: str, files: dict[str, bytes], refused: Refused) -> None:
    arguments, message = BAD[what]
    Path("a.tar").write_bytes(files[".tar"])
    Path("a.npz").write_bytes(b"")
    Path("a.safetensors").write_bytes(files[".safetensors"])
    canonical_state.save(Path("wide.safetensors"), NETWORK, special("float64"))
    canonical_state.save(Path("mixed.safetensors"), NETWORK, special() | {"fc3.bias": special("float64")["fc3.bias"]})
    Path("empty").mkdir()
    Path("empty.pt").mkdir()
    assert message in refused(*arguments)


def test_weights_that_fit_two_known_networks_are_refused(
    files: dict[str, bytes], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(articles, "NETWORKS", {"one": NETWORK, "two": NETWORK})
    Path("a.tar").write_bytes(files[".tar"])
    assert f"it fits several networks, {NAME} and {NAME}; name its network with --network" in refused("a.tar", "b.pt")


def test_a_worker_that_dies_is_a_failure_and_nothing_is_written(
    framework: str,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(convert, "Worker", lambda framework: Worker(framework, "/bin/false"))
    (tmp_path / "a.tar").write_bytes(files[".tar"])
    before = contents(tmp_path)
    destination = tmp_path / f"b{SUFFIXES[framework]}"
    assert convert.main([str(tmp_path / "a.tar"), str(destination), "--network", NAME, "--json"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.startswith(f"failed: the {framework} worker died (exit code 1)")
    assert contents(tmp_path) == before


def test_a_framework_that_is_not_installed_is_bad_input_that_says_how_to_get_it(
    framework: str, tmp_path: Path, files: dict[str, bytes]
) -> None:
    missing = f"raise ModuleNotFoundError('no', name={framework!r})"
    (tmp_path / "none" / framework).mkdir(parents=True)
    (tmp_path / "none" / framework / "__init__.py").write_text(missing)
    (tmp_path / "a.tar").write_bytes(files[".tar"])
    destination = tmp_path / f"b{SUFFIXES[framework]}"
    command = [
        sys.executable,
        "scripts/convert_weights.py",
        str(tmp_path / "a.tar"),
        str(destination),
        "--network",
        NAME,
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "none")}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 2, ended.stderr
    assert "is not installed here: pip install" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not destination.exists()
