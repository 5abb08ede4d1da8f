"""The ONNX comparison of a check: five ways to compute the same inference agree, and a difference is found at its layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from helpers.onnx_graphs import CHAIN
from parity import data
from parity.backend.worker import Worker
from parity.compare.check import Check, Plant, run_check
from parity.compare.step_inputs import RunInputs
from parity.onnx import comparison, graph_writer
from parity.onnx.comparison import (
    BATCHES,
    TRAINED_STEPS,
    _export,
    _float32,
    _scores,
    compare_exports,
    compare_through_onnx,
    make_images,
    train_weights,
)
from parity.onnx.exporter_error import error_line
from parity.onnx.graph_reader import NotTheNetwork
from parity.recipe.recipe import Preprocessing
from parity.selftest import changes
from parity.selftest.subject import DEPTHWISE, network, subject

ONNX = ("onnx",)


@pytest.fixture(scope="module", autouse=True)
def sides_without_a_fault_are_exported_once() -> Iterator[None]:
    """Export each side without a fault only once, because exports take most of the time of these tests."""
    own, kept = comparison._export, dict[tuple[object, ...], comparison.Export]()

    def once(worker: Worker, run_inputs: RunInputs) -> comparison.Export:
        if run_inputs.patches:
            return own(worker, run_inputs)
        values = tuple((name, array.tobytes()) for name, array in run_inputs.state.items())
        key = (id(worker), run_inputs.network, hash(values))
        if key not in kept:
            kept[key] = own(worker, run_inputs)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_export", once)
        yield


@pytest.fixture(scope="module")
def check() -> Check:
    return replace(subject(data.load("cifar10").limit(64, 1)), stages=ONNX)


def test_all_five_agree_and_every_pair_was_compared(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(check, workers, onnx=compare_through_onnx)
    assert outcome.verdict == "equal", outcome.first
    stage = outcome.summaries()["onnx"]
    # Every operator is compared for four parties and their six pairs, the scores of every batch for six parties and their fifteen pairs.
    # onnx.reference on both exports is compared with both sides, and every layer of both sides with its definition.
    operators, kinds = len(CHAIN), len(BATCHES) + 1
    layers = len(network().inference.layers)
    assert stage["compared"] == 10 * operators + 21 * kinds + 4 * operators + 2 * layers
    assert 0 < stage["max_error"] <= stage["bound"] < 1e-4


def test_a_fresh_network_is_compared_after_some_training(check: Check, workers: dict[str, Worker]) -> None:
    fresh = replace(check, state=None)
    state = train_weights(workers["torch"], fresh.run_inputs("float32"))
    decay = 0.9**TRAINED_STEPS
    assert all(array.dtype == np.float32 for array in state.values())
    # The article's running variance starts at 0; after ten updates it is 65% of the batches' variance.
    assert np.all(state["bn1.variance"] > 0) and np.all(state["bn1.mean"] != 0) and decay < 0.5
    assert run_check(fresh, workers, onnx=compare_through_onnx).verdict == "equal"


def test_the_pictures_have_every_batch_size_and_the_extremes(check: Check) -> None:
    found = make_images(check.dataset, Preprocessing())
    assert {name: len(images) for name, images in found.items()} == {
        "1": 1, "2": 2, "7": 7, "128": 128, "extremes": 4
    }  # fmt: skip
    black, white, grey, pixel = found["extremes"]
    assert not black.any() and np.all(white == 1) and len(np.unique(grey)) == 1 and np.count_nonzero(pixel) == 3


@pytest.mark.parametrize(
    ("planted", "layer"),
    [
        ("conv3:weight:1e-4", "conv3"),
        ("bn2:variance:1e-3", "bn2"),
        pytest.param("fc1:bias:1e-3", "fc1", marks=pytest.mark.slow),
    ],
)
def test_a_changed_weight_is_found_at_its_layer(
    planted: str, layer: str, check: Check, workers: dict[str, Worker]
) -> None:
    outcome = run_check(check, workers, changes.perturbed(planted, network()), onnx=compare_through_onnx)
    assert outcome.verdict == "different"
    assert outcome.first is not None and (outcome.first.phase, outcome.first.layer) == ("onnx", layer)


def test_an_export_that_computes_something_else_is_different(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(check, workers, changes.perturbed("conv3:output:1e-3", network()), onnx=compare_through_onnx)
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.layer == "conv3"
    assert "export of torch: layer bn3: the export has Mul" in outcome.summaries()["onnx"]["worst"]


def test_a_changed_eps_is_found_in_the_export_of_its_side(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(check, workers, changes.node("bn2", eps=1e-3)(check), onnx=compare_through_onnx)
    assert outcome.verdict == "different"
    assert outcome.first is not None and outcome.first.layer == "bn2"


def test_a_mean_of_numbers_that_cancel_is_no_difference(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(replace(check, network=DEPTHWISE, state=None), workers, onnx=compare_through_onnx)
    assert outcome.verdict == "equal", outcome.first


@pytest.mark.parametrize(
    ("framework", "name", "kinds"),
    [
        ("torch", "hard_swish", {"HardSwish"}),
        ("paddle", "clip", {"Max", "Clip"}),
        pytest.param("paddle", "hard_swish", {"HardSwish"}, marks=pytest.mark.slow),
        pytest.param("torch", "clip", {"Max", "Clip"}, marks=pytest.mark.slow),
    ],
)
def test_an_unknown_operator_is_named_at_the_layer_that_it_replaces(
    framework: str, name: str, kinds: set[str], check: Check, workers: dict[str, Worker]
) -> None:
    pair = {side: workers[side] for side in sorted(workers, key=lambda side: side == framework)}
    outcome = run_check(check, pair, changes.patch(name, "relu2")(check), onnx=compare_through_onnx)
    assert outcome.first is not None and (outcome.first.phase, outcome.first.layer) == ("onnx", "relu2")
    failed = outcome.summaries()["onnx"]["worst"]
    assert failed.startswith(f"onnx/relu2.export of {framework}: layer relu2: operator ")
    assert any(f": operator {kind} (" in failed for kind in kinds)
    assert failed.endswith(") belongs to no layer in inference; the network has Relu at this place")


@pytest.mark.parametrize("framework", ["paddle", pytest.param("torch", marks=pytest.mark.slow)])
def test_an_operator_of_another_layer_is_named_at_the_layer_that_it_replaces(
    framework: str, check: Check, workers: dict[str, Worker]
) -> None:
    pair = {side: workers[side] for side in sorted(workers, key=lambda side: side == framework)}
    outcome = run_check(check, pair, changes.patch("swish", "relu2")(check), onnx=compare_through_onnx)
    assert outcome.first is not None and (outcome.first.phase, outcome.first.layer) == ("onnx", "relu2")
    wanted = f"onnx/relu2.export of {framework}: layer relu2: the export has Sigmoid, the network has Relu"
    assert outcome.summaries()["onnx"]["worst"] == wanted


def test_an_operator_after_the_last_layer_belongs_to_no_layer(
    framework: str, check: Check, workers: dict[str, Worker]
) -> None:
    """Both sides have the operator, so that they agree with each other, but not with the network."""
    probabilities = changes.patch("softmax", "fc3")(check)
    outcome = run_check(check, workers, common=probabilities, onnx=compare_through_onnx)
    first = outcome.first
    assert first is not None and (first.phase, first.layer) == ("onnx", "fc3")
    assert first.tensor.endswith("float64, numpy")
    failed = outcome.summaries()["onnx"]["worst"]
    assert failed.startswith("onnx/export of ") and ": operator Exp (" in failed
    assert failed.endswith("it comes after the last layer")


def test_an_operator_fault_of_both_sides_is_found_by_the_definition_and_exports(
    check: Check, workers: dict[str, Worker]
) -> None:
    outcome = run_check(check, workers, common=changes.patch("hard_swish", "relu2")(check), onnx=compare_through_onnx)
    first = outcome.first
    assert first is not None and (first.phase, first.layer) == ("onnx", "relu2")
    assert first.tensor.endswith("float64, numpy") and "is not what the network says" in (first.cause or "")
    failed = outcome.summaries()["onnx"]["worst"]
    assert failed.startswith("onnx/relu2.export of ") and "operator HardSwish (" in failed


def test_an_exporters_error_is_one_line_and_belongs_to_no_layer(check: Check, workers: dict[str, Worker]) -> None:
    outcome = run_check(
        check, workers, common=changes.patch("refuse_export", "relu2")(check), onnx=compare_through_onnx
    )
    first = outcome.first
    assert first is not None and (first.phase, first.layer) == ("onnx", "")
    words = "RuntimeError: no export of this layer: it needs numbers"
    assert first.tensor in {f"export of {name}: its exporter failed, {words}" for name in workers}


def test_the_stage_is_the_same_in_float32_checks(check: Check, workers: dict[str, Worker]) -> None:
    assert run_check(replace(check, dtype="float32"), workers, onnx=compare_through_onnx).verdict == "equal"


@pytest.fixture(scope="module")
def pictures(check: Check) -> dict[str, np.ndarray]:
    return make_images(check.dataset, check.recipe.preprocessing)


def both_sides(check: Check, plant: Plant | None = None) -> dict[str, RunInputs]:
    run_inputs = check.run_inputs("float32")
    return {"torch": run_inputs, "paddle": plant(run_inputs) if plant else run_inputs}


def test_the_float64_tolerance_is_that_of_one_step_and_pairs_get_twice_it(
    check: Check, workers: dict[str, Worker], pictures: dict[str, np.ndarray]
) -> None:
    found = {d.name: d for d in compare_exports(workers, both_sides(check), pictures)}
    exact = [d for name, d in found.items() if name.endswith("float64")]
    assert len(exact) == 4 * len(CHAIN) and {d.bound for d in exact} == {1e-12}
    for what in ("fc3.{}, 2 images", "fc3.{}, scores of 128 images", "fc3.{}, scores of extremes"):
        alone = {found[f"onnx/{what.format(party)}"].bound for party in ("torch", "paddle", "runtime(paddle)")}
        pair = found[f"onnx/{what.format('paddle, runtime(torch)')}"]
        assert {pair.bound / 2} == alone and 1e-7 < pair.bound < 1e-4
    for party in ("raw(torch)", "raw(paddle)"):
        assert found[f"onnx/fc3.{party}, scores of 7 images"].equal


def test_float64_finds_a_difference_that_float32_cannot_show(
    check: Check, workers: dict[str, Worker], pictures: dict[str, np.ndarray]
) -> None:
    inputs_of = both_sides(check, changes.perturbed("conv3:output:1e-9", network()))
    found = {d.name: d for d in compare_exports(workers, inputs_of, pictures)}
    here = found["onnx/conv3.paddle, reference(torch), float64"]
    assert 1e-12 < here.error < 1e-8 and not here.equal
    assert found["onnx/conv2.paddle, reference(torch), float64"].equal
    assert found["onnx/conv3.torch, reference(torch), float64"].equal


def test_a_graph_that_runs_only_on_some_batches_differs_on_the_others(pictures: dict[str, np.ndarray]) -> None:
    made = graph_writer.write(network(), CHAIN)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    found = _scores(made.SerializeToString(), pictures)
    assert list(found) == ["scores/2"]
    scores = {party: found.get("scores/7") for party in ("torch", "raw(torch)")}
    exact = {"scores/7": np.ones((7, 10))}
    assert [d.error for d in _float32("scores/7", "fc3", scores, exact, {"scores/7": 1.0})] == [np.inf] * 3


def test_an_exporter_that_dies_is_a_difference_and_not_a_crash(check: Check) -> None:
    with Worker("torch", threads=1) as worker:
        worker.versions()
        worker._process.kill()
        found = _export(worker, check.run_inputs("float32"))
    found = found.failure
    assert isinstance(found, NotTheNetwork) and found.layer == ""
    assert str(found) == "its exporter failed, the torch worker died (exit code -9): it wrote nothing"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("the worker failed:\nTraceback:\n  raise ValueError('a')\nValueError: a\n", "ValueError: a"),
        ("pkg.mod.ExportError: no\n\n## Summary\n\n<class 'a.KeyError'>: 'x'\nand y\n\n(end)", "KeyError: 'x' and y"),
        ("MemoryError\n", "MemoryError"),
        ("\x1b[96mOSError\x1b[0m: full", "OSError: full"),
        ("\nno such operator\nhere", "no such operator"),
        ("", "it does not say why"),
        ("Error: " + "x" * 999, "Error: " + "x" * 293),
    ],
)
def test_an_exporters_own_message_is_one_line(text: str, line: str) -> None:
    assert error_line(text) == line
