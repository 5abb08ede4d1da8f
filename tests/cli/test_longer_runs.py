"""`--resume RUN --epochs N` and `--learning-rate X`: a lengthened run is the run that was planned with N epochs, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.framework_process import FrameworkProcess
from helpers.refusals import Refused
from helpers.training_runs import bits, falling, metrics, same_end
from parity.errors import InputError
from parity.files import atomic
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Experiment, Lookahead, Recipe, changed
from parity.training.run_folder import Position, RunFolder
from parity.training.run_lock import lock_run
from parity.weights.canonical_state import initialise

SIZE = ("--network", "vgg16_bn_drop@0.0625", "--data", "shapes10", "--train-limit", 80, "--test-limit", 20)
ADAM = (*SIZE, "--recipe", "adam", "--batch-size", 32)


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def shortened(folder: Path, epochs: int) -> Path:
    """Make the run `falling` in `folder`, planned with `epochs` epochs: the velocity holds a rate that falls at every update."""
    experiment = RunFolder.open(falling(folder.with_name(f"{folder.name}-of"))).experiment
    network = articles.get_network("vgg16_bn_drop@0.0625")
    recipe = dataclasses.replace(experiment.recipe, epochs=epochs)
    made = dataclasses.replace(experiment, network=network, recipe=recipe, data="shapes10", train_limit=80)
    RunFolder.create(folder, made, {"framework": "its own"})
    return folder


@pytest.fixture(scope="module", params=["paddle", "torch"])
def lengthened(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    processes: dict[str, FrameworkProcess],
) -> tuple[Path, str]:
    """Runs of one epoch that got three, beside runs that were planned with three; and what all calls printed."""
    root = tmp_path_factory.mktemp("longer")
    shortened(root / "falling", 1), shortened(root / "falling-planned", 3)
    calls: list[tuple[object, ...]] = [
        (*ADAM, "--epochs", 1, "--output", root / "adam"),
        ("--resume", root / "adam", "--epochs", 2),
        ("--resume", root / "adam", "--epochs", 3),
        ("--resume", root / "adam", "--epochs", 3),
        (*ADAM, "--epochs", 3, "--output", root / "adam-planned"),
        ("--resume", root / "falling"),
        ("--resume", root / "falling", "--epochs", 3),
        ("--resume", root / "falling-planned"),
    ]
    return root, "".join(processes[request.param].train(*call).stdout for call in calls)


@pytest.mark.parametrize("recipe", ["adam", "falling"])
def test_a_lengthened_run_is_the_planned_one_bit_for_bit(lengthened: tuple[Path, str], recipe: str) -> None:
    root, _ = lengthened
    assert [line["epoch"] for line in metrics(root / recipe) if line["event"] == "pass"] == [0, 1, 2]
    same_end(root / f"{recipe}-planned", root / recipe)
    assert any(name.startswith("optimizer.") for name in bits(root / recipe))


@pytest.mark.parametrize("recipe", ["adam", "falling"])
def test_its_config_json_holds_the_new_number_and_all_else_as_before(lengthened: tuple[Path, str], recipe: str) -> None:
    root, _ = lengthened
    assert config(root / recipe)["experiment"] == config(root / f"{recipe}-planned")["experiment"]
    assert config(root / recipe)["framework"] == config(root / f"{recipe}-planned")["framework"]
    assert sorted(path.name for path in (root / recipe).iterdir() if path.name.startswith(".")) == []


def test_it_says_what_happens_to_the_learning_rate(lengthened: tuple[Path, str]) -> None:
    root, said = lengthened
    lines = [line for line in said.splitlines() if line.startswith("Longer: ")]
    planned = "as in a run that was planned with as many epochs"
    assert lines[:2] == [
        f"Longer: 2 epochs instead of 1. The learning rate stays 0.001, {planned}",
        f"Longer: 3 epochs instead of 2. The learning rate stays 0.001, {planned}",
    ]
    # 0.1 / 2 ** (samples // 22): 80 + 32 samples at the next update, 240 at the end
    course = f"goes on by its schedule, from {0.1 / 2**5:g} now to {0.1 / 2**10:g} at the end"
    assert lines[2:] == [f"Longer: 3 epochs instead of 1. The learning rate {course}, {planned}"]
    rates = [line["rate"] for line in metrics(root / "falling") if line["event"] == "batch"]
    assert rates[3] == pytest.approx(0.1 / 2**5) and rates[-1] == pytest.approx(0.1 / 2**10)


# Stopped between config.json and the next checkpoint


def saved(folder: Path, recipe: Recipe) -> RunFolder:
    """Make a run that has finished the epochs of `recipe`, by hand: four images in one batch."""
    network = articles.get_network("lenet")
    run = RunFolder.create(folder, Experiment(network, recipe, "shapes10", 0, 4, 4), {"command": "as it was"})
    state = initialise(network, 0)
    slots = {f"optimizer.{slot}.{name}": 0 * state[name] for slot in recipe.optimizer.slots for name in state}
    position = Position()
    for epoch in range(recipe.epochs):
        line = {
            "event": "pass",
            "epoch": epoch,
            "update": epoch + 1,
            "samples": 4,
            "passes": 1,
            "cost": 1.0,
            "error": 0.5,
        }
        times = {"rate": 0.1, "seconds": 1.0, "test_seconds": 1.0, "stream": "0" * 64}
        run.log(position, **line, **times, test_cost=1.0, test_error=0.5, test_accuracy=0.5)
    position.epoch = position.update = recipe.epochs
    position.samples, position.seconds = 4 * recipe.epochs, 1.0
    run.save(state | slots, position)
    return run


def test_a_crash_between_config_json_and_the_next_checkpoint_loses_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "run", changed(presets.get_recipe("mnist"), epochs=2)).lengthen(5)
    run = RunFolder.open(tmp_path / "run")
    assert run.experiment.recipe.epochs == 5
    _, position = run.restore(4)
    assert (position.epoch, position.update) == (2, 2)
    assert config(tmp_path / "run")["command"] == "as it was"


def test_a_lengthened_run_stays_locked(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", presets.get_recipe("mnist"))
    run.lengthen(2)
    program = "import sys; from pathlib import Path; from parity.training.run_lock import lock_run; lock_run(Path(sys.argv[1]))"
    ended = subprocess.run(
        [sys.executable, "-c", program, run.folder / "config.json"], capture_output=True, text=True, check=False
    )
    assert "is being trained by another process" in ended.stderr
    lock_run(run.folder / "config.json")  # this process holds it


def test_a_config_json_that_cannot_be_written_is_one_line_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(tmp_path / "run", presets.get_recipe("mnist"))
    before = (run.folder / "config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_new", full)
    with pytest.raises(InputError, match=r"cannot write .*config.json: No space left on device"):
        run.lengthen(2)
    assert (run.folder / "config.json").read_bytes() == before


# Refused


def test_a_schedule_that_ends_with_the_run_is_refused_with_what_to_do(training_refusal: Refused) -> None:
    run = saved(Path("run"), changed(presets.get_recipe("quick"), epochs=2))
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    assert training_refusal("--resume", "run", "--epochs", 4) == (
        "run cannot get 4 epochs: its learning rate reaches 0 at the end of epoch 2, as planned (schedule one_cycle); "
        "leave --epochs out, or start a new run with --recipe run/config.json --epochs 4 and its other options as before"
    )
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_fewer_epochs_than_planned_are_refused(training_refusal: Refused) -> None:
    saved(Path("run"), changed(presets.get_recipe("adam"), epochs=3))
    message = training_refusal("--resume", "run", "--epochs", 2)
    assert message.startswith("run cannot get 2 epochs: its recipe plans 3, and epochs can only be added; ")


AHEAD = Lookahead(every=2, keep=0.5)
BOUND = {
    "one_cycle": "reaches 0 at the end of epoch",
    "multi_step": r"drops after 0.5 and 0.75 of the 164 planned epochs \(schedule multi_step\)",
}
"""Kind of schedule that depends on the number of epochs -> the reason in the message."""


@pytest.mark.parametrize("recipe", presets.RECIPES.values(), ids=list(presets.RECIPES))
def test_epochs_can_be_added_where_no_rate_depends_on_their_number(recipe: Recipe) -> None:
    plain = dataclasses.replace(recipe, lookahead=AHEAD)
    longer = dataclasses.replace(plain, epochs=recipe.epochs + 1)
    batches = [(recipe.batch_size * i, recipe.batch_size * 10) for i in range(1, 11 * recipe.epochs)]
    alike = all(
        (plain.rate(n, each * plain.epochs), AHEAD.share(n, each * plain.epochs))
        == (longer.rate(n, each * longer.epochs), AHEAD.share(n, each * longer.epochs))
        for n, each in batches
    )
    assert alike == (not plain.bound_to_epochs)
    if alike:
        assert plain.lengthened(recipe.epochs + 1) == longer
    else:
        with pytest.raises(InputError, match=BOUND[recipe.schedule.kind]):
            plain.lengthened(recipe.epochs + 1)
    assert plain.lengthened(recipe.epochs) == plain


def test_slow_weights_that_follow_the_share_of_the_run_are_bound_to_its_length() -> None:
    adam = presets.get_recipe("adam")
    for ahead, bound in (
        (Lookahead(2, 0.5, 3.0), True),
        (Lookahead(0, 0.5, 3.0), False),
        (Lookahead(2, 0.0, 3.0), False),
    ):
        assert bool(dataclasses.replace(adam, lookahead=ahead).bound_to_epochs) == bound


# --learning-rate


@pytest.mark.parametrize(
    ("framework", "recipe", "said"),
    [
        ("paddle", "adam", "0.05 instead of 0.001 (at every update)"),
        ("torch", "article", "0.05 instead of 0.1 (schedule discexp: 0.05 at first, 0.05 at the end)"),
        ("paddle", "resnet", "0.05 instead of 0.1 (schedule multi_step: 0.05 at first, 0.0005 at the end)"),
        ("torch", "quick", "0.05 instead of 0.2 (schedule one_cycle: 0.0416667 at first, 0 at the end)"),
        (
            "paddle",
            "fast",
            "0.05 instead of 1.5 (schedule one_cycle: 0.0375 at first, 0 at the end; groups multiply it: conv*.weight 0.125, "
            "*.beta 64, fc.weight 0.015625)",
        ),
    ],
)
def test_a_learning_rate_replaces_the_recipes_and_is_scaled_as_that_was(
    process: FrameworkProcess, recipe: str, said: str, tmp_path: Path
) -> None:
    size = ("--data", "shapes10", "--train-limit", 8, "--test-limit", 4, "--batch-size", 4, "--epochs", 2)
    network = "vgg_fast@0.125" if recipe == "fast" else "lenet"
    words = ("--network", network, "--recipe", recipe, *size, "--learning-rate", 0.05, "--output", tmp_path / "run")
    assert f"Learning rate: {said}\n" in process.train(*words).stdout
    stored = RunFolder.open(tmp_path / "run").experiment.recipe
    plain = changed(presets.get_recipe(recipe), epochs=2, batch_size=4)
    assert stored == dataclasses.replace(plain, optimizer=dataclasses.replace(plain.optimizer, rate=0.05))
    rates = [line["rate"] for line in metrics(tmp_path / "run") if line["event"] == "batch"]
    assert rates == [stored.rate(samples, 16) for samples in (4, 8, 12, 16)]


@pytest.mark.parametrize("rate", ["0", "-0.1", "nan", "inf", "1e60", "1e-60", "fast"])
def test_a_learning_rate_that_is_none_is_refused(rate: str, training_refusal: Refused) -> None:
    message = training_refusal(f"--learning-rate={rate}")
    assert message.startswith(f"--learning-rate: {rate!r} is not a number above 0 that float32 holds")
