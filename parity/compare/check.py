"""The check of a network of ours: train it in both frameworks in lock-step, and compare every tensor of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parity.backend.worker import Worker
from parity.compare import engine
from parity.compare.outcome import Outcome
from parity.compare.program import layer_of
from parity.compare.relative_error import Difference
from parity.compare.step_inputs import RunInputs, make_run_inputs
from parity.compare.training_source import TrainingSource
from parity.compare.verdicts import PHASES, STAGES
from parity.data import Dataset
from parity.network.network import Network
from parity.recipe.recipe import Recipe
from parity.short_repr import ShortRepr
from parity.weights.canonical_state import State

SHORT = 10
"""Steps in which twins have not been seen to diverge chaotically, so that one of them will do."""

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


OnnxComparison = Callable[["Check", Mapping[str, Worker], Plant | None, Plant | None], Iterator[Difference]]
"""What compares for the stage `onnx`: check, workers, `plant` and `common` of `run_check` in, differences out."""


@dataclass(repr=False)
class CheckOutcome(Outcome):
    """What a check found."""

    check: Check = field(kw_only=True)

    def layers(self, order: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """By layer, in the network's order, the largest error of step 1 in every phase and its tolerance."""
        return super().layers(order or list(self.check.network.shapes))


def run_check(
    check: Check,
    workers: Mapping[str, Worker],
    plant: Plant | None = None,
    common: Plant | None = None,
    isolated: bool = False,
    say: Callable[[str], None] = engine.Silent,
    onnx: OnnxComparison | None = None,
) -> CheckOutcome:
    """Compares the second of the `workers` with the first; all others, of the first's framework, run one-ULP twins of the first.

    One twin may be lucky: moved along what the network forgets, it stays near for long. The farthest of several is the yardstick.

    `plant` changes what the second side is given, `common` what all are given. `isolated` also compares layer by layer, each on
    the first's input. `say` hears a line a step. `onnx` compares for the stage of that name: `parity.onnx.comparison.compare_through_onnx`.
    """
    reference, candidate, *_ = workers
    outcome = CheckOutcome((reference, candidate), check.dtype, check.stages, check=check)

    def given(dtype: str) -> RunInputs:
        return common(check.run_inputs(dtype)) if common else check.run_inputs(dtype)

    both = given(check.dtype)
    inputs_of = {reference: both, candidate: plant(both) if plant else both}
    exact = given("float64") if check.dtype == "float32" else None
    source = TrainingSource(workers, inputs_of, check.length if check.phases else 0, check.phases, exact)
    more = onnx(check, workers, plant, common) if onnx and "onnx" in check.stages else ()

    def with_layer(difference: Difference) -> tuple[Difference, str]:
        layer = layer_of(difference.name.partition("/")[2])
        return difference, layer if layer in both.network.shapes else ""

    engine.run(source, outcome, isolated, say, map(with_layer, more))
    return outcome


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
