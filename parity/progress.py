"""What a command says while it works: lines for people, and a progress bar on a terminal."""

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
"""Of verdicts; all others are yellow."""


class Console:
    """Lines for people: on stdout, or on stderr where stdout is kept for JSON; nowhere if `silent`."""

    def __init__(self, json: bool = False, silent: bool = False) -> None:
        self.file, self.silent = sys.stderr if json else sys.stdout, silent

    def say(self, line: str, verdict: str = "") -> None:
        """Prints one line at once, above a progress bar; a `verdict` that stands in it is coloured on a terminal.

        What file names in it could do to a terminal, `printable` takes out.
        """
        if self.silent:
            return
        text = printable(line)
        if verdict and self.has_colours():
            text = text.replace(verdict, click.style(verdict, fg=COLOURS.get(verdict, "yellow"), bold=True), 1)
        tqdm.write(text, file=self.file)
        self.file.flush()

    def has_colours(self) -> bool:
        """Whether lines go to a terminal, and its user has not set NO_COLOR (https://no-color.org)."""
        return self.file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def bar(things: Iterable[_Thing], what: str, name_of: Callable[[_Thing], str] | None = None) -> Iterator[_Thing]:
    """Passes `things` on under a progress bar, with the name of the present one by `name_of`; silent where stderr is no terminal."""
    with tqdm(list(things), desc=what, disable=None, file=sys.stderr, leave=False) as passed:
        for thing in passed:
            if name_of:
                passed.set_postfix_str(printable(name_of(thing)))
            yield thing


class Phases:
    """A bar over the phases of a long command, with the present one's name and the time left. Silent where stderr is no terminal.

    It is called `first` until the first phase begins.
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
        """Shows the time that has passed every second, however long a phase takes."""
        while not self.closed.wait(1):
            self.bar.refresh()

    def rename(self, name: str) -> None:
        """The present phase is called `name` from now on."""
        self.bar.set_description_str(printable(name))

    def begin(self, name: str) -> None:
        """The phase `name` begins; the one before has ended."""
        self.bar.set_description_str(printable(name), refresh=False)
        self.bar.update(0 if self.first else 1)
        self.bar.refresh()
        self.first = False


class Progress:
    """A bar over the batches of a run with the time left: batches left x their mean time + tests left x the last test's.

    Until a test was timed, it counts as `test_batches` batches. Silent where stderr is no terminal, and
    unless `shown`.
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
        """Seconds that the rest will take, as far as is known."""
        training = time.perf_counter() - self.started - self.spent_testing
        batch = training / max(self.done - self.first, 1)
        return batch * (self.total - self.done) + self.tests * (self.test_seconds or batch * self.test_batches)

    def advance(self) -> None:
        """One batch is done."""
        self.done += 1
        self.bar.set_postfix_str(f"{duration(self.left())} left", refresh=False)
        self.bar.update()

    def tested(self, seconds: float) -> None:
        """One test is done and took `seconds`."""
        self.tests -= 1
        self.test_seconds = seconds
        self.spent_testing += seconds


def duration(seconds: float) -> str:
    """`seconds` for people: 42 s, 3 min 20 s, 5 h 10 min, 6.1 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:.1f} days"
