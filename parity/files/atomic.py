"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from parity.errors import InputError

TEMPORARY = ".vgg-parity-tmp"
"""How the names of files end that are not finished; nobody else's files are called so."""


def temporary_name(target: Path) -> Path:
    """Return a new name beside `target`, for what is to become `target` when it is whole."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}{TEMPORARY}")


def write_new(path: Path, data: bytes | memoryview, mode: int | None = None) -> None:
    """Write a file that does not exist yet, on disk when this returns; `mode` None leaves it to the umask. `OSError` passes through."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replaces `path` by `data` as one step: a reader, or a crash at any moment, finds the old or the new file, whole.

    A new file has the mode that the umask leaves, an old one keeps its own. A symbolic link stays, and its target is replaced.
    `InputError` where the folder cannot be written, or `path` is neither a plain file nor new.
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
    """Permissions of the plain file `target`, None where there is none yet; `OSError` where there is something else."""
    try:
        status = target.lstat()  # a link here is one of a circle, which has no target
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")
    return stat.S_IMODE(status.st_mode)
