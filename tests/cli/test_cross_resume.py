"""A run that is begun in one framework continues in the other: exactly in float64, and also from the command line."""

from __future__ import annotations

import hashlib
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from helpers.compared import compare
from helpers.framework_process import FrameworkProcess
from helpers.training_runs import Ended, command_in, metrics, position, script, stop
from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.compare.program import Program
from parity.compare.step_inputs import RunInputs, make_run_inputs, make_twin
from parity.compare.tolerances import ONE_STEP, TWIN
from parity.data.batches import Batches
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Schedule, changed
from parity.training.run_folder import RunFolder
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import State

# ------------------------------------------------------------------------------------- float64, worker to worker

HALF, BATCH = 3, 16
STEPS = 2 * HALF
DROPPING = Schedule("discexp", factor=0.25, every=2 * BATCH)
"""The rate falls at every second update, also at the first one after the change of framework."""

RECIPES = {
    "momentum": replace(presets.get_recipe("article"), schedule=DROPPING),
    "adam": replace(presets.get_recipe("adam"), schedule=DROPPING),
}
"""`article`, whose velocities hold the rate, and Adam, whose number of updates is handed over, too."""


def given_to(recipe: str) -> RunInputs:
    how = changed(RECIPES[recipe], batch_size=BATCH)
    dataset = data.load("shapes10").limit(STEPS * BATCH, 1)
    return make_run_inputs(articles.get_network("vgg16_bn_drop@0.125"), how, dataset, 1, "float64", STEPS * BATCH)


def trained(workers: list[Worker], given: RunInputs) -> State:
    """Return the state after `STEPS` updates. Each worker of the list makes an equal part of them and hands its state to the next."""
    share, state = STEPS // len(workers), {}
    for step, batch in zip(range(STEPS), given.steps(), strict=False):
        worker = workers[step // share]
        if step % share == 0:
            Program(worker, given).start()
            if step:
                worker.load(state, step)
        Program(worker, given).step(batch, ())
        if step % share == share - 1:
            state = worker.state()
    return state


@pytest.mark.parametrize("recipe", RECIPES)
def test_half_a_run_in_each_framework_ends_where_a_whole_run_in_either_does(
    recipe: str, workers: dict[str, Worker]
) -> None:
    given = given_to(recipe)
    rates = [step.rate for _, step in zip(range(STEPS), given.steps(), strict=False)]
    assert [a != b for a, b in pairwise(rates)] == [True, False, True, False, True]
    whole = {name: trained([worker], given) for name, worker in workers.items()}
    for name, worker in workers.items():
        # The effect of rounding on each tensor after as many steps: the same run with every weight moved to the next float.
        moved = trained([worker], make_twin(given, inputs=True))
        noise = {d.name: d.error for d in compare(whole[name], moved, 0.0)}
        (other,) = set(workers) - {name}
        for pair in ([worker, workers[other]], [workers[other], worker]):
            mixed = trained(pair, given)
            found = compare(
                whole[name], mixed, lambda tensor, n=noise: max(STEPS * ONE_STEP["float64"], TWIN * n[tensor])
            )  # type: ignore[misc]
            wrong = [d for d in found if not d.equal]
            assert not wrong, f"{len(wrong)} of {len(found)} differ, first {wrong[0]}"
            slots = {d.name.split(".")[1] for d in found if d.name.startswith("optimizer.")}
            assert slots == set(given.optimizer.slots)
            start = {tensor: given.state[tensor] for tensor in given.network.parameters}
            travelled = compare({tensor: mixed[tensor] for tensor in start}, start, 0.0)
            assert sum(d.error > 1e-6 for d in travelled) > len(start) / 2, (
                "nothing was trained: the test proves nothing"
            )


# ------------------------------------------------------------------------------------------------ from the command line

IMAGES, EPOCHS = 150, 2
FLAGS = (
    "--network",
    "vgg_mini@0.05",
    "--recipe",
    "adam",
    "--data",
    "shapes10",
    "--train-limit",
    IMAGES,
    "--test-limit",
    20,
)
ALL = (*FLAGS, "--epochs", EPOCHS, "--batch-size", 16, "--save-v2-tar", "--checkpoint-every", 0)  # fmt: skip


@pytest.fixture(scope="module", params=list(FRAMEWORKS))
def crossed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, processes: dict[str, FrameworkProcess]
) -> tuple[str, Path, int, Ended]:
    """A run that is begun in one framework, stopped by Ctrl-C in its first epoch, and continued in the other to its end."""
    first = request.param
    (second,) = set(FRAMEWORKS) - {first}
    folder = tmp_path_factory.mktemp("crossed") / "run"
    ended, _ = stop(script(first, *ALL, "--out", folder), folder, signal.SIGINT, 2)
    assert ended.code == 130, ended.stderr
    stopped = position(folder)["update"]
    _, script_of_first, *words = command_in(ended.stderr)
    assert script_of_first == f"scripts/train_{first}.py"
    return second, folder, stopped, processes[second].train(*words)


def test_the_other_framework_resumes_where_the_first_stopped(crossed: tuple[str, Path, int, Ended]) -> None:
    framework, folder, stopped, ended = crossed
    assert 2 <= stopped < 10
    assert (
        f"Resuming {folder} with {FRAMEWORKS[framework]} in epoch 1 of {EPOCHS}, after batch {stopped} of 10\n"
        in ended.stdout
    )
    assert position(folder)["update"] == EPOCHS * 10
    assert position(folder)["samples"] == EPOCHS * IMAGES


def test_no_image_is_lost_or_seen_twice_on_the_way(crossed: tuple[str, Path, int, Ended]) -> None:
    _, folder, *_ = crossed
    experiment = RunFolder.open(folder).experiment
    dataset = data.load("shapes10").limit(IMAGES, 20)
    augmentation = experiment.recipe.augmentation
    batches = Batches(dataset.train_images, dataset.train_labels, 16, augmentation, experiment.seed)
    expected = []
    for epoch in range(EPOCHS):
        stream = ""
        for images, labels in batches.epoch(epoch):
            stream = hashlib.sha256(stream.encode() + images.tobytes() + labels.tobytes()).hexdigest()
        expected.append(stream)
    assert [line["stream"] for line in metrics(folder) if line["event"] == "pass"] == expected


def test_every_epoch_writes_a_tar_and_the_last_one_holds_the_last_weights(
    crossed: tuple[str, Path, int, Ended],
) -> None:
    _, folder, *_ = crossed
    assert sorted(path.name for path in folder.glob("*.tar")) == ["params_pass_0.tar", "params_pass_1.tar"]
    assert not list(folder.glob(".*"))
    network, state, _ = canonical_state.load(folder / "last.safetensors")
    kept = {name: array for name, array in state.items() if name in network.parameters}
    last = v2_tar.decode((folder / "params_pass_1.tar").read_bytes(), network, "it")
    assert {name: array.tobytes() for name, array in last.items()} == {n: kept[n].tobytes() for n in network.parameters}
    first = v2_tar.decode((folder / "params_pass_0.tar").read_bytes(), network, "it")
    assert not np.array_equal(first["fc.weight"], last["fc.weight"])
