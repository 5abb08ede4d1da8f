"""Two processes train like one: in float64 up to rounding, from the command line, and when one of them is stopped or killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import launchers
from helpers.compared import compare
from helpers.distributed_step import BATCHES, NETWORKS, OVERLAPS
from helpers.launchers import LAUNCHED
from helpers.paths import ROOT
from helpers.training_runs import Ended, execute, metrics, position, script, stop, wait_for
from parity.backend.registry import FRAMEWORKS
from parity.compare.training_source import known_zero_gradients
from parity.data.batches import Batches
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import Conv, Dropout, Flatten, Linear, MaxPool, ReLU
from parity.process_group import LAUNCHERS, SINGLE_PROCESS, ProcessGroup, from_launcher
from parity.recipe import presets
from parity.recipe.recipe import Augmentation, Experiment, changed
from parity.training.run_folder import RunFolder
from parity.weights import canonical_state
from parity.weights.canonical_state import State

BOUND = 1e-12

# ------------------------------------------------------------------------------------------------- float64, step by step

Yields = dict[tuple[str, int], dict[str, State]]
"""(framework, processes) -> case -> STEP/TENSOR -> array."""


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Framework -> the folder of a run that one process trains from start to end while `yields` is computed."""
    return {framework: begun(tmp_path_factory.mktemp("whole") / framework) for framework in FRAMEWORKS}


@pytest.fixture(scope="module")
def yields(tmp_path_factory: pytest.TempPathFactory, whole_runs: dict[str, Path]) -> Yields:
    """The results of `distributed_step.py` in one process and in two, in both frameworks."""
    found, folder = {}, tmp_path_factory.mktemp("steps")
    for framework in FRAMEWORKS:
        for several in (False, True):
            file = folder / f"{framework}-{several}.safetensors"
            launchers.step(framework, folder / "logs", file, None if several else whole_runs[framework])
            state, _ = canonical_state.decode(file.read_bytes(), "it")
            cases: dict[str, State] = {}
            for name, array in state.items():
                case, _, tensor = name.partition("/")
                cases.setdefault(case, {})[tensor] = array
            found[framework, launchers.PROCESSES if several else 1] = cases
    return found


def assert_equal(network: Network, reference: State, other: State) -> None:
    kept = []
    for given_ in (reference, other):
        steps = [{n[2:]: a for n, a in given_.items() if n[0] == str(step)} for step in range(len(BATCHES))]
        zero = [known_zero_gradients(network, record, record) for record in steps]
        assert all(max(size) <= BOUND for sizes in zero for size in sizes.values())
        kept.append({f"{i}/{n}": a for i, record in enumerate(steps) for n, a in record.items() if n not in zero[i]})
    wrong = [str(d) for d in compare(*kept, BOUND) if not d.equal]
    assert wrong == []
    trainable = {name for name, parameter in network.parameters.items() if parameter.trainable}
    for phase in ("gradient/", "", "optimizer.velocity."):
        assert {f"2/{phase}{name}" for name in trainable} - kept[0].keys() <= {
            f"2/gradient/{name}" for name in network.zero_gradients
        }


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_two_processes_without_batch_norm_compute_what_one_does(yields: Yields, framework: str, overlap: str) -> None:
    one, two = yields[framework, 1]["plain"], yields[framework, 2][f"plain-{overlap}"]
    assert_equal(NETWORKS["plain"], one, two)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_two_processes_normalise_their_shards_separately_and_learn_the_same(
    yields: Yields, framework: str, overlap: str
) -> None:
    one, two = yields[framework, 1]["normed"], yields[framework, 2][f"normed-{overlap}"]
    assert {f"2/{layer}.{array}" for layer in ("norm1", "norm2") for array in ("mean", "variance")} <= two.keys()
    assert_equal(NETWORKS["normed"], one, two)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_of_one_framework_compute_what_two_of_the_other_do(yields: Yields, name: str) -> None:
    for overlap in OVERLAPS:
        one, other = (yields[framework, 2][f"{name}-{overlap}"] for framework in FRAMEWORKS)
        assert_equal(NETWORKS[name], one, other)


# ------------------------------------------------------------------------------------------------- shards

worlds = st.integers(1, 9).flatmap(lambda size: st.just([ProcessGroup(rank, size, rank, size) for rank in range(size)]))


@given(worlds, st.integers(0, 100))
def test_shards_cover_a_batch_in_order_and_differ_by_one_image_at_most(
    processes: list[ProcessGroup], count: int
) -> None:
    shards = [process_group.shard(count) for process_group in processes]
    assert [image for shard in shards for image in shard] == list(range(count))
    assert min(map(len, shards)) == processes[0].smallest(count)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(worlds, st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_the_processes_together_see_every_image_of_an_epoch_exactly_once(
    processes: list[ProcessGroup], count: int, batch_size: int, epoch: int
) -> None:
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    seen = []
    for process_group in processes:  # each process makes the batches itself
        for pixels, labels in Batches(images, np.arange(count), batch_size, Augmentation(), seed=1).epoch(epoch):
            own = process_group.shard(len(labels))
            assert pixels[own.start : own.stop].ravel().tolist() == labels[own.start : own.stop].tolist()
            seen += labels[own.start : own.stop].tolist()
    assert sorted(seen) == list(range(count))


def test_a_process_learns_from_its_launcher_which_one_it_is(framework: str) -> None:
    assert from_launcher(framework, LAUNCHED[framework]) == ProcessGroup(3, 8, 1, 2)
    assert not from_launcher(framework, LAUNCHED[framework]).leads
    assert from_launcher(framework, {}) == SINGLE_PROCESS
    assert SINGLE_PROCESS.leads


def test_the_other_framework_s_launcher_is_refused_unless_it_starts_one_process(framework: str) -> None:
    (other,) = set(FRAMEWORKS) - {framework}
    with pytest.raises(InputError, match=f"use {LAUNCHERS[framework]}"):
        from_launcher(framework, LAUNCHED[other])
    size = {"torch": "WORLD_SIZE", "paddle": "PADDLE_TRAINERS_NUM"}[other]
    assert from_launcher(framework, LAUNCHED[other] | {size: "1"}) == SINGLE_PROCESS


@pytest.mark.parametrize("changes", [{0: "8"}, {0: "-1"}, {0: "three"}, {1: "0"}, {2: "2"}, {3: "9"}, {3: None}])
def test_variables_of_a_launcher_that_make_no_sense_are_refused(framework: str, changes: dict[int, str | None]) -> None:
    names = list(LAUNCHED[framework])
    said = LAUNCHED[framework] | {names[place]: value for place, value in changes.items()}
    with pytest.raises(InputError, match="launcher"):
        from_launcher(framework, {name: value for name, value in said.items() if value is not None})


# ------------------------------------------------------------------------------------------------- from the command line

NETWORK = Network(
    "no_norm",
    (3, 32, 32),
    (
        Conv("conv", 4),
        ReLU("relu"),
        MaxPool("pool", 4, 4),
        Dropout("drop", 0.3),
        Flatten("flat"),
        Linear("fc", 10),
    ),
)
IMAGES, BATCH, EPOCHS = 150, 33, 20
GENTLE = dataclasses.replace(presets.get_recipe("article").optimizer, rate=0.003)
RECIPE = dataclasses.replace(
    presets.get_recipe("article"), optimizer=GENTLE, batch_size=BATCH, epochs=EPOCHS, divisor="count"
)
LOST = "failed: another process of this run has ended or does not answer; continue from the last checkpoint with: "


def begun(folder: Path, **changes: int) -> Path:
    """A run folder with only a config.json. The 600 test images make two batches for one process and one for the other."""
    RunFolder.create(folder, Experiment(NETWORK, changed(RECIPE, **changes), "shapes10", 3, IMAGES, 600), {})
    return folder


def again(framework: str, folder: Path) -> str:
    return f"{LAUNCHERS[framework]} --nproc_per_node 2 scripts/train_{framework}.py --resume {folder} --threads 1"


def interrupted(
    framework: str, folder: Path, logs: Path, act: Callable[[subprocess.Popen[str], dict[int, int]], None]
) -> tuple[Ended, float]:
    """Start a run of two processes, call `act` on its launcher and ranks during it; return its exit and the seconds until then."""
    process = launchers.start(launchers.training(framework, logs, "--resume", folder, "--checkpoint-every", 0))
    wait_for(process, lambda: len(launchers.ranks(framework, process)) == launchers.PROCESSES)
    ranks = launchers.ranks(framework, process)
    wait_for(process, lambda: position(folder).get("update", 0) >= 3)
    act(process, ranks)
    return launchers.end(process, logs)


def ctrl_c(launcher: subprocess.Popen[str], ranks: dict[int, int]) -> None:
    os.killpg(launcher.pid, signal.SIGINT)


@pytest.mark.slow
def test_a_run_that_changes_its_number_of_processes_ends_as_in_one_process(
    tmp_path: Path, framework: str, yields: Yields, whole_runs: dict[str, Path]
) -> None:
    whole, parts, logs = whole_runs[framework], begun(tmp_path / "parts"), tmp_path / "logs"
    ended, _ = interrupted(framework, parts, logs, ctrl_c)
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("stopped in epoch "))  # told by one
    assert f"; continue with: {again(framework, parts)}" in line
    assert 3 <= position(parts)["update"] < EPOCHS * 5
    place = f"in epoch {position(parts)['epoch'] + 1} of {EPOCHS}, after batch {position(parts)['batch']} of 5"
    assert place in line
    ended, at = stop(script(framework, "--resume", parts, "--checkpoint-every", 0), parts, signal.SIGINT, 3)
    assert f" {place}\n" in ended.stdout
    assert at["update"] < EPOCHS * 5
    ended = launchers.execute(framework, logs, "--resume", parts, "--json")
    assert [json.loads(line)["processes"] for line in ended.stdout.splitlines() if line.startswith("{")] == [2]
    alike = ("event", "epoch", "update", "samples", "error", "test_error", "rate", "stream")
    one, other = metrics(whole), metrics(parts)
    assert [{k: line.get(k) for k in alike} for line in other] == [{k: line.get(k) for k in alike} for line in one]
    for cost in ("cost", "test_cost"):
        assert [line.get(cost, 0) for line in other] == pytest.approx([line.get(cost, 0) for line in one], rel=1e-4)
    states = [canonical_state.load(folder / "last.safetensors")[1] for folder in (whole, parts)]
    assert [str(d) for d in compare(*states, 1e-4) if not d.equal] == []


def test_if_one_process_is_killed_the_other_prints_the_resume_command(tmp_path: Path, framework: str) -> None:
    folder, logs = begun(tmp_path / "run", epochs=2000), tmp_path / "logs"
    ended, seconds = interrupted(framework, folder, logs, lambda _, ranks: os.kill(ranks[1], signal.SIGKILL))
    assert seconds < 60
    assert ended.code != 0
    assert [line for line in ended.stderr.splitlines() if line.startswith("failed: ")] == [
        f"{LOST}{again(framework, folder)} --checkpoint-every 0"
    ]
    assert str(ROOT / "parity") not in ended.stderr, "a traceback"
    stood = RunFolder.open(folder).restore(IMAGES)[1]
    assert stood.update >= 3


@pytest.mark.slow
def test_if_a_run_diverges_all_processes_end_and_one_prints_why(tmp_path: Path, framework: str) -> None:
    wild = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(GENTLE, rate=1e9))
    RunFolder.create(tmp_path / "run", Experiment(NETWORK, wild, "shapes10", 3, IMAGES, 60), {})
    logs = tmp_path / "logs"
    ended, _ = launchers.end(launchers.start(launchers.training(framework, logs, "--resume", tmp_path / "run")), logs)
    assert ended.code == 1
    assert len([line for line in ended.stderr.splitlines() if line.startswith("failed: the loss became nan")]) == 1
    assert LOST not in ended.stderr
    assert str(ROOT / "parity") not in ended.stderr, "a traceback"


@pytest.mark.slow
def test_if_rank_0_is_killed_the_other_process_ends_too(tmp_path: Path, framework: str) -> None:
    folder, logs = begun(tmp_path / "run", epochs=2000), tmp_path / "logs"
    ended, seconds = interrupted(framework, folder, logs, lambda _, ranks: os.kill(ranks[0], signal.SIGKILL))
    assert seconds < 60
    assert f"{LOST}{again(framework, folder)}" in ended.stderr
    assert RunFolder.open(folder).restore(IMAGES)[1].update >= 3


@pytest.mark.slow
def test_if_a_process_hangs_the_other_ends_when_it_is_asked_to_stop(tmp_path: Path, framework: str) -> None:
    folder, logs = begun(tmp_path / "run", epochs=2000), tmp_path / "logs"

    def act(launcher: subprocess.Popen[str], ranks: dict[int, int]) -> None:
        os.kill(ranks[1], signal.SIGSTOP)
        os.kill(ranks[0], signal.SIGTERM)

    ended, seconds = interrupted(framework, folder, logs, act)
    assert 15 < seconds < 60
    assert f"{LOST}{again(framework, folder)}" in ended.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_batch(tmp_path: Path, framework: str) -> None:
    folder, logs = begun(tmp_path / "run", epochs=2000), tmp_path / "logs"
    ended, _ = interrupted(framework, folder, logs, lambda _, ranks: os.kill(ranks[1], signal.SIGTERM))
    assert LOST not in ended.stderr
    at = position(folder)
    assert (
        f"stopped in epoch {at['epoch'] + 1} of 2000, after batch {at['batch']} of 5; continue with: " in ended.stderr
    )


WAITING = """
import signal, sys, time
from parity.training import interrupts
from parity.process_group import ProcessGroup
interrupts.PATIENCE = 0.5
with interrupts.stop_request(ProcessGroup(0, 2, 0, 2), "the other one is lost") as stop:
    for _ in range(3):
        signal.raise_signal(signal.SIGTERM)
    print(len(stop), flush=True)
    time.sleep(float(sys.argv[1]))
signal.raise_signal(signal.SIGTERM)
print("done", flush=True)
time.sleep(1)
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize(("seconds", "code", "said"), [(0, 0, ""), (30, 1, "the other one is lost\n")])
def test_only_a_process_that_waits_for_a_lost_process_ends_itself(seconds: int, code: int, said: str) -> None:
    ended = execute([sys.executable, "-c", WAITING, str(seconds)])
    assert (ended.code, ended.stderr) == (code, said)
    assert ended.stdout.splitlines() == ["3", *(["done"] if not code else [])]
