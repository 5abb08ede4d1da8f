"""The run lock: one process at a time trains a run. The system releases the lock when the process ends. Windows has no run lock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from parity import machine
from parity.errors import InputError


class RunLock:
    """The lock on one file, held while this object exists."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file


_HELD: WeakValueDictionary[tuple[int, int], RunLock] = WeakValueDictionary()
"""(Device, inode) -> lock: the system would refuse a second lock of this process as it refuses another process."""


def lock_run(path: Path) -> RunLock:
    """Lock the file `path`. `InputError` if another process holds its lock."""
    file = path.open("rb")
    about = os.fstat(file.fileno())
    if held := _HELD.get((about.st_dev, about.st_ino)):
        file.close()
        return held
    try:
        machine.lock_file(file)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path.parent} is being trained by another process: wait for it, or stop it") from None
    _HELD[about.st_dev, about.st_ino] = made = RunLock(file)
    return made
