"""Where rounding decides: numbers that a ReLU lets through on one side only, since they are nearer to zero than the sides to each other.

From such a step on the sides part by a whole element of the gradient, however small the rounding was, and no twin that did not cross the
same kink can say how far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parity.check import TWIN
from parity.compare import norm_of_difference
from parity.pairs.align import Call
from parity.pairs.kinds import SIDES
from parity.pairs.session import Session, side_of
from parity.pairs.worker import Run
from parity.worker import Record

KINKED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ReLU": lambda y: y > 0,
    "ReLU6": lambda y: (y > 0) + (y >= 6.0).astype(np.int8),
}
"""Kind of layer -> on which side of its kinks the outputs are."""


def crossings(session: Session, moved: Mapping[str, int], kept: Mapping[str, Record], steps: int) -> list[str]:
    """Takes the first `steps` training steps again; a sentence a layer in the first of them in which rounding decided at a kink.

    `moved` are the seeds of the twins, `kept` the 0/1 arrays by which gradients that are zero in exact arithmetic are dropped. Rounding
    decided where all numbers that are on different sides of a kink are as near to it as other numbers of the layer stand apart, and the
    layer's output is no farther from the reference's than `TWIN` times that of the farthest twin; else nothing is found.
    """
    session.put(moved)
    for step in range(1, steps + 1):

        def forward(name: str, step: int = step) -> Run:
            return session.run(name, True, True, step=step, moved=moved.get(name))

        runs = session.everywhere(forward)
        if found := list(_in_step(session, runs)):
            return [f"in step {step} rounding decided {text}" for text in found]
        seeds = session.seeds(runs)[1]

        def go_on(name: str, seeds: Mapping[str, Record] = seeds) -> None:
            session.workers[name].backward(seeds[name])
            session.workers[name].update(kept[side_of(name)])

        session.everywhere(go_on)
    return []


def _in_step(session: Session, runs: Mapping[str, Run]) -> Sequence[str]:
    found = []
    for a, b in session.alignment(runs).pairs:
        for one, two in zip(a.outputs, b.outputs, strict=False) if a.unit.kind in KINKED else ():
            x, y = (runs[side].arrays[key] for side, key in zip(SIDES, (one, two), strict=True))
            if x.shape != y.shape:
                continue
            place = KINKED[a.unit.kind]
            crossed = place(x) != place(y)
            if not crossed.any():
                continue
            twins = [runs[name].arrays[one] for name in session.twins]
            if not _by_rounding(x, y, crossed, twins):
                return []
            found.append(_sentence(a, x, y, crossed))
    return found


def _by_rounding(x: np.ndarray, y: np.ndarray, crossed: np.ndarray, twins: Sequence[np.ndarray]) -> bool:
    apart = np.abs(x - y)
    farthest = max((norm_of_difference(x, twin) for twin in twins), default=0.0)
    near = float(apart[crossed].max()) <= TWIN * float(apart[~crossed].max(initial=0.0))
    return near and norm_of_difference(x, y) <= TWIN * farthest


def _sentence(call: Call, x: np.ndarray, y: np.ndarray, crossed: np.ndarray) -> str:
    apart = np.abs(x - y)
    count = int(crossed.sum())
    return (
        f"whether {call.name} lets {'a number' if count == 1 else f'{count} numbers'} through: up to {apart[crossed].max():.1e} from its "
        f"kink, where other numbers of the sides stand up to {apart[~crossed].max(initial=0.0):.1e} apart"
    )
