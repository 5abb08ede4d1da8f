"""Causes of updates respect the parameter's group: its factors of learning rate and weight decay, its momentum, Muon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity import data
from parity.backend.worker import Worker
from parity.compare.causes_of_updates import update_hypotheses
from parity.compare.check import Check, run_check
from parity.compare.evidence import Evidence
from parity.compare.expected import expected_tensor
from parity.compare.program import Program, run_in_lockstep
from parity.compare.relative_error import distance
from parity.network import articles
from parity.recipe.optimizer import Group, Optimizer
from parity.recipe.presets import RECIPES
from parity.recipe.recipe import changed
from parity.selftest import changes

FAST = RECIPES["fast"]
GROUPED = Optimizer(
    "momentum",
    rate=0.01,
    nesterov=True,
    weight_decay=1e-3,
    groups=(Group("conv*.weight", 1 / 4, 8.0), Group("*.beta", 2.0)),
)
"""Kernels in a group without Muon."""

OPTIMIZERS = {
    "fast": FAST.optimizer,
    "best": RECIPES["best"].optimizer,
    "grouped": GROUPED,
    "adam": replace(GROUPED, kind="adam", nesterov=False, rate=1e-3),
}


def check(optimizer: str, steps: int = 3) -> Check:
    """A run of a network with parameters in groups of `optimizer`."""
    network = articles.get_network("vgg_fast@0.125" if OPTIMIZERS[optimizer].label_smoothing else "vgg_mini@0.0625")
    recipe = changed(replace(FAST, optimizer=OPTIMIZERS[optimizer]), batch_size=8)
    return Check(network, recipe, data.load("shapes10").limit(20, 1), steps)


def group(optimizer: str, names: str, **fields: Any) -> changes.Change:
    """Change fields of one group of an optimizer."""
    groups = tuple(replace(g, **fields) if g.names == names else g for g in OPTIMIZERS[optimizer].groups)
    return changes.settings(groups=groups)


KERNEL, BETA, WHITE = "conv1_1", "bn1_1", "white"
FAULTS: dict[str, tuple[str, changes.Change, str, str]] = {
    "kernels without momentum": ("fast", group("fast", "conv*.weight", momentum=0.0), KERNEL, "no momentum"),
    "kernels with the momentum of the rest": (
        "fast",
        group("fast", "conv*.weight", momentum=0.85),
        KERNEL,
        "uses the momentum 0.85 of the other parameters",
    ),
    "kernels by momentum": ("best", group("best", "conv*.weight", muon=0), KERNEL, "updates by momentum"),
    "five steps of Muon": ("best", group("best", "conv*.weight", muon=5), KERNEL, "takes 5 Newton-Schulz steps"),
    "Muon without the group's rate": (
        "fast",
        group("fast", "conv*.weight", rate=1.0),
        KERNEL,
        "factor 0.125 of the learning",
    ),
    "no weight decay in fast": ("fast", changes.settings(weight_decay=0.0), "fc", "no weight decay"),
    "plain instead of Nesterov in fast": ("fast", changes.settings(nesterov=False), WHITE, "plain momentum"),
    "all of the weight decay in fast": (
        "fast",
        group("fast", "*.beta", weight_decay=1.0),
        BETA,
        "factor 0.015625 of the weight decay",
    ),
    "no weight decay": ("grouped", changes.settings(weight_decay=0.0), KERNEL, "no weight decay"),
    "plain instead of Nesterov": ("grouped", changes.settings(nesterov=False), KERNEL, "plain momentum"),
    "no momentum": ("grouped", changes.settings(momentum=0.0, nesterov=False), KERNEL, "no momentum"),
    "without the group's rate": (
        "grouped",
        group("grouped", "conv*.weight", rate=1.0),
        KERNEL,
        "factor 0.25 of the learning",
    ),
    "the rate of the next step": (
        "fast",
        changes.rates(lambda right, s: right(s + 8)),
        WHITE,
        "already uses the learning rate of the next step",
    ),
    "Adam's eps": ("adam", changes.settings(eps=1e-7), KERNEL, "eps 1e-07"),
    "Adam without decay": ("adam", changes.settings(weight_decay=0.0), KERNEL, "no weight decay"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_in_a_group_is_found_there_and_named(name: str, workers: dict[str, Worker]) -> None:
    optimizer, change, layer, cause = FAULTS[name]
    checked = check(optimizer)
    first = run_check(checked, workers, change(checked)).first
    assert first
    assert (first.phase, first.layer) == ("update", layer)
    assert cause in (first.cause or ""), first.sentence()
    assert first.wrong == "PyTorch"  # the second of the workers
    assert "plain" in cause or "no momentum" in cause or ", or " not in (first.cause or "")


def test_labels_that_are_not_smoothed_are_named(workers: dict[str, Worker]) -> None:
    checked = check("fast", 1)
    first = run_check(checked, workers, changes.settings(label_smoothing=0.0)(checked)).first
    assert first and first.phase == "loss"
    assert first.cause == "PyTorch's loss does not smooth the labels, Paddle's smooths them by 0.2"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_mistake_explains_a_right_update(optimizer: str, worker: Worker) -> None:
    checked = check(optimizer)
    inputs, before = checked.run_inputs(), {}
    rates: Callable[[int], float] = inputs.rate
    for step in run_in_lockstep({"one": Program(worker, inputs)}, 2, ("gradient", "update")):
        given, record = step.inputs["one"], step.records["one"]
        around = (rates(8 * step.number - 8), given.rate, rates(8 * step.number + 8))
        asked = (inputs.network, inputs.optimizer, inputs.state, inputs.seed, given, around)
        evidence = Evidence(*asked, ("one", "other"), (record, record), (before, before))
        trained = [name for name, p in inputs.network.parameters.items() if p.trainable]
        if before:
            for name in (f"update/{parameter}" for parameter in trained):
                assert distance(expected_tensor(evidence, record, name), record[name]) < 1e-12, name
            found = {name: [h.sentence for h in update_hypotheses(evidence, record, name)] for name in trained}
            assert found == {name: ["{wrong} does not update {it}, {right} does"] for name in trained}
        before = {name: np.array(array) for name, array in record.items()}
    assert before
