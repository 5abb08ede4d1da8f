"""A reproducer: two programs that repeat the first call that differs, without the models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.pair_models import ComparePair
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "call_models_torch.py:", "call_models_paddle.py:"
FILES = ["reproduce_paddle.npz", "reproduce_paddle.py", "reproduce_torch.npz", "reproduce_torch.py"]


def reproduce(compare_pair: ComparePair, folder: Path, torch: str, paddle: str, shape: str, stage: str) -> PairOutcome:
    return compare_pair(TORCH + torch, PADDLE + paddle, shape, stages=(stage,), reproducer=folder)


def run_program(program: Path) -> str:
    """Run a program from another folder, without the models on its path."""
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=program.anchor, env={}, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("model", "flaw", "shape", "calls"),
    [
        ("Residual", "gelu", "2,3,8,8", ("torch.nn.functional.relu(", "paddle.nn.functional.gelu(")),
        ("Residual", "scale", "2,3,8,8", ("torch.Tensor.add(", ", 0.999)")),
        ("Encoder", "axis", "2,5:20", ("torch.Tensor.softmax(", "paddle.nn.functional.softmax(")),
        ("Encoder", "mask", "2,5:20", ("torch.Tensor.masked_fill(", "paddle.where(")),
    ],
)
def test_the_programs_repeat_the_difference(
    compare_pair: ComparePair, tmp_path: Path, model: str, flaw: str, shape: str, calls: tuple[str, str]
) -> None:
    folder = tmp_path / "new" / "folder"
    outcome = reproduce(compare_pair, folder, model, f"{model}({flaw!r}, 1)", shape, "eval")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert outcome.reproducer.startswith(f"reproducer: {folder / 'reproduce_torch.py'} and ")
    for side, call in zip(("torch", "paddle"), calls, strict=True):
        program = folder / f"reproduce_{side}.py"
        assert call in program.read_text()
        assert len(program.read_text().splitlines()) <= 30
        count = re.search(r"(\d+) of (\d+) numbers differ, by at most (\S+)", run_program(program))
        assert count
        assert 0 < int(count[1]) <= int(count[2])
        assert float(count[3]) > 1e-6


def test_equal_models_leave_nothing(compare_pair: ComparePair, tmp_path: Path) -> None:
    outcome = reproduce(compare_pair, tmp_path / "reproducer", "Residual", "Residual", "2,3,8,8", "eval")
    assert outcome.reproducer == "no reproducer: the models are equal"
    assert not (tmp_path / "reproducer").exists()


def test_a_function_of_the_user_leaves_nothing_and_is_named(compare_pair: ComparePair, tmp_path: Path) -> None:
    outcome = reproduce(compare_pair, tmp_path / "reproducer", "OwnGradient", "OwnFunction", "4,6", "eval")
    assert "PyTorch calls Square, and Paddle calls Cube" in outcome.sentence()
    assert outcome.reproducer == (
        "no reproducer: a program cannot repeat the call Square of PyTorch, a function of your own"
    )
    assert not (tmp_path / "reproducer").exists()


def test_the_programs_repeat_a_difference_between_gradients(compare_pair: ComparePair, tmp_path: Path) -> None:
    outcome = reproduce(compare_pair, tmp_path, "Kink", "Kink", "4,6", "backward")
    assert outcome.reproducer.startswith("reproducer: ")
    for side, call in (("torch", "torch.nn.functional.leaky_relu("), ("paddle", "paddle.nn.functional.leaky_relu(")):
        program = tmp_path / f"reproduce_{side}.py"
        assert call in program.read_text()
        assert "32 of 32 numbers differ, by at most" in run_program(program)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("OwnGradient", "no reproducer: a program cannot repeat the call Square of PyTorch, a function of your own"),
        ("Detached", "no reproducer: the first divergence has no call of a function that a program could repeat"),
    ],
)
def test_a_gradient_that_no_program_can_repeat_leaves_nothing(
    compare_pair: ComparePair, tmp_path: Path, model: str, said: str
) -> None:
    outcome = reproduce(compare_pair, tmp_path / "reproducer", model, model, "4,6", "backward")
    assert outcome.reproducer == said
    assert not (tmp_path / "reproducer").exists()
