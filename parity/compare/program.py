"""A program is what one side of a comparison runs: a model with its loss, optimizer, schedule and batches. This is that of our networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare.step_inputs import RunInputs, StepInput
from parity.compare.verdicts import PHASES
from parity.network.network import Network
from parity.short_repr import ShortRepr

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, repr=False)
class Program(ShortRepr):
    """Training of a network of ours: `worker` runs it, `run_inputs` are everything that it is given."""

    worker: Worker
    run_inputs: RunInputs

    def start(self) -> None:
        """Build the network with its starting weights and a fresh optimizer."""
        given = self.run_inputs
        self.worker.start(given.network, given.optimizer, given.state, given.dtype, slow=given.keep is not None)
        for patch in given.patches:
            self.worker.patch(*patch)

    def starting_state(self) -> Record:
        """The weights and statistics as the worker reads them back, as tensors of the phase `start`."""
        state = self.worker.state()
        return {f"start/{name}": array for name, array in state.items() if not name.startswith("optimizer.")}

    def step(self, step_input: StepInput, phases: tuple[str, ...]) -> Record:
        """Take one step: inference if it is recorded, the momentum buffers rescaled, the update. Returns PHASE/TENSOR -> array."""
        worker, after = self.worker, self.run_inputs.after
        record: Record = step_input.record() if "input" in phases else {}
        before = worker.state() if after else {}
        if step_input.factor != 1.0:
            worker.scale_velocity(step_input.factor)
        if "eval" in phases:
            record |= {n: a for n, a in worker.predict(step_input.images, record=True).items() if n != "logits"}
        if "forward" in phases:
            record |= {f"forward/{layer}.mask": mask for layer, mask in step_input.masks.items()}
        changed = step_input.keep is not None or after is not None  # then the state after the step does not count yet
        own = tuple(phase for phase in phases if not (changed and phase == "update"))
        found, cost, wrong = worker.step(
            step_input.images, step_input.labels, step_input.masks, step_input.rate, step_input.divisor, own
        )
        if "loss" in phases:
            record |= {
                "loss/loss": found.pop("loss").reshape(1),
                "loss/cost": np.array([cost]),
                "loss/wrong": np.array([float(wrong)]),
            }
        if step_input.keep is not None:
            worker.look_ahead(step_input.keep, step_input.number)
        if after:
            worker.load(after(before, worker.state(), step_input), step_input.number)
        if changed and "update" in phases:
            found |= {f"update/{name}": array for name, array in worker.state().items()}
        return record | found


class LockStep:
    """Programs by name that take one step after the other, all at the same time.

    Nothing is kept from one step to the next, so a thousand steps need no more memory than one.
    """

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self.programs = programs
        self.number = 0
        self._inputs = {name: program.run_inputs.steps() for name, program in programs.items()}

    def step(self, phases: Mapping[str, tuple[str, ...]]) -> Step:
        """Take the next step; `phases` says by name what is recorded. The first builds all networks."""
        self.number += 1
        started: dict[str, Record] = {}
        if self.number == 1:
            self._everywhere(lambda name: self.programs[name].start())
            with_start = [name for name in self.programs if "start" in phases[name]]
            started = self._everywhere(lambda name: self.programs[name].starting_state(), with_start)
        inputs = {name: next(steps) for name, steps in self._inputs.items()}
        records = self._everywhere(lambda name: self.programs[name].step(inputs[name], phases[name]))
        return Step(self.number, inputs, {name: started.get(name, {}) | record for name, record in records.items()})

    def _everywhere(self, act: Callable[[str], _Answer], names: list[str] | None = None) -> dict[str, _Answer]:
        chosen = list(self.programs) if names is None else names
        with ThreadPoolExecutor(len(self.programs)) as pool:
            return dict(zip(chosen, pool.map(act, chosen), strict=True))


@dataclass(frozen=True, repr=False)
class Step(ShortRepr):
    """One step: its number, and by program what it was given and what it recorded (PHASE/LAYER, PHASE/PARAMETER -> array)."""

    number: int
    inputs: Mapping[str, StepInput]
    records: Mapping[str, Record]


def let_go(held: list[Any]) -> None:
    """Empty a list in the background, so that the next step need not wait for it.

    Records of a whole network are gigabytes. To let go of those that lie in a file takes as long as the disk needs to write it.
    """
    Thread(target=held.clear, daemon=True).start()


def run_in_lockstep(programs: Mapping[str, Program], steps: int, phases: tuple[str, ...] = PHASES) -> Iterator[Step]:
    """Yield every step of `programs`, of all of which `phases` are recorded."""
    together = LockStep(programs)
    for _ in range(steps):
        held = [together.step(dict.fromkeys(programs, phases))]
        yield held[0]
        let_go(held)


def in_order(network: Network, names: list[str]) -> list[str]:
    """Record names in the order in which a step computes them: forward along the layers, backward against them."""
    place = {layer: i for i, layer in enumerate(network.shapes)}
    array = {name: i for i, name in enumerate(network.parameters)}
    last = len(place)

    def key(name: str) -> tuple[int, int, int, int]:
        phase, _, tensor = name.partition("/")
        owner = place.get(layer_of(tensor), last if phase == "loss" else -1)
        within = array.get(parameter_of(tensor), -1)
        # A layer's parameter gradients come with the gradient of its input, right after the gradient of its output.
        if phase in ("backward", "gradient"):
            return (PHASES.index("backward"), last - owner, phase == "gradient", within)
        return (PHASES.index(phase), owner, tensor.startswith("optimizer.") - tensor.endswith(".mask"), within)

    return sorted(names, key=key)


def parameter_of(tensor: str) -> str:
    """The parameter that a recorded tensor is, or is a slot of: "conv1_1.weight" of "optimizer.velocity.conv1_1.weight"."""
    return tensor.split(".", 2)[2] if tensor.startswith("optimizer.") else tensor


def layer_of(tensor: str) -> str:
    """The layer that a recorded tensor belongs to: "conv1_1" of "conv1_1", "conv1_1.weight", "optimizer.velocity.conv1_1.weight"."""
    return parameter_of(tensor).split(".")[0]
