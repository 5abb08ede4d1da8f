"""What all commands share: the parser that explains in one line, the exit codes, the JSON line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from parity import machine
from parity.errors import InputError
from parity.streams import finish, printable


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def __init__(self, description: str, examples: str) -> None:
        super().__init__(
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # what a short form means would change with every new flag
        )
        self.add_argument(
            "--json", action="store_true", help="one JSON object on the last line of stdout, messages on stderr"
        )

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the process, after --help with exit code 1 where the text could not be written."""
        super().exit(finish(status), message)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and how to get help; exit code 2."""
        raise SystemExit(_say(2, f"error: {message} (see {self.prog} --help)"))


LARGEST = 2**63 - 1

MOST_THREADS = 1024
"""More than any machine has cores."""


def positive(text: str) -> int:
    """A whole number from 1 to `LARGEST`."""
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def natural(text: str) -> int:
    """A whole number from 0 to `LARGEST`."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"{value} is above 2**63 - 1")
    return value


def up_to(most: int, remark: str = "") -> Callable[[str], int]:
    """What reads a whole number from 1 to `most`; `remark` ends what is said of a larger one."""

    def read(text: str) -> int:
        value = positive(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}{remark}")
        return value

    read.__name__ = positive.__name__
    return read


def flag(name: str) -> str:
    """The flag of an option: save_map -> --save-map."""
    return f"--{name.replace('_', '-')}"


def refuse(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """`InputError`, the flag and `why`, for the first of the options `names` that is given."""
    for name in names:
        if getattr(options, name):
            raise InputError(f"{flag(name)} {why}")


positive.__name__ = natural.__name__ = "whole number"

threads = up_to(MOST_THREADS, f"; this machine has {machine.cores()} cores")
"""A number of CPU threads."""


def check_png(path: Path, name: str = "out") -> None:
    """`InputError` unless `path`, given as the flag `name`, can be the name of a picture."""
    if path.suffix.lower() != ".png" or os.path.isdir(path):  # noqa: PTH112 - never raises
        raise InputError(f"{flag(name)} {path} is not the name of a .png file")


class Failed(Exception):
    """The check or the run failed: exit code 1. `result` is what --json prints all the same."""

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the command, and the message says how to go on. Those of libraries say nothing of use."""


def execute(command: Callable[[], dict[str, Any] | None], as_json: bool) -> int:
    """Runs `command`, prints its result as JSON if wanted, and returns the exit code.

    0 done, 1 failed, 2 bad usage or bad input, 130 interrupted. Bad input is one line on stderr, never a traceback. So is an error of the
    system that names a file: even `Path.exists` raises one where a folder above is closed to this user.
    """
    try:
        result = _interruptible(command)
    except InputError as error:
        if as_json and error.result is not None:
            print(json.dumps(error.result), flush=True)
        return _say(2, f"error: {error}")
    except Failed as error:
        if as_json and error.result is not None:
            print(json.dumps(error.result), flush=True)
        return _say(1, f"failed: {error}")
    except KeyboardInterrupt as error:
        return _say(130, str(error) if isinstance(error, Interrupted) else "interrupted")
    except OSError as error:
        if not isinstance(error.filename, str | bytes):
            raise
        return _say(2, f"error: cannot use {os.fsdecode(error.filename)}: {error.strerror}")
    except MemoryError:
        return _say(
            1,
            "failed: out of memory: try a smaller --batch-size, fewer pictures or a narrower network such as vgg16_bn_drop@0.25",
        )
    if as_json and result is not None:
        print(json.dumps(result), flush=True)
    return 0


@contextmanager
def attach_result(result: dict[str, Any]) -> Iterator[None]:
    """Around the writing of files that show `result`: an `InputError` gets it, so that `execute` prints it all the same."""
    try:
        yield
    except InputError as error:
        error.result = result
        raise


def _interruptible(command: Callable[[], Any]) -> Any:
    """`command()`; where a library made an error of its own of a KeyboardInterrupt, the KeyboardInterrupt is raised."""
    try:
        return command()
    except Exception as error:
        behind: list[BaseException] = [error]
        for one in behind:  # which grows meanwhile
            if isinstance(one, KeyboardInterrupt):
                raise one from None
            behind += [other for other in (one.__cause__, one.__context__) if other and other not in behind]
        raise


def _say(code: int, message: str) -> int:
    """Prints `message` on stderr, on one line where `code` is that of bad input, and returns `code`."""
    for line in [" ".join(message.split())] if code == 2 else message.splitlines():
        print(printable(line), file=sys.stderr, flush=True)
    return code
