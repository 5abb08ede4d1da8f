"""Standard input, output and error as a command needs them: whoever reads them, or does not, cannot end what it does."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

NAMES = {1: "stdout", 2: "stderr"}
"""File descriptor -> the name of its stream in `sys`."""


class Output(io.FileIO):
    """The file descriptor of an output. The first failure to write is kept in `error`; from then on, all output is dropped."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Writes, waiting where the reader has set the file to return at once; returns the bytes written or dropped."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.error = self.error or error
            discard(self.fileno())
            return len(data)
        return count


def discard(descriptor: int) -> None:
    """Lets `descriptor` lead to the null device, also in processes that are started later."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.set_inheritable(descriptor, True)  # which `dup2` leaves out for a descriptor that is `null` itself
    if null != descriptor:
        os.close(null)


def prepare() -> None:
    """Makes this process's standard streams safe to use. To be called before anything else is opened or printed.

    A closed stream (`>&-`) leads to the null device, so that no file of ours takes its number. Output that nobody reads any more is
    dropped, and what the encoding of the stream lacks is written as an escape such as \\u7ed3.
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
    """An `Output` as a text stream with the encoding and the buffering of `old`."""
    if old:
        old.flush()
    output = Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=old.encoding if old else "utf-8",
        errors="backslashreplace",
        newline="\n",
        # `python -u` opens the stream without a buffer: a line at a time is as soon as a reader needs it.
        line_buffering=output.isatty() or descriptor == 2 or bool(getattr(old, "write_through", False)),
    )


def finish(code: int) -> int:
    """The exit code of a command that ends with `code`: 1 instead of 0 where its output could not be written, told on stderr.

    A reader that has left, such as `head`, is no failure: it has what it wants.
    """
    sys.stdout.flush()
    error = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "error", None)  # of an `Output`
    if error is None or error.errno == errno.EPIPE:
        return code
    print(f"failed: cannot write to stdout: {error.strerror}", file=sys.stderr, flush=True)
    return code or 1


def printable(text: str) -> str:
    """`text` on one line, with an escape for what would move a cursor or cannot be encoded: file names may hold anything."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
