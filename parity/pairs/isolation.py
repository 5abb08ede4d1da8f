"""Every layer by itself, on what the reference gives it: its own error, and none that it inherits."""

from __future__ import annotations

import math
from typing import Any

from parity.backend.child_process import Record
from parity.compare.relative_error import distance
from parity.compare.tolerances import ZERO_GRADIENT_BOUND
from parity.compare.verdicts import DIFFERENT, EQUAL
from parity.errors import InputError
from parity.modules.description import below
from parity.modules.layer_kinds import SIDES
from parity.pairs import alignment
from parity.pairs.alignment import Call
from parity.pairs.losses import projection
from parity.pairs.model_worker import ModelWorker
from parity.pairs.session import Session, zero_gradients


def isolate_calls(session: Session, bound: float) -> list[dict[str, Any]]:
    """A row a matched call: layer (PyTorch's), torch, paddle, bound, its errors forward and backward in inference mode, and a verdict.

    Where a layer could not be run, its row says why. Starts all sides afresh. Gradients are of a random projection of a layer's outputs.
    """
    session.put({})
    runs = session.everywhere(lambda side: session.run(side, False), SIDES)
    rows = []
    for a, b in session.alignment(runs).pairs:
        row: dict[str, Any] = {"layer": a.name, "torch": a.name, "paddle": b.name, "bound": bound}
        try:
            forward, backward = _errors(session, a, b, [runs["torch"].arrays[key] for key in a.inputs])
        except InputError as problem:
            rows.append(row | {"forward": math.inf, "backward": math.inf, "verdict": DIFFERENT, "why": str(problem)})
            continue
        verdict = EQUAL if max(forward, backward) <= bound else DIFFERENT
        rows.append(row | {"forward": forward, "backward": backward, "verdict": verdict})
    return rows


def _errors(session: Session, a: Call, b: Call, given: list[Any]) -> tuple[float, float]:
    paths = dict(zip(SIDES, (a.unit.path, b.unit.path), strict=True))
    alone = session.everywhere(lambda side: session.workers[side].run(given, False, path=paths[side]), SIDES)
    names = alignment.returned(alone["torch"].outputs, alone["paddle"].outputs)
    forward = [distance(alone["torch"].outputs[one], alone["paddle"].outputs[two]) for one, two in names]
    if not all(math.isfinite(error) for error in forward):
        return math.inf, math.inf
    _, gradients = projection({one: alone["torch"].outputs[one] for one, _ in names}, session.pair.seed)
    seeds = {"torch": gradients, "paddle": {two: gradients[one] for one, two in names}}
    backs = session.backward(seeds, SIDES)
    found = [distance(array, backs["paddle"].get(name)) for name, array in backs["torch"].items()]
    arrays = [name for name in session.pairing.arrays if name in {below(a.unit.path, n) for n in a.unit.arrays}]
    own = session.fetch(arrays, SIDES, ModelWorker.gradients) if arrays else dict.fromkeys(SIDES, Record())
    zero = zero_gradients(own, ZERO_GRADIENT_BOUND)
    found += [distance(array, own["paddle"].get(name)) for name, array in own["torch"].items() if name not in zero]
    return max(forward, default=0.0), max(found, default=0.0)
