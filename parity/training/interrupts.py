"""Ctrl-C and SIGTERM end a run behind the batch at hand, saved; also a run of several processes of which one does not answer."""

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
"""Seconds from a signal to the next batch's end, after which another process is taken for lost. Launchers kill after 30."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_request(process_group: ProcessGroup, lost: str = "") -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C or SIGTERM; the second one interrupts at once.

    Of several processes each takes signals as often as they come, since launchers repeat them, and none any more behind the training. One
    that waits for another in vain ends `PATIENCE` after a signal, with exit code 1 and the line `lost` on stderr.
    """
    request: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if request and process_group.size == 1:
            raise KeyboardInterrupt
        request.append(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    done = threading.Event()
    if process_group.size > 1:
        threading.Thread(target=_watch, args=(_signals(), done, lost), daemon=True).start()
        # Behind the training nothing is left to stop, and a launcher's signals would only blur how this process ended.
        before = dict.fromkeys(_SIGNALS, signal.SIG_IGN)
    try:
        yield request
    finally:
        done.set()
        if process_group.size > 1:
            signal.set_wakeup_fd(-1)  # nobody reads any more
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> socket.socket:
    """A socket that yields a byte at each signal, also while the main thread is in a framework's call and runs no handler."""
    source, sink = socket.socketpair()
    sink.setblocking(False)
    signal.set_wakeup_fd(sink.detach(), warn_on_full_buffer=False)
    return source


def _watch(signals: socket.socket, done: threading.Event, lost: str) -> None:
    """Ends the process `PATIENCE` after the first signal unless it is `done` by then."""
    signals.recv(1)
    if not done.wait(PATIENCE):
        give_up(lost)


def give_up(line: str) -> NoReturn:
    """Says `line` on stderr and ends this process with exit code 1, past the teardown of a group that lacks members, which may hang."""
    print(printable(line), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def leave(code: int) -> NoReturn:
    """Ends this process with `code`; one of several without taking the framework down: gloo's threads have been seen to abort it then.

    Exit code 1 instead of 0 where stdout could not be written (`parity.standard_streams`).
    """
    code = finish(code)
    if all(os.environ.get(name, "1") == "1" for name in ("WORLD_SIZE", "PADDLE_TRAINERS_NUM")):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
