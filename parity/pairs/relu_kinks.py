"""Where rounding decides: numbers that a ReLU lets through on one side only, since they are nearer to zero than the sides to each other.

From such a step on the sides part by a whole element of the gradient, however small the rounding was, and no twin that did not cross the
same kink can say how far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.backend.child_process import Record
from parity.compare.relative_error import norm, norm_of_difference
from parity.compare.tolerances import TWIN
from parity.modules.layer_kinds import SIDES
from parity.pairs.alignment import Call
from parity.pairs.model_worker import ModelRun
from parity.pairs.session import Session

Rows = Sequence[Mapping[str, Any]]
"""Of `Outcome.trajectory`."""

KINKED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ReLU": lambda y: y > 0,
    "ReLU6": lambda y: (y > 0) + (y >= 6.0).astype(np.int8),
}
"""Kind of layer -> on which side of its kinks the outputs are."""


@dataclass
class Crossings:
    """What was found: sentences, and how large a part of the gradients the numbers carry that get through on one side only."""

    sentences: list[str] = field(default_factory=list)
    share: float = 0.0


def crossings(session: Session, moved: Mapping[str, int], kept: Mapping[str, Record], rows: Rows) -> Crossings:
    """Takes the training steps of the trajectory's `rows` again, and looks where rounding decided at a kink.

    `moved` are the seeds of the twins, `kept` the 0/1 arrays by which gradients that are zero in exact arithmetic are dropped. Rounding
    decided where all numbers that are on different sides of a kink are as near to it as other numbers of the layer stand apart, and the
    layer's output is as near to the reference's as that of the farthest twin, `TWIN` times as far at most. Nothing is found where another
    number has crossed one, or where a step does not come out as it did before: its loss, to the bit.
    """
    session.put(moved)
    found = Crossings()
    for row in rows:
        step = row["step"]

        def forward(name: str, step: int = step) -> ModelRun:
            return session.run(name, True, True, step=step, moved=moved.get(name))

        runs = session.everywhere(forward)
        losses, seeds = session.seeds(runs)
        gradients = session.backward(seeds)["torch"]
        if {side: losses[side] for side in SIDES} != row["loss"] or not _in_step(session, runs, gradients, step, found):
            return Crossings()
        session.update(kept)
        del runs, gradients
    return found


def _in_step(session: Session, runs: Mapping[str, ModelRun], gradients: Record, step: int, found: Crossings) -> bool:
    """Adds what one step shows; whether it was rounding all along."""
    for a, b in session.alignment(runs).pairs:
        for one, two in zip(a.outputs, b.outputs, strict=False) if a.unit.kind in KINKED else ():
            x, y = (runs[side].arrays[key] for side, key in zip(SIDES, (one, two), strict=True))
            if x.shape != y.shape:
                continue
            place = KINKED[a.unit.kind]
            crossed = place(x) != place(y)
            if not crossed.any():
                continue
            twins = [twin for name in session.twins if (twin := runs[name].arrays.get(one)) is not None]
            if not by_rounding(x, y, crossed, twins):
                return False
            gradient = gradients.get(f"backward/{one}")
            if gradient is not None and gradient.shape == x.shape:
                found.share = math.hypot(found.share, norm(gradient[crossed]) / (norm(gradient) or 1.0))
            found.sentences.append(f"in step {step} rounding decided {_sentence(a, x, y, crossed)}")
    return True


def by_rounding(x: np.ndarray, y: np.ndarray, crossed: np.ndarray, twins: Sequence[np.ndarray]) -> bool:
    """Whether rounding explains that the elements `crossed` of two outputs stand on different sides of a kink."""
    distance = np.abs(x - y)
    farthest = max((norm_of_difference(x, twin) for twin in twins if twin.shape == x.shape), default=0.0)
    near = float(distance[crossed].max()) <= TWIN * float(distance[~crossed].max(initial=0.0))
    return near and norm_of_difference(x, y) <= TWIN * farthest


def _sentence(call: Call, x: np.ndarray, y: np.ndarray, crossed: np.ndarray) -> str:
    distance = np.abs(x - y)
    count = int(crossed.sum())
    return (
        f"whether {call.name} lets {'a number' if count == 1 else f'{count} numbers'} through: up to {distance[crossed].max():.1e} "
        f"from its kink, where other numbers of the sides stand up to {distance[~crossed].max(initial=0.0):.1e} apart"
    )
