"""A thread pool for the images of a batch, for kernels of a framework that use one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BrokenBarrierError, Lock
from typing import Any, TypeVar

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class Threads:
    """A pool of `count` threads, by default one. The threads start at their first use."""

    def __init__(self) -> None:
        self.count = 1
        self._given = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def use(self, count: int) -> None:
        """Set the number of threads."""
        if self._pool and count != self.count:
            self._pool.shutdown()
            self._pool = None
        self.count = count

    def give(self, threads: int, use: Callable[[int], object]) -> None:
        """Set the thread count of the framework's own kernels by calling `use`, unless it is already set."""
        if threads != self._given:
            use(threads)
            self._given = threads

    def sizes(self, images: int, most: int | None = None) -> list[int]:
        """Return how many images each thread gets, of all threads or of at most `most`.

        The counts differ by at most one, larger ones come first, and none is 0.
        """
        parts = max(1, min(self.count if most is None else most, self.count, images))
        small, larger = divmod(images, parts)
        return [small + (i < larger) for i in range(parts)]

    def map(self, act: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """Call `act` on every part, each on a thread, and return the results in the order of the parts.

        At most `count` parts run at the same time. Raises the first error of a part that does not come from another part's error.
        """
        with self._lock:  # parts that wait for each other must not wait for those of another call
            self._pool = self._pool or ThreadPoolExecutor(self.count)
            futures = [self._pool.submit(act, part) for part in parts]
            errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, BrokenBarrierError))
        return [future.result() for future in futures]


class Exchange:
    """Lets the `parts` of a `Threads.map`, at most one a thread, give each other values. Serves several such calls in turn."""

    def __init__(self, parts: int) -> None:
        self._given: list[list[Any]] = [[] for _ in range(parts)]
        self._barrier = Barrier(parts)

    def give(self, part: int, value: _Part) -> list[_Part]:
        """Wait until every part has given its next value, and return these values in the order of the parts."""
        own = self._given[part]
        own.append(value)
        self._barrier.wait()
        return [values[len(own) - 1] for values in self._given]

    @contextmanager
    def end_together(self) -> Iterator[None]:
        """A context for the work of one part. If it raises an error, parts that wait for it raise `BrokenBarrierError`."""
        try:
            yield
        except BaseException:
            self._barrier.abort()
            raise


THREADS = Threads()
"""The pool of this process."""
