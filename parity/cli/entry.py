"""Entry points. Signals are handled before a command is imported, so Ctrl-C and SIGTERM never end in a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PATIENCE = 20.0
"""Seconds from a signal until the process counts as hanging and is ended."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def executable() -> None:
    """Run `vgg-parity`, or `python -m parity`."""
    _run(_import_command)


def script(name: str) -> None:
    """Run `scripts/NAME.py`. Its flags, older than `vgg-parity`, are translated."""
    _run(lambda words: _translate(name, words))


def _import_command(words: list[str]) -> tuple[str, list[str]]:
    """Import the command that is called: a signal during the import ends the process at once. Return the group of all commands."""
    import importlib

    from parity.cli.main import COMMANDS

    if words and words[0] in COMMANDS:
        importlib.import_module(f"parity.cli.{words[0]}")
    return "main", words


def _translate(name: str, words: list[str]) -> tuple[str, list[str]]:
    from parity.cli.scripts import translate

    return translate(name, words)


def _run(command_of: Callable[[list[str]], tuple[str, list[str]]]) -> None:
    """Run the command, a module of `parity.cli`, that `command_of` derives from the command line. End this process with its exit code.

    Ctrl-C and SIGTERM end the process with exit code 130 and one line on stderr. While modules are imported, they end it at once. Later,
    the first one raises a KeyboardInterrupt, so that files are closed properly, and the second one ends the process at once. In training,
    `parity.training.interrupts` handles them.
    """
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))  # noqa: PTH120 - nothing is imported yet
    sys.path[:] = [
        entry for entry in sys.path if entry != folder
    ]  # the folder of the scripts: their names must not hide packages
    _handle(_end)
    import gc
    import importlib

    gc.disable()  # imports make many objects and free few
    from parity import standard_streams

    standard_streams.prepare()  # before anything opens a file
    try:
        command, words = command_of(sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    main = importlib.import_module(f"parity.cli.{command}").main
    from parity.training.interrupts import leave

    gc.freeze()  # the collector need not look at the objects of modules
    gc.enable()
    _watch()
    _handle(_interrupt)
    try:
        code = main(words)
    except KeyboardInterrupt:  # outside the code where the command handles it
        _end()
    finally:
        _handle(signal.SIG_DFL)
    leave(code)


def _handle(handler: object) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)  # type: ignore[arg-type]


def _end(number: int = 0, frame: object = None) -> None:
    """End this process at once."""
    try:
        os.write(2, b"interrupted\n")  # sys.stderr may be in use
    finally:
        os._exit(130)


def _interrupt(number: int, frame: object) -> None:
    _handle(_end)
    raise KeyboardInterrupt


def _watch() -> None:
    """From now on, end this process `PATIENCE` seconds after a signal, even if the main thread is in a call that runs no handler."""
    import threading
    import time

    from parity.training.interrupts import signal_socket

    source = signal_socket()

    def wait() -> None:
        number = source.recv(1)[0]
        if signal.getsignal(number) in (_interrupt, _end):  # no other handler has replaced ours
            time.sleep(PATIENCE)
            _end()

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    executable()
