"""A thread pool for the images of a batch, for kernels of a framework that use one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class Threads:
    """A pool of `count` threads, by default one. The threads start at their first use."""

    def __init__(self) -> None:
        self.count = 1
        self._given = 0
        self._pool: ThreadPoolExecutor | None = None

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

    def sizes(self, images: int) -> list[int]:
        """Return how many images each thread gets. The counts differ by at most one, larger ones come first, and none is 0."""
        parts = max(1, min(self.count, images))
        small, larger = divmod(images, parts)
        return [small + (i < larger) for i in range(parts)]

    def map(self, act: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """Call `act` on every part, each on a thread, and return the results in the order of the parts."""
        self._pool = self._pool or ThreadPoolExecutor(self.count)
        return list(self._pool.map(act, parts))


THREADS = Threads()
"""The pool of this process."""
