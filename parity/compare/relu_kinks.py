"""ReLU kinks: elements so near to zero that rounding decides whether a ReLU passes them, on one side only.

After such a step the sides differ by a whole element of the gradient, however small the rounding is. A twin that did not cross the same
kink cannot show how far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.relative_error import norm, norm_of_difference
from parity.compare.source import Kink, Source
from parity.compare.tolerances import TWIN

KINKED: Mapping[str, Callable[[Array], Array]] = {
    "ReLU": lambda y: y > 0,
    "ReLU6": lambda y: (y > 0) + (y >= 6.0).astype(np.int8),
}
"""Kind of layer -> the side of its kinks on which the outputs are."""


@dataclass
class Crossings:
    """The crossings found: sentences, and the part of the gradients in elements that pass on one side only."""

    sentences: list[str] = field(default_factory=list)
    share: float = 0.0


def find_crossings(source: Source, rows: Sequence[Mapping[str, Any]]) -> Crossings:
    """Repeat the training steps of a trajectory's `rows`, and find the kinks where rounding decides.

    Rounding decides if two things hold. All elements on different sides of a kink are as near to it as other elements of the layer differ.
    And the error of the layer's output is at most `TWIN` times that of the farthest twin. Nothing is found if another element has crossed
    a kink, or if the loss of a step is not the same to the bit.
    """
    found = Crossings()
    for row, (losses, kinks) in zip(rows, source.kinks(len(rows)), strict=True):
        if dict(losses) != row["loss"] or not all(_add(found, row["step"], kink) for kink in kinks):
            return Crossings()
    return found


def _add(found: Crossings, step: int, kink: Kink) -> bool:
    """Add what one layer shows; return whether rounding explains all of it."""
    x, y, place = kink.reference, kink.candidate, KINKED[kink.kind]
    if x.shape != y.shape:
        return True
    crossed = place(x) != place(y)
    if not crossed.any():
        return True
    if not by_rounding(x, y, crossed, kink.twins):
        return False
    gradient = kink.gradient
    if gradient is not None and gradient.shape == x.shape:
        found.share = math.hypot(found.share, norm(gradient[crossed]) / (norm(gradient) or 1.0))
    found.sentences.append(f"step {step}: {_sentence(kink.layer, x, y, crossed)}")
    return True


def by_rounding(x: Array, y: Array, crossed: Array, twins: Sequence[Array]) -> bool:
    """Whether rounding explains why the elements `crossed` of two outputs are on different sides of a kink."""
    distance = np.abs(x - y)
    farthest = max((norm_of_difference(x, twin) for twin in twins if twin.shape == x.shape), default=0.0)
    near = float(distance[crossed].max()) <= TWIN * float(distance[~crossed].max(initial=0.0))
    return near and norm_of_difference(x, y) <= TWIN * farthest


def _sentence(layer: str, x: Array, y: Array, crossed: Array) -> str:
    distance = np.abs(x - y)
    count = int(crossed.sum())
    return (
        f"ReLU kinks in {layer}: rounding decides whether {'1 element passes' if count == 1 else f'{count} elements pass'}. The sides "
        f"differ there by up to {distance[crossed].max():.1e}, and elsewhere by up to {distance[~crossed].max(initial=0.0):.1e}"
    )
