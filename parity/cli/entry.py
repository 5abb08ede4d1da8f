"""How every process of ours begins: it imports its command so late that Ctrl-C and SIGTERM never end in a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PATIENCE = 20.0
"""Seconds from a signal to the end of the process, after which it is taken to hang."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def executable() -> None:
    """`vgg-parity`, `python -m parity`."""
    _run(_import_command)


def script(name: str) -> None:
    """`scripts/NAME.py`, whose flags of before there was one executable are translated."""
    _run(lambda words: _translate(name, words))


def _import_command(words: list[str]) -> tuple[str, list[str]]:
    """The group of all commands; imports the one that is asked for, so that a signal meanwhile ends the process at once."""
    import importlib

    from parity.cli.main import COMMANDS

    if words and words[0] in COMMANDS:
        importlib.import_module(f"parity.cli.{words[0]}")
    return "main", words


def _translate(name: str, words: list[str]) -> tuple[str, list[str]]:
    from parity.cli.scripts import translate

    return translate(name, words)


def _run(command_of: Callable[[list[str]], tuple[str, list[str]]]) -> None:
    """Ends this process with the exit code of the command, a module of `parity.cli`, that `command_of` makes of the command line.

    Ctrl-C and SIGTERM end it with exit code 130 and one line on stderr: at once while modules are imported, and afterwards as a
    KeyboardInterrupt, so that nothing is left half-done. The second one ends it at once. In training `parity.training.interrupts` handles
    them.
    """
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))  # noqa: PTH120 - nothing is imported yet
    sys.path[:] = [entry for entry in sys.path if entry != folder]  # of the scripts, whose names must not hide packages
    _handle(_end)
    import importlib

    from parity import standard_streams

    standard_streams.prepare()  # before anything opens a file
    try:
        command, words = command_of(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    main = importlib.import_module(f"parity.cli.{command}").main
    from parity.training.interrupts import leave

    _watch()
    _handle(_interrupt)
    try:
        code = main(words)
    except KeyboardInterrupt:  # outside of what the command itself guards
        _end()
    finally:
        _handle(signal.SIG_DFL)
    leave(code)


def _handle(handler: object) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)  # type: ignore[arg-type]


def _end(number: int = 0, frame: object = None) -> None:
    """Ends this process at once."""
    try:
        os.write(2, b"interrupted\n")  # sys.stderr may be in use
    finally:
        os._exit(130)


def _interrupt(number: int, frame: object) -> None:
    _handle(_end)
    raise KeyboardInterrupt


def _watch() -> None:
    """From now on a signal ends this process within `PATIENCE`, also where the main thread is in a call that runs no handler."""
    import threading
    import time

    source, sink = os.pipe()
    os.set_blocking(sink, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)

    def wait() -> None:
        number = os.read(source, 1)[0]
        if signal.getsignal(number) in (_interrupt, _end):  # nobody else has taken it over
            time.sleep(PATIENCE)
            _end()

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    executable()
