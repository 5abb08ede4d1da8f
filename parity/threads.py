"""Threads that images are shared out to, where a framework's own kernels leave cores idle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class Threads:
    """`count` threads, started when they are first needed; one until `use` says otherwise."""

    def __init__(self) -> None:
        self.count = 1
        self._given = 0
        self._pool: ThreadPoolExecutor | None = None

    def use(self, count: int) -> None:
        """From now on `count` threads."""
        if self._pool and count != self.count:
            self._pool.shutdown()
            self._pool = None
        self.count = count

    def give(self, threads: int, use: Callable[[int], object]) -> None:
        """From now on a framework's own kernels have so many `threads`; `use` tells them, where they have not."""
        if threads != self._given:
            use(threads)
            self._given = threads

    def sizes(self, images: int) -> list[int]:
        """Into how large parts so many images are cut: one a thread, the first ones larger by one where they are not even, none empty."""
        parts = max(1, min(self.count, images))
        small, larger = divmod(images, parts)
        return [small + (i < larger) for i in range(parts)]

    def map(self, act: Callable[[_Given], _Found], parts: Sequence[_Given]) -> list[_Found]:
        """`act` of every part, each on a thread, in the order of the parts."""
        self._pool = self._pool or ThreadPoolExecutor(self.count)
        return list(self._pool.map(act, parts))


THREADS = Threads()
"""Of this process."""
