"""One comparison from beginning to end: two workers in lock-step, a verdict for every stage, and where they part first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare import causes
from parity.compare.cancellation import Inherited, magnifications
from parity.compare.evidence import Evidence
from parity.compare.isolation import isolate_layers
from parity.compare.lockstep import PHASES, Step, run_in_lockstep
from parity.compare.noise_model import float32_step
from parity.compare.relative_error import Difference, NothingCompared, norm
from parity.compare.step_inputs import RunInputs, make_run_inputs, make_twin
from parity.compare.tolerances import CALM, MANY_STEPS, ONE_STEP, TWIN
from parity.compare.verdicts import (
    CHAOTIC,
    DIFFERENT,
    EQUAL,
    STAGES,
    Divergence,
    Verdicts,
    differences,
    layer_rows,
    weight_distance,
)
from parity.data import Dataset
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import Recipe
from parity.short_repr import ShortRepr
from parity.weights.canonical_state import State

SHORT = 10
"""Steps in which chaos has not been seen to part twins, so that one of them will do."""

REMEMBERED = 2**24
"""Numbers of the largest tensor that is kept for the next step, to tell causes from: VGG's second linear layer, not its first."""

Plant = Callable[[RunInputs], RunInputs]
"""Changes what one side is given: a perturbation that a user asks for, or a planted fault."""


@dataclass(frozen=True, repr=False)
class Check(ShortRepr):
    """What to compare: training `network` by `recipe` on `dataset`, for `steps` steps in `dtype`, and the `stages` wanted.

    `state` is where both sides start (None: fresh weights from the seed).
    """

    network: Network
    recipe: Recipe
    dataset: Dataset
    steps: int = 3
    dtype: str = "float64"
    seed: int = 0
    stages: tuple[str, ...] = tuple(STAGES)
    state: State | None = None

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases to record."""
        wanted = {phase for stage in self.stages for phase in STAGES[stage]}
        return PHASES if "trajectory" in self.stages else tuple(phase for phase in PHASES if phase in wanted)

    @property
    def length(self) -> int:
        """The steps to run: one, unless the trajectory is asked for."""
        return self.steps if "trajectory" in self.stages else 1

    def run_inputs(self, dtype: str | None = None) -> RunInputs:
        """What every side is given."""
        total = self.length * self.recipe.batch_size
        made = make_run_inputs(self.network, self.recipe, self.dataset, self.seed, dtype or self.dtype, total)
        if self.state is None:
            return made
        return replace(made, state={name: array.astype(made.dtype) for name, array in self.state.items()})


Source = Callable[[Check, Mapping[str, Worker], Plant | None, Plant | None], Iterator[Difference]]
"""What compares for a stage that needs more than the workers: check, workers, `plant` and `common` of `run_check` in, differences out."""


@dataclass(repr=False)
class Outcome(ShortRepr):
    """What a check found. `trajectory` holds a row a step: number, rate, error, bound, twin, loss of either side."""

    check: Check
    sides: tuple[str, str]
    verdicts: Verdicts = field(default_factory=Verdicts)
    trajectory: list[dict[str, Any]] = field(default_factory=list)
    isolated: list[dict[str, Any]] | None = None
    seconds: float = 0.0

    @property
    def first(self) -> Divergence | None:
        """Where the sides part first; None if they are equal."""
        return self.verdicts.first

    @property
    def verdict(self) -> str:
        """Of all stages together."""
        found = [stage["verdict"] for stage in self.stages().values()]
        return next((verdict for verdict in (DIFFERENT, CHAOTIC) if verdict in found), EQUAL)

    def layers(self) -> list[dict[str, Any]]:
        """By layer, in the network's order, the largest error at step 1 of every phase, and its bound."""
        found = self.verdicts.layers
        return layer_rows({layer: found[layer] for layer in self.check.network.shapes if layer in found})

    def stages(self) -> dict[str, dict[str, Any]]:
        """The summaries of the stages that were asked for; `NothingCompared` where one saw no tensor."""
        found = self.verdicts.stages
        if missing := [name for name in self.check.stages if name not in found]:
            raise NothingCompared(f"stage {missing[0]} compared nothing")
        return {name: found[name].summary() for name in STAGES if name in self.check.stages}


def run_check(
    check: Check,
    workers: Mapping[str, Worker],
    plant: Plant | None = None,
    common: Plant | None = None,
    isolated: bool = False,
    say: Callable[[str], None] = lambda line: None,
    onnx: Source | None = None,
) -> Outcome:
    """Compares the second of the `workers` with the first; all others, of the first's framework, run one-ULP twins of the first.

    One twin may be lucky: moved along what the network forgets, it stays near for long. The farthest of several is the yardstick.

    `plant` changes what the second side is given, `common` what all are given. `isolated` also compares layer by layer, each on
    the first's input. `say` hears a line a step. `onnx` compares for the stage of that name: `parity.onnx.comparison.compare_through_onnx`.
    """
    started = time.monotonic()
    reference, other, *_ = workers
    outcome = Outcome(check, (reference, other))
    _train(outcome, workers, plant, common, isolated, say)
    if onnx and "onnx" in check.stages:
        for difference in onnx(check, workers, plant, common):
            outcome.verdicts.add(1, difference)
    outcome.seconds = time.monotonic() - started
    return outcome


def _train(
    outcome: Outcome,
    workers: Mapping[str, Worker],
    plant: Plant | None,
    common: Plant | None,
    isolated: bool,
    say: Callable[[str], None],
) -> None:
    """Every stage but `onnx`, and the layers one by one."""
    check, (reference, other, *rest) = outcome.check, workers
    both = common(check.run_inputs()) if common else check.run_inputs()
    inputs_of = {reference: both, other: both}
    if plant:
        inputs_of[other] = plant(inputs_of[other])
    inputs_of |= {name: make_twin(inputs_of[reference], seed, inputs=True) for seed, name in enumerate(rest)}
    sides = {name: (worker, inputs_of[name]) for name, worker in workers.items()}
    if check.phases and check.dtype == "float32":
        exact = replace(check, dtype="float64").run_inputs()
        for _, difference in float32_step(workers, inputs_of, common(exact) if common else exact, check.phases):
            outcome.verdicts.add(1, difference)
    if check.phases and (check.dtype == "float64" or "trajectory" in check.stages):
        watch = _Watch(outcome, inputs_of[reference], rest)
        phases = check.phases if check.dtype == "float64" else ("loss", "update")
        for step in run_in_lockstep(sides, check.length, phases, watch.fewer):
            watch.step(step)
            say(watch.line())
            del step
    if isolated:
        outcome.isolated = isolate_layers(workers, inputs_of, ONE_STEP[check.dtype])


class _Watch:
    """Goes through the steps of one run; remembers only the step before."""

    def __init__(self, outcome: Outcome, run_inputs: RunInputs, twins: Sequence[str]) -> None:
        self.outcome, self.run_inputs, self.twins = outcome, run_inputs, twins
        self.fewer: dict[str, tuple[str, ...]] = dict.fromkeys(twins, ("update",))
        self.before: Record = {}
        self.samples, self.rate, self.carried = 0, 0.0, 0.0
        self.inherited = Inherited(run_inputs.optimizer)
        self.trainable = [name for name, p in run_inputs.network.parameters.items() if p.trainable]

    def step(self, step: Step) -> None:
        names = self.outcome.sides
        step_input = step.inputs[names[0]]
        self.samples += len(step_input.labels)
        first, second = (step.records[name] for name in names)
        if self.run_inputs.dtype == "float64":
            self._tensors(step, first, second)
        if "update" in self.outcome.check.phases:
            self._trajectory(step, first, second)
        # In chaos a third record is in memory, and no cause can be told from rounding.
        self.before = {} if self.parted else _kept(second)
        self.rate = step_input.rate

    @property
    def parted(self) -> str | None:
        """The twin that records everything, as the one that chaos has parted farthest; None while all is calm."""
        return next((name for name in self.twins if name not in self.fewer), None)

    def _tensors(self, step: Step, first: Record, second: Record) -> None:
        names, step_input = self.outcome.sides, step.inputs[self.outcome.sides[0]]
        following = self.run_inputs.rate(self.samples + self.outcome.check.recipe.batch_size)
        rates = (self.rate, step_input.rate, following)
        evidence = Evidence(
            self.run_inputs.network, self.run_inputs.optimizer, step_input, rates, first, second, self.before
        )
        calm = self._calm(step, first, second)
        for difference in differences(self.run_inputs.network, names, step, self._bound(step, calm)):
            self.outcome.verdicts.add(
                step.number,
                difference,
                lambda d: causes.likely_cause(evidence, d.name),
                chaotic=step.number > 1 and calm(difference.name) < difference.error <= difference.bound,
            )

    def _within(self, step: int) -> float:
        """The bound on a tensor of a step where chaos plays no part."""
        one = ONE_STEP[self.run_inputs.dtype]
        return one if step == 1 else max(MANY_STEPS, one * step)

    def _calm(self, step: Step, first: Record, second: Record) -> Callable[[str], float]:
        """The bound on every tensor of a step where chaos plays no part."""
        rate, within = self.rate_of(step), self._within(step.number)
        step_input = step.inputs[self.outcome.sides[0]]
        magnified = magnifications(self.run_inputs.network, first, step_input.labels, step_input.divisor)
        self.inherited.step(magnified, first, second, step_input.factor)

        def bound(name: str) -> float:
            if name.startswith(("start/", "input/")):
                return 0.0  # copied, not computed
            amplified = adam_amplification(self.run_inputs.optimizer, rate, step.number, first, second, name)
            return within * magnified.get(name, 1.0) + amplified + self.inherited.share(name, first)

        return bound

    def _bound(self, step: Step, calm: Callable[[str], float]) -> Callable[[str], float]:
        noise: dict[str, float] = {}
        if self.parted:
            before = self.outcome.trajectory[-1]
            farther = min(TWIN, max(1.0, before["error"] / before["twin"]))
            for d in differences(self.run_inputs.network, (self.outcome.sides[0], self.parted), step, lambda name: 0.0):
                phase = d.name.partition("/")[0]
                noise[phase] = max(noise.get(phase, 0.0), farther * d.error)
        return lambda name: max(calm(name), TWIN * noise.get(name.partition("/")[0], 0.0))

    def _trajectory(self, step: Step, first: Record, second: Record) -> None:
        error = weight_distance(self.trainable, first, second)
        distances = [weight_distance(self.trainable, first, step.records[name]) for name in self.twins]
        farthest_twin = max(distances, default=None)
        losses = {
            name: float(step.records[name]["loss/loss"][0])
            for name in self.outcome.sides
            if "loss/loss" in step.records[name]
        }
        bound = self._within(step.number)
        row = {"step": step.number, "rate": self.rate_of(step), "error": error, "bound": bound, "twin": farthest_twin}
        self.outcome.trajectory.append(row | {"loss": losses})
        self.carried = max(self.carried, self._amplified(step, first, second))
        if farthest_twin is None:
            return
        # In float32 a twin may be lucky: the first ReLU that rounding flips moves the weights as far as many steps of rounding do.
        floor = 0.0 if self.run_inputs.dtype == "float64" else ONE_STEP["float32"] * step.number
        allowed = max(TWIN * farthest_twin + self.carried, floor)
        chaotic = error > max(bound, floor)
        self.outcome.verdicts.add(step.number, Difference("update/weights", error, allowed), chaotic=chaotic)
        if farthest_twin > CALM and self.run_inputs.dtype == "float64":
            farthest = self.twins[distances.index(farthest_twin)]
            self.fewer |= dict.fromkeys(self.twins, ("update",))
            del self.fewer[farthest]

    def _amplified(self, step: Step, first: Record, second: Record) -> float:
        """What Adam's first step may have made of the gradients' rounding, in all weights together; it stays."""
        found = [
            adam_amplification(
                self.run_inputs.optimizer, self.rate_of(step), step.number, first, second, f"update/{name}"
            )
            * norm(first[f"update/{name}"])
            for name in self.trainable
        ]
        return math.hypot(*found) / math.hypot(*(norm(first[f"update/{name}"]) for name in self.trainable))

    def rate_of(self, step: Step) -> float:
        return step.inputs[self.outcome.sides[0]].rate

    def line(self) -> str:
        row = self.outcome.trajectory[-1] if self.outcome.trajectory else {}
        twin_text = f", twin {row['twin']:.1e}" if row.get("twin") is not None else ""
        return f"step {row['step']}: weights apart by {row['error']:.1e}{twin_text}" if row else "step 1"


def _kept(record: Record) -> Record:
    """What the causes of a divergence in the next step are told from.

    Copies: arrays of one message share their memory, and activations, or a single layer of 100 million weights, would stay in it.
    """
    small = {name: array for name, array in record.items() if array.size <= REMEMBERED}
    return {name: array.copy() for name, array in small.items() if name.startswith(("gradient/", "update/"))}


def usual_twins(steps: int) -> int:
    """One-ULP twins beside so many steps, unless somebody says how many."""
    return 1 if steps <= SHORT else 3


def few_images(steps: int, batch: int) -> int:
    """Training images for a check: a pass ends half-way through it, with a batch of half the size."""
    short = batch // 2 if batch >= 4 else 0
    return batch * max(1, steps // 2) + short


def compressed(recipe: Recipe, steps: int) -> Recipe:
    """`recipe` with its schedule squeezed into `steps` steps, so that a check sees the learning rate drop."""
    if recipe.schedule.kind != "discexp" or steps < 2:
        return recipe
    return replace(recipe, schedule=replace(recipe.schedule, every=steps * recipe.batch_size // 2 + 1))


def adam_amplification(
    settings: Optimizer, rate: float, step: int, reference: Record, other: Record, name: str
) -> float:
    """What Adam's first step may make of the gradients' own rounding, relative to the updated parameter `update/NAME`.

    The step is rate * g / (|g| + eps), of slope rate * eps / (|g| + eps)^2: a gradient within 1e-8 of zero has its rounding
    multiplied by up to rate / eps = 1e5 (docs/differences.md). 0 for other optimizers, arrays and steps.
    """
    gradient = name.replace("update/", "gradient/")
    if settings.kind != "adam" or step != 1 or gradient == name or gradient not in reference:
        return 0.0
    a, b = reference[gradient], other.get(gradient)
    if b is None or a.shape != b.shape:  # which is found as such
        return 0.0
    slope = rate * settings.eps / (np.abs(a) + settings.eps) ** 2
    return 2 * float(np.linalg.norm(slope * (b - a)) / np.linalg.norm(reference[name]))
