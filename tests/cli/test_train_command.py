"""The training scripts as users run them: what they print and write, and that kills do not change the result."""

from __future__ import annotations

import json
import math
import random
import re
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from helpers.framework_process import FrameworkProcess
from helpers.training_runs import (
    BATCH,
    DATA,
    EPOCHS,
    NETWORK,
    SETTINGS,
    TEST,
    TIMES,
    TRAIN,
    Runs,
    bits,
    metrics,
    position,
    same_end,
    script,
    stop,
    succeed,
)
from parity import machine
from parity.backend.registry import FRAMEWORKS
from parity.network import articles
from parity.recipe import presets
from parity.training.console_lines import log_interval
from parity.weights import canonical_state


@pytest.fixture(scope="session")
def runs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, processes: dict[str, FrameworkProcess]
) -> Runs:
    """Runs that all tests share, also in other processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if hasattr(request.config, "workerinput") else base) / "training"
    return Runs(root, lambda framework, *words: processes[framework].train(*words))


# What it prints


def test_with_json_stdout_is_one_line_that_says_what_was_done(runs: Runs, framework: str) -> None:
    folder, ended = runs.whole(framework)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    said = json.loads(ended.stdout)
    expected = {
        "framework": framework,
        "network": NETWORK,
        "recipe": "adam",
        "data": "cifar10",
        "device": said["device"],
        "epochs": EPOCHS,
        "seed": 0,
        "train_images": TRAIN,
        "test_images": TEST,
        "parameters": articles.get_network(NETWORK).trainable_count,
        "run_dir": str(folder),
    }
    assert {key: said[key] for key in expected} == expected
    assert said["device"] in ("cpu", "gpu")


def test_the_accuracies_in_the_json_are_those_of_the_epochs(runs: Runs, framework: str) -> None:
    folder, ended = runs.whole(framework)
    said = json.loads(ended.stdout)
    epochs = [line for line in metrics(folder) if line["event"] == "pass"]
    assert said["test_accuracy"] == epochs[-1]["test_accuracy"]
    assert said["test_cost"] == epochs[-1]["test_cost"]
    assert said["best_accuracy"] == max(line["test_accuracy"] for line in epochs)


def test_the_json_measures_time_speed_feeding_and_memory(runs: Runs, framework: str) -> None:
    said = json.loads(runs.whole(framework)[1].stdout)
    assert 0 < said["seconds"] < said["wall_seconds"]
    assert said["images_per_second"] == pytest.approx(EPOCHS * TRAIN / said["seconds"], rel=0.01)
    assert 0 < said["feed_share"] < 1
    assert 0 < said["mask_share"] < 1
    assert 1e8 < said["peak_memory_bytes"] < 4e9


def test_with_json_the_messages_go_to_stderr(runs: Runs, framework: str) -> None:
    folder, ended = runs.whole(framework)
    lines = ended.stderr.splitlines()
    assert any(line.startswith(f"Epoch 1/{EPOCHS}, batch 1/5: loss ") for line in lines)
    assert lines[-1].startswith("Test accuracy ")
    assert any(str(folder) in line for line in lines)


def test_without_json_the_last_line_holds_the_accuracy_and_the_number_of_test_images(
    runs: Runs, framework: str
) -> None:
    folder, ended = runs.plain(framework)
    assert ended.code == 0, ended.stderr
    accuracy = metrics(folder)[-1]["test_accuracy"]
    last = ended.stdout.splitlines()[-1]
    assert last == f"Test accuracy {accuracy:.2%} on the first {TEST} cifar10 test images after {EPOCHS} epochs"


def test_a_line_for_each_batch_and_test_tells_epoch_loss_and_accuracy(runs: Runs, framework: str) -> None:
    folder, ended = runs.plain(framework)
    expected = []
    for line in metrics(folder):
        epoch = f"Epoch {line['epoch'] + 1}/{EPOCHS}"
        if line["event"] == "batch":
            so_far = f"epoch so far: loss {line['mean_cost']:.4f}, accuracy {1 - line['mean_error']:.2%}"
            expected.append(
                f"{epoch}, batch {line['batch'] + 1}/5: loss {line['cost']:.4f}, accuracy {1 - line['error']:.2%} ({so_far})"
            )
        else:
            expected.append(f"{epoch}: test loss {line['test_cost']:.4f}, test accuracy {line['test_accuracy']:.2%}")
    assert [line for line in ended.stdout.splitlines() if line.startswith("Epoch")] == expected


def test_the_first_lines_say_what_was_chosen(runs: Runs, framework: str) -> None:
    folder, ended = runs.plain(framework)
    lines = ended.stdout.splitlines()
    tuned = [line for line in lines[:2] if line.startswith("For speed: ")]
    layout = "channels first" if machine.is_intel() else "channels last"
    assert framework == "paddle" or tuned == [f"For speed: {layout}, large pages, 1 threads (docs/performance.md)"]
    chosen = [line for line in lines if line not in tuned and not line.startswith("Mixed precision: off; ")]
    first, data, network, recipe = chosen[:4]
    assert first.startswith(FRAMEWORKS[framework])
    assert str(folder) in first
    assert "cifar10" in data
    assert NETWORK in network
    assert "240,722 parameters" in network
    assert recipe == f"Recipe: adam, {EPOCHS} epochs of {TRAIN} images in batches of {BATCH}"


def test_a_terminal_gets_a_progress_bar_with_the_time_left(runs: Runs, framework: str) -> None:
    _, ended = runs.plain(framework)
    bars = [part for part in ended.stderr.split("\r") if "batches" in part]
    assert any(f"/{EPOCHS * math.ceil(TRAIN / BATCH)} batches" in bar and " s left" in bar for bar in bars)
    assert "batches" not in ended.stderr.split("\r")[-1]  # it is cleared at the end


def test_without_a_terminal_there_is_no_progress_bar(runs: Runs, framework: str) -> None:
    _, ended = runs.whole(framework)
    assert "\r" not in ended.stderr
    assert " left" not in ended.stderr


# What it writes


def test_config_json_says_what_was_run_and_on_what(runs: Runs, framework: str) -> None:
    folder, _ = runs.whole(framework)
    config = json.loads((folder / "config.json").read_text())
    assert config["framework"] == framework
    assert config["experiment"]["data"] == "cifar10"
    assert config["experiment"]["train_limit"] == TRAIN
    assert config["experiment"]["recipe"]["name"] == "adam"
    assert config["experiment"]["network"]["name"] == NETWORK
    assert {framework, "numpy", "python", "vgg-parity"} <= set(config["versions"])
    assert "Python" in config["machine"]
    assert config["device"] in ("cpu", "gpu")
    assert config["threads"] == 1
    assert f"train_{framework}.py --network {NETWORK}" in config["command"]


def test_metrics_jsonl_of_a_short_run_has_a_line_for_every_batch_and_epoch(runs: Runs, framework: str) -> None:
    folder, _ = runs.whole(framework)
    lines = metrics(folder)
    one = ["batch"] * 5 + ["pass"]
    assert [(line["event"], line["epoch"]) for line in lines] == [(event, epoch) for epoch in (0, 1) for event in one]
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    seen = [BATCH, 2 * BATCH, 3 * BATCH, 4 * BATCH, TRAIN, TRAIN]
    assert [line["samples"] for line in lines] == [*seen, *(TRAIN + count for count in seen)]
    assert all(math.isfinite(line["cost"]) and 0 <= line["error"] <= 1 for line in lines)


@pytest.mark.parametrize(
    ("recipe", "batches", "interval"),
    [
        ("adam", 1, 1),
        ("adam", 19, 1),
        ("adam", 40, 4),
        ("adam", 391, 39),  # CIFAR-10 in batches of 128
        ("adam", 999, 99),
        ("adam", 1000, 100),
        ("adam", 10_000, 100),
        ("article", 40, 4),
        ("article", 391, 100),  # as the article's own program
    ],
)
def test_a_line_comes_every_tenth_of_an_epoch_and_at_least_every_100_batches(
    recipe: str, batches: int, interval: int
) -> None:
    assert log_interval(presets.get_recipe(recipe), batches) == interval


def test_curves_png_is_a_picture_of_sensible_size(runs: Runs, framework: str) -> None:
    folder, _ = runs.whole(framework)
    with Image.open(folder / "curves.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert 800 < picture.width < 3000
        assert 200 < picture.height < 2000
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_the_last_checkpoint_holds_the_network_and_the_optimizers_slots(runs: Runs, framework: str) -> None:
    folder, _ = runs.whole(framework)
    network, state, metadata = canonical_state.load(folder / "last.safetensors")
    assert network == articles.get_network(NETWORK)
    canonical_state.check(network, state, ("moment1", "moment2"))
    assert json.loads(metadata["position"])["epoch"] == EPOCHS


def test_the_best_checkpoint_holds_the_weights_that_tested_best(runs: Runs, framework: str) -> None:
    folder, ended = runs.whole(framework)
    network, state, metadata = canonical_state.load(folder / "best.safetensors")
    canonical_state.check(network, state)
    assert float(metadata["test_accuracy"]) == json.loads(ended.stdout)["best_accuracy"]


def test_a_run_leaves_nothing_else_in_its_folder(runs: Runs, framework: str) -> None:
    folder, _ = runs.plain(framework)
    names = {"config.json", "metrics.jsonl", "curves.png", "last.safetensors", "best.safetensors"}
    assert {path.name for path in folder.iterdir()} == names


def test_tensorboard_reads_the_numbers_of_metrics_jsonl(runs: Runs, framework: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = runs.whole(framework)
    events = EventAccumulator(str(folder))
    events.Reload()
    for event, group, keys in (
        ("batch", "train", ("cost", "error", "rate")),
        ("pass", "test", ("test_cost", "test_error", "test_accuracy")),
    ):
        lines = [line for line in metrics(folder) if line["event"] == event]
        for key in keys:
            scalars = events.Scalars(f"{group}/{key.removeprefix('test_')}")
            assert [scalar.step for scalar in scalars] == [line["update"] for line in lines]
            assert [scalar.value for scalar in scalars] == pytest.approx([line[key] for line in lines], rel=1e-6)


# The same again


def test_the_same_seed_gives_the_same_weights_bit_for_bit(runs: Runs, framework: str) -> None:
    one, other = runs.whole(framework)[0], runs.plain(framework)[0]
    assert bits(one) == bits(other)
    assert metrics(one, *TIMES) == metrics(other, *TIMES)


def test_another_seed_gives_another_stream_and_other_weights(runs: Runs, framework: str) -> None:
    one, other = runs.whole(framework)[0], Path(runs.results(framework)["seed"]["run_dir"])
    first, second = bits(one), bits(other)
    changing = [name for name in first if name.endswith(".weight")]
    assert changing
    assert all(first[name] != second[name] for name in changing)
    streams = [line["stream"] for folder in (one, other) for line in metrics(folder) if line["event"] == "pass"]
    assert len(set(streams)) == len(streams)


def test_both_frameworks_see_the_same_batches(runs: Runs) -> None:
    streams = [[line.get("stream") for line in metrics(runs.whole(framework)[0])] for framework in FRAMEWORKS]
    assert streams[0] == streams[1]
    assert len(set(filter(None, streams[0]))) == EPOCHS


def test_both_frameworks_start_at_the_same_cost_and_stay_near_each_other(runs: Runs) -> None:
    paddle, torch = (metrics(runs.whole(framework)[0]) for framework in ("paddle", "torch"))
    assert paddle[0]["cost"] == pytest.approx(torch[0]["cost"], rel=1e-5)
    assert paddle[0]["error"] == torch[0]["error"]
    assert [line["cost"] for line in paddle] == pytest.approx([line["cost"] for line in torch], rel=0.05)
    assert [line["rate"] for line in paddle] == [line["rate"] for line in torch]


# Killed, stopped, resumed


def test_a_run_killed_twice_in_the_middle_of_a_pass_ends_with_the_same_bits(runs: Runs, framework: str) -> None:
    folder, places = runs.killed(framework)
    assert len(places) == 2
    assert all(place["batch"] > 0 and 0 < place["update"] < 2 * EPOCHS * 5 for place in places)
    same_end(runs.whole(framework)[0], folder)


def test_a_run_whose_rate_falls_ends_with_the_same_bits_after_it_was_stopped(runs: Runs, framework: str) -> None:
    folder, _ = runs.stopped(framework)
    same_end(runs.falling(framework), folder)


def test_the_rate_did_fall_and_the_velocity_was_kept(runs: Runs, framework: str) -> None:
    folder = runs.falling(framework)
    rates = [line["rate"] for line in metrics(folder) if line["event"] == "batch"]
    assert len(rates) == 5 * (EPOCHS + 1)
    assert rates == sorted(set(rates), reverse=True)
    assert "optimizer.velocity.conv1_1.weight" in bits(folder)


def test_a_kill_leaves_no_broken_file_behind_once_the_run_is_resumed(runs: Runs, framework: str) -> None:
    for folder in (runs.killed(framework)[0], runs.stopped(framework)[0]):
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("which", [0, 1], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_run_ends_with_130_and_says_how_to_continue(runs: Runs, framework: str, which: int) -> None:
    folder, ends = runs.stopped(framework)
    ended = ends[which]
    assert ended.code == 130
    line = ended.stderr.splitlines()[-1]
    assert re.match(rf"stopped in epoch [123] of {EPOCHS + 1}, after batch [1-5] of 5; ", line)
    assert f"continue with: python scripts/train_{framework}.py --resume {folder}" in line
    assert "Traceback" not in ended.stderr


def test_the_resume_command_repeats_the_flags_that_config_json_does_not_hold(runs: Runs, framework: str) -> None:
    _, ends = runs.stopped(framework)
    assert ends[0].stderr.splitlines()[-1].endswith("--threads 1 --checkpoint-every 0")


def test_a_resumed_run_says_where_it_continues(runs: Runs, framework: str) -> None:
    folder, ends = runs.stopped(framework)
    for before, after in pairwise(ends):
        place = before.stderr.splitlines()[-1].removeprefix("stopped ").partition(";")[0]
        assert f"Resuming {folder} with {FRAMEWORKS[framework]} {place}\n" in after.stdout


def test_resuming_a_finished_run_reports_its_result_again(runs: Runs, framework: str) -> None:
    folder, ended = runs.whole(framework)
    first, again = json.loads(ended.stdout), runs.results(framework)["finished"]
    same = ("test_accuracy", "best_accuracy", "test_cost", "seconds", "run_dir", "epochs", "train_images")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}
    assert f"Resuming {folder} with {FRAMEWORKS[framework]} at its end" in runs.results(framework)["said"]


# Testing checkpoints


def test_eval_only_of_a_run_gives_the_accuracy_after_its_last_epoch(runs: Runs, framework: str) -> None:
    folder, _ = runs.whole(framework)
    found, last = runs.results(framework)["last"], metrics(folder)[-1]
    assert (found["test_accuracy"], found["test_cost"]) == (last["test_accuracy"], last["test_cost"])
    assert (found["network"], found["recipe"], found["test_images"]) == (NETWORK, "adam", TEST)


def test_eval_only_of_the_best_checkpoint_gives_the_best_accuracy(runs: Runs, framework: str) -> None:
    said = json.loads(runs.whole(framework)[1].stdout)
    assert runs.results(framework)["best"]["test_accuracy"] == said["best_accuracy"]


def test_a_run_of_one_framework_tests_alike_in_the_other(runs: Runs, framework: str) -> None:
    (other,) = set(FRAMEWORKS) - {framework}
    folder, ended = runs.whole(other)
    found, last = runs.results(framework)["other last"], metrics(folder)[-1]
    assert found["framework"] == framework
    assert found["test_cost"] == pytest.approx(last["test_cost"], rel=1e-4)
    assert abs(found["test_accuracy"] - last["test_accuracy"]) <= 1 / TEST  # a tie that rounding decides
    best = runs.results(framework)["other best"]["test_accuracy"]
    assert abs(best - json.loads(ended.stdout)["best_accuracy"]) <= 1 / TEST


def test_without_flags_the_first_lines_tell_the_choices_and_the_articles_command(
    process: FrameworkProcess, framework: str, tmp_path: Path
) -> None:
    size = ("--data", "shapes10", "--train-limit", 16, "--test-limit", 8)  # fewer images than in the timed step
    said = process.train(*size, "--out", tmp_path / "run").stdout
    found = re.search(r"would take about (.*) here \((\d+) images/s in a step of 64\): python (.*)\n", said)
    assert found and found[3] == f"scripts/train_{framework}.py --network vgg16_bn_drop --recipe article"
    assert "Network: vgg16_bn_drop@0.125" in said and "Recipe: quick, 1 epoch of 16 images" in said
    seconds = {"days": 86_400, "h": 3600, "min": 60, "s": 1}
    words = found[1].split()
    told = sum(float(number) * seconds[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    least, most = (200 * 50_000 / (int(found[2]) + half) for half in (0.5, -0.5))
    assert 0.97 * least < told < 1.03 * most  # days have one decimal


# Minutes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_at_random_moments_break_no_checkpoint_and_change_no_bit(tmp_path: Path, framework: str) -> None:
    settings = [*SETTINGS, "--train-limit", 630, "--epochs", 12]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    succeed(script(framework, *settings, "--out", whole))
    moments = random.Random(20)
    command = script(framework, *settings, "--out", folder, "--checkpoint-every", 0)
    for _ in range(20):
        stop(command, folder, signal.SIGKILL, moments.randint(1, 8), moments.uniform(0, 0.2))
        for file in folder.glob("*.safetensors"):
            canonical_state.load(file)
        command = script(framework, "--resume", folder, "--checkpoint-every", 0)
    assert position(folder)["epoch"] < 12
    succeed(command)
    same_end(whole, folder)


@pytest.mark.slow
def test_the_whole_network_at_batch_128_trains_in_4_gb_with_fast_batches(tmp_path: Path, framework: str) -> None:
    settings = ("--network", "vgg16_bn_drop", "--recipe", "adam", *DATA, "--train-limit", 512, "--epochs", 1)
    ended = succeed(script(framework, *settings, "--out", tmp_path / "run", "--json"))
    said = json.loads(ended.stdout)
    assert said["peak_memory_bytes"] < 4e9
    assert said["feed_share"] < 0.03
