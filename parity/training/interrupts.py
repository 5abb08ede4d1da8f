"""Ctrl-C and SIGTERM: a run ends after the current batch, and is saved.

With several processes, each one ends after a while even if another process does not answer.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from parity.process_group import ProcessGroup
from parity.standard_streams import finish, printable

PATIENCE = 20.0
"""Seconds that a batch may still take after a signal. Then another process counts as lost. Launchers kill after 30 seconds."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_request(process_group: ProcessGroup, lost: str = "") -> Iterator[list[int]]:
    """Yield a list that is empty until the first Ctrl-C or SIGTERM. A second signal interrupts at once.

    With several processes, a second signal changes nothing, because launchers repeat signals; after the training, signals are ignored. A
    process that waits for a lost process ends `PATIENCE` seconds after a signal, with exit code 1 and the line `lost` on stderr.
    """
    request: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if request and process_group.size == 1:
            raise KeyboardInterrupt
        request.append(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    done = threading.Event()
    if process_group.size > 1:
        threading.Thread(target=_watch, args=(signal_socket(), done, lost), daemon=True).start()
        # After the training nothing is left to stop, and a launcher's signals would only change the exit code of this process.
        before = dict.fromkeys(_SIGNALS, signal.SIG_IGN)
    try:
        yield request
    finally:
        done.set()
        if process_group.size > 1:
            signal.set_wakeup_fd(-1)  # no thread reads it any more
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_socket() -> socket.socket:
    """Return a socket that yields a byte for each signal, even while the main thread is inside a framework and runs no handler."""
    source, sink = socket.socketpair()
    sink.setblocking(False)
    signal.set_wakeup_fd(sink.detach(), warn_on_full_buffer=False)
    return source


def _watch(signals: socket.socket, done: threading.Event, lost: str) -> None:
    """End the process `PATIENCE` seconds after the first signal unless it is `done` by then."""
    signals.recv(1)
    if not done.wait(PATIENCE):
        give_up(lost)


def give_up(line: str) -> NoReturn:
    """Print `line` on stderr and end this process with exit code 1, without closing the process group, which may hang."""
    print(printable(line), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def leave(code: int) -> NoReturn:
    """End this process with the exit code `code`, or with 1 instead of 0 if stdout could not be written (`parity.standard_streams`).

    The interpreter is not closed: to free a framework's objects takes up to half a second, and gloo's threads sometimes abort meanwhile.
    """
    code = finish(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
