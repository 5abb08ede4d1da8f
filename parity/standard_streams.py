"""Standard input, output and error of a command. A reader that stops reading does not end the command."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

NAMES = {1: "stdout", 2: "stderr"}
"""File descriptor -> the name of its stream in `sys`."""


class Output(io.FileIO):
    """A file descriptor for output. `error` holds the first failure to write. After it, all output is dropped."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write `data`, and return how many bytes were written or dropped. Wait if the file is set to non-blocking."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.error = self.error or error
            discard(self.fileno())
            return len(data)
        return count


def discard(descriptor: int) -> None:
    """Redirect `descriptor` to the null device, also for processes that are started later."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.set_inheritable(descriptor, True)  # `dup2` does nothing if the descriptor is `null` itself
    if null != descriptor:
        os.close(null)


def prepare() -> None:
    """Make the standard streams of this process safe to use. Call it before anything else is opened or printed.

    A closed stream (`>&-`) is redirected to the null device, so that no other file gets its number. Output that nobody reads is
    dropped. A character that the encoding of the stream lacks is written as an escape such as \\u7ed3.
    """
    for descriptor in (0, *NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            discard(descriptor)
    for descriptor, name in NAMES.items():
        stream = _opened(descriptor, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _opened(descriptor: int, old: TextIO | None) -> TextIO:
    """Return an `Output` as a text stream with the encoding and the buffering of `old`."""
    if old:
        old.flush()
    output = Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=old.encoding if old else "utf-8",
        errors="backslashreplace",
        newline="\n",
        # `python -u` opens the stream without a buffer. Here it gets one, and each line is flushed.
        line_buffering=output.isatty() or descriptor == 2 or bool(getattr(old, "write_through", False)),
    )


def finish(code: int) -> int:
    """Return the exit code of a command that ends with `code`: 1 instead of 0 if its output could not be written.

    The reason is printed on stderr. A reader that closed the pipe, such as `head`, is no failure.
    """
    sys.stdout.flush()
    error = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "error", None)  # of an `Output`
    if error is None or error.errno == errno.EPIPE:
        return code
    print(f"failed: cannot write to stdout: {error.strerror}", file=sys.stderr, flush=True)
    return code or 1


def printable(text: str) -> str:
    """Return `text` on one line, with control codes and other unprintable characters as escapes. File names may hold any."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


Say = Callable[[str], None]
"""A function that receives one-line messages for people."""


def say_on_stderr(message: str) -> None:
    """Print `message` on stderr: the `Say` of callers that have no other."""
    print(printable(message), file=sys.stderr, flush=True)
