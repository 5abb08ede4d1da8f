"""Reads the pickles inside the CIFAR-10 archive, which Python 2 wrote: a dict of a uint8 array, a list of ints and strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.errors import InputError
from parity.files import pickles


def read_batch(data: bytes) -> dict[str, Any]:
    """The dict of one pickled CIFAR-10 batch: keys str, arrays uint8 [rows, columns] and read-only, strings bytes.

    `InputError` for anything that is not such a pickle, in particular one that wants to run code (`parity.files.pickles`).
    """
    content = pickles.read(data)
    for value in content.values():
        if isinstance(value, np.ndarray) and (value.dtype != np.uint8 or value.ndim != 2):
            raise InputError("a pickled array that is not a table of bytes")
    return content
