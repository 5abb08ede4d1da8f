"""Live models are copied and compared in the caller's process; nothing of the caller changes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from helpers.paths import TESTS

SENTENCES = {
    "live": "equal: 109 tensors, 3 steps",
    "float32": "equal: ",
    "isolated": "equal: 17 tensors",
    "classes": "equal: 91 tensors, 2 steps",
    "random": "equal: ",
    "narrow": "equal: ",
    "names": "equal: ",
    "simple": "equal: 77 tensors, 10 steps",
    "layer in a loss": "equal: ",
    "wrong": "different at step 1, eval, layer linear2 (candidate: head), tensor linear2:input: ",
    "eps": "different at step 1, eval, layer bn2, tensor bn2:output: ",
    "text": "equal: 91 tensors, 2 steps",
    "fails": "error: the torch model failed in forward at layer conv1: RuntimeError: ",
    "exchanged": "error: the torch side is pair_models_paddle:Net, a model of Paddle: pass PyTorch's model first, then Paddle's",
    "replaced": "error: the paddle side: pair_models_paddle:Net cannot be copied, since forward of layer fc1 was replaced: pass a function",
    "number": "error: the torch side is of type int: pass a model, a function that returns one, or MODULE:FACTORY",
    "none": "error: the paddle side: __main__:main.<locals>.<lambda>.<locals>.<lambda> makes a NoneType, not a ",
}

PADDLE_FIRST = """
import paddle
import parity
from parity.errors import InputError
try:
    parity.compare_models(lambda: None, paddle.nn.Linear(3, 4), input_shape=(2, 3))
except InputError as error:
    print(f"{paddle.__version__}|{error}")
"""


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    """What the program reports: sentences by call, and the caller's state before and after all calls."""
    said: dict[str, Any] = json.loads(run(str(TESTS / "helpers/live_models.py")))
    return said


@pytest.mark.parametrize("call", SENTENCES)
def test_live_models_classes_and_functions_are_compared(program: dict[str, Any], call: str) -> None:
    assert program["found"][call].startswith(SENTENCES[call]), program["found"][call]


@pytest.mark.parametrize("part", range(3), ids=["PyTorch's model", "Paddle's model", "the process"])
def test_nothing_of_the_caller_changes(program: dict[str, Any], part: int) -> None:
    assert program["after"][part] == program["before"][part]


def test_where_paddle_2_came_first_one_line_says_what_to_do() -> None:
    version, _, line = run("-c", PADDLE_FIRST).partition("|")
    if version.startswith("2."):
        assert line.startswith(
            f"Paddle {version} was imported before PyTorch, so PyTorch cannot be imported: import torch first"
        )
    else:
        assert "makes a NoneType, not a torch.nn.modules.module.Module" in line
