"""One pair from beginning to end: inference, training steps, verdicts, and where the two models part first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from parity.backend.child_process import Record
from parity.compare.relative_error import Difference, NothingCompared, distance, relative_l2
from parity.compare.tolerances import INHERITED, MANY_STEPS, ONE_STEP, TWIN, ZERO_GRADIENT_BOUND
from parity.compare.verdicts import Stage, keep_worst
from parity.modules.description import below
from parity.modules.layer_kinds import SIDES
from parity.pairs import alignment, causes, model_tree, relu_kinks
from parity.pairs.alignment import Compared
from parity.pairs.isolation import isolate_calls
from parity.pairs.model_worker import ModelRun, ModelWorker
from parity.pairs.outcome import PAIR_STAGES, PairOutcome, Place
from parity.pairs.session import Pair, Session, WeightDistances, zero_gradients

LARGE = 30_000_000
"""Numbers in a model's arrays from which on only the first and the last step's arrays are compared; outputs are at every step."""


def run_pair(
    pair: Pair,
    workers: Mapping[str, ModelWorker],
    say: Callable[[str], None] = lambda line: None,
    start: Mapping[str, Record] | None = None,
) -> PairOutcome:
    """Compares the models of `pair` in float64; `workers` and `start` are those of `Session`."""
    started = time.monotonic()
    with ThreadPoolExecutor(len(workers)) as pool:
        session = Session(pair, workers, dict.fromkeys(workers, "float64"), pool, start or {})
        _Check(session, say).compare()
    session.outcome.seconds = time.monotonic() - started
    return session.outcome


_Found = TypeVar("_Found")


class _Check:
    """The parts of one run, in the order of `compare`."""

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        self.session, self.pair, self.outcome, self.say = session, session.pair, session.outcome, say
        self.pairing, self.evidence = session.pairing, session.evidence
        self.moved = {name: session.pair.seed + number for number, name in enumerate(session.twins)}
        self.zero: dict[str, float] = {}
        self.noise: dict[tuple[str, int], float] = {}
        self.parted: list[tuple[Difference, float | None]] = []
        """What differs, and how far it has gone from its start, relative to itself; None where it is no weight."""

    def compare(self) -> None:
        """All stages."""
        session, pair = self.session, self.pair
        session.put(self.moved)
        if "eval" in pair.stages:
            runs = session.everywhere(lambda name: session.run(name, False, moved=self.moved.get(name)))
            self._forward("eval", runs)
            self.say(f"inference: {self._line('eval')}")
        for step in range(1, pair.length + 1):
            if step > 1 and self.outcome.first:
                break
            self._step(step)
            if step > 1 and self.outcome.first and self._decided_by_rounding():
                break
        if not self.outcome.stages:
            raise NothingCompared("no tensor was compared")
        if self.outcome.first:
            self.outcome.tree = model_tree.draw(session.models, self.pairing, self.outcome.first)
        if pair.isolate:
            self.outcome.isolated = isolate_calls(session, ONE_STEP["float64"])

    def _decided_by_rounding(self) -> bool:
        """Whether the sides part in this step since rounding decided at a kink: then that is said, and no difference.

        Only weights are excused, each by no more than `TWIN` times that part of the way it has gone which the numbers at kinks carry of
        the gradients.
        """
        if any(size is None for _, size in self.parted):
            return False
        found = relu_kinks.crossings(self.session, self.moved, self.session.kept(self.zero), self.outcome.trajectory)
        if not all(d.error <= d.bound + TWIN * found.share * size for d, size in self.parted if size is not None):
            return False
        self.outcome.first = None
        self.outcome.stages["trajectory"].excuse()
        self.outcome.explained += [f"{text}; what comes then is not compared" for text in found.sentences]
        return True

    def _line(self, stage: str) -> str:
        found = self.outcome.stages.get(stage)
        if not found or not found.worst:
            return "nothing compared"
        return (
            f"{found.compared} tensors, worst {found.worst.error:.1e} of {found.worst.bound:.1e} at {found.worst.name}"
        )

    def _forward(self, phase: str, runs: Mapping[str, ModelRun]) -> None:
        aligned = self.session.alignment(runs)
        self.evidence = replace(self.evidence, runs=runs)
        for compared in alignment.forward(aligned, phase, *self._sides(runs)):
            self._add(1, compared)

    def _sides(self, found: Mapping[str, _Found]) -> tuple[_Found, _Found, list[_Found]]:
        """What was found of both sides and of the twins."""
        return found["torch"], found["paddle"], [found[name] for name in self.session.twins]

    def _step(self, step: int) -> None:
        session, first = self.session, step == 1
        runs = session.everywhere(lambda name: session.run(name, True, first, step=step, moved=self.moved.get(name)))
        losses, seeds = session.seeds(runs)
        if first and "forward" in self.pair.stages:
            self._forward("forward", runs)
            here, there, twins = self._sides({name: np.array([loss]) for name, loss in losses.items()})
            self._add(1, Compared("loss/loss", None, here, there, tuple(twins)))
        backs = session.backward(seeds)
        if first:
            self._gradients(runs, backs)
        elif "trajectory" in self.pair.stages:
            for compared in alignment.outputs("forward", *self._sides(runs)):
                self._add(step, compared)
        session.update(session.kept(self.zero))
        self._update(step, losses)

    def _gradients(self, runs: Mapping[str, ModelRun], backs: Mapping[str, Record]) -> None:
        """Gradients of layers' outputs and of the inputs, then of arrays, from the last layer to the first."""
        compare = "backward" in self.pair.stages
        aligned = self.session.alignment(runs)
        for compared in alignment.backward(aligned, *self._sides(backs)) if compare else ():
            self._add(1, compared)
        for name in sorted(n for n in backs["torch"] if compare and n.startswith("input/") and n in backs["paddle"]):
            here, there, twins = self._sides({worker: record[name] for worker, record in backs.items()})
            self._add(1, Compared(f"backward/(model):{name}", None, here, there, tuple(twins)))
        idle = []
        for chunk in reversed(self.session.chunks()):
            own = self.session.fetch(chunk, self.session.workers, ModelWorker.gradients)
            self.zero |= zero_gradients(own, ZERO_GRADIENT_BOUND)
            for name in reversed(chunk):
                if name in own["torch"] or name in own["paddle"]:
                    self._gradient(name, own) if compare else None
                elif self.session.trained().get(name):
                    idle.append(name)
        self.outcome.zero_gradients = sorted(self.zero)
        if idle:
            self.outcome.explained.append(
                f"unused in training, so without a gradient on both sides: {causes.few(idle)}"
            )

    def _gradient(self, name: str, own: Mapping[str, Record]) -> None:
        if name in self.zero:
            self._count(1, Difference(f"gradient/{name}", self.zero[name], ZERO_GRADIENT_BOUND), None)
            return
        nothing = np.zeros(0)
        here, there, twins = self._sides({worker: record.get(name, nothing) for worker, record in own.items()})
        self._add(1, Compared(f"gradient/{name}", None, here, there, tuple(twins)))

    def _update(self, step: int, losses: Mapping[str, float]) -> None:
        row: dict[str, Any] = {"step": step, "rate": self.pair.optimizer.rate, "error": None}
        row |= {"bound": ONE_STEP["float64"] if step == 1 else MANY_STEPS, "twin": None, "moved": None}
        row |= {"loss": {n: losses[n] for n in SIDES}}
        self.outcome.trajectory.append(row)
        if 1 < step < self.pair.length and sum(array.size for array in self.session.state.values()) > LARGE:
            return
        moving, compare = self.session.trained(), step > 1 or "update" in self.pair.stages
        distances = WeightDistances()
        for chunk in self.session.chunks():
            states = self.session.fetch(chunk, self.session.workers, ModelWorker.tensors)
            for name, array in states["torch"].items():
                _, paddle, twins = self._sides({worker: state[name] for worker, state in states.items()})
                if compare:
                    self._add(step, Compared(f"update/{name}", None, array, paddle, tuple(twins)))
                if moving.get(name):
                    distances.add(array, paddle, twins, self.session.state[name])
        row |= distances.row()
        self.say(distances.line(step))

    def _add(self, step: int, compared: Compared) -> None:
        calm = ONE_STEP["float64"] if step == 1 else MANY_STEPS
        like = [twin for twin in compared.twins if twin.shape == compared.torch.shape]
        noise = max((relative_l2(compared.torch, twin) for twin in like), default=0.0)
        noise = self._inherited(compared.name.partition("/")[0], step, noise)
        error = distance(compared.torch, compared.paddle)
        self._count(step, Difference(compared.name, error, max(calm, TWIN * noise)), compared)

    def _inherited(self, phase: str, step: int, noise: float) -> float:
        """What rounding may have made of a tensor: as much as of the farthest twin's, or of what came before it.

        A twin is one throw of the dice, and may have been lucky with one tensor. Within the first step that is up to `INHERITED`;
        later, as much as the step before made of any tensor.
        """
        before = self.noise.get((phase, step), 0.0)
        self.noise[phase, step] = max(before, noise)
        return max(noise, min(before, INHERITED) if step == 1 else self.noise.get((phase, step - 1), 0.0))

    def _count(self, step: int, difference: Difference, compared: Compared | None) -> None:
        outcome, phase = self.outcome, difference.name.partition("/")[0]
        name = "trajectory" if step > 1 else next(stage for stage, phases in PAIR_STAGES.items() if phase in phases)
        stage = outcome.stages.setdefault(name, Stage(name))
        stage.add(difference)
        if step == 1:
            torch, _ = self._layers(difference.name.partition("/")[2], compared)
            keep_worst(outcome.layers, torch or "(model)", difference)
        stage.chaotic |= step > 1 and MANY_STEPS < difference.error <= difference.bound
        if not difference.equal:
            self.parted.append((difference, self._way(difference.name, compared)))
        if outcome.first is None and not difference.equal:
            outcome.first = self._place(step, difference, compared)

    def _way(self, name: str, compared: Compared | None) -> float | None:
        phase, _, tensor = name.partition("/")
        if phase != "update" or compared is None or not self.session.trained().get(tensor):
            return None
        return distance(compared.torch, self.session.state[tensor])

    def _place(self, step: int, difference: Difference, compared: Compared | None) -> Place:
        phase, _, tensor = difference.name.partition("/")
        torch, paddle = self._layers(tensor, compared)
        if phase == "update" and tensor.rpartition(".")[2] in ("mean", "variance"):
            phase = "statistics"
        cause = causes.find_cause(self.evidence, phase, tensor, compared) if compared else None
        return Place(step, phase, torch, paddle, tensor, difference.error, difference.bound, cause)

    def _layers(self, tensor: str, compared: Compared | None) -> tuple[str, str]:
        """The layers on both sides that a tensor belongs to; empty where it is the model's own."""
        if compared and compared.calls:
            return compared.calls[0].name, compared.calls[1].name
        for a, b in self.pairing.pairs:
            if tensor in {below(a.path, name) for name in a.arrays}:
                return a.path, b.path
        return "", ""
