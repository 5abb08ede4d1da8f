"""Judges hand-made records of two sides with the comparison engine, without workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.compare.judge import Judge
from parity.compare.outcome import Outcome
from parity.compare.program import PHASES, Step
from parity.compare.step_inputs import StepInput, make_run_inputs
from parity.compare.training_source import TrainingSource, TrainingStep
from parity.compare.verdicts import TRAINING
from parity.data import shapes10
from parity.network.network import Network
from parity.recipe.presets import RECIPES

Record = dict[str, np.ndarray]


def judge_records(
    network: Network, records: Mapping[str, Record], step_input: StepInput | None = None
) -> tuple[Outcome, dict[str, float]]:
    """The judge's result for the `records` of one step, by side; and the tensors that it calls different, with their errors."""
    dataset = shapes10.load(None, lambda line: None).limit(8, 1)
    given = make_run_inputs(network, RECIPES["article"], dataset, 0)
    workers: dict[str, Any] = dict.fromkeys(records)
    source = TrainingSource(workers, dict.fromkeys(records, given), 1, PHASES)
    if step_input is None:
        step_input = StepInput(1, np.zeros((2, *network.input_shape)), np.zeros(2, np.int64), {}, 0.1, 2, 1.0)
    outcome = Outcome(source.sides, "float64", TRAINING)
    judge = Judge(source, outcome)
    judge.step(TrainingStep(source, Step(1, dict.fromkeys(records, step_input), records), None))
    return outcome, {difference.name: difference.error for difference, _ in judge.diverged}
