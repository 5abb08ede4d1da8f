"""Drives several workers through the same training run, step by step, and hands over what each recorded.

Nothing is kept from one step to the next, so a thousand steps need no more memory than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Thread

import numpy as np

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare.step_inputs import RunInputs, StepInput
from parity.network.network import Network
from parity.short_repr import ShortRepr

PHASES = ("start", "input", "eval", "forward", "loss", "backward", "gradient", "update")
"""What a step records, in the order in which it happens. `start` is the state before step 1, `eval` inference before the update."""


@dataclass(frozen=True, repr=False)
class Step(ShortRepr):
    """One step: its number, and by side what it was given and what it recorded (PHASE/LAYER, PHASE/PARAMETER -> array)."""

    number: int
    inputs: Mapping[str, StepInput]
    records: Mapping[str, Record]


def run_in_lockstep(
    sides: Mapping[str, tuple[Worker, RunInputs]],
    steps: int,
    phases: tuple[str, ...] = PHASES,
    fewer: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Step]:
    """Yields every step with the records of all `sides`, whose workers run at the same time.

    `phases` are recorded, on a side named in `fewer` only those that stand there; `fewer` may change between the steps.
    """
    fewer = fewer or {}
    with ThreadPoolExecutor(len(sides)) as pool:

        def everywhere(act: Callable[[str], Record]) -> dict[str, Record]:
            jobs = {name: pool.submit(act, name) for name in sides}
            return {name: job.result() for name, job in jobs.items()}

        started = everywhere(lambda name: begun(*sides[name]))
        inputs_of = {name: run_inputs.steps() for name, (_, run_inputs) in sides.items()}
        for number in range(1, steps + 1):
            wanted = {name: fewer.get(name, phases) for name in sides}
            step_inputs = {name: next(steps_of) for name, steps_of in inputs_of.items()}
            records = everywhere(partial(_one_of, sides, step_inputs, wanted))
            if number == 1:
                records = {n: (started[n] if "start" in wanted[n] else {}) | record for n, record in records.items()}
                started = {}
            yield Step(number, step_inputs, records)
            # Of a whole network they are gigabytes, and the next ones come while these are held. To let go of those that lie in a file
            # takes as long as the disk needs to write it.
            held = [step_inputs, records]
            del step_inputs, records
            Thread(target=held.clear, daemon=True).start()


def _one_of(
    sides: Mapping[str, tuple[Worker, RunInputs]],
    step_inputs: Mapping[str, StepInput],
    wanted: Mapping[str, tuple[str, ...]],
    name: str,
) -> Record:
    return run_step(*sides[name], step_inputs[name], wanted[name])


def start_run(worker: Worker, run_inputs: RunInputs) -> None:
    """Builds the side from its feed."""
    worker.start(
        run_inputs.network, run_inputs.optimizer, run_inputs.state, run_inputs.dtype, slow=run_inputs.keep is not None
    )
    for patch in run_inputs.patches:
        worker.patch(*patch)


def begun(worker: Worker, run_inputs: RunInputs) -> Record:
    """`start_run`; returns the side's state as it reads it back, as tensors of the phase `start`."""
    start_run(worker, run_inputs)
    kept = {name: array for name, array in worker.state().items() if not name.startswith("optimizer.")}
    return {f"start/{name}": array for name, array in kept.items()}


def run_step(worker: Worker, run_inputs: RunInputs, step_input: StepInput, phases: tuple[str, ...]) -> Record:
    """One side's step: inference where it is recorded, the momentum buffers rescaled, the update."""
    record: Record = step_input.record() if "input" in phases else {}
    before = worker.state() if run_inputs.after else {}
    if step_input.factor != 1.0:
        worker.scale_velocity(step_input.factor)
    if "eval" in phases:
        record |= {n: a for n, a in worker.predict(step_input.images, record=True).items() if n != "logits"}
    if "forward" in phases:
        record |= {f"forward/{layer}.mask": mask for layer, mask in step_input.masks.items()}
    changed = (
        step_input.keep is not None or run_inputs.after is not None
    )  # then the state after the step is not yet the one that counts
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
        if "update" in phases:
            found |= {f"update/{name}": array for name, array in worker.state().items()}
    return record | found | (changed_after(worker, run_inputs, before, step_input, phases) if run_inputs.after else {})


def changed_after(
    worker: Worker, run_inputs: RunInputs, before: Record, step_input: StepInput, phases: tuple[str, ...]
) -> Record:
    """Applies the feed's `after`; returns the changed state as tensors of the phase `update`."""
    assert run_inputs.after
    state = run_inputs.after(before, worker.state(), step_input)
    worker.load(state, step_input.number)
    return {f"update/{name}": array for name, array in state.items()} if "update" in phases else {}


def in_order(network: Network, names: list[str]) -> list[str]:
    """Record names in the order in which a step computes them: forward along the layers, backward against them."""
    place = {layer: i for i, layer in enumerate(network.shapes)}
    array = {name: i for i, name in enumerate(network.parameters)}
    last = len(place)

    def key(name: str) -> tuple[int, int, int, int]:
        phase, _, tensor = name.partition("/")
        owner = place.get(layer_of(tensor), last if phase == "loss" else -1)
        within = array.get(tensor.split(".", 2)[2] if tensor.startswith("optimizer.") else tensor, -1)
        # A layer's parameter gradients come with the gradient of its input, right after the gradient of its output.
        if phase in ("backward", "gradient"):
            return (PHASES.index("backward"), last - owner, phase == "gradient", within)
        return (PHASES.index(phase), owner, tensor.startswith("optimizer.") - tensor.endswith(".mask"), within)

    return sorted(names, key=key)


def layer_of(tensor: str) -> str:
    """The layer that a recorded tensor belongs to: "conv1_1" of "conv1_1", "conv1_1.weight", "optimizer.velocity.conv1_1.weight"."""
    return (tensor.split(".", 2)[2] if tensor.startswith("optimizer.") else tensor).split(".")[0]
