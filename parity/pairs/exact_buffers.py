"""Buffers that one model computes when it is made, in float32, and the other one in forward.

Where the check computes in float64, the other model's table is exact, and the buffer keeps the rounding of float32. The model is then made
once more, in float64. Its buffer is taken if it equals a constant of the other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.compare.tolerances import HALF_ULP, ONE_STEP
from parity.pairs.model_server import ModelRun

Run = Callable[[Sequence[str]], ModelRun]
"""Runs a model, records its functions, and keeps the values of these origins."""


def choose_exact(own: Record, exact: Record, run: Run) -> Record:
    """Return those of the `exact` buffers that another model, which `run` runs, computes in forward. `own` are the buffers in float32."""
    rounded = {name: array for name, array in exact.items() if name in own and _is_rounded(own[name], array)}
    if not rounded:
        return {}
    constants = _constants(run([]).functions)
    values = [array for array in run(constants).arrays.values() if array.dtype.kind == "f"]
    return {
        name: array
        for name, array in rounded.items()
        if any(_equal(array, value) for value in values) and not any(_equal(own[name], value) for value in values)
    }


def _is_rounded(own: Array, exact: Array) -> bool:
    """Whether float32 rounding, of a few operations, explains the difference of two arrays."""
    if own.shape != exact.shape or np.array_equal(own, exact):
        return False
    return bool(np.allclose(own, exact, rtol=100 * HALF_ULP["float32"], atol=100 * HALF_ULP["float32"]))


def _equal(a: Array, b: Array) -> bool:
    return a.size == b.size and bool(np.allclose(a.ravel(), b.ravel(), rtol=ONE_STEP["float64"], atol=0))


def _constants(functions: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    """Return the origins of all tensors that depend on no input and no weight."""
    other: set[str] = set()
    found: list[str] = []
    for call in functions:
        if any(origin.startswith(("input ", "weight ")) or origin in other for origin in call["inputs"]):
            other.update(call["outputs"])
        else:
            found += call["outputs"]
    return found
