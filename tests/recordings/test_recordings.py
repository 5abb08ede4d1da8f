"""Recordings of training loops as users write them: what they hold, what they cost the loop, and how two of them compare."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import parity
from helpers import launchers, recorded_loop_paddle, recorded_loop_torch
from helpers.paths import ROOT
from parity.backend.registry import FRAMEWORKS
from parity.errors import InputError
from parity.files.atomic import temporary_name
from parity.recordings.compare_recordings import RecordingOutcome
from parity.recordings.recording import read_recording

LOOPS: dict[str, Any] = {"torch": recorded_loop_torch, "paddle": recorded_loop_paddle}


def compared(folder: Path, torch: dict[str, Any], paddle: dict[str, Any], **more: Any) -> RecordingOutcome:
    recorded_loop_torch.train(folder / "torch.run", **torch)
    recorded_loop_paddle.train(folder / "paddle.run", **paddle)
    return parity.compare_recordings(folder / "torch.run", folder / "paddle.run", **more)


SAME: dict[str, dict[str, Any]] = {
    "float32": {},
    "float64": {"dtype": "float64"},
    "without layers": {"layers": ()},
    "some layers": {"layers": ["conv*", "fc"]},
    "without weights": {"weights": False},
    "one step in two": {"every": 2, "count": 6},
    "accumulated": {"accumulate": 2},
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_two_equal_programs_have_equal_recordings(tmp_path: Path, options: dict[str, Any]) -> None:
    outcome = compared(tmp_path, options, options)
    assert outcome.verdict == "equal" and not outcome.conditions, outcome.sentence()
    stages = outcome.summaries()
    assert {name: stage["verdict"] for name, stage in stages.items()} == dict.fromkeys(stages, "equal")
    assert list(stages) == ["forward", "backward", "update", "trajectory"]
    layers = options.get("layers") != ()
    assert stages["forward"]["compared"] > (18 if layers else 8)


FAULTS: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "rate of step 2": ({"second_rate": 0.049}, "update", 2, "learning rate: PyTorch 0.05, Paddle 0.049"),
    "reduction": ({"reduction": "sum"}, "loss", 1, "PyTorch averages over all 8 labels, Paddle sums over the labels"),
    "ignored label": (
        {"ignored": 0},
        "loss",
        1,
        "ignore_index of the loss: PyTorch ignores no label, Paddle ignores label 0",
    ),
    "label smoothing": ({"smoothing": 0.1}, "loss", 1, "label smoothing: PyTorch 0, Paddle 0.1"),
    "decay of norms": ({"of_norms": True}, "update", 1, "weight decay .*PyTorch none, Paddle 0.01 at bn1.weight"),
    "no clipping": (
        {"clip": None},
        "update",
        1,
        "PyTorch clips the norm of all gradients to 0.5, Paddle clips nothing",
    ),
    "clipping by group": ({"clip": None, "clip_groups": 0.5}, "update", 1, "Paddle clips the norm of each group"),
    "initial weights": ({"seed": 1}, "start", 1, "start from other weights"),
    "inputs": ({"data": 1}, "input", 1, "got other inputs"),
    "dropout": ({"drop": 0.2}, "forward", 1, "PyTorch drops nothing, Paddle drops at drop"),
}


@pytest.mark.parametrize(("fault", "phase", "step", "words"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("layers", [None, ()], ids=["layers", "no layers"])
def test_a_planted_fault_is_named(
    tmp_path: Path, fault: dict[str, Any], phase: str, step: int, words: str, layers: tuple[str, ...] | None
) -> None:
    outcome = compared(tmp_path, {"layers": layers}, {**fault, "layers": layers})
    first = outcome.first
    assert first and outcome.verdict == "different"
    assert (first.phase, first.step) == (phase, step), first.sentence()
    said = " ".join([first.sentence(), *outcome.differences])
    assert re.search(words, said), said


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_recording_changes_no_number_and_leaves_no_trace(tmp_path: Path, framework: str) -> None:
    loop = LOOPS[framework]
    functional = importlib.import_module(f"{framework}.nn.functional")
    tensor = importlib.import_module(framework).Tensor
    before = functional.dropout, tensor.backward
    plain = loop.train(None, drop=0.3, count=5)
    assert loop.train(tmp_path / "run", drop=0.3, count=5) == plain
    assert (functional.dropout, tensor.backward) == before


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_recorded_gradient_is_that_before_clipping(tmp_path: Path, framework: str) -> None:
    recorded = []
    for number, clip in enumerate((None, 1e-3)):
        LOOPS[framework].train(tmp_path / f"{number}", clip=clip)
        record = read_recording(tmp_path / f"{number}")[0].step(1)
        recorded.append({name: record[f"gradient/{name}"] for name in record.named("gradient")})
        assert len(record.description.clips) == (clip is not None)
    assert recorded[0].keys() == recorded[1].keys() != set()
    for name, array in recorded[0].items():
        np.testing.assert_array_equal(array, recorded[1][name])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_recording_is_readable_up_to_its_last_whole_step(tmp_path: Path, framework: str) -> None:
    program = Path(LOOPS[framework].__file__)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run([sys.executable, program, killed, "3"], env=environment(), check=False)
    assert done.returncode == -9
    assert any(path.name.endswith("-tmp") for path in (killed / "rank0").iterdir()), "it was killed outside of a step"
    LOOPS[framework].train(whole)
    (recording,) = read_recording(killed)
    assert list(recording.numbers) == [1, 2]
    outcome = parity.compare_recordings(whole, killed)
    assert outcome.verdict == "equal" and len(outcome.trajectory) == 2


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_rank_writes_its_own_folder(tmp_path: Path, framework: str) -> None:
    program = ROOT / "tests" / "helpers" / f"recorded_ranks_{framework}.py"
    command = launchers.launched(framework, tmp_path / "logs", [sys.executable, str(program), str(tmp_path / "run")])
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = read_recording(tmp_path / "run")
    assert [rank.description.rank for rank in ranks] == [0, 1]
    steps = [rank.step(2) for rank in ranks]
    assert not np.array_equal(steps[0]["input/0/0"], steps[1]["input/0/0"])
    np.testing.assert_allclose(steps[0]["gradient/fc.weight"], steps[1]["gradient/fc.weight"], rtol=1e-12)
    outcome = parity.compare_recordings(tmp_path / "run", tmp_path / "run")
    assert outcome.verdict == "equal"
    assert any("rank 1: equal" in text for text in outcome.explained), outcome.explained


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_recordings_of_one_framework_are_compared(tmp_path: Path, framework: str) -> None:
    train: Callable[..., Any] = LOOPS[framework].train
    for name, options in {"a": {}, "b": {}, "c": {"rate": 0.04}}.items():
        train(tmp_path / name, **options)
    outcome = parity.compare_recordings(tmp_path / "a", tmp_path / "b")
    assert outcome.verdict == "equal" and not outcome.conditions
    other = parity.compare_recordings(tmp_path / "a", tmp_path / "c")
    assert other.first and other.first.phase == "update"
    assert "learning rate: the reference 0.05, the candidate 0.04" in other.first.sentence()


def test_a_twin_measures_rounding(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "twin", twin=1)
    outcome = compared(tmp_path, {}, {}, twins=[tmp_path / "twin"])
    assert outcome.verdict == "equal" and outcome.how["twins"] == 1
    without = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "twin")
    assert any("is a one-ULP twin" in text for text in without.conditions)
    with pytest.raises(InputError, match="is no twin: record it with"):
        parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run", twins=[tmp_path / "torch.run"])
    recorded_loop_paddle.train(tmp_path / "other", twin=1)
    with pytest.raises(InputError, match="its model is another one"):
        parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run", twins=[tmp_path / "other"])


def test_tf32_on_one_side_is_said_first(tmp_path: Path) -> None:
    compared(tmp_path, {}, {})
    for side, value in (("torch", "true"), ("paddle", "false")):
        file = tmp_path / f"{side}.run" / "rank0" / "recording.json"
        text = file.read_text().replace('"device": "cpu"', '"device": "gpu"')
        for name in ("TF32 in matrix products", "TF32 in convolutions"):
            text = text.replace(f'"{name}": true', f'"{name}": {value}').replace(
                f'"{name}": false', f'"{name}": {value}'
            )
        file.write_text(text)
    outcome = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
    assert "TF32 in convolutions: PyTorch on, Paddle off" in outcome.conditions
    assert "TF32 in matrix products: PyTorch on, Paddle off" in outcome.conditions


def test_another_dtype_is_said_first(tmp_path: Path) -> None:
    outcome = compared(tmp_path, {"dtype": "float64"}, {})
    assert outcome.conditions[0] == "dtype of the model: PyTorch float64, Paddle float32"
    assert outcome.dtype == "float32" and outcome.verdict == "equal"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_may_not_leave_the_house_is_not_in_the_files(tmp_path: Path, framework: str) -> None:
    LOOPS[framework].train(tmp_path / "run", weights=False, layers=())
    for number in (1, 2, 3):
        record = read_recording(tmp_path / "run")[0].step(number)
        shapes = {record[name].shape for name in record if name.split("/")[0] in ("start", "gradient", "update")}
        assert shapes == {(4,)}
        assert not record.named("layer") and record.named("backward") == ["output/0/"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_layers_that_do_not_exist_are_refused(tmp_path: Path, framework: str) -> None:
    loop = LOOPS[framework]
    with pytest.raises(InputError, match=r"no layer 'convx' to record; the model has conv1, bn1"):
        loop.train(tmp_path / "run", layers=["convx"])
    with pytest.raises(InputError, match="pass a list of paths"):
        loop.train(tmp_path / "other", layers="conv1")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_recording_is_only_overwritten_on_demand(tmp_path: Path, framework: str) -> None:
    loop = LOOPS[framework]
    loop.train(tmp_path / "run")
    with pytest.raises(InputError, match="exists already: remove it, choose another folder, or pass overwrite=True"):
        loop.train(tmp_path / "run")
    loop.train(tmp_path / "run", overwrite=True, steps=1)
    assert list(read_recording(tmp_path / "run")[0].numbers) == [1]
    (tmp_path / "mine" / "rank0").mkdir(parents=True)
    (tmp_path / "mine" / "rank0" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already: choose another folder"):
        loop.train(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_refused_recording_leaves_the_old_one_and_no_hook(tmp_path: Path, framework: str) -> None:
    loop, folder = LOOPS[framework], tmp_path / "run"
    loop.train(folder)
    net, half = loop.make(), loop.make()
    half = half.bfloat16() if framework == "torch" else half.to(dtype="bfloat16")
    for model, options, words in (
        (net, {"layers": ["convx"]}, "no layer 'convx'"),
        (half, {"twin": 1}, "a twin of a model in bfloat16 cannot be recorded"),
        (net, {"overwrite": False}, "exists already"),
    ):
        optimizer = loop.make_optimizer(model)
        with (
            pytest.raises(InputError, match=words),
            parity.record(model, optimizer, folder, **{"overwrite": True, **options}),
        ):
            pass
        after = "_forward_hooks" if framework == "torch" else "_forward_post_hooks"
        for module in (model, *model.children()):
            assert not module._forward_pre_hooks and not getattr(module, after)
    assert list(read_recording(folder)[0].numbers) == [1, 2, 3]


def test_overwriting_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "run")
    folder = tmp_path / "run" / "rank0"
    leftover, own = temporary_name(folder / "step_000002.safetensors"), folder / "notes.txt"
    for file in (leftover, own):
        file.write_text("")
    recorded_loop_torch.train(tmp_path / "run", overwrite=True, steps=1)
    assert not leftover.exists() and own.exists()
    (folder / "step_000009.safetensors").mkdir()
    with pytest.raises(InputError, match=r"cannot make the folder .*rank0: "):
        recorded_loop_torch.train(tmp_path / "run", overwrite=True)


def test_only_models_and_optimizers_are_recorded(tmp_path: Path) -> None:
    net = recorded_loop_torch.make()
    with pytest.raises(InputError, match="the model is a list"), parity.record([], None, tmp_path / "run"):
        pass
    with pytest.raises(InputError, match="without a method step"), parity.record(net, net, tmp_path / "run"):
        pass
    with (
        pytest.raises(InputError, match="must be at least 1"),
        parity.record(net, torch.optim.SGD(net.parameters(), 0.1), tmp_path, 0),
    ):
        pass
    assert not (tmp_path / "run").exists()


def lazy_paddle() -> Any:
    with paddle.LazyGuard():
        return paddle.nn.Linear(3, 2)


LAZY: dict[str, Callable[[], Any]] = {
    "lazy layer": lambda: torch.nn.LazyLinear(2),
    "meta device": lambda: torch.nn.Linear(3, 2, device="meta"),
    "LazyGuard": lazy_paddle,
}


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_a_model_without_numbers_is_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    net, message = make(), r"weight of (Lazy)?Linear has no numbers yet: run a model with lazy layers once before"
    is_torch = isinstance(net, torch.nn.Module)
    optimizer = torch.optim.SGD(net.parameters(), 0.1) if is_torch else paddle.optimizer.SGD(0.1, net.parameters())
    with pytest.raises(InputError, match=message), parity.record(net, optimizer, tmp_path / "run"):
        pass
    with pytest.raises(InputError, match=message):
        pair = (net, paddle.nn.Linear(3, 2)) if is_torch else (torch.nn.Linear(3, 2), net)
        parity.compare_models(*pair, input_shape=(4, 3))


REPLAYS = [("torch", "paddle"), ("paddle", "torch"), ("torch", "torch"), ("paddle", "paddle")]


@pytest.mark.parametrize(("recorded", "replayed"), REPLAYS, ids=["to ".join(pair) for pair in REPLAYS])
def test_a_replay_makes_the_sides_alike(tmp_path: Path, recorded: str, replayed: str) -> None:
    losses = LOOPS[recorded].train(tmp_path / "one", drop=0.25, count=3)
    again = LOOPS[replayed].replay(tmp_path / "one", tmp_path / "two", drop=0.25)
    np.testing.assert_allclose(again, losses, rtol=1e-4)
    outcome = parity.compare_recordings(tmp_path / "one", tmp_path / "two")
    assert outcome.verdict == "equal" and not outcome.conditions, outcome.sentence()
    assert outcome.stages["forward"].compared > 20


def test_a_replay_of_steps_with_gaps_takes_the_weights_of_each(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "one", every=2, count=6)
    recorded_loop_paddle.replay(tmp_path / "one", tmp_path / "two")
    steps = [read_recording(tmp_path / name)[0] for name in ("one", "two")]
    assert steps[0].numbers == steps[1].numbers == [1, 3, 5]
    np.testing.assert_array_equal(steps[0].step(5)["start/conv1.weight"], steps[1].step(5)["start/conv1.weight"])


@pytest.mark.parametrize(("recorded", "replayed"), REPLAYS, ids=["to ".join(pair) for pair in REPLAYS])
@pytest.mark.parametrize("options", [{"before": 1}, {"every": 2, "count": 6}], ids=["late", "with gaps"])
def test_a_replay_restores_the_state_of_the_optimizer(
    tmp_path: Path, recorded: str, replayed: str, options: dict[str, Any]
) -> None:
    LOOPS[recorded].train(tmp_path / "one", **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the optimizer kept")
        LOOPS[replayed].replay(tmp_path / "one", tmp_path / "two")
    outcome = parity.compare_recordings(tmp_path / "one", tmp_path / "two")
    assert outcome.verdict == "equal" and not outcome.conditions, outcome.sentence()


def test_a_replay_that_cannot_be_is_refused(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "private", weights=False)
    with pytest.raises(InputError, match="weights=False: it has no weights to replay"):
        recorded_loop_paddle.replay(tmp_path / "private", tmp_path / "out")
    recorded_loop_torch.train(tmp_path / "one")
    with pytest.raises(InputError, match=r"the model drops 256 numbers with p = 0.5"):
        recorded_loop_paddle.replay(tmp_path / "one", tmp_path / "out", drop=0.5)
    net = recorded_loop_paddle.make()
    with (
        pytest.raises(InputError, match="pass the optimizer"),
        parity.replay(tmp_path / "one", net, output=tmp_path / "x"),
    ):
        pass


def test_a_replay_does_not_overwrite_what_it_replays(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "one")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    for output in ("one", "link", "other/../one"):
        with pytest.raises(InputError, match="is the recording that is replayed: choose another folder for output="):
            recorded_loop_torch.replay(tmp_path / "one", tmp_path / output, overwrite=True)
    assert list(read_recording(tmp_path / "one")[0].numbers) == [1, 2, 3]
