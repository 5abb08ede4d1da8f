"""Which output of one model is which of the other where their names differ: values decide, then shapes, then the order."""

from __future__ import annotations

from collections.abc import Mapping

from parity.arrays import Array
from parity.compare.relative_error import distance

AGREE = {"float64": 1e-6, "float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
"""Largest relative error at which two tensors agree, by dtype: far below what other weights cause.

Far above rounding, too: a slightly different constant in one model must not hide which layers are pairs.
"""


def match_outputs(torch: Mapping[str, Array], paddle: Mapping[str, Array], dtype: str) -> tuple[dict[str, str], str]:
    """Return Paddle's name -> PyTorch's name for outputs with other names, and how they were matched ("" without a choice).

    The arrays are the outputs of models with the same weights, in inference in `dtype`.
    """
    left = {n: a for n, a in torch.items() if n not in paddle}
    free = {n: a for n, a in paddle.items() if n not in torch}
    if not left or not free or max(len(left), len(free)) < 2:
        return {}, ""
    found: dict[str, str] = {}

    def agrees(one: Array, two: Array) -> bool:
        return has_shape(one, two) and distance(one, two) <= AGREE[dtype]

    def has_shape(one: Array, two: Array) -> bool:
        return one.shape == two.shape and one.dtype.kind == two.dtype.kind

    ways: dict[str, None] = {}
    for way, fits in (("values", agrees), ("shapes", has_shape), ("order", lambda one, two: len(left) == len(free))):
        for name, array in left.items():
            other = next((n for n, a in free.items() if n not in found and fits(array, a)), None)
            if name not in found.values() and other is not None:
                found[other], ways[way] = name, None
    pairs = {name: other for other, name in found.items()}
    words = ", ".join(f"{name} = {pairs[name]}" for name in left if name in pairs)
    return found, f"outputs with other names, matched by {' and '.join(ways)}: {words}" if words else ""
