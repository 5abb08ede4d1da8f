"""Window sizes of average pools, and the correction of gradients that compute 1 / size in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array


def repairs(name: str, asked: Mapping[str, Any], shape: Sequence[int], out: Sequence[int]) -> Array | None:
    """Return factors that correct the gradient of the pool `name` with the arguments `asked`, for an input `shape` and output `out`.

    float64, in the shape of the output without batch and channels; None for padding given as a word or uneven, and for divisors.
    """
    axes = int(name[-2])
    if str(asked.get("data_format") or "NC").upper()[:2] != "NC" or len(shape) != axes + 2:
        return None
    if name.startswith("adaptive"):
        counts = [_adaptive(size, parts) for size, parts in zip(shape[2:], out[2:], strict=True)]
    else:
        spelled = asked["padding"]
        if (
            isinstance(spelled, str)
            or asked.get("divisor_override")
            or (not isinstance(spelled, int) and len(spelled) != axes)
        ):
            return None
        kernel, padding = _each(asked["kernel_size"], axes), _each(spelled, axes)
        stride = _each(asked["stride"] if asked["stride"] is not None else kernel, axes)
        rows = zip(shape[2:], out[2:], kernel, stride, padding, strict=True)
        counts = [_windows(*row, exclusive=asked["exclusive"]) for row in rows]
    count = counts[0]
    for more in counts[1:]:
        count = np.multiply.outer(count, more)
    return 1 / (count * (1 / count).astype(np.float32).astype(np.float64))


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value) * (axes if len(value) == 1 else 1)


def _adaptive(size: int, parts: int) -> Array:
    """Return the sizes of `parts` windows that cover `size` pixels."""
    first = np.arange(parts) * size // parts
    return (-(-(np.arange(1, parts + 1) * size) // parts) - first).astype(np.float64)


def _windows(size: int, windows: int, kernel: int, stride: int, padding: int, exclusive: bool) -> Array:
    """Return how many pixels each window counts along one axis; padding counts unless `exclusive`."""
    first = np.arange(windows) * stride - padding
    last = np.minimum(first + kernel, size + padding)
    if exclusive:
        first, last = first.clip(0), last.clip(max=size)
    pixels: Array = last - first
    return pixels.astype(np.float64)
