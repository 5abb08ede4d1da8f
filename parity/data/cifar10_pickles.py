"""Reads the pickles in the CIFAR-10 archive, written by Python 2: a dict with a uint8 array, a list of ints and strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.errors import InputError
from parity.files import pickles


def read_batch(data: bytes) -> dict[str, Any]:
    """Return the dict of one pickled CIFAR-10 batch: keys are str, arrays are uint8 [rows, columns] and read-only, strings are bytes.

    `InputError` for anything that is not such a pickle, for example one that asks to run code (`parity.files.pickles`).
    """
    content = pickles.read(data)
    for value in content.values():
        if isinstance(value, np.ndarray) and (value.dtype != np.uint8 or value.ndim != 2):
            raise InputError("a pickled array that is not a table of bytes")
    return content
