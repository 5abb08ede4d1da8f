"""One process at a time trains a run: it holds a lock on a file of the run, which ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from parity.errors import InputError


class RunLock:
    """The lock on one file, held as long as somebody in this process keeps the object."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file


_HELD: WeakValueDictionary[tuple[int, int], RunLock] = WeakValueDictionary()
"""By device and inode: a second lock of the same process would be refused like another's."""


def lock_run(path: Path) -> RunLock:
    """The lock on the file `path`; `InputError` where another process holds it."""
    # Not by filelock: its releases up to 4.1 empty the file that they lock, and 3.25 deletes it when the lock ends.
    file = path.open("rb")
    about = os.fstat(file.fileno())
    if held := _HELD.get((about.st_dev, about.st_ino)):
        file.close()
        return held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path.parent} is being trained by another process: let it end, or stop it") from None
    except OSError:  # a file system without locks
        pass
    _HELD[about.st_dev, about.st_ino] = made = RunLock(file)
    return made
