"""Every layer by itself, on what the reference gives it: its own error, and none that it inherits."""

from __future__ import annotations

import math
from typing import Any

from parity.compare import relative_l2
from parity.errors import InputError
from parity.pairs import align
from parity.pairs.kinds import SIDES
from parity.pairs.session import Session
from parity.stages import DIFFERENT, EQUAL


def isolate(session: Session, bound: float) -> list[dict[str, Any]]:
    """A row a matched call in inference: torch, paddle, error, verdict, and why a layer could not be run. Starts all sides afresh."""
    session.put({})
    runs = session.everywhere(lambda side: session.run(side, False), SIDES)
    rows = []
    for a, b in session.alignment(runs).pairs:
        given = [runs["torch"].arrays[key] for key in a.inputs]
        row: dict[str, Any] = {"torch": a.name, "paddle": b.name}
        try:
            alone = [session.workers[s].run(given, False, path=c.unit.path) for s, c in zip(SIDES, (a, b), strict=True)]
        except InputError as problem:
            rows.append(row | {"error": math.inf, "verdict": DIFFERENT, "why": str(problem)})
            continue
        pairs = align.returned(alone[0].outputs, alone[1].outputs)
        arrays = [(alone[0].outputs[one], alone[1].outputs[two]) for one, two in pairs]
        errors = [relative_l2(x, y) if x.shape == y.shape else math.inf for x, y in arrays]
        error = max(errors, default=0.0)
        rows.append(row | {"error": error, "verdict": EQUAL if error <= bound else DIFFERENT})
    return rows
