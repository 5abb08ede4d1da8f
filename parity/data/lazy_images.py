"""Pictures that are read, or rescaled, only when they are needed: an image folder need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from parity import machine
from parity.errors import InputError
from parity.network.nodes import Shape

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of different sizes: files, or a uint8 array [N,C,H,W] whose pictures are rescaled.

    A slice is a uint8 array [n,*`size`], where `size` is (C, H, W). Each picture is resized as a whole. With `smallest`, it is rescaled so
    that its smaller side has `smallest` pixels, and its middle is used. `InputError` names a file that cannot be read.
    """

    source: Sequence[Path] | NDArray[np.uint8]
    size: Shape
    smallest: int = 0

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.source)

    @property
    def shape(self) -> Shape:
        """The shape of a slice of all pictures."""
        return (len(self), *self.size)

    def first(self, count: int | None) -> Pictures:
        """Return the first `count` pictures (None: all). Nothing is read."""
        return replace(self, source=self.source[:count])

    def at(self, rows: NDArray[np.int64]) -> Pictures:
        """Return the pictures with the indices `rows`. No file is read."""
        source = self.source
        return replace(self, source=source[rows] if isinstance(source, np.ndarray) else [source[i] for i in rows])

    def joined(self, others: Pictures) -> Pictures:
        """Return these pictures, followed by the `others`. No file is read."""
        if isinstance(self.source, np.ndarray):
            return replace(self, source=np.concatenate([self.source, others.source]))
        return replace(self, source=[*self.source, *others.source])

    def fitted(self, size: Shape, smallest: int = 0) -> Pictures:
        """Return the same pictures with another size. Nothing is read."""
        return replace(self, size=size, smallest=smallest)

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Return one picture in its own size: uint8 [C,h,w]."""
        from parity.data import image_files  # imports Pillow, only when pictures are read

        one = self.source[index]
        return image_files.whole(one, self.size[0]) if isinstance(one, Path) else one

    def rescaled(self, index: int, *smallest: int) -> list[NDArray[np.uint8]]:
        """Return one picture, uint8 [C,h,w], with its smaller side at each of `smallest`. `InputError` names one that is too large."""
        from parity.data import image_files

        pixels = self.whole(index)
        try:
            return [image_files.rescaled(pixels, side) for side in smallest]
        except InputError as error:
            one = self.source[index]
            raise InputError(f"{one if isinstance(one, Path) else f'picture {index}'}: {error}") from None

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """Return the pictures of `part`, read by several threads: uint8 [n,C,H,W]."""
        rows = range(len(self))[part]
        with readers() as pool:
            made = list(pool.map(self.one, rows))
        return np.stack(made) if made else np.zeros((0, *self.size), np.uint8)

    def one(self, index: int) -> NDArray[np.uint8]:
        """Return one picture in the size of a slice: uint8 [C,H,W]."""
        from parity.data import image_files

        height, width = self.size[1:]
        if self.smallest:
            (pixels,) = self.rescaled(index, self.smallest)
            return image_files.middle(pixels, height, width)
        return image_files.resized(self.whole(index), height, width)


@contextmanager
def readers() -> Iterator[ThreadPoolExecutor]:
    """Yield threads that decode and resize, which releases the interpreter's lock. At the end, work that has not begun is cancelled."""
    pool = ThreadPoolExecutor(machine.cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(make: Callable[[int], Made], batches: Iterable[Sequence[int]]) -> Iterator[list[Made]]:
    """Yield `make(i)` for all i of each batch, by `readers`. While one batch is used, the next one is made."""
    with readers() as pool:
        waiting = None
        for batch in batches:
            begun = [pool.submit(make, i) for i in batch]
            if waiting is not None:
                yield [future.result() for future in waiting]
            waiting = begun
        if waiting is not None:
            yield [future.result() for future in waiting]
