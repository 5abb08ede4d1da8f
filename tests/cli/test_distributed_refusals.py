"""Training in several processes refuses batches that they cannot share."""

from __future__ import annotations

import pytest

from helpers.launchers import LAUNCHED
from helpers.refusals import Refused


def test_a_batch_that_leaves_a_process_without_an_image_is_refused(
    training_refusal: Refused, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHED[framework].items():
        monkeypatch.setenv(name, {"3": "0", "1": "0"}.get(value, value))
    common = ("--network", "vgg_mini", "--data", "shapes10", "--out", "new")
    message = training_refusal(*common, "--batch-size", 16, "--train-limit", 39)  # the last batch has 7 images
    assert message.startswith("39 images in batches of 16, shared by 8 processes, leave a process without an image: ")
    assert "--batch-size" in message
    message = training_refusal(*common, "--batch-size", 7)
    assert "leave a process without an image" in message


def test_a_shard_of_one_image_is_refused_where_a_batch_norm_would_see_nothing_else(
    training_refusal: Refused, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHED[framework].items():
        monkeypatch.setenv(name, {"3": "0", "1": "0"}.get(value, value))
    message = training_refusal(
        "--network", "vgg16_bn_drop@0.125", "--data", "shapes10", "--out", "new", "--batch-size", 15
    )
    assert "leave a batch of one image" in message
    assert "fewer processes" in message


def test_a_test_of_a_checkpoint_by_several_processes_is_refused(
    training_refusal: Refused, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHED[framework].items():
        monkeypatch.setenv(name, {"3": "0", "1": "0"}.get(value, value))
    assert "runs in one process" in training_refusal("--eval-only", "run")
