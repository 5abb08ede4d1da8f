"""The criterion of each other tool accepts and rejects what the tool would, for the tool's reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from parity.selftest.other_criteria import (
    ALLCLOSE,
    CRITERIA,
    PADIFF,
    PADIFF_README,
    PADIFF_STRICT,
    REPROD_LOG,
    REPROD_LOG_TUTORIAL,
    UNCHANGED,
    Criterion,
    RecordedPair,
)

Steps = list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


def record(step: int) -> dict[str, np.ndarray]:
    """One side's step of a conv, a batch norm and a linear layer, with arbitrary numbers."""
    draw = np.random.default_rng(step)

    def some(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) + 0.5).astype(np.float32)

    shapes = {
        "conv.weight": (3, 2, 3, 3),
        "conv.bias": (3,),
        "bn.gamma": (3,),
        "bn.beta": (3,),
        "fc.weight": (6, 3),
        "fc.bias": (6,),
    }
    statistics = {"bn.mean": (3,), "bn.variance": (3,)}
    found = {f"start/{name}": some(*shape) for name, shape in (shapes | statistics).items()} if step == 1 else {}
    found |= {"input/images": some(4, 2, 5, 5), "input/labels": np.array([0, 1, 2, 3]), "input/rate": np.array(0.1)}
    for phase in ("eval", "forward"):
        found |= {f"{phase}/conv": some(4, 3, 5, 5), f"{phase}/bn": some(4, 3, 5, 5), f"{phase}/fc": some(4, 6)}
    found |= {"loss/loss": np.array([2.3], np.float32), "backward/conv": some(4, 3, 5, 5)}
    found |= {f"gradient/{name}": some(*shape) for name, shape in shapes.items()}
    return found | {f"update/{name}": some(*shape) for name, shape in (shapes | statistics).items()}


@pytest.fixture
def steps() -> Steps:
    return [(record(number), record(number)) for number in range(1, 6)]


def run(steps: Steps, area: str = UNCHANGED) -> RecordedPair:
    return RecordedPair(steps, "fc", area)


def verdicts(steps: Steps, area: str = UNCHANGED) -> set[str]:
    return {criterion.name for criterion in CRITERIA if criterion.judge(run(steps, area))}


def add(steps: Steps, name: str, amount: float | np.ndarray, step: int = 1) -> None:
    steps[step - 1][1][name] = (steps[step - 1][1][name] + amount).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ all of them


def test_equal_records_are_called_equal_by_all(steps: Steps) -> None:
    assert verdicts(steps) == set()


def test_an_offset_of_every_output_is_called_different_by_all(steps: Steps) -> None:
    for phase in ("eval", "forward"):
        add(steps, f"{phase}/fc", 0.1)
    assert verdicts(steps) == {criterion.name for criterion in CRITERIA}


def test_the_records_are_not_changed(steps: Steps) -> None:
    before = copy.deepcopy(steps)
    verdicts(steps)
    for pair, kept in zip(steps, before, strict=True):
        for side, old in zip(pair, kept, strict=True):
            assert all(np.array_equal(side[name], old[name]) for name in side | old)


@pytest.mark.parametrize(
    ("criterion", "unseen"),
    [
        (PADIFF, "weights init conversion dropout loss optimizer schedule data augmentation preprocessing"),
        (REPROD_LOG, "init augmentation"),
        (ALLCLOSE, "init loss optimizer schedule data augmentation preprocessing"),
    ],
)
def test_a_change_where_the_tool_does_not_look_is_not_noticed(steps: Steps, criterion: Criterion, unseen: str) -> None:
    for pair in steps:
        for name in pair[1]:
            pair[1][name] = pair[1][name] + 1
    assert criterion.judge(run(steps))
    assert {area for area in unseen.split() if criterion.judge(run(steps, area))} == set()
    assert criterion.judge(run(steps, "layers"))


def test_an_unknown_area_is_an_error(steps: Steps) -> None:
    with pytest.raises(ValueError, match="unknown area 'optimiser'"):
        run(steps, "optimiser")


def test_a_run_without_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="without steps"):
        run([])


@pytest.mark.parametrize("name", ["eval/conv", "forward/conv", "backward/conv", "update/conv.weight", "update/bn.mean"])
def test_no_criterion_looks_at_inner_layers_updated_weights_or_statistics(steps: Steps, name: str) -> None:
    add(steps, name, 1.0)
    assert verdicts(steps) == set()


# ----------------------------------------------------------------------------------------------------------------- PaDiff


def reverse(array: np.ndarray) -> np.ndarray:
    return array[..., ::-1].copy()


@pytest.mark.parametrize("name", ["forward/fc", "gradient/conv.weight"])
def test_padiff_passes_a_tensor_whose_values_are_in_the_wrong_places(steps: Steps, name: str) -> None:
    steps[0][1][name] = reverse(steps[0][1][name])
    assert not PADIFF_README.judge(run(steps))
    assert PADIFF_STRICT.judge(run(steps))


def test_padiff_passes_differences_that_cancel(steps: Steps) -> None:
    add(steps, "forward/fc", np.array([1, -1, 1, -1, 1, -1]))
    assert not PADIFF_README.judge(run(steps))


def test_padiff_passes_an_output_of_another_shape(steps: Steps) -> None:
    steps[0][1]["forward/fc"] = steps[0][1]["forward/fc"].T
    assert not PADIFF_README.judge(run(steps))


def test_padiff_by_default_fails_two_ulps_of_a_mean(steps: Steps) -> None:
    for side, value in enumerate((1.0, 1.0 + 2**-22)):
        steps[0][side]["forward/fc"] = np.full((4, 6), value, np.float32)
    assert PADIFF.judge(run(steps))
    assert not PADIFF_README.judge(run(steps))


def test_padiff_takes_two_nan_for_equal_but_not_one(steps: Steps) -> None:
    add(steps, "forward/fc", np.nan)
    assert PADIFF.judge(run(steps))
    steps[0][0]["forward/fc"] = steps[0][1]["forward/fc"]
    assert not PADIFF.judge(run(steps))


def test_padiff_compares_one_step_of_training_mode(steps: Steps) -> None:
    for name in ("forward/fc", "gradient/fc.weight"):
        add(steps, name, 1.0, step=2)
    add(steps, "eval/fc", 1.0)
    assert not PADIFF.judge(run(steps))


def test_padiff_does_not_see_the_loss_but_every_gradient(steps: Steps) -> None:
    add(steps, "loss/loss", 1.0)
    assert not PADIFF.judge(run(steps))
    add(steps, "gradient/bn.beta", 0.1)
    assert PADIFF_README.judge(run(steps, "bn"))


def drop(steps: Steps, name: str, phases: tuple[str, ...] = ("start", "gradient", "update")) -> None:
    for phase in phases:
        del steps[0][1][f"{phase}/{name}"]


def test_padiff_cuts_the_longer_list_of_a_layers_parameters(steps: Steps) -> None:
    drop(steps, "conv.bias")
    assert not PADIFF.judge(run(steps))


def test_padiff_pairs_what_is_left_when_a_weight_is_missing(steps: Steps) -> None:
    drop(steps, "conv.weight")
    assert PADIFF.judge(run(steps))


def test_padiff_fails_a_gradient_that_only_one_side_has(steps: Steps) -> None:
    drop(steps, "conv.bias", ("gradient",))
    assert PADIFF.judge(run(steps))


def test_padiff_fails_a_missing_layer_with_parameters(steps: Steps) -> None:
    for name in ("bn.gamma", "bn.beta"):
        drop(steps, name)
    assert PADIFF.judge(run(steps))


def test_padiff_fails_a_gradient_of_another_shape_with_the_same_mean(steps: Steps) -> None:
    steps[0][1]["gradient/fc.weight"] = steps[0][1]["gradient/fc.weight"].reshape(3, 6)
    assert PADIFF_README.judge(run(steps))


def test_means_that_cross_entropy_makes_zero_do_not_count_against_padiff(steps: Steps) -> None:
    for side, noise in zip(steps[0], (1e-9, -1e-9), strict=True):
        side["gradient/fc.bias"] = np.array([1, -1, 2, -2, 3, -3 + noise], np.float32)
    assert not PADIFF.judge(run(steps))


# ------------------------------------------------------------------------------------------------------------- reprod_log


@pytest.mark.parametrize(("share", "seen"), [(1.0, True), (0.01, False)])
def test_reprod_log_passes_a_difference_that_its_mean_dilutes(steps: Steps, share: float, seen: bool) -> None:
    for side in steps[0]:
        side["input/images"] = np.zeros((4, 2, 50, 50), np.float32)
    wrong = np.zeros(20_000, np.float32)
    wrong[: int(share * wrong.size)] = 2e-6
    add(steps, "input/images", wrong.reshape(4, 2, 50, 50))
    assert REPROD_LOG.judge(run(steps, "preprocessing")) is seen


def test_reprod_log_does_not_let_differences_cancel(steps: Steps) -> None:
    add(steps, "eval/fc", np.array([1, -1, 1, -1, 1, -1]))
    assert REPROD_LOG.judge(run(steps, "layers"))


def test_reprod_log_passes_nan(steps: Steps) -> None:
    for name in ("eval/fc", "loss/loss"):
        add(steps, name, np.nan)
    for side in steps[0]:
        side["input/labels"] = np.full(4, 7)  # no image is right, so accuracy says nothing
    assert not REPROD_LOG.judge(run(steps, "layers"))


def test_reprod_log_transposes_what_looks_transposed(steps: Steps) -> None:
    for pair in steps:
        del pair[0]["input/labels"], pair[1]["input/labels"]
    steps[0][1]["eval/fc"] = steps[0][1]["eval/fc"].T
    assert not REPROD_LOG.judge(run(steps, "layers"))


def test_reprod_log_fails_names_that_only_one_side_has(steps: Steps) -> None:
    del steps[0][1]["eval/fc"]
    assert REPROD_LOG.judge(run(steps, "layers"))


def test_reprod_log_fails_shapes_that_do_not_broadcast(steps: Steps) -> None:
    steps[0][1]["eval/fc"] = steps[0][1]["eval/fc"][:, :5]
    assert REPROD_LOG.judge(run(steps, "layers"))


def test_reprod_log_does_not_see_gradients(steps: Steps) -> None:
    add(steps, "gradient/conv.weight", 1.0)
    assert not REPROD_LOG.judge(run(steps, "layers"))


@pytest.mark.parametrize(
    ("step", "guide", "tutorial"), [(1, True, True), (2, True, True), (3, False, True), (4, False, False)]
)
def test_reprod_log_sees_the_losses_of_its_few_steps(steps: Steps, step: int, guide: bool, tutorial: bool) -> None:
    add(steps, "loss/loss", 1e-4, step)
    assert REPROD_LOG.judge(run(steps, "optimizer")) is guide
    assert REPROD_LOG_TUTORIAL.judge(run(steps, "optimizer")) is tutorial


def test_reprod_log_sees_the_rate_of_every_step(steps: Steps) -> None:
    add(steps, "input/rate", 1e-3, step=5)
    assert REPROD_LOG.judge(run(steps, "schedule"))


@pytest.mark.parametrize("area", ["dropout", "bn"])
def test_reprod_log_does_not_see_what_only_training_mode_does(steps: Steps, area: str) -> None:
    add(steps, "forward/fc", 0.1)
    add(steps, "loss/loss", 0.1)
    assert not REPROD_LOG.judge(run(steps, area))
    add(steps, "eval/fc", 0.1)
    assert REPROD_LOG.judge(run(steps, area))


def test_reprod_log_still_reads_the_losses_when_training_outputs_differ_by_rounding(steps: Steps) -> None:
    add(steps, "forward/fc", 3e-6)
    add(steps, "loss/loss", 1e-3)
    assert REPROD_LOG.judge(run(steps, "loss"))


def wrong_images(steps: Steps) -> None:
    add(steps, "input/images", 0.1, step=3)


def wrong_labels(steps: Steps) -> None:
    logits = np.eye(4, 6, dtype=np.float32)
    for side in steps[0]:
        side["eval/fc"] = logits
    steps[0][1]["input/labels"] = np.array([1, 2, 3, 4])


@pytest.mark.parametrize("fault", [wrong_images, wrong_labels])
def test_reprod_log_sees_images_directly_and_labels_through_the_accuracy(
    steps: Steps, fault: Callable[[Steps], None]
) -> None:
    fault(steps)
    assert REPROD_LOG.judge(run(steps, "data"))


def test_reprod_log_feeds_made_up_data_so_reading_faults_reach_no_output(steps: Steps) -> None:
    add(steps, "eval/fc", 1e-3)
    add(steps, "loss/loss", 0.1)
    assert not REPROD_LOG.judge(run(steps, "preprocessing"))


def test_the_tutorial_allows_the_logits_ten_times_as_much(steps: Steps) -> None:
    add(steps, "eval/fc", 4e-6)
    assert REPROD_LOG.judge(run(steps, "layers"))
    assert not REPROD_LOG_TUTORIAL.judge(run(steps, "layers"))


# --------------------------------------------------------------------------------------------------------------- allclose


def test_allclose_sees_one_wrong_value(steps: Steps) -> None:
    wrong = np.zeros((4, 6))
    wrong[2, 3] = 1e-3
    add(steps, "eval/fc", wrong)
    assert ALLCLOSE.judge(run(steps, "conversion"))


def test_allclose_allows_1e5_absolute_and_relative(steps: Steps) -> None:
    for side, value in enumerate((1.0, 1.0 + 1.5e-5)):
        steps[0][side]["eval/fc"] = np.full((4, 6), value, np.float32)
    assert not ALLCLOSE.judge(run(steps))
    steps[0][1]["eval/fc"] = np.full((4, 6), 1.0 + 3e-5, np.float32)
    assert ALLCLOSE.judge(run(steps))


def test_allclose_fails_nan_and_another_shape(steps: Steps) -> None:
    good = steps[0][1]["eval/fc"]
    for wrong in (np.full_like(good, np.nan), good[:1]):
        steps[0][1]["eval/fc"] = wrong
        assert ALLCLOSE.judge(run(steps))


def test_allclose_looks_at_inference_before_the_first_update_only(steps: Steps) -> None:
    add(steps, "eval/fc", 1.0, step=2)
    for name in ("forward/fc", "loss/loss", "gradient/fc.weight"):
        add(steps, name, 1.0)
    assert not ALLCLOSE.judge(run(steps))
