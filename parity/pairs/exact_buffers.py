"""Buffers that one model computes when it is made, in float32, and the other one in forward.

Where the check computes in float64, the other model's table is exact, and the buffer keeps the rounding of float32. The model is then made
once more, in float64. Its buffer is taken if it equals a constant of the other model. That constant may itself depend on such buffers of
the other model: then those of both models are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.compare.relative_error import relative_l2
from parity.compare.tolerances import HALF_ULP, ONE_STEP
from parity.pairs.model_server import ModelRun

Run = Callable[[Sequence[str]], ModelRun]
"""Runs a model, records its functions, and keeps the values of these origins."""


def rounded_buffers(own: Record, exact: Record) -> Record:
    """Return those of the `exact` buffers whose `own` values are the same in float32."""
    return {name: array for name, array in exact.items() if name in own and _is_rounded(own[name], array)}


def choose_exact(own: Record, exact: Record, run: Run) -> Record:
    """Return those of the `exact` buffers that another model, which `run` runs, computes in forward. `own` are the buffers in float32."""
    if not exact:
        return {}
    constants = _constants(run([]).functions)
    values = [array for array in run(constants).arrays.values() if array.dtype.kind == "f"]
    return {name: array for name, array in exact.items() if _is_computed(own[name], array, values)}


def _is_computed(own: Array, exact: Array, values: Sequence[Array]) -> bool:
    """Whether some of the `values` are the `exact` array, and none of them only its `own` rounded one."""
    equal = [(_equal(own, value), _equal(exact, value)) for value in values]
    return (False, True) in equal and (True, False) not in equal


def _is_rounded(own: Array, exact: Array) -> bool:
    """Whether float32 rounding, of a few operations, explains the difference of two arrays."""
    if own.shape != exact.shape or np.array_equal(own, exact):
        return False
    # The rounding of a rate grows with the position: with the number of rows.
    limit = max(100, 4 * max(own.shape, default=1)) * HALF_ULP["float32"]
    return bool(np.allclose(own, exact, rtol=limit, atol=limit))


def _equal(table: Array, value: Array) -> bool:
    """Whether a value is a table, or its first rows: a model may store more positions than an input has."""
    table, value = table.squeeze(), value.squeeze()
    if table.ndim == value.ndim > 0:
        table = table[: len(value)]
    elif table.size == value.size:
        table = table.reshape(value.shape)
    return table.shape == value.shape and relative_l2(table, value) <= ONE_STEP["float64"]


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
