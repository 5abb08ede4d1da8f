"""A program that describes pairs of optimizers and prints as JSON how they differ, in settings and in state after three steps.

It runs in its own process, because it loads both frameworks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import paddle  # isort: skip - in one process Paddle 2.6 must come second

from parity.backend.registry import make_backend
from parity.recipe.optimizer_description import OptimizerDescription, list_differences

T, P = torch.optim, paddle.optimizer
CLIP = paddle.nn.ClipGradByGlobalNorm(1.0)
RNG = np.random.default_rng(0)
ARRAYS = {"weight": RNG.standard_normal((3, 2)), "bias": RNG.standard_normal(3), "norm": RNG.standard_normal(2)}
GRADIENTS = [{name: RNG.standard_normal(array.shape) for name, array in ARRAYS.items()} for _ in range(3)]

Make = Callable[[dict[str, Any]], Any]


class Own(torch.optim.Optimizer):
    def __init__(self, parameters: Any, lr: float = 0.1, sharpness: float = 3.0) -> None:
        super().__init__(parameters, {"lr": lr, "sharpness": sharpness})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["last"] = parameter.grad.sign()


def values(parameters: dict[str, Any], *names: str) -> list[Any]:
    return [parameters[name] for name in names or parameters]


def attributed(regularizer: Any) -> Make:
    """SGD whose bias has a regulariser of its own, which takes the place of the optimizer's."""

    def make(parameters: dict[str, Any]) -> Any:
        parameters["bias"].regularizer = regularizer
        return P.SGD(0.1, values(parameters), weight_decay=0.01)

    return make


def unclipped(parameters: dict[str, Any]) -> Any:
    parameters["norm"].need_clip = False
    return P.SGD(0.1, values(parameters), grad_clip=CLIP)


PAIRS: dict[str, tuple[Make, Make]] = {
    "sgd": (lambda p: T.SGD(values(p), 0.1, foreach=True), lambda p: P.SGD(0.1, values(p))),
    "momentum": (
        lambda p: T.SGD(values(p), 0.1, 0.9, nesterov=True, weight_decay=0.01),
        lambda p: P.Momentum(0.1, 0.9, values(p), True, weight_decay=paddle.regularizer.L2Decay(0.01)),
    ),
    "momentum of 0": (lambda p: T.SGD(values(p), 0.1), lambda p: P.Momentum(0.1, 0.0, values(p))),
    "adam": (
        lambda p: T.Adam(values(p), 0.001, fused=True, weight_decay=0.1),
        lambda p: P.Adam(0.001, parameters=values(p), weight_decay=0.1),
    ),
    "adamw": (
        lambda p: T.AdamW(values(p), 0.001),
        lambda p: P.AdamW(paddle.optimizer.lr.StepDecay(0.001, 9), parameters=values(p)),
    ),
    "adam decoupled": (
        lambda p: T.AdamW(values(p), 0.001, weight_decay=0.1),
        lambda p: P.Adam(0.001, parameters=values(p), weight_decay=0.1),
    ),
    "groups": (
        lambda p: T.AdamW([{"params": values(p, "weight")}, {"params": values(p, "bias", "norm"), "weight_decay": 0.0}], 0.001),
        lambda p: P.AdamW(0.001, parameters=values(p), weight_decay=0.01, apply_decay_param_fun=lambda name: name == p["weight"].name),
    ),
    "rate of a group": (
        lambda p: T.SGD([{"params": values(p, "weight"), "lr": 0.05}, {"params": values(p, "bias", "norm")}], 0.1),
        lambda p: P.SGD(0.1, [{"params": values(p, "weight"), "learning_rate": 0.5}, {"params": values(p, "bias", "norm")}]),
    ),
    "group ignored": (
        lambda p: T.SGD([{"params": values(p, "weight"), "lr": 0.05}, {"params": values(p, "bias", "norm")}], 0.1, 0.9, weight_decay=0.1),
        lambda p: P.Momentum(
            0.1, 0.9, [{"params": values(p, "weight")}, {"params": values(p, "bias", "norm"), "weight_decay": 0.0}], weight_decay=0.1
        ),
    ),
    "own regulariser": (
        lambda p: T.SGD([{"params": values(p, "weight", "norm"), "weight_decay": 0.01}, {"params": values(p, "bias")}], 0.1),
        attributed(paddle.regularizer.L2Decay(0.0)),
    ),
    "own regulariser of another kind": (lambda p: T.SGD(values(p), 0.1, weight_decay=0.01), attributed(paddle.regularizer.L1Decay(0.5))),
    "clip": (lambda p: T.SGD(values(p), 0.1), unclipped),
    "left out": (lambda p: T.SGD(values(p), 0.1), lambda p: P.SGD(0.1, values(p, "weight", "bias"))),
    "rmsprop": (lambda p: T.RMSprop(values(p), 0.1), lambda p: P.RMSProp(0.1, epsilon=1e-8, rho=0.99, parameters=values(p))),
    "adagrad": (lambda p: T.Adagrad(values(p), 0.1, eps=1e-6), lambda p: P.Adagrad(0.1, parameters=values(p))),
    "somebody's own": (lambda p: Own(values(p)), lambda p: P.SGD(0.1, values(p))),
}  # fmt: skip


def main() -> None:
    found = {}
    for case, (one, two) in PAIRS.items():
        paddle.set_default_dtype("float64")
        tensors = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in ARRAYS.items()}
        layer = paddle.nn.Layer()
        others = {name: layer.create_parameter(list(array.shape)) for name, array in ARRAYS.items()}
        described, states = [], []
        for framework, parameters, make in (("torch", tensors, one), ("paddle", others, two)):
            backend = make_backend(framework)
            for name, array in ARRAYS.items():
                backend.write(parameters[name], array)
            optimizer = make(parameters)
            description = backend.describe_optimizer(optimizer, {id(p): name for name, p in parameters.items()})
            again = OptimizerDescription.from_json(json.loads(json.dumps(description.to_json())))
            assert again == description
            described.append(description)
            for gradients in GRADIENTS:
                for name, parameter in parameters.items():
                    gradient = backend.from_numpy(gradients[name], "cpu")
                    (parameter * gradient).sum().backward()
                optimizer.step()
                for parameter in parameters.values():
                    backend.clear_gradient(parameter)
            states.append(
                {n: backend.optimizer_state(optimizer, p) | {"": backend.to_numpy(p)} for n, p in parameters.items()}
            )
        slots = {name: [sorted(filter(None, state[name])) for state in states] for name in ARRAYS}
        same = {
            slot or "weights": float(max(np.abs(states[0][n][slot] - states[1][n][slot]).max() for n in ARRAYS))
            for slot in states[0]["weight"]
            if all(slot in states[1][n] for n in ARRAYS)
        }
        found[case] = {"differences": list_differences(*described), "slots": slots["weight"], "errors": same}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
