"""The check itself: its verdicts, what it must never pass, and differences of the frameworks that it must handle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from helpers.judged_records import judge_records
from parity import data
from parity.backend.child_process import WorkerFailed
from parity.backend.worker import Worker
from parity.compare.check import Check, run_check
from parity.compare.judge import Judge
from parity.compare.noise_model import rounded_differences
from parity.compare.outcome import Outcome
from parity.compare.program import PHASES, Program, Step, in_order, run_in_lockstep
from parity.compare.relative_error import Difference, NothingCompared, relative_l2
from parity.compare.source import Rounded
from parity.compare.step_inputs import dithered, make_run_inputs, make_twin
from parity.compare.tolerances import MOVED, TWIN
from parity.compare.training_source import TrainingSource
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, OF_OPTIMIZERS, TRAINING
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import MaxPool
from parity.onnx.comparison import compare_through_onnx
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.selftest import changes
from parity.selftest.subject import RESIDUAL, network, subject


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("cifar10").limit(64, 1)


@pytest.fixture(scope="module")
def three(workers: dict[str, Worker]) -> Iterator[dict[str, Worker]]:
    with Worker("torch", threads=1) as twin_worker:
        yield {"torch": workers["torch"], "paddle": workers["paddle"], "twin": twin_worker}


# ---------------------------------------------------------------------------------------- equal and different


def test_both_frameworks_train_alike_and_every_stage_counts_its_tensors(
    three: dict[str, Worker], dataset: data.Dataset
) -> None:
    outcome = run_check(subject(dataset), three)
    assert outcome.verdict == EQUAL
    stages = outcome.summaries()
    assert list(stages) == list(TRAINING)
    for stage in stages.values():
        assert stage["compared"] > 1 and 0 < stage["max_error"] <= stage["bound"]
    assert [row["step"] for row in outcome.trajectory] == [1, 2, 3, 4, 5, 6]
    assert all(0 < row["twin"] < 1e-12 for row in outcome.trajectory)
    for row in outcome.trajectory:  # the applied tolerance, not 1e-10
        assert row["bound"] == pytest.approx(TWIN * row["twin"] + MOVED * row["moved"], rel=1e-6)


def test_every_layer_has_errors_and_tolerances_in_the_order_of_the_network(
    workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    rows = run_check(replace(subject(dataset), stages=("eval", "forward", "backward")), workers).layers()
    assert [row["layer"] for row in rows] == list(network().shapes)
    for row in rows:
        assert set(row["errors"]) == set(row["bounds"]) >= {"eval", "forward", "backward"}


def test_weights_ten_times_farther_than_the_twin_are_different(three: dict[str, Worker], dataset: data.Dataset) -> None:
    # Below the tolerance of every single tensor, and far above the rounding of the weights.
    planted = changes.perturbed("fc3:output:5e-13", network())
    outcome = run_check(subject(dataset), three, planted)
    assert outcome.first is not None
    assert outcome.first.tensor == "weights"


@pytest.mark.slow
def test_the_farthest_of_several_twins_counts(three: dict[str, Worker], dataset: data.Dataset) -> None:
    one = run_check(subject(dataset), three).trajectory
    with Worker("torch", threads=1) as second, Worker("torch", threads=1) as third:
        more = run_check(subject(dataset), three | {"second twin": second, "third twin": third}).trajectory
    assert all(row["twin"] >= alone["twin"] for row, alone in zip(more, one, strict=True))
    assert any(row["twin"] > alone["twin"] for row, alone in zip(more, one, strict=True))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("", "article"),
        pytest.param("", "adam", marks=pytest.mark.slow),
        pytest.param("vgg_mini@0.25", "adam", marks=pytest.mark.slow),
    ],
)
def test_one_rounded_step_is_within_the_noise_model(
    name: str, recipe: str, three: dict[str, Worker], dataset: data.Dataset
) -> None:
    """The network is that of `subject`, or a known one of this `name`."""
    check = subject(dataset, recipe, dtype="float32")
    if name:
        how = changed(presets.get_recipe(recipe), batch_size=8)
        check = Check(articles.get_network(name), how, dataset, 2, "float32")
    outcome = run_check(check, three, onnx=compare_through_onnx)
    assert outcome.verdict in (EQUAL, CHAOTIC), outcome.first
    assert outcome.summaries()["backward"]["bound"] > 1e-7


@pytest.mark.parametrize(
    ("seed", "batch"),
    [(0, 8), (3, 32), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 8), (0, 16)))],
)
def test_in_float32_the_rounding_of_a_batch_norms_sums_is_no_difference(
    seed: int, batch: int, workers: dict[str, Worker]
) -> None:
    # The means of these channels are small compared with their deviations, and no moved weight shows the rounding of their sums.
    recipe, few = changed(presets.get_recipe("article"), batch_size=batch), data.load("shapes10").limit(64, 1)
    check = Check(articles.get_network("vgg_mini@0.25"), recipe, few, 1, "float32", seed)
    outcome = run_check(replace(check, stages=("eval", "forward", "backward", "update")), workers)
    assert outcome.verdict == EQUAL, outcome.first


@pytest.mark.parametrize("planted", ["bn2:gamma:1e-3", "conv3:output:1e-4"])
def test_in_float32_an_error_above_rounding_is_found(
    planted: str, workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    check = replace(subject(dataset, dtype="float32"), stages=("forward", "backward", "update"))
    outcome = run_check(check, workers, changes.perturbed(planted, network()))
    assert outcome.verdict == DIFFERENT
    assert outcome.first is not None and outcome.first.layer == planted.partition(":")[0]


def test_a_step_in_mixed_precision_is_within_the_noise_model(workers: dict[str, Worker], dataset: data.Dataset) -> None:
    for made in (network(), RESIDUAL):
        check = subject(dataset, dtype="bfloat16", made=made)
        assert (check.stages, check.length) == (("eval", "forward", "backward", "update"), 1)
        outcome = run_check(check, workers, isolated=True)
        assert (outcome.verdict, outcome.dtype) == (EQUAL, "bfloat16"), outcome.first
        for stage in outcome.summaries().values():
            assert stage["compared"] > 10 and stage["bound"] > 2 * 2**-8
        assert outcome.isolated and all(row["verdict"] == EQUAL for row in outcome.isolated)
        # PyTorch rounds to bfloat16. Paddle has no mixed precision on the CPU.
        assert max(row["forward"] for row in outcome.isolated) > 2**-11


@pytest.mark.parametrize(("moved", "verdicts"), [(1.0, [True, True]), (0.1, [False, True])])
def test_noise_and_error_are_relative_to_the_same_tensor(moved: float, verdicts: list[bool]) -> None:
    """Rounding may make a tensor five times as large as in float64. Then its twins differ by as much as it is large."""

    class Deep:
        dtype = "bfloat16"

        def rounded_step(self, seed: int | None) -> Iterator[Rounded]:
            exact, own = np.eye(8)[0], 5 * np.eye(8)[1]
            large = own if seed is None else own + 5 * moved * np.eye(8)[2]
            yield Rounded("gradient/bn.gamma", (large, exact), exact)

    found = [difference for _, _, difference in rounded_differences(Deep())]  # type: ignore[arg-type]
    assert [difference.equal for difference in found] == verdicts
    assert found[0].error == pytest.approx(26**0.5) and found[0].bound == pytest.approx(10 * moved)


@pytest.mark.parametrize("planted", ["bn2:gamma:0.2", "conv3:output:0.1"])
def test_in_mixed_precision_an_error_above_rounding_is_found(
    planted: str, framework: str, workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    sides = {name: workers[name] for name in sorted(workers, key=lambda name: name == framework)}
    outcome = run_check(subject(dataset, dtype="bfloat16"), sides, changes.perturbed(planted, network()))
    assert outcome.verdict == DIFFERENT
    assert outcome.first is not None and outcome.first.layer == planted.partition(":")[0]
    assert outcome.first.cause and outcome.first.cause.startswith({"torch": "PyTorch", "paddle": "Paddle"}[framework])


def test_isolation_tells_a_layers_own_error_from_an_inherited_one(
    workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    check = replace(subject(dataset), stages=("forward",))
    outcome = run_check(check, workers, changes.node("bn2", eps=1e-3)(check), isolated=True)
    assert outcome.isolated is not None
    assert [row["layer"] for row in outcome.isolated] == list(network().shapes)
    assert [row["layer"] for row in outcome.isolated if row["verdict"] == DIFFERENT] == ["bn2"]


def test_isolation_runs_sums_and_products_on_all_their_inputs(
    workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    check = subject(dataset, made=RESIDUAL)
    outcome = run_check(check, workers, changes.patch("first_branch", "block1_add")(check), isolated=True)
    assert outcome.isolated is not None
    assert [row["layer"] for row in outcome.isolated] == list(RESIDUAL.shapes)
    assert [row["layer"] for row in outcome.isolated if row["verdict"] == DIFFERENT] == ["block1_add"]


def test_isolation_of_a_missing_layer_is_a_difference(workers: dict[str, Worker], dataset: data.Dataset) -> None:
    check = replace(subject(dataset), stages=("forward",))
    outcome = run_check(check, workers, changes.without("relu_fc1")(check), isolated=True)
    assert outcome.isolated is not None
    assert [row["layer"] for row in outcome.isolated if row["verdict"] == DIFFERENT] == ["relu_fc1"]


# --------------------------------------------------------------------------------------- what must never pass


def test_comparing_nothing_is_an_error() -> None:
    with pytest.raises(NothingCompared):
        judge_records(network(), {"one": {}, "other": {}})[0].summaries()


def test_a_stage_without_a_tensor_is_an_error(workers: dict[str, Worker], dataset: data.Dataset) -> None:
    outcome = run_check(replace(subject(dataset), stages=("forward",)), workers)
    outcome.asked = ("forward", "update")
    with pytest.raises(NothingCompared, match="update"):
        outcome.summaries()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_never_equal_even_to_themselves(value: float) -> None:
    array = np.array([1.0, value])
    assert relative_l2(array, array) == np.inf
    assert not Difference("forward/conv1", relative_l2(array, array), 1e300).equal
    assert not Difference("forward/conv1", relative_l2(array, array), np.inf).equal


def test_a_run_that_becomes_nan_on_both_sides_is_different(workers: dict[str, Worker], dataset: data.Dataset) -> None:
    check = subject(dataset)
    common = changes.array("conv2.weight", lambda weight: np.where(weight == weight.flat[0], np.nan, weight))(check)
    outcome = run_check(check, workers, common=common)
    assert outcome.verdict == DIFFERENT
    assert outcome.first is not None and outcome.first.layer == "conv2"


@pytest.mark.parametrize("side", ["one", "other"])
def test_a_tensor_that_one_side_lacks_has_an_infinite_error(side: str) -> None:
    records = {name: {"forward/conv1": np.ones(3), "forward/bn1": np.ones(3)} for name in ("one", "other")}
    del records[side]["forward/bn1"]
    assert judge_records(network(), records)[1] == {"forward/bn1": np.inf}


def test_tensors_of_different_shapes_have_an_infinite_error() -> None:
    records = {"one": np.ones(2), "other": np.ones(3)}
    records = {name: {"forward/conv1": np.ones(3), "forward/bn1": array} for name, array in records.items()}
    assert judge_records(network(), records)[1] == {"forward/bn1": np.inf}


def test_an_unknown_layer_in_a_call_is_an_error_of_the_worker(workers: dict[str, Worker], framework: str) -> None:
    check = subject(data.load("cifar10"))
    workers[framework].start(check.network, check.recipe.optimizer, check.run_inputs().state)
    with pytest.raises(WorkerFailed, match="conv99"):
        workers[framework].isolate("conv99", [np.ones((1, 3, 32, 32))], [np.ones((1, 3, 32, 32))], None, np.ones(1))


# --------------------------------------------------------------------------------------------- order and inputs


def test_tensors_come_in_the_order_in_which_a_step_computes_them() -> None:
    names = [
        "update/optimizer.velocity.conv1.weight", "gradient/conv1.weight", "backward/conv1", "backward/fc3", "eval/conv1",
        "loss/loss", "forward/fc3", "start/conv1.bias", "start/conv1.weight", "update/conv1.weight", "input/images", "forward/drop1",
        "forward/drop1.mask",
    ]  # fmt: skip
    assert in_order(network(), names) == [
        "start/conv1.weight", "start/conv1.bias", "input/images", "eval/conv1", "forward/drop1.mask", "forward/drop1", "forward/fc3",
        "loss/loss", "backward/fc3", "backward/conv1", "gradient/conv1.weight", "update/conv1.weight",
        "update/optimizer.velocity.conv1.weight",
    ]  # fmt: skip


def test_the_phases_asked_for_are_recorded_and_no_others(workers: dict[str, Worker], dataset: data.Dataset) -> None:
    made = subject(dataset).run_inputs()
    for phases in (PHASES, ("eval",), ("update",), ("input", "gradient")):
        record = next(run_in_lockstep({"torch": Program(workers["torch"], made)}, 1, phases)).records["torch"]
        assert {name.partition("/")[0] for name in record} == set(phases) - set(OF_OPTIMIZERS)


def test_an_epoch_ends_with_a_short_batch_and_the_next_has_another_order(dataset: data.Dataset) -> None:
    check = subject(dataset)
    given = list(itertools.islice(check.run_inputs().steps(), 6))
    assert [len(step.labels) for step in given] == [8, 4, 8, 4, 8, 4]
    assert {step.divisor for step in given} == {8}
    first, second = (np.concatenate([step.labels for step in given[i : i + 2]]) for i in (0, 2))
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)


def test_the_momentum_buffer_is_rescaled_where_the_rate_drops_twice(dataset: data.Dataset) -> None:
    given = list(itertools.islice(subject(dataset).run_inputs().steps(), 6))
    assert [round(step.factor, 5) for step in given] == [1.0, 1.0, 10.0, 1.0, 10.0, 1.0]
    assert [step.number for step in given if step.resumes] == [4]


def test_dithered_pictures_are_the_same_pictures_once_they_are_rounded(dataset: data.Dataset) -> None:
    check = subject(dataset)
    batches = changes.Batches(
        check.dataset.train_images, check.dataset.train_labels, 8, check.recipe.augmentation, check.seed
    )
    for (exact, _), (moved, _) in zip(batches.epoch(0), dithered(batches, check.seed, 0), strict=True):
        assert np.array_equal(np.rint(moved), exact)
        assert len(np.unique(moved)) == moved.size


def test_a_twin_moves_every_weight_by_one_unit_and_nothing_else(dataset: data.Dataset) -> None:
    made = subject(dataset).run_inputs()
    moved = make_twin(made)
    for name, array in made.state.items():
        steps = np.abs(moved.state[name] - array) / np.spacing(np.abs(array))
        assert np.all((steps == 1) | (steps == 0.5) | (array == 0)), name
    assert np.array_equal(next(moved.steps()).images, next(made.steps()).images)
    assert not np.array_equal(next(make_twin(made, inputs=True).steps()).images, next(made.steps()).images)


# -------------------------------------------------------------------------------- differences of the frameworks


def ties(network: Network, step: Step) -> int:
    """Windows of max pools whose two largest values are equal but for rounding, and above zero, on the side `torch`."""
    found = 0
    for layer in network.layers.values():
        if isinstance(layer.node, MaxPool):
            size, stride = layer.node.size, layer.node.stride
            x = step.records["torch"][f"forward/{layer.sources[0]}"]
            windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
            second, first = np.sort(windows.reshape(-1, size * size))[:, -2:].T
            found += int(((first > 0) & (first - second <= 1e-12 * first)).sum())
    return found


def test_black_borders_make_max_pool_ties_and_dithering_removes_them(
    workers: dict[str, Worker], dataset: data.Dataset
) -> None:
    # Each side breaks a tie by its own rounding. On some processors gradients of activations then differ, though both are right.
    check = subject(dataset)
    loader = changes.Batches(
        check.dataset.train_images, check.dataset.train_labels, 8, check.recipe.augmentation, check.seed
    )
    undithered = replace(
        check.run_inputs(), epoch=lambda number: ((x.astype(float), y) for x, y in loader.epoch(number))
    )
    counts = {}
    for name, given in (("as they are", undithered), ("dithered", check.run_inputs())):
        counts[name] = 0
        source = TrainingSource(workers, dict.fromkeys(workers, given), 3, PHASES)
        judge = Judge(source, Outcome(source.sides, "float64", TRAINING))
        for number in (1, 2, 3):
            step = source.step(number, None)
            counts[name] += ties(check.network, step.step)
            judge.step(step)
            for d, _ in judge.diverged:
                assert name == "as they are", d
                assert not d.name.startswith(("gradient/", "update")) or d.name.endswith("bias"), d
    assert counts["as they are"] > 0
    assert counts["dithered"] == 0


def test_run_inputs_are_those_of_training(dataset: data.Dataset) -> None:
    recipe = changed(presets.get_recipe("adam"), batch_size=8)
    made = make_run_inputs(articles.get_network("vgg_mini@0.25"), recipe, dataset, seed=3)
    given = next(made.steps())
    assert (given.rate, given.divisor, given.number) == (recipe.optimizer.rate, 8, 1)
    assert given.images.dtype == np.float64 and given.images.shape == (8, 3, 32, 32)
