"""A pair in float32: every tensor of inference and of one training step, on both sides, held against the float64 one.

The bound of a tensor is a small multiple of what moving every weight and input by one ULP does to it on the same side, and of what the
kinks add: where rounding moves a number across zero in front of a ReLU, a whole element of the gradient appears or vanishes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parity.compare import Difference, NothingCompared, distance, norm
from parity.noise import FACTOR, HALF_ULP, TWINS, ZERO_GRADIENT_BOUND
from parity.pairs import align
from parity.pairs.kinds import SIDES
from parity.pairs.outcome import STAGES, Outcome, Place
from parity.pairs.session import Pair, Session, zero_gradients
from parity.pairs.worker import ModelWorker
from parity.stages import Stage
from parity.worker import Record

Tensors = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Name -> the array of torch, of paddle, and of the third worker, in the order of computation."""


def run_float32(
    pair: Pair,
    workers: Mapping[str, ModelWorker],
    say: Callable[[str], None] = lambda line: None,
    start: Mapping[str, Record] | None = None,
) -> Outcome:
    """Compares the models of `pair` in float32; the third worker computes the float64 reference. There is no trajectory."""
    started = time.monotonic()
    dtypes = {"torch": "float32", "paddle": "float32", "twin": "float64"}
    with ThreadPoolExecutor(len(workers)) as pool:
        session = Session(pair, workers, dtypes, pool, start or {})
        own, zero = _tensors(session, None)
        noise: dict[str, list[float]] = {}
        for seed in range(TWINS):
            for name, moved in _tensors(session, pair.seed * 100 + seed)[0].items():
                if name in own:
                    errors = [distance(a, b) for a, b in zip(own[name][:2], moved[:2], strict=True)]
                    noise[name] = [max(pair) for pair in zip(noise.get(name, [0.0, 0.0]), errors, strict=True)]
            say(f"one-ULP twin {seed + 1} of {TWINS}")
    _judge(session.outcome, own, zero, noise)
    session.outcome.seconds = time.monotonic() - started
    return session.outcome


def _tensors(session: Session, moved: int | None) -> tuple[Tensors, dict[str, float]]:
    """What all three compute, the float32 sides with every weight and input moved if `moved` is a seed; and gradients that are zero."""
    pair = session.pair
    seeds = {} if moved is None else dict.fromkeys(SIDES, moved)
    session.put(seeds)
    found: Tensors = {}
    if "eval" in pair.stages:
        runs = session.everywhere(lambda name: session.run(name, False, moved=seeds.get(name)))
        compared = align.forward(session.alignment(runs), "eval", runs["torch"], runs["paddle"], [runs["twin"]])
        found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    zero: dict[str, float] = {}
    if not pair.length:
        return found, zero
    runs = session.everywhere(lambda name: session.run(name, True, step=1, moved=seeds.get(name)))
    aligned = session.alignment(runs)
    compared = align.forward(aligned, "forward", runs["torch"], runs["paddle"], [runs["twin"]])
    found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    starts = session.seeds(runs)[1]
    backs = session.everywhere(lambda name: session.workers[name].backward(starts[name]))
    compared = align.backward(aligned, backs["torch"], backs["paddle"], [backs["twin"]])
    found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    for chunk in reversed(session.chunks()):
        own = session.fetch(chunk, session.workers, ModelWorker.gradients)
        zero |= zero_gradients(own, ZERO_GRADIENT_BOUND)
        for name in reversed(chunk):
            if all(name in record for record in own.values()):
                found[f"gradient/{name}"] = (own["torch"][name], own["paddle"][name], own["twin"][name])
    return found, zero


def _judge(outcome: Outcome, own: Tensors, zero: Mapping[str, float], noise: Mapping[str, list[float]]) -> None:
    """Counts every tensor of both sides; the first that is not equal is where they part."""
    kinks = [0.0, 0.0]
    for name, arrays in own.items():
        phase, _, tensor = name.partition("/")
        stage_name = next(stage for stage, phases in STAGES.items() if phase in phases)
        if stage_name not in outcome.asked:
            continue
        stage = outcome.stages.setdefault(stage_name, Stage(stage_name))
        for i, side in enumerate(SIDES):
            if phase == "gradient" and tensor in zero:
                difference = Difference(name, zero[tensor], ZERO_GRADIENT_BOUND)
            else:
                kinks[i] = math.hypot(kinks[i], _crossed(arrays[2], arrays[i])) if phase == "backward" else kinks[i]
                allowed = noise[name][i] + (kinks[i] if phase in ("backward", "gradient") else 0.0)
                difference = Difference(name, distance(arrays[2], arrays[i]), FACTOR * max(allowed, HALF_ULP))
            stage.add(difference)
            if outcome.first is None and not difference.equal:
                layer = tensor.partition(":")[0]
                known = [said for said in outcome.differences if re.search(rf"(^| ){re.escape(layer)}(,| |$)", said)]
                cause = "; ".join(known) or f"{side} is farther from float64 than rounding explains"
                outcome.first = Place(1, phase, layer, "", tensor, difference.error, difference.bound, cause)
    outcome.zero_gradients = sorted(zero)
    if not outcome.stages:
        raise NothingCompared("no tensor was compared")


def _crossed(exact: np.ndarray, own: np.ndarray) -> float:
    """The part of a gradient that elements carry which only one of the two lets through."""
    if exact.shape != own.shape or not exact.any():
        return 0.0
    crossed = (exact == 0) != (own == 0)
    return norm((own - exact)[crossed]) / norm(exact)
