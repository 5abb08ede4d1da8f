"""The check of one of our networks: train it in both frameworks in lock-step, and compare every tensor of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parity.backend.worker import Worker
from parity.compare import engine
from parity.compare.default_inputs import (
    STEPS,
    add_what_is_missing,
    count_images,
    make_images_hard,
    random_state,
    resumed_step,
    squeeze_schedule,
)
from parity.compare.outcome import Outcome
from parity.compare.program import layer_of
from parity.compare.relative_error import Difference
from parity.compare.step_inputs import RunInputs, make_run_inputs, stored_dtype
from parity.compare.training_source import TrainingSource
from parity.compare.verdicts import PHASES, STAGES
from parity.data import Dataset
from parity.errors import InputError
from parity.network.network import Network
from parity.recipe.precision import DTYPES
from parity.recipe.recipe import Recipe
from parity.short_repr import ShortRepr
from parity.weights.canonical_state import State

SHORT = 10
"""Up to this many steps one twin is enough: no twin has been seen to diverge chaotically."""

MANY_DIGITS = ("trajectory", "onnx")
"""Stages that mixed precision does not have: updates part chaotically after one step, and files hold float32 networks."""

Plant = Callable[[RunInputs], RunInputs]
"""Changes the inputs of one side: a perturbation that a user asks for, or a planted fault."""


@dataclass(frozen=True, repr=False)
class Check(ShortRepr):
    """What to compare: training `network` by `recipe` on `dataset`, for `steps` steps in `dtype`, in the given `stages`.

    Both sides start from `state` (None: fresh weights from the seed). Before step `resumed` (0: never) both save and load their state.
    `added` lists what the inputs add to the recipe.
    """

    network: Network
    recipe: Recipe
    dataset: Dataset
    steps: int = STEPS
    dtype: str = "float64"
    seed: int = 0
    stages: tuple[str, ...] = tuple(STAGES)
    state: State | None = None
    resumed: int = 0
    added: tuple[str, ...] = ()

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases to record."""
        wanted = {phase for stage in self.stages for phase in STAGES[stage]}
        return PHASES if "trajectory" in self.stages else tuple(phase for phase in PHASES if phase in wanted)

    @property
    def length(self) -> int:
        """The number of steps to run: one without the stage trajectory, which mixed precision does not have."""
        return self.steps if "trajectory" in self.stages else 1

    def run_inputs(self, dtype: str | None = None) -> RunInputs:
        """Return the inputs of every side."""
        total = self.length * self.recipe.batch_size
        made = make_run_inputs(self.network, self.recipe, self.dataset, self.seed, dtype or self.dtype, total)
        made = replace(made, resumed=self.resumed)
        if self.state is None:
            return made
        stored = stored_dtype(made.dtype)
        return replace(made, state={name: array.astype(stored) for name, array in self.state.items()})


@dataclass(frozen=True, repr=False)
class SideInputs(ShortRepr):
    """The inputs of both sides of a check: `common` changes them for both, `plant` for the side `planted`."""

    check: Check
    sides: tuple[str, str]
    plant: Plant | None = None
    common: Plant | None = None
    planted: str = ""

    def asked(self, dtype: str, state: State | None = None) -> RunInputs:
        """Return the right inputs in `dtype`, starting from `state` (None: the state of the check)."""
        inputs = self.check.run_inputs(dtype)
        inputs = self.common(inputs) if self.common else inputs
        return inputs if state is None else replace(inputs, state=state)

    def by_side(self, dtype: str, state: State | None = None) -> dict[str, RunInputs]:
        """Return the inputs of each side."""
        both = self.asked(dtype, state)
        changed = self.plant(both) if self.plant else both
        return {side: changed if side == (self.planted or self.sides[1]) else both for side in self.sides}


OnnxComparison = Callable[[SideInputs, Mapping[str, Worker], Callable[[str], None]], Iterator[Difference]]
"""Yields the differences of the stage `onnx`. The function that it gets receives sentences on what was left out."""


@dataclass(repr=False)
class CheckOutcome(Outcome):
    """The result of a check of a network of ours: an `Outcome` with the check itself.

    Attributes:
        check: Network, recipe, data and settings that were checked.
    """

    check: Check = field(kw_only=True)

    def layers(self, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return, by layer in the network's order, the largest error of step 1 in every phase and its tolerance."""
        return super().layers(order or list(self.check.network.shapes))


def run_check(
    check: Check,
    workers: Mapping[str, Worker],
    plant: Plant | None = None,
    common: Plant | None = None,
    isolated: bool = False,
    say: Callable[[str], None] = engine.Silent,
    onnx: OnnxComparison | None = None,
    planted: str = "",
) -> CheckOutcome:
    """Compare the second of the `workers` with the first; all others, of the first's framework, run one-ULP twins of the first.

    One twin may stay near for long, if it moves along what the network forgets. So the farthest of several counts.

    `plant` changes the inputs of one side: the second, or the one that `planted` names. `common` changes the inputs of all. `isolated`
    also compares layer by layer, each on the first's input. `say` receives one line for each step. `onnx` computes the stage `onnx`:
    `parity.onnx.comparison.compare_through_onnx`.
    """
    reference, candidate, *_ = workers
    outcome = CheckOutcome((reference, candidate), check.dtype, check.stages, check=check)

    given = SideInputs(check, (reference, candidate), plant, common, planted)
    asked, inputs_of = given.asked(check.dtype), given.by_side(check.dtype)
    exact = given.by_side("float64")[reference] if check.dtype != "float64" else None
    # In mixed precision, one step is compared with float64, and no weights of later steps.
    steps = check.length if check.phases and check.dtype not in DTYPES.values() else 0
    source = TrainingSource(workers, inputs_of, steps, check.phases, exact, asked)
    more = onnx(given, workers, outcome.explained.append) if onnx and "onnx" in check.stages else ()

    def with_layer(difference: Difference) -> tuple[Difference, str]:
        layer = layer_of(difference.name.partition("/")[2])
        return difference, layer if layer in check.network.shapes else ""

    engine.run(source, outcome, isolated, say, map(with_layer, more))
    return outcome


def usual_twins(steps: int, dtype: str = "float64") -> int:
    """Return the default number of one-ULP twins for a run of `steps` steps.

    In float32 twins diverge within a few steps, some farther than others. In mixed precision, both sides are their own twins.
    """
    if dtype in DTYPES.values():
        return 0
    return 1 if steps <= SHORT and (dtype == "float64" or steps < 2) else 3


RANDOM_START = "no array at the start is constant"
"""What `draw_start` adds to the inputs."""


def make_check(network: Network, recipe: Recipe, dataset: Dataset, plain: bool = False, **fields: Any) -> Check:
    """Return the check of training `network` by `recipe` on the first images of `dataset`; `fields` are further fields of `Check`.

    Unless it is `plain`, the inputs come from `parity.compare.default_inputs`: they show more faults.
    """
    return draw_start(plan_check(network, recipe, dataset, plain, **fields))


def plan_check(network: Network, recipe: Recipe, dataset: Dataset, plain: bool = False, **fields: Any) -> Check:
    """Return what `make_check` returns, still without the state at its start, which takes as much memory as the weights."""
    added: list[str] = []
    if not plain:
        recipe, added = add_what_is_missing(recipe)
    check = Check(network, recipe, dataset, **fields)
    if check.dtype in DTYPES.values():
        check = replace(check, stages=tuple(stage for stage in check.stages if stage not in MANY_DIGITS))
        if not check.stages:
            raise InputError(
                f"{check.dtype} has no stage {' or '.join(MANY_DIGITS)}: leave out --stages, or pass --dtype float64"
            )
    few = min(count_images(check.length, recipe.batch_size), len(dataset.train_labels))
    check = replace(check, dataset=dataset.limit(few, 1), recipe=squeeze_schedule(recipe, check.length))
    if plain:
        return check
    resumed = resumed_step(check.length)
    added += [f"both sides save and load their state before step {resumed}"] if resumed else []
    added += [RANDOM_START, "one image has a loss of 100 nats"] if check.state is None else []
    return replace(check, resumed=resumed, added=tuple(added))


def draw_start(check: Check) -> Check:
    """Return `check` with the state at its start, if its inputs are to have a random one."""
    if check.state is not None or RANDOM_START not in check.added:
        return check
    _, labels = next(check.run_inputs().epoch(0))
    start = make_images_hard(random_state(check.network, check.seed), check.network, int(labels[0]))
    return replace(check, state=start)
