"""A loaded data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parity.data.lazy_images import Pictures
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.network.nodes import Shape
from parity.short_repr import ShortRepr


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(ShortRepr):
    """Labelled pictures: a training and a test set.

    `train_images` and `test_images` are `Pictures`, or uint8 arrays [N, 3, H, W] (RGB) or [N, 1, H, W] (grey). `train_labels` and
    `test_labels` are int64 [N], indices into `classes`. `source` tells people where the data came from.
    """

    name: str
    classes: tuple[str, ...]
    train_images: NDArray[np.uint8] | Pictures
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8] | Pictures
    test_labels: NDArray[np.int64]
    source: str = ""

    def limit(self, train: int | None, test: int | None) -> Dataset:
        """Return the data set with its first `train` and `test` pictures; None keeps all of them.

        `InputError` if a number is below 1 or above the number of pictures.
        """
        _check_limit(self.name, "training", train, len(self.train_images))
        _check_limit(self.name, "test", test, len(self.test_images))
        return replace(
            self,
            train_images=_first(self.train_images, train),
            train_labels=self.train_labels[:train],
            test_images=_first(self.test_images, test),
            test_labels=self.test_labels[:test],
        )

    def hold_out(self, count: int) -> Dataset:
        """Return the data set with `count` of its training pictures as test pictures, which then train nothing. 0 changes nothing.

        They are drawn at random, but are the same in every run. `InputError` unless some pictures are left for training.
        """
        if not count:
            return self
        if not 0 < count < len(self.train_labels):
            raise InputError(
                f"cannot hold back {count} of {len(self.train_labels)} training images of {self.name}: give a smaller number"
            )
        order = stream(0, "hold out").permutation(len(self.train_labels))
        held, left = np.sort(order[:count]), np.sort(order[count:])
        images, labels = self.train_images, self.train_labels
        return replace(
            self,
            train_images=_at(images, left),
            train_labels=labels[left],
            test_images=_at(images, held),
            test_labels=labels[held],
        )

    def sized(self, shape: Shape, scales: tuple[int, int] = (0, 0)) -> Dataset:
        """Return the data set for a network that takes `shape` = (channels, height, width). Nothing is read.

        Without a scale jitter, `Pictures` are resized as a whole, and images in memory stay as they are. With a jitter of `scales`, images
        are tested at the middle scale, with a crop from the centre.
        """
        smallest = sum(scales) // 2

        def one(images: NDArray[np.uint8] | Pictures) -> NDArray[np.uint8] | Pictures:
            if isinstance(images, Pictures):
                return images.fitted(shape, smallest)
            return Pictures(images, shape, smallest) if smallest and images.shape[1] == shape[0] else images

        return replace(self, train_images=one(self.train_images), test_images=one(self.test_images))

    def fitted(self, shape: tuple[int, ...]) -> Dataset:
        """Return the same pictures in `shape` = (channels, height, width), for checks: by the nearest pixel, grey if channels differ.

        `Pictures` are read.
        """
        return replace(
            self, train_images=_fitted(self.train_images, shape), test_images=_fitted(self.test_images, shape)
        )


def _first(images: NDArray[np.uint8] | Pictures, count: int | None) -> NDArray[np.uint8] | Pictures:
    return images.first(count) if isinstance(images, Pictures) else images[:count]


def _at(images: NDArray[np.uint8] | Pictures, rows: NDArray[np.int64]) -> NDArray[np.uint8] | Pictures:
    return images.at(rows) if isinstance(images, Pictures) else images[rows]


def _fitted(images: NDArray[np.uint8] | Pictures, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if isinstance(images, Pictures):
        return images.fitted(shape)[:]
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape[1:], images.shape[2:], strict=True))
    made = images[:, :, rows[:, None], columns]
    return made if made.shape[1] == shape[0] else made.mean(1, keepdims=True).astype(np.uint8).repeat(shape[0], 1)


def _check_limit(name: str, kind: str, wanted: int | None, available: int) -> None:
    if wanted is not None and not 1 <= wanted <= available:
        raise InputError(f"cannot take {wanted} {kind} images of {name}: give a number from 1 to {available}")
