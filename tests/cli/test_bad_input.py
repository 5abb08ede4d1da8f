"""Bad flags and data: exit code 2, one line that names the problem and a way out, nothing written, and no framework loaded."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers import cifar_files
from helpers.cifar_files import flipped
from helpers.refusals import Payload, Refused, contents, saved_run, the_error
from helpers.training_runs import Ended, execute, script
from parity import data
from parity.cli import bench, check, export
from parity.cli.train_options import FIXED_ON_RESUME, TRAINING_ONLY
from parity.data import cifar10_files
from parity.network import articles
from parity.recipe import presets

ARCHIVE = "cifar-10-python.tar.gz"
NAMES = {"paddle": "Paddle", "torch": "PyTorch"}


# Names and numbers


@pytest.mark.parametrize(
    "name", ["lenet99", "", "VGG_mini", "vgg_mini@", "vgg_mini@0", "vgg_mini@-1", "vgg_mini@2", "vgg_mini@nan"]
)
def test_an_unknown_network_or_width_is_named_beside_those_that_there_are(name: str, training_refusal: Refused) -> None:
    message = training_refusal("--network", name or " ")
    assert repr(name or " ") in message
    assert "vgg_mini@0.25" in message
    assert "@" in name or all(known in message for known in articles.NETWORKS)


def test_an_unknown_recipe_is_named_beside_those_that_there_are(training_refusal: Refused) -> None:
    message = training_refusal("--recipe", "sgd")
    assert all(word in message for word in ("'sgd'", *presets.RECIPES))


def test_an_unknown_data_set_is_named_beside_those_that_there_are(training_refusal: Refused) -> None:
    message = training_refusal("--data", "imagenet")
    assert all(word in message for word in ("'imagenet'", *data.DATASETS))


COUNTS = ("epochs", "batch-size", "train-limit", "test-limit", "threads")
NUMBERS = [
    *((f"--{flag}", value) for flag in COUNTS for value in ("0", "-1", "1.5", "1e3", "many", str(2**63))),
    *((f"--{flag}", value) for flag in ("seed", "checkpoint-every") for value in ("-1", "0.5", "x", str(2**63))),
]


@pytest.mark.parametrize(("flag", "value"), NUMBERS)
def test_a_number_that_is_none_or_out_of_range_is_named_with_its_flag(
    flag: str, value: str, training_refusal: Refused
) -> None:
    message = training_refusal(flag, value)
    assert flag in message
    assert value in message or "2**63" in message
    assert "--help" in message


def test_more_threads_than_any_machine_has_are_refused(training_refusal: Refused) -> None:
    assert "--threads: 1025 is above 1024" in training_refusal("--threads", 1025)


@pytest.mark.parametrize("command", [bench, check, export], ids=lambda command: command.__name__)
def test_every_command_with_threads_refuses_more_than_any_machine_has(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {bench: ["train"], export: ["--model", "vgg_mini", "--output", "a.onnx"]}.get(command, [])
    assert command.main([*arguments, "--threads", "1025"]) == 2
    assert "--threads: 1025 is above 1024" in the_error(capsys.readouterr().err.splitlines())
    assert command.main.parse([*arguments, "--threads", "1024"]).threads == 1024


@pytest.mark.parametrize(("flag", "most"), [("--train-limit", 10_000), ("--test-limit", 2_000)])
def test_more_images_than_there_are_is_refused_with_the_number_that_there_is(
    flag: str, most: int, training_refusal: Refused
) -> None:
    message = training_refusal("--data", "shapes10", flag, most + 1)
    assert f"{most + 1}" in message
    assert f"from 1 to {most}" in message


@pytest.mark.parametrize(
    "numbers", [("--batch-size", 1), ("--train-limit", 33, "--batch-size", 32), ("--train-limit", 1)]
)
def test_a_batch_of_one_image_before_a_batch_norm_is_refused(
    numbers: tuple[object, ...], training_refusal: Refused
) -> None:
    message = training_refusal("--data", "shapes10", "--network", "vgg16_bn_drop", *numbers)
    assert "batch of one image" in message
    assert "choose another --batch-size or --train-limit" in message


@pytest.mark.parametrize(
    "arguments", [("--device", "tpu"), ("3", "--epoch-count"), ("run",), ("--output",), ("--json=1",)]
)
def test_flags_that_do_not_exist_or_lack_their_value_are_named(
    arguments: tuple[str, ...], training_refusal: Refused
) -> None:
    message = training_refusal(*arguments, json_too=False)
    assert arguments[-1].partition("=")[0] in message
    assert "--help" in message


# Flags that exclude each other

VALUES = {
    "network": "vgg_mini",
    "recipe": "adam",
    "data": "cifar10",
    "out": "new",
    "eval_only": "other",
    "tensorboard": "",
    "save_v2_tar": "",
    "amp": "off",
    "layout": "channels_last",
}
PAIRS = [("--resume", name) for name in FIXED_ON_RESUME] + [("--eval-only", name) for name in TRAINING_ONLY]


@pytest.mark.parametrize(("mode", "name"), PAIRS)
def test_a_flag_that_means_nothing_there_is_refused_by_name(mode: str, name: str, training_refusal: Refused) -> None:
    saved_run(Path("run"))
    flag = f"--{name.replace('_', '-')}"
    message = training_refusal(mode, "run", flag, *filter(None, [VALUES.get(name, "0" if name == "seed" else "7")]))
    assert message.startswith(f"{flag} cannot be given with {mode}: ")


# --out


@pytest.mark.parametrize("place", ["file/run", "file/deep/run", "/proc/parity/run", "x" * 300, "/dev/null", "loop/run"])
def test_an_out_that_cannot_be_written_is_refused_before_anything_else(place: str, training_refusal: Refused) -> None:
    Path("file").write_text("in the way")
    Path("loop").symlink_to("loop")
    message = training_refusal("--out", place, "--data-dir", "nowhere")
    assert place in message
    assert "choose another --out" in message


@pytest.mark.parametrize("kind", ["folder", "run", "file"])
def test_an_out_that_holds_something_is_refused_and_left_alone(kind: str, training_refusal: Refused) -> None:
    place = Path("taken")
    if kind == "run":
        saved_run(place)
    else:
        (place / "sub").mkdir(parents=True) if kind == "folder" else place.write_text("kept")
    message = training_refusal("--out", place, "--data", "shapes10")
    assert "taken exists and is not empty" in message
    assert "--resume" in message
    assert "choose another --out" in message


# --data-dir


@pytest.fixture
def bad_data(training_refusal: Refused) -> Callable[[Path, str], str]:
    """--data cifar10 and --data auto refuse `path`, and never use another data set instead."""

    def run(path: Path, culprit: str) -> str:
        for name in ("cifar10", "auto"):
            message = training_refusal("--data", name, "--data-dir", path, "--out", "run")
            assert str(path) in message
            assert culprit in message
            assert "--data-dir" in message.replace(str(path), "")
            assert "--data shapes10" in message
        return message

    return run


BadData = Callable[[Path, str], str]


def test_a_missing_archive_is_refused(frameworkless_folder: Path, bad_data: BadData) -> None:
    bad_data(frameworkless_folder / ARCHIVE, "no such file or folder")
    (frameworkless_folder / "empty").mkdir()
    bad_data(frameworkless_folder / "empty", "holds neither")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, 1.0])
def test_a_truncated_archive_is_refused(
    share: float, frameworkless_folder: Path, cifar10_batches: dict[str, bytes], bad_data: BadData
) -> None:
    whole = cifar_files.archive(frameworkless_folder / "whole.tar.gz", cifar10_batches).read_bytes()
    (frameworkless_folder / ARCHIVE).write_bytes(whole[: int(share * (len(whole) - 1))])
    bad_data(frameworkless_folder / ARCHIVE, "truncated")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("level", [0, 6])
def test_an_archive_with_one_flipped_byte_is_refused(
    level: int, share: float, frameworkless_folder: Path, cifar10_batches: dict[str, bytes], bad_data: BadData
) -> None:
    path = cifar_files.archive(frameworkless_folder / ARCHIVE, cifar10_batches, level)
    whole = path.read_bytes()
    data.load("cifar10", path)
    path.write_bytes(flipped(whole, int(share * (len(whole) - 1))))
    bad_data(path, "")


def test_a_flipped_byte_in_an_unpacked_batch_or_in_the_cache_is_refused(
    frameworkless_folder: Path, small_cifar10: dict[str, Any], cifar10_batches: dict[str, bytes], bad_data: BadData
) -> None:
    place = cifar_files.folder(frameworkless_folder, cifar10_batches)
    batch = place / "data_batch_2"
    batch.write_bytes(flipped(batch.read_bytes(), len(cifar10_batches["data_batch_2"]) // 2))
    bad_data(place, "the train images are not those of CIFAR-10")
    cache = frameworkless_folder / "cifar10.safetensors"
    whole = cifar10_files.cache_bytes(small_cifar10)
    cache.write_bytes(flipped(whole, len(whole) // 2))
    bad_data(cache, "are not those of CIFAR-10")


def test_a_pickle_in_the_archive_that_wants_to_run_code_is_refused_and_does_not_run(
    frameworkless_folder: Path, cifar10_batches: dict[str, bytes], bad_data: BadData
) -> None:
    marker = frameworkless_folder / "ran"
    cifar10_batches["data_batch_3"] = pickle.dumps({b"data": Payload(marker)}, 2)
    bad_data(
        cifar_files.archive(frameworkless_folder / ARCHIVE, cifar10_batches), "data_batch_3 is a pickle that asks for"
    )
    bad_data(cifar_files.folder(frameworkless_folder, cifar10_batches), "data_batch_3 is a pickle that asks for")
    assert not marker.exists()
    pickle.loads(cifar10_batches["data_batch_3"])
    assert marker.exists(), "the pickle was harmless: the test proves nothing"


# As processes


@pytest.mark.parametrize(
    ("framework", "arguments"),
    [("paddle", ("--network", "lenet99")), ("torch", ("--epochs", "0")), ("paddle", ("--resume", "no/such/run"))],
)
def test_the_scripts_end_with_2_and_one_line(framework: str, arguments: tuple[str, ...]) -> None:
    ended = execute([*script(framework, *arguments), "--json"])
    assert (ended.code, ended.stdout) == (2, "")
    the_error(ended.stderr.splitlines())


def test_a_gpu_that_is_not_there_is_refused_and_nothing_is_written(
    tmp_path: Path, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is missing even on a machine that has one
    saved_run(tmp_path / "run")
    before = contents(tmp_path)
    calls = [
        ["--data", "shapes10", "--output", f"{tmp_path / 'new'}"],
        ["--resume", f"{tmp_path / 'run'}"],
        ["--eval-only", f"{tmp_path / 'run'}"],
    ]
    program = "import json, sys; from parity.cli.train import main as train\n"
    program += "main = lambda side, words: train(['--framework', side, *words])\n"
    program += "print([main(sys.argv[1], [*call, '--device', 'gpu', '--json']) for call in json.loads(sys.argv[2])])"
    ended: Ended = execute([sys.executable, "-c", program, framework, json.dumps(calls)])
    assert ended.stdout == "[2, 2, 2]\n", ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {NAMES[framework]} finds no GPU here: use --device cpu or auto"] * 3
    assert "Traceback" not in ended.stderr
    assert contents(tmp_path) == before
