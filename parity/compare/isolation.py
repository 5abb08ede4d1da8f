"""Compare each layer in isolation, on the reference's own input: its own error shows, an inherited one does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from parity.arrays import Array
from parity.compare.relative_error import distance
from parity.compare.source import Source
from parity.compare.verdicts import DIFFERENT, EQUAL


def isolate(source: Source, bound: float) -> list[dict[str, Any]]:
    """Return one row for each layer of the reference: its errors forward and backward on the reference's input, and a verdict.

    If a layer could not run, its row says why. Both sides start afresh. `bound` is the tolerance.
    """
    rows = []
    for layer in source.isolated():
        row: dict[str, Any] = {"layer": layer.layers[0], "candidate_layer": layer.layers[1], "bound": bound}
        if layer.problem:
            rows.append(row | {"forward": math.inf, "backward": math.inf, "verdict": DIFFERENT, "why": layer.problem})
            continue
        forward, backward = _largest_error(layer.forward), _largest_error(layer.backward)
        verdict = EQUAL if max(forward, backward) <= bound else DIFFERENT
        rows.append(row | {"forward": forward, "backward": backward, "verdict": verdict})
    return rows


def _largest_error(pairs: Sequence[tuple[Array | None, Array | None]]) -> float:
    return max((distance(reference, candidate) for reference, candidate in pairs), default=0.0)
