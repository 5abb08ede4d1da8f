"""Compares all tensors of two records with one tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from parity.arrays import Array
from parity.compare.relative_error import Difference, Incomparable, NothingCompared, relative_l2


def compare(
    reference: Mapping[str, Array], other: Mapping[str, Array], bound: float | Callable[[str], float]
) -> list[Difference]:
    """A `Difference` for every tensor, in the reference's order.

    `NothingCompared` if there is none; `Incomparable`, naming the tensor, if one side lacks it or has another shape.
    """
    if not reference and not other:
        raise NothingCompared("nothing was recorded on either side")
    for here, there, side in ((reference, other, "second"), (other, reference, "first")):
        if missing := [name for name in here if name not in there]:
            raise Incomparable(f"the {side} side lacks {missing[0]} ({len(missing)} in all)")
    differences = []
    for name, array in reference.items():
        try:
            error = relative_l2(array, other[name])
        except Incomparable as problem:
            raise Incomparable(f"{name}: {problem}") from None
        differences.append(Difference(name, error, bound(name) if callable(bound) else bound))
    return differences
