"""Muon: which parameters it updates, and that it leaves no state behind. `test_layers.py` tests its formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity import data
from parity.backend.worker import Worker
from parity.compare.program import Program
from parity.compare.step_inputs import make_run_inputs
from parity.errors import InputError
from parity.network import articles
from parity.recipe import precision, presets
from parity.recipe.optimizer import Group, Optimizer
from parity.recipe.recipe import changed
from parity.weights.canonical_state import initialise

NETWORK, RECIPE = articles.get_network("vgg_fast@0.125"), changed(presets.get_recipe("fast"), batch_size=8)
KERNELS = [f"conv{block}_{i}.weight" for block in (1, 2, 3) for i in (1, 2)]


def test_muon_updates_trained_kernels_and_momentum_the_rest() -> None:
    settings = RECIPE.optimizer
    assert list(settings.by_muon(NETWORK)) == KERNELS
    others = [name for names, _, _ in settings.grouped(NETWORK) for name in names]
    assert sorted([*others, *KERNELS]) == sorted(n for n, p in NETWORK.parameters.items() if p.trainable)
    assert (settings.momentum_of("conv1_1.weight"), settings.momentum_of("fc.weight")) == (
        np.float32(0.6),
        np.float32(0.85),
    )


def test_kernels_keep_their_norm_and_steps_are_nearly_orthogonal(worker: Worker) -> None:
    given = make_run_inputs(NETWORK, RECIPE, data.load("shapes10").limit(16, 8), 0)
    Program(worker, given).start()
    step = next(given.steps())
    record = Program(worker, given).step(step, ("update",))
    for name in KERNELS:
        before, after = (array.reshape(len(array), -1) for array in (given.state[name], record[f"update/{name}"]))
        kept = before * np.sqrt(len(before)) / np.linalg.norm(before)
        values = np.linalg.svd((kept - after) / (step.rate / 8), compute_uv=False)
        assert values.max() < 1.3 and np.median(values) > 0.3, name


def test_gradients_without_an_update_are_not_added_to_the_next(worker: Worker) -> None:
    given = make_run_inputs(NETWORK, RECIPE, data.load("shapes10").limit(16, 8), 0)
    found = []
    for asked in (False, True):
        Program(worker, given).start()
        step = next(given.steps())
        if asked:
            worker.l2_gradients(step.images, {})
        found.append(Program(worker, given).step(step, ("gradient",)))
    first, second = found
    assert set(KERNELS) <= {name.removeprefix("gradient/") for name in first}
    # Running statistics have changed, but training does not use them.
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Group("conv.weight", muon=3), "so weight_decay must be 0"),
        (lambda: Group("conv.weight", 1.0, 0.0, muon=-1), "muon must be at least 0"),
        (lambda: Group("conv.weight", 1.0, 0.0, muon=3, momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda: Optimizer("adam", 0.1, groups=RECIPE.optimizer.groups), "with a momentum above 0"),
        (lambda: Optimizer("momentum", 0.1, 0.0, groups=RECIPE.optimizer.groups), "with a momentum above 0"),
        (lambda: precision.check("fp16", RECIPE.optimizer), "use --amp bf16"),
        (lambda: _of("fc.weight").by_muon(NETWORK), "not fc.weight"),
    ],
)
def test_parameters_that_muon_cannot_update_are_refused(made: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()


def test_a_worker_refuses_muon_for_a_parameter_that_is_no_kernel(worker: Worker) -> None:
    worker.start(NETWORK, _of("fc.weight"), initialise(NETWORK, 0))
    given = next(make_run_inputs(NETWORK, RECIPE, data.load("shapes10").limit(16, 8), 0).steps())
    with pytest.raises(InputError, match="muon can update kernels"):
        worker.step(given.images, given.labels, given.masks, 0.1, 8)


def _of(names: str) -> Optimizer:
    return replace(RECIPE.optimizer, groups=(Group(names, 1.0, 0.0, muon=3),))
