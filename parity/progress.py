"""Output of a command while it works: lines of text, and a progress bar on a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import click
from tqdm import tqdm

from parity.standard_streams import printable

_Thing = TypeVar("_Thing")


COLOURS = {"equal": "green", "different": "red"}
"""Verdict -> its colour. Other verdicts are yellow."""


class Console:
    """Lines of text on stdout, or on stderr if stdout is kept for JSON. No lines if `silent`."""

    def __init__(self, json: bool = False, silent: bool = False) -> None:
        self.file, self.silent = sys.stderr if json else sys.stdout, silent

    def say(self, line: str, verdict: str = "") -> None:
        """Print one line at once, above a progress bar. On a terminal, a `verdict` in the line is coloured.

        Control codes, which a file name may hold, are printed as escapes.
        """
        if self.silent:
            return
        text = printable(line)
        if verdict and self.has_colours():
            text = text.replace(verdict, click.style(verdict, fg=COLOURS.get(verdict, "yellow"), bold=True), 1)
        tqdm.write(text, file=self.file)
        self.file.flush()

    def has_colours(self) -> bool:
        """Return whether lines go to a terminal whose user has not set NO_COLOR (https://no-color.org)."""
        return self.file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def bar(things: Iterable[_Thing], what: str, name_of: Callable[[_Thing], str] | None = None) -> Iterator[_Thing]:
    """Yield `things` with a progress bar on stderr. `name_of` names the current one. No bar if stderr is no terminal."""
    with tqdm(list(things), desc=what, disable=None, file=sys.stderr, leave=False) as passed:
        for thing in passed:
            if name_of:
                passed.set_postfix_str(printable(name_of(thing)))
            yield thing


class Phases:
    """A progress bar over the phases of a long command, with the current phase and the time left.

    The bar shows `first` until the first phase begins. No bar if stderr is no terminal.
    """

    def __init__(self, total: int, first: str = "starting") -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}"
        self.bar = tqdm(total=total, desc=first, disable=None, bar_format=form, file=sys.stderr, leave=False)
        self.first = True
        self.closed = threading.Event()

    def __enter__(self) -> Phases:
        if not self.bar.disable:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed.set()
        self.bar.close()

    def _tick(self) -> None:
        """Update the elapsed time every second, however long a phase takes."""
        while not self.closed.wait(1):
            self.bar.refresh()

    def rename(self, name: str) -> None:
        """Change the name of the current phase."""
        self.bar.set_description_str(printable(name))

    def begin(self, name: str) -> None:
        """End the current phase and begin the phase `name`."""
        self.bar.set_description_str(printable(name), refresh=False)
        self.bar.update(0 if self.first else 1)
        self.bar.refresh()
        self.first = False


class Progress:
    """A progress bar over the batches of a run, with the time left.

    The time left is that of the batches left, at their mean time, plus that of the tests left, at the time of the last test.
    Until the first test ends, a test counts as `test_batches` batches. No bar if stderr is no terminal, or unless `shown`.
    """

    def __init__(self, total: int, done: int, tests: int, test_batches: float, shown: bool = True) -> None:
        self.total, self.tests, self.done, self.first = total, tests, done, done
        self.test_batches, self.test_seconds = test_batches, 0.0
        self.spent_testing = 0.0
        self.started = time.perf_counter()
        form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} batches {elapsed}{postfix}"
        self.bar = tqdm(
            total=total, initial=done, disable=None if shown else True, bar_format=form, file=sys.stderr, leave=False
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def left(self) -> float:
        """Return the estimated time left, in seconds."""
        training = time.perf_counter() - self.started - self.spent_testing
        batch = training / max(self.done - self.first, 1)
        return batch * (self.total - self.done) + self.tests * (self.test_seconds or batch * self.test_batches)

    def advance(self) -> None:
        """Count one batch."""
        self.done += 1
        self.bar.set_postfix_str(f"{duration(self.left())} left", refresh=False)
        self.bar.update()

    def tested(self, seconds: float) -> None:
        """Count one test that took `seconds`."""
        self.tests -= 1
        self.test_seconds = seconds
        self.spent_testing += seconds


def duration(seconds: float) -> str:
    """Return `seconds` as text: 42 s, 3 min 20 s, 5 h 10 min, 6.1 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:.1f} days"
