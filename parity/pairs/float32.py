"""A pair in float32: every tensor of inference and of one training step, on both sides, held against the float64 one; and a trajectory.

The bound of a tensor is a small multiple of what moving every weight and input by one ULP does to it on the same side, and of what the
kinks add: where rounding moves a number across zero in front of a ReLU, a whole element of the gradient appears or vanishes. Training in
float32 is chaotic: after every step the weights of the sides may stand `TWIN` times as far apart as those of a side and its twin.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from parity.backend.child_process import Record
from parity.compare.noise_model import TWINS
from parity.compare.relative_error import Difference, NothingCompared, distance, norm
from parity.compare.tolerances import FACTOR, HALF_ULP, ONE_STEP, TWIN, ZERO_GRADIENT_BOUND_FLOAT32
from parity.compare.verdicts import Stage
from parity.modules.layer_kinds import SIDES
from parity.pairs import alignment
from parity.pairs.model_worker import ModelRun, ModelWorker
from parity.pairs.outcome import PAIR_STAGES, PairOutcome, Place
from parity.pairs.session import Pair, Session, WeightDistances, zero_gradients

EXACT, TWIN_OF_FLOAT32 = "twin", "twin 2"
"""The workers that compute the float64 reference, and the one-ULP twin of the float32 trajectory; there is none without the latter."""

Tensors = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Name -> the array of torch, of paddle, and of the third worker, in the order of computation."""


def run_float32(
    pair: Pair,
    workers: Mapping[str, ModelWorker],
    say: Callable[[str], None] = lambda line: None,
    start: Mapping[str, Record] | None = None,
) -> PairOutcome:
    """Compares the models of `pair` in float32, by `workers` named torch, paddle, `EXACT` and `TWIN_OF_FLOAT32`."""
    started = time.monotonic()
    dtypes = dict.fromkeys(workers, "float32") | {EXACT: "float64"}
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
        if {"update", "trajectory"} & set(pair.stages) and TWIN_OF_FLOAT32 in workers and not session.outcome.first:
            _trajectory(session, zero, say)
    session.outcome.seconds = time.monotonic() - started
    return session.outcome


def _tensors(session: Session, moved: int | None) -> tuple[Tensors, dict[str, float]]:
    """What torch, paddle and `EXACT` compute, and the gradients that are zero; if `moved` is a seed, with the float32 sides moved."""
    pair = session.pair
    seeds, names = {} if moved is None else dict.fromkeys(SIDES, moved), [*SIDES, EXACT]
    session.put(seeds)
    found: Tensors = {}
    if "eval" in pair.stages:
        runs = session.everywhere(lambda name: session.run(name, False, moved=seeds.get(name)), names)
        compared = alignment.forward(session.alignment(runs), "eval", runs["torch"], runs["paddle"], [runs[EXACT]])
        found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    zero: dict[str, float] = {}
    if not pair.length:
        return found, zero
    runs = session.everywhere(lambda name: session.run(name, True, step=1, moved=seeds.get(name)), names)
    aligned = session.alignment(runs)
    compared = alignment.forward(aligned, "forward", runs["torch"], runs["paddle"], [runs[EXACT]])
    found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    starts = session.seeds(runs)[1]
    backs = session.backward(starts, names)
    compared = alignment.backward(aligned, backs["torch"], backs["paddle"], [backs[EXACT]])
    found |= {c.name: (c.torch, c.paddle, c.twins[0]) for c in compared if c.twins}
    for chunk in reversed(session.chunks()):
        own = session.fetch(chunk, names, ModelWorker.gradients)
        zero |= zero_gradients(own, ZERO_GRADIENT_BOUND_FLOAT32)
        for name in reversed(chunk):
            if all(name in record for record in own.values()):
                found[f"gradient/{name}"] = (own["torch"][name], own["paddle"][name], own[EXACT][name])
    return found, zero


def _judge(outcome: PairOutcome, own: Tensors, zero: Mapping[str, float], noise: Mapping[str, list[float]]) -> None:
    """Counts every tensor of both sides; the first that is not equal is where they part."""
    kinks = [0.0, 0.0]
    for name, arrays in own.items():
        phase, _, tensor = name.partition("/")
        stage_name = next(stage for stage, phases in PAIR_STAGES.items() if phase in phases)
        if stage_name not in outcome.asked:
            continue
        stage = outcome.stages.setdefault(stage_name, Stage(stage_name))
        for i, side in enumerate(SIDES):
            if phase == "gradient" and tensor in zero:
                difference = Difference(name, zero[tensor], ZERO_GRADIENT_BOUND_FLOAT32)
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


def _trajectory(session: Session, zero: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Trains both sides and the twin, and adds a row a step; only the weights are compared, as one vector."""
    outcome, rate, seed = session.outcome, session.pair.optimizer.rate, session.pair.seed
    names = ["torch", "paddle", TWIN_OF_FLOAT32]
    session.put({TWIN_OF_FLOAT32: seed})
    kept = session.kept(zero)
    for step in range(1, session.pair.length + 1):

        def forward(name: str, step: int = step) -> ModelRun:
            return session.run(name, True, False, step=step, moved=seed if name == TWIN_OF_FLOAT32 else None)

        losses, starts = session.seeds(session.everywhere(forward, names))
        session.backward(starts, names)
        session.update(kept, names)
        distances = _weight_distances(session, names)
        row, calm, name = distances.row(), ONE_STEP["float32"] * step, "update" if step == 1 else "trajectory"
        error = row["error"]
        stage = outcome.stages.setdefault(name, Stage(name))
        # A twin may be lucky: the first ReLU that rounding flips moves weights as far as many steps of rounding do, of the way they go.
        difference = Difference("update/weights", error, max(TWIN * row["twin"], calm * row["moved"]))
        stage.add(difference)
        stage.chaotic |= error > calm
        row |= {"step": step, "rate": rate, "bound": difference.bound, "loss": {side: losses[side] for side in SIDES}}
        outcome.trajectory.append(row)
        say(distances.line(step))
        if not difference.equal:
            cause = "the sides part faster than one of them parts from its one-ULP twin"
            outcome.first = Place(step, "update", "", "", "weights", error, difference.bound, cause)
            return


def _weight_distances(session: Session, names: Sequence[str]) -> WeightDistances:
    distances, trained = WeightDistances(), session.trained()
    for chunk in session.chunks():
        states = session.fetch(chunk, names, ModelWorker.tensors)
        for name, array in states["torch"].items():
            if trained.get(name):
                distances.add(array, states["paddle"][name], [states[TWIN_OF_FLOAT32][name]], session.state[name])
    return distances


def _crossed(exact: np.ndarray, own: np.ndarray) -> float:
    """The part of a gradient that elements carry which only one of the two lets through."""
    if exact.shape != own.shape or not exact.any():
        return 0.0
    crossed = (exact == 0) != (own == 0)
    return norm((own - exact)[crossed]) / norm(exact)
