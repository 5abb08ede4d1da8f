"""Bad checkpoints and run folders: exit code 2, one line that names the problem and a way out, and nothing changed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.refusals import BATCH_LINE, EXPERIMENT, NETWORK, Payload, Refused, saved_run
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Flatten, Linear
from parity.recipe import presets
from parity.recipe.recipe import Experiment, changed
from parity.training.run_folder import Position, RunFolder
from parity.weights import canonical_state


def of_another(**changes: Any) -> Callable[[RunFolder], None]:
    """Write the checkpoint of a run that differs from `EXPERIMENT` in these fields."""

    def change(run: RunFolder) -> None:
        other = saved_run(run.folder.parent / "other", Experiment(**{**vars(EXPERIMENT), **changes}))
        run.last.write_bytes(other.last.read_bytes())

    return change


def whole(run: RunFolder) -> bytes:
    return run.last.read_bytes()


DAMAGED: dict[str, tuple[Callable[[RunFolder], Any], str]] = {
    "empty": (lambda run: run.last.write_bytes(b""), "not a whole safetensors file"),
    "cut in the header": (lambda run: run.last.write_bytes(whole(run)[:100]), "not a whole safetensors file"),
    "cut by a byte": (lambda run: run.last.write_bytes(whole(run)[:-1]), "not a whole safetensors file"),
    "longer by a byte": (lambda run: run.last.write_bytes(whole(run) + b"\0"), "not a whole safetensors file"),
    "a text": (lambda run: run.last.write_text("<html>404</html>" * 9), "not a whole safetensors file"),
    "without a network": (
        lambda run: run.last.write_bytes(
            canonical_state.encode(canonical_state.load(run.last)[1], {"made": "elsewhere"})
        ),
        "no network",
    ),
    "with an array missing": (lambda run: resave(run, drop="fc2.bias"), "fc2.bias"),
}
"""Damage of a checkpoint -> the messages of --resume and --eval-only."""


def resave(run: RunFolder, drop: str = "", **metadata: str) -> None:
    """Write the checkpoint again without the array `drop` and with other metadata."""
    network, state, kept = canonical_state.load(run.last)
    canonical_state.save(run.last, network, {n: a for n, a in state.items() if n != drop}, {**kept, **metadata})


@pytest.mark.parametrize("mode", ["--resume", "--eval-only"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(damage: str, mode: str, training_refusal: Refused) -> None:
    change, culprit = DAMAGED[damage]
    run = saved_run(Path("run"))
    change(run)
    message = training_refusal(mode, run.folder)
    assert "run/last.safetensors" in message
    assert culprit in message
    assert any(
        way in message for way in ("take another copy", "put the run's own checkpoint back", "give a .safetensors")
    )


@pytest.mark.parametrize("mode", ["--resume", "--eval-only"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_as_a_checkpoint_is_refused_and_does_not_run(
    mode: str, protocol: int, frameworkless_folder: Path, training_refusal: Refused
) -> None:
    run, marker = saved_run(Path("run")), frameworkless_folder / "ran"
    run.last.write_bytes(pickle.dumps({"fc.weight": Payload(marker)}, protocol))
    assert "not a whole safetensors file" in training_refusal(mode, run.folder)
    assert not marker.exists()
    pickle.loads(whole(run))
    assert marker.exists(), "the pickle was harmless: the test proves nothing"


NOT_OF_THIS_RUN: dict[str, tuple[Callable[[RunFolder], Any], str]] = {
    "another network": (of_another(network=articles.get_network("vgg_mini@0.05")), "vgg_mini@0.05"),
    "the same network, narrower": (
        of_another(network=articles.get_network("vgg16_bn_drop@0.02")),
        "vgg16_bn_drop@0.02",
    ),
    "another recipe": (
        of_another(recipe=changed(presets.get_recipe("adam"), epochs=2, batch_size=8)),
        "another recipe",
    ),
    "another seed": (of_another(seed=4), "another recipe, seed or data"),
    "weights without optimizer slots": (lambda run: run.last.write_bytes(run.best.read_bytes()), "velocity"),
    "no position": (lambda run: resave(run, position="null"), "position"),
    "a position after the end": (lambda run: resave(run, position='{"epoch": 9}'), "position"),
    "a position with a batch too many": (lambda run: resave(run, position='{"batch": 4}'), "position"),
    "a position between updates": (lambda run: resave(run, position='{"update": 3}'), "position"),
}


@pytest.mark.parametrize("what", NOT_OF_THIS_RUN)
def test_resuming_with_the_checkpoint_of_another_run_is_refused(what: str, training_refusal: Refused) -> None:
    change, culprit = NOT_OF_THIS_RUN[what]
    run = saved_run(Path("run"))
    change(run)
    message = training_refusal("--resume", run.folder)
    assert "run/last.safetensors" in message
    assert culprit in message
    assert "put the run's own checkpoint back" in message


def test_testing_another_network_than_was_asked_for_is_refused(training_refusal: Refused) -> None:
    saved_run(Path("run"))
    message = training_refusal("--eval-only", "run", "--network", "vgg_mini")
    assert message.startswith(f"run holds network {NETWORK.name}, not vgg_mini")


@pytest.mark.parametrize("mode", ["--resume", "--eval-only"])
def test_a_network_that_does_not_fit_the_data_is_refused(mode: str, training_refusal: Refused) -> None:
    odd = Network("odd", (3, 8, 8), (Flatten("flat"), Linear("fc", 4)))
    saved_run(Path("run"), Experiment(odd, EXPERIMENT.recipe, "shapes10"))
    message = training_refusal(mode, "run")
    assert "network odd takes images (3, 8, 8) of 4 classes" in message
    assert "shapes10 has images (3, 32, 32) of 10 classes" in message


def test_metrics_that_were_cut_are_refused(training_refusal: Refused) -> None:
    run = saved_run(Path("run"))
    run.save(canonical_state.load(run.last)[1], Position(lines=2))
    run.metrics_file.write_text(json.dumps(BATCH_LINE) + '\n{"event": "ba')
    message = training_refusal("--resume", "run")
    assert "run/metrics.jsonl lacks some of the" in message
    assert "start a new run" in message


NO_RUN: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda place: None,
    "an empty folder": lambda place: place.mkdir(),
    "a file": lambda place: place.write_text("{}"),
    "a binary config": lambda place: (place.mkdir(), (place / "config.json").write_bytes(b"\xff\xfe\0")),
    "a config that is a folder": lambda place: (place / "config.json").mkdir(parents=True),
}
CONFIGS = [
    "",
    "[]",
    "{}",
    "{",
    '{"experiment": null}',
    '{"experiment": []}',
    '{"experiment": {"data": "shapes10"}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("what", NO_RUN)
def test_resuming_what_is_no_run_is_refused(what: str, training_refusal: Refused) -> None:
    NO_RUN[what](Path("place"))
    message = training_refusal("--resume", "place")
    assert message.startswith("place is not a run folder")
    assert "give the folder that a run was written to" in message


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: text[:40])
def test_a_config_that_describes_no_experiment_is_refused(text: str, training_refusal: Refused) -> None:
    saved_run(Path("run"))
    Path("run/config.json").write_text(text)
    message = training_refusal("--resume", "run")
    assert "run/config.json" in message
    assert "start a new run" in message


@pytest.mark.parametrize("what", ["experiment of unknown data", "experiment with too many images"])
def test_a_config_that_asks_for_what_there_is_not_is_refused(what: str, training_refusal: Refused) -> None:
    changes = {"data": "imagenet"} if "unknown" in what else {"train_limit": 10_001}
    saved_run(Path("run"), Experiment(**{**vars(EXPERIMENT), **changes}))
    message = training_refusal("--resume", "run")
    assert str(next(iter(changes.values()))) in message
    assert "shapes10" in message


@pytest.mark.parametrize("place", ["nowhere", "nowhere/last.safetensors", "folder", "/dev/null"])
def test_testing_what_is_no_checkpoint_is_refused(place: str, training_refusal: Refused) -> None:
    Path("folder").mkdir()
    message = training_refusal("--eval-only", place)
    assert place in message
    assert "give " in message or "take another copy" in message
