"""Atomic writing of files: a file is complete, or does not exist."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from parity.errors import InputError

TEMPORARY = ".vgg-parity-tmp"
"""Suffix of unfinished files. No other program uses it."""


def temporary_name(target: Path) -> Path:
    """Return a new name in the folder of `target`, for a file that is renamed to `target` when it is complete."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}{TEMPORARY}")


def write_new(path: Path, data: bytes | memoryview, mode: int | None = None) -> None:
    """Write a file that does not exist yet. It is on disk when this returns. `mode` None follows the umask. `OSError` is not caught."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        if mode is not None:
            path.chmod(mode)  # Windows has no fchmod
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step: a reader always finds the complete old or the complete new file, also after a crash.

    The mode of a new file follows the umask; an old file keeps its mode. A symbolic link stays, and its target is replaced.
    `InputError` if the folder cannot be written, or `path` exists and is not a regular file.
    """
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode_of(target)
        scratch = temporary_name(target)
        try:
            write_new(scratch, data, mode)
            scratch.replace(target)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _mode_of(target: Path) -> int | None:
    """Return the permissions of the regular file `target`, or None if it does not exist. `OSError` if it is something else."""
    try:
        status = target.lstat()  # a symbolic link here belongs to a circle of links
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return stat.S_IMODE(status.st_mode)
