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

from parity.backend.process import Record
from parity.backend.worker import Worker
from parity.compare.step_inputs import RunInputs, StepInput
from parity.network.network import Network

PHASES = ("start", "input", "eval", "forward", "loss", "backward", "gradient", "update")
"""What a step records, in the order in which it happens. `start` is the state before step 1, `eval` inference before the update."""


@dataclass(frozen=True)
class Step:
    """One step: its number, and by side what it was given and what it recorded (PHASE/LAYER, PHASE/PARAMETER -> array)."""

    number: int
    given: Mapping[str, StepInput]
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
        feeds = {name: feed.steps() for name, (_, feed) in sides.items()}
        for number in range(1, steps + 1):
            wanted = {name: fewer.get(name, phases) for name in sides}
            given = {name: next(steps_of) for name, steps_of in feeds.items()}
            records = everywhere(partial(_one_of, sides, given, wanted))
            if number == 1:
                records = {n: (started[n] if "start" in wanted[n] else {}) | record for n, record in records.items()}
                started = {}
            yield Step(number, given, records)
            # Of a whole network they are gigabytes, and the next ones come while these are held. To let go of those that lie in a file
            # takes as long as the disk needs to write it.
            held = [given, records]
            del given, records
            Thread(target=held.clear, daemon=True).start()


def _one_of(
    sides: Mapping[str, tuple[Worker, RunInputs]],
    given: Mapping[str, StepInput],
    wanted: Mapping[str, tuple[str, ...]],
    name: str,
) -> Record:
    return run_step(*sides[name], given[name], wanted[name])


def start_run(worker: Worker, feed: RunInputs) -> None:
    """Builds the side from its feed."""
    worker.start(feed.network, feed.optimizer, feed.state, feed.dtype, slow=feed.keep is not None)
    for patch in feed.patches:
        worker.patch(*patch)


def begun(worker: Worker, feed: RunInputs) -> Record:
    """`start_run`; returns the side's state as it reads it back, as tensors of the phase `start`."""
    start_run(worker, feed)
    kept = {name: array for name, array in worker.state().items() if not name.startswith("optimizer.")}
    return {f"start/{name}": array for name, array in kept.items()}


def run_step(worker: Worker, feed: RunInputs, given: StepInput, phases: tuple[str, ...]) -> Record:
    """One side's step: inference where it is recorded, the momentum buffers rescaled, the update."""
    record: Record = given.record() if "input" in phases else {}
    before = worker.state() if feed.after else {}
    if given.factor != 1.0:
        worker.scale_velocity(given.factor)
    if "eval" in phases:
        record |= {n: a for n, a in worker.predict(given.images, record=True).items() if n != "logits"}
    if "forward" in phases:
        record |= {f"forward/{layer}.mask": mask for layer, mask in given.masks.items()}
    changed = (
        given.keep is not None or feed.after is not None
    )  # then the state after the step is not yet the one that counts
    own = tuple(phase for phase in phases if not (changed and phase == "update"))
    found, cost, wrong = worker.step(given.images, given.labels, given.masks, given.rate, given.divisor, own)
    if "loss" in phases:
        record |= {
            "loss/loss": found.pop("loss").reshape(1),
            "loss/cost": np.array([cost]),
            "loss/wrong": np.array([float(wrong)]),
        }
    if given.keep is not None:
        worker.look_ahead(given.keep, given.number)
        if "update" in phases:
            found |= {f"update/{name}": array for name, array in worker.state().items()}
    return record | found | (changed_after(worker, feed, before, given, phases) if feed.after else {})


def changed_after(worker: Worker, feed: RunInputs, before: Record, given: StepInput, phases: tuple[str, ...]) -> Record:
    """Applies the feed's `after`; returns the changed state as tensors of the phase `update`."""
    assert feed.after
    state = feed.after(before, worker.state(), given)
    worker.load(state, given.number)
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
