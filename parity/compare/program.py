"""A program is what one side of a comparison runs: model, loss, optimizer, schedule and batches. These are those of our networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np

from parity.backend.child_process import Record, WorkerFailed
from parity.backend.worker import Worker
from parity.compare.step_inputs import RunInputs, StepInput
from parity.compare.verdicts import PHASES, UNWATCHED
from parity.errors import InputError
from parity.network.network import Network
from parity.short_repr import ShortRepr

SEVERAL = 3
"""Least number of threads of the unwatched run. Training uses several, and may share images out to them unevenly."""


@dataclass(frozen=True, repr=False)
class Program(ShortRepr):
    """Training of one of our networks: `worker` runs it with `run_inputs`."""

    worker: Worker
    run_inputs: RunInputs

    def start(self) -> None:
        """Build the network with its starting weights and a fresh optimizer."""
        given = self.run_inputs
        self.worker.start(given.network, given.optimizer, given.state, given.dtype, slow=given.keep is not None)
        for patch in given.patches:
            self.worker.patch(*patch)

    def begin(self, step_input: StepInput, phases: tuple[str, ...]) -> Record:
        """Start, and return the records before the first step.

        These are the weights built from the seed (`fresh`), the unwatched run (`UNWATCHED`), and the weights and statistics as the worker
        reads them back (`start`). `WorkerFailed` holds what was recorded. A side that only fails in the unwatched run has started.
        """
        record: Record = {}
        failures = [act(step_input, phases, record) for act in (self._build_fresh, self._run_unwatched)]
        try:
            self.start()
            if "start" in phases:
                state = self.worker.state()
                record |= {f"start/{n}": array for n, array in state.items() if not n.startswith("optimizer.")}
        except WorkerFailed as failed:
            failures.append(_with_reason(failed))
        for failure in filter(None, failures):
            failure.record = record
            raise failure
        return record

    def _build_fresh(self, step_input: StepInput, phases: tuple[str, ...], record: Record) -> WorkerFailed | None:
        """Record the weights built from the seed; return the failure, if any."""
        try:
            if "fresh" in phases:
                fresh = self.worker.fresh_weights(self.run_inputs.network, self.run_inputs.seed)
                record |= {f"fresh/{name}": array for name, array in fresh.items()}
        except WorkerFailed as failed:
            return _with_reason(failed)
        return None

    def _run_unwatched(self, step_input: StepInput, phases: tuple[str, ...], record: Record) -> WorkerFailed | None:
        """Record inference and the first step as training runs them, layers together on several threads; return the failure, if any."""
        if not set(UNWATCHED.values()) & set(phases):
            return None
        failure = None
        self.worker.use_threads(SEVERAL)
        try:
            self.start()
            if UNWATCHED["eval"] in phases:
                scores = self.worker.predict(step_input.images)["logits"]
                record[f"{UNWATCHED['eval']}/{self.run_inputs.network.output}"] = scores
            if UNWATCHED["update"] in phases:
                moved = self.step(step_input, ("update",))
                record |= {f"{UNWATCHED['update']}/{n.partition('/')[2]}": array for n, array in moved.items()}
        except WorkerFailed as failed:
            failure = _with_reason(failed)
        self.worker.use_threads(1)
        return failure

    def step(self, step_input: StepInput, phases: tuple[str, ...]) -> Record:
        """Take one step: record inference if asked, rescale the momentum buffers, update. Return PHASE/TENSOR -> array.

        `WorkerFailed` holds what was recorded before the failure.
        """
        record: Record = {}
        try:
            self._step(step_input, phases, record)
        except WorkerFailed as failed:
            failed.record = record | _named(failed.record)
            raise
        return record

    def _step(self, step_input: StepInput, phases: tuple[str, ...], record: Record) -> None:
        worker, after = self.worker, self.run_inputs.after
        if "input" in phases:
            record |= step_input.record()
        if step_input.resumes:
            saved, loaded = worker.resume(step_input.number - 1)
            record |= {f"saved/{name}": array for name, array in saved.items()}
            record |= {f"loaded/{name}": array for name, array in loaded.items()}
        before = worker.state() if after else {}
        if step_input.factor != 1.0:
            worker.scale_velocity(step_input.factor)
        if "eval" in phases:
            record |= {n: a for n, a in worker.predict(step_input.images, record=True).items() if n != "logits"}
        if "forward" in phases:
            record |= {f"forward/{layer}.mask": mask for layer, mask in step_input.masks.items()}
        changed = step_input.keep is not None or after is not None  # then the state after the step is not final yet
        own = tuple(phase for phase in phases if not (changed and phase == "update"))
        found, cost, wrong = worker.step(
            step_input.images, step_input.labels, step_input.masks, step_input.rate, step_input.divisor, own
        )
        record |= _named(found)
        if "loss" in phases:
            record |= {"loss/cost": np.array([cost]), "loss/wrong": np.array([float(wrong)])}
        if step_input.keep is not None:
            worker.look_ahead(step_input.keep, step_input.number)
        if after:
            worker.load(after(before, worker.state(), step_input), step_input.number)
        if changed and "update" in phases:
            record |= {f"update/{name}": array for name, array in worker.state().items()}


def _with_reason(failed: WorkerFailed) -> WorkerFailed:
    """Return `failed`; raise it if the process died."""
    if not failed.reason:
        raise failed
    return failed


def _named(record: Record) -> Record:
    """Return `record` with the loss under PHASE/TENSOR, as all other tensors."""
    return {"loss/loss" if n == "loss" else n: a.reshape(1) if n == "loss" else a for n, a in record.items()}


def reason_of(error: WorkerFailed | InputError) -> str:
    """Return the error in one line; "" if a process died."""
    return error.reason if isinstance(error, WorkerFailed) else str(error)


class LockStep:
    """Programs by name that take the same steps at the same time.

    Nothing is kept from step to step, so a thousand steps need no more memory than one.
    """

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self.programs = programs
        self.number = 0
        self._inputs = {name: program.run_inputs.steps() for name, program in programs.items()}
        self._failed: dict[str, WorkerFailed | InputError] = {}

    def step(self, phases: Mapping[str, tuple[str, ...]]) -> Step:
        """Take the next step; `phases` says by name what is recorded. The first builds all networks."""
        self.number += 1
        started: dict[str, Record] = {}
        inputs = {name: next(steps) for name, steps in self._inputs.items()}
        if self.number == 1:
            started = self._everywhere(lambda name: self.programs[name].begin(inputs[name], phases[name]))
        # The watched run may show where a side fails that failed before the first step.
        records = self._everywhere(lambda name: self.programs[name].step(inputs[name], phases[name]), self.number == 1)
        records = {name: started.get(name, {}) | record for name, record in records.items()}
        return Step(self.number, inputs, records, {name: reason_of(error) for name, error in self._failed.items()})

    def _everywhere(self, act: Callable[[str], Record], even_failed: bool = False) -> dict[str, Record]:
        """Return what `act` records for every program; for one that fails, what it recorded before. If all fail, raise the first error."""

        def attempt(name: str) -> Record:
            if name in self._failed and not even_failed:
                return {}
            try:
                return act(name)
            except (WorkerFailed, InputError) as error:
                if not reason_of(error):  # the process died, which says nothing about the program
                    raise
                self._failed.setdefault(name, error)
                return error.record if isinstance(error, WorkerFailed) else {}

        with ThreadPoolExecutor(len(self.programs)) as pool:
            found = dict(zip(self.programs, pool.map(attempt, self.programs), strict=True))
        if len(self._failed) == len(self.programs) and (even_failed or self.number > 1):
            raise next(iter(self._failed.values()))
        return found


@dataclass(frozen=True, repr=False)
class Step(ShortRepr):
    """One step: its number, and by program its inputs and its record (PHASE/LAYER, PHASE/PARAMETER -> array).

    `failed` has, in one line, the error of each program that raised one.
    """

    number: int
    inputs: Mapping[str, StepInput]
    records: Mapping[str, Record]
    failed: Mapping[str, str] = field(default_factory=dict)


def let_go(held: list[Any]) -> None:
    """Empty a list in the background, so that the next step does not wait for it.

    Records of a large network take gigabytes. Releasing those in a file takes as long as the disk needs to write it.
    """
    Thread(target=held.clear, daemon=True).start()


def run_in_lockstep(programs: Mapping[str, Program], steps: int, phases: tuple[str, ...] = PHASES) -> Iterator[Step]:
    """Yield every step of `programs`, with `phases` recorded for each."""
    together = LockStep(programs)
    for _ in range(steps):
        held = [together.step(dict.fromkeys(programs, phases))]
        yield held[0]
        let_go(held)


def in_order(network: Network, names: list[str]) -> list[str]:
    """Return record names in the order of computation: forward along the layers, backward against them."""
    place = {layer: i for i, layer in enumerate(network.shapes)}
    array = {name: i for i, name in enumerate(network.parameters)}
    last = len(place)

    def key(name: str) -> tuple[int, int, int, int]:
        phase, _, tensor = name.partition("/")
        owner = place.get(layer_of(tensor), last if phase == "loss" else -1)
        within = array.get(parameter_of(tensor), -1)
        # The gradients of a layer's parameters come right after the gradient of its output.
        if phase in ("backward", "gradient"):
            return (PHASES.index("backward"), last - owner, phase == "gradient", within)
        return (
            PHASES.index("input" if phase == "loaded" else phase),
            owner,
            tensor.startswith("optimizer.") - tensor.endswith(".mask"),
            within,
        )

    return sorted(names, key=key)


def parameter_of(tensor: str) -> str:
    """Return the parameter of a recorded tensor: "conv1_1.weight" for "optimizer.velocity.conv1_1.weight"."""
    return tensor.split(".", 2)[2] if tensor.startswith("optimizer.") else tensor


def layer_of(tensor: str) -> str:
    """Return the layer of a recorded tensor: "conv1_1" for "conv1_1.weight" and "optimizer.velocity.conv1_1.weight"."""
    return parameter_of(tensor).split(".")[0]
