"""The check finds every planted fault at the right stage and layer, and reports no innocent change."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest

from parity import data
from parity.backend.worker import Worker
from parity.selftest import trial
from parity.selftest.catalogue import FAULTS
from parity.selftest.innocent_changes import INNOCENT

AREAS = {
    "weights", "layers", "dropout", "bn", "pooling", "init", "loss", "optimizer", "schedule", "data", "augmentation",
    "preprocessing", "conversion", "backward", "resumption", "threads",
}  # fmt: skip

QUICK_FAULTS = [
    "linear_not_transposed", "layers_exchanged", "variance_starts_at_one", "relu_missing", "output_scaled", "upscale_in_train",
    "same_mask_every_step", "eps_of_one_layer", "momentum_convention", "unbiased_variance", "floor_for_ceil", "padding_counts",
    "mean_of_a_short_batch", "gradients_kept", "only_kernels_decay", "velocity_not_rescaled", "rate_not_rounded", "adam_beta2",
    "one_step_late", "same_order_every_pass", "flipped_upside_down", "bgr", "lrn_alpha_of_mean", "same_conv_symmetric",
    "same_pool_symmetric", "branches_exchanged", "log_softmax_over_batch", "heads_do_not_count", "head_missing",
    "backward_fails", "velocity_lost", "threads_fail", "threads_take_first_masks", "adamw_for_adam", "groups_forgotten",
    "shortcut_before_relu", "downsample_not_used", "stride_on_second_conv", "channels_padded_before", "sum_over_input",
]  # fmt: skip
"""At least one of every area; `-m slow` plants all of them, on either side."""

QUICK_INNOCENT = [
    "seed_1", "batch_of_5", "recipe_adam", "recipe_quick", "other_names", "other_reference", "more_threads",
    "network_branching", "relu_in_place_of_relu2", "order_otherwise",
    "network_depthwise", "state_out_and_in", "inference_between", "both_bgr", "both_whole_channels",
    "network_residual", "network_resnet20", "branches_reversed", "sum_in_place_of_block1_add",
]  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("cifar10")


def torch_first(workers: dict[str, Worker]) -> dict[str, Worker]:
    """PyTorch is the reference, as in every check."""
    return {name: workers[name] for name in ("torch", "paddle")}


def pair_of(workers: dict[str, Worker], planted: str) -> dict[str, Worker]:
    """The planted side is second."""
    return {name: workers[name] for name in sorted(workers, key=lambda name: name == planted)}


def test_the_catalogue_has_many_faults_and_innocent_changes_and_covers_every_area() -> None:
    assert len(FAULTS) >= 140
    assert len(INNOCENT) >= 80
    assert {fault.area for fault in FAULTS.values()} == AREAS == {FAULTS[name].area for name in QUICK_FAULTS}
    assert not [name for name, times in Counter(fault.sentence for fault in FAULTS.values()).items() if times > 1]


@pytest.mark.parametrize("name", QUICK_FAULTS)
def test_a_planted_fault_is_found_at_its_place_and_explained(
    name: str, workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    fault, planted = FAULTS[name], ("torch", "paddle")[QUICK_FAULTS.index(name) % 2]
    outcome = trial.plant(fault, torch_first(workers), dataset, planted=planted)
    assert not trial.complaint(fault, outcome, planted)
    assert outcome.verdict == "different"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_is_found_at_its_place_and_explained(
    name: str, framework: str, workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    fault = FAULTS[name]
    outcome = trial.plant(fault, torch_first(workers), dataset, planted=framework)
    assert not trial.complaint(fault, outcome, framework)


def check_innocent(name: str, planted: str, workers: dict[str, Worker], dataset: data.Dataset) -> None:
    change, pair = INNOCENT[name], pair_of(workers, planted)
    if change.threads == 1:
        outcome = trial.innocent(change, pair, dataset)
    else:
        with ExitStack() as stack:
            names = list(pair) if change.everywhere else [planted]
            threaded = {name: stack.enter_context(Worker(name, threads=change.threads)) for name in names}
            outcome = trial.innocent(change, pair | threaded, dataset)
    assert outcome.verdict == "equal", outcome.first and outcome.first.sentence()


@pytest.mark.parametrize("name", QUICK_INNOCENT)
def test_an_innocent_change_is_called_equal(name: str, workers: dict[str, Worker], dataset: data.Dataset) -> None:
    check_innocent(name, "paddle", workers, dataset)


@pytest.mark.slow
@pytest.mark.parametrize("name", INNOCENT)
def test_every_innocent_change_is_called_equal(
    name: str, framework: str, workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    check_innocent(name, framework, workers, dataset)
