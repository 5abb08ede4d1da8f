"""A program that compares live models and prints as JSON what it found, and whether it changed any state of the caller.

It runs in its own process, because it loads both frameworks.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import paddle  # isort: skip - in one process Paddle 2.6 must come second

sys.path.insert(0, str(Path(__file__).parent))

import pair_models_paddle
import pair_models_torch
import value_models_paddle
import value_models_torch

import parity
from parity.errors import InputError

IMAGE = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((5, 6))


def digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def state_of_torch(model: torch.nn.Module) -> dict[str, Any]:
    tensors = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    return {
        "weights": digest(tensors),
        "gradients": digest({n: p.grad.numpy().tobytes() for n, p in model.named_parameters() if p.grad is not None}),
        "modes": [module.training for module in model.modules()],
        "hooks": [[len(m._forward_pre_hooks), len(m._forward_hooks)] for m in model.modules()],
        "dtypes": [str(parameter.dtype) for parameter in model.parameters()],
    }


def state_of_paddle(model: paddle.nn.Layer) -> dict[str, Any]:
    tensors = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    layers = model.sublayers(include_self=True)
    return {
        "weights": digest(tensors),
        "gradients": digest({n: p.grad.numpy().tobytes() for n, p in model.named_parameters() if p.grad is not None}),
        "modes": [layer.training for layer in layers],
        "hooks": [[len(layer._forward_pre_hooks), len(layer._forward_post_hooks)] for layer in layers],
        "dtypes": [str(parameter.dtype) for parameter in model.parameters()],
    }


def state_of_process() -> dict[str, Any]:
    return {
        "torch random": digest(torch.get_rng_state().numpy().tobytes()),
        "paddle random": [str(state).partition("0x")[0] for state in paddle.get_rng_state()],
        "numpy random": digest(np.random.get_state()[1].tobytes()),  # noqa: NPY002
        "python random": digest(random.getstate()),
        "default dtypes": [str(torch.get_default_dtype()), paddle.get_default_dtype()],
        "threads": torch.get_num_threads(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "functions": [
            id(function)
            for function in (
                torch.nn.functional.dropout,
                torch.nn.functional.batch_norm,
                paddle.nn.functional.dropout,
                paddle.nn.functional.avg_pool2d,
                paddle.Tensor.__add__,
                paddle.pow,
                paddle.to_tensor,
                *(value for name, value in sorted(vars(paddle._C_ops).items()) if callable(value)),
            )
        ],
    }


def models() -> tuple[torch.nn.Module, paddle.nn.Layer]:
    """Two models in use: with mixed modes, with gradients, and with a hook of the caller."""
    one, two = pair_models_torch.Net(), pair_models_paddle.Net()
    one(torch.from_numpy(IMAGE)).sum().backward()
    two(paddle.to_tensor(IMAGE)).sum().backward()
    one.conv1.eval()
    two.eval()
    one.conv1.register_forward_hook(lambda *_: None)
    return one, two


def seen(one: torch.nn.Module, two: paddle.nn.Layer) -> list[dict[str, Any]]:
    return [state_of_torch(one), state_of_paddle(two), state_of_process()]


def said(compare: Callable[[], Any]) -> str:
    try:
        sentence: str = compare().sentence()
    except InputError as error:
        return f"error: {error}"
    return sentence


def replaced() -> paddle.nn.Layer:
    """A model with a layer whose `forward` is replaced by a function that holds the layer."""
    model = pair_models_paddle.Net()
    forward = model.fc1.forward
    model.fc1.forward = lambda x: forward(x) * 2
    return model


class SimpleModule(torch.nn.Module):
    """As in the README of PaDiff: two live models and an input, here also with a layer map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = torch.nn.Linear(100, 100), torch.nn.Linear(100, 10)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.linear2(torch.relu(self.linear1(y)) + y)


class SimpleLayer(paddle.nn.Layer):
    """The port, with other names in another order. A wrong one adds before the ReLU."""

    def __init__(self, right: bool = True) -> None:
        super().__init__()
        self.head, self.body, self.right = paddle.nn.Linear(100, 10), paddle.nn.Linear(100, 100), right

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        relu, y = paddle.nn.functional.relu, self.body(x)
        return self.head(relu(y) + x if self.right else relu(y + x))


def main() -> None:
    torch.manual_seed(0)  # one model in a hundred has a last ReLU that hides what differs before it
    paddle.seed(0)
    one, two = models()
    other, rows = replaced(), torch.rand(100, 100)
    simple, right, wrong = SimpleModule(), SimpleLayer(), SimpleLayer(right=False)
    before = seen(one, two)
    folder = str(Path(__file__).parent)
    calls = {
        "live": lambda: parity.compare_models(one, two, torch.from_numpy(IMAGE), steps=3),
        "float32": lambda: parity.compare_models(one, two, paddle.to_tensor(IMAGE), steps=3, dtype="float32"),
        "isolated": lambda: parity.compare_models(one, two, [IMAGE], stages=("eval",), isolate=True),
        "classes": lambda: parity.compare_models(pair_models_torch.Net, pair_models_paddle.Net, [IMAGE], steps=2),
        "random": lambda: parity.compare_models(
            lambda: value_models_torch.Random("range", True),
            lambda: value_models_paddle.Random("range", True),
            [ROWS],
            steps=2,
        ),
        "narrow": lambda: parity.compare_models(
            value_models_torch.Islands, value_models_paddle.Islands, [ROWS[None]], steps=2
        ),
        "names": lambda: parity.compare_models(
            value_models_torch.Named,
            value_models_paddle.Named,
            input_shape="2,5:7",
            named_inputs={"shift": np.ones((2, 5, 6))},
            torch_inputs={"mask": np.eye(2, 5)},
            paddle_inputs={"attention": np.eye(2, 5)},
            steps=2,
        ),
        "simple": lambda: parity.compare_models(simple, right, torch_inputs={"y": rows}, paddle_inputs={"x": rows}),
        "layer in a loss": lambda: parity.compare_models(
            simple,
            right,
            torch_inputs={"y": rows},
            paddle_inputs={"x": rows},
            torch_loss=lambda outputs, target, model: (model.linear2(target) * outputs).mean(),
            paddle_loss=lambda outputs, target, model: (model.head(target) * outputs).mean(),
            loss_inputs={"target": rows.numpy()},
            steps=2,
        ),
        "wrong": lambda: parity.compare_models(simple, wrong, torch_inputs={"y": rows}, paddle_inputs={"x": rows}),
        "eps": lambda: parity.compare_models(one, lambda: pair_models_paddle.Net(eps=1e-3), [IMAGE]),
        "text": lambda: parity.compare_models(one, "pair_models_paddle.py:Net", [IMAGE], steps=2, folder=folder),
        "fails": lambda: parity.compare_models(one, two, [IMAGE[:, :1]]),
        "exchanged": lambda: parity.compare_models(two, one, [IMAGE]),
        "replaced": lambda: parity.compare_models(one, other, [IMAGE]),
        "number": lambda: parity.compare_models(3, two, [IMAGE]),
        "none": lambda: parity.compare_models(one, lambda: None, [IMAGE]),
    }
    found = {name: said(call) for name, call in calls.items()}
    print(json.dumps({"found": found, "before": before, "after": seen(one, two)}))


if __name__ == "__main__":
    main()
