"""The network and the optimizers of `program_models_torch` in Paddle."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
from paddle import nn

SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 5).astype(np.float32)
"""Soft labels of each class; they add up to 1 but for rounding."""


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.outer = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.outer(paddle.tanh(self.inner(x)))


def loss(scores: Any, labels: Any) -> Any:
    return nn.functional.cross_entropy(scores, labels)


def adam(model: nn.Layer) -> Any:
    return paddle.optimizer.AdamW(0.002, parameters=model.parameters(), weight_decay=0.05)


def clipped(model: nn.Layer) -> Any:
    clip = nn.ClipGradByGlobalNorm(1e3)
    return paddle.optimizer.AdamW(0.002, parameters=model.parameters(), weight_decay=0.05, grad_clip=clip)


def momentum(model: nn.Layer) -> Any:
    return paddle.optimizer.Momentum(0.02, 0.9, model.parameters())


def all_at_once(model: nn.Layer) -> Any:
    return paddle.optimizer.Momentum(0.02, 0.9, model.parameters(), use_multi_tensor=True)


def rate_in_a_tensor(model: nn.Layer) -> Any:
    return paddle.optimizer.Momentum(paddle.optimizer.lr.StepDecay(0.02, 2, 0.5), 0.9, model.parameters())


def two_with_schedules(model: Any) -> Any:
    rate = paddle.optimizer.lr.StepDecay(0.002, 1, 0.5)
    one = paddle.optimizer.AdamW(rate, parameters=model.inner.parameters())
    return one, paddle.optimizer.SGD(0.02, model.outer.parameters())


class TwoInAnObject:
    def __init__(self, model: Any) -> None:
        self.main = paddle.optimizer.AdamW(0.002, parameters=model.inner.parameters())
        self.others = {"outer": paddle.optimizer.AdamW(0.001, parameters=model.outer.parameters())}

    def step(self) -> None:
        self.main.step()
        self.others["outer"].step()


class RateByHand:
    def __init__(self, model: Any) -> None:
        self.optimizer, self.steps = momentum(model), 0

    def step(self) -> None:
        self.steps += 1
        self.optimizer.set_lr(0.02 / self.steps)
        self.optimizer.step()


class Copied:
    def __init__(self, model: Any) -> None:
        self.optimizer, self.model = momentum(model), model
        self.averages = copy.deepcopy(model)

    @paddle.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        for average, weight in zip(self.averages.parameters(), self.model.parameters(), strict=True):
            average.set_value(0.9 * average + 0.1 * weight)


def rates_of_groups(model: Any) -> Any:
    groups = [{"params": model.inner.parameters(), "learning_rate": 0.1}, {"params": model.outer.parameters()}]
    return paddle.optimizer.AdamW(paddle.optimizer.lr.StepDecay(0.007, 2, 0.3), parameters=groups, weight_decay=0.01)


def adagrad(model: nn.Layer) -> Any:
    return paddle.optimizer.Adagrad(0.02, 1e-6, model.parameters())


def soft_loss(scores: Any, labels: Any) -> Any:
    soft = paddle.to_tensor(SOFT).astype(scores.dtype)[labels]
    return nn.functional.cross_entropy(scores, soft, soft_label=True)


class Idle:
    """Holds an optimizer and does not call it."""

    def __init__(self, model: nn.Layer) -> None:
        self.optimizer = momentum(model)

    def step(self) -> None: ...


def plateau(model: nn.Layer) -> Any:
    rate = paddle.optimizer.lr.ReduceOnPlateau(0.02, "max", factor=0.1, patience=0)
    return paddle.optimizer.Momentum(rate, 0.9, model.parameters())


def decayed_with_schedule(model: nn.Layer) -> Any:
    rate = paddle.optimizer.lr.StepDecay(0.02, 2, 0.5)
    return paddle.optimizer.Momentum(rate, 0.9, model.parameters(), weight_decay=0.01)


class Averaged(paddle.optimizer.Optimizer):
    """Momentum that multiplies gradients by 1 - momentum, with its settings in attributes."""

    def __init__(self, parameters: Any, keep: float = 0.9) -> None:
        super().__init__(0.02, parameters)
        self.keep, self.shrink, self.means = keep, 0.1, dict[str, Any]()

    @paddle.no_grad()
    def step(self) -> None:
        for p in self._parameter_list:
            mean = self.means.get(p.name, paddle.zeros_like(p)) * self.keep + p.grad * (1 - self.keep)
            p.set_value(p * (1 - self.get_lr() * self.shrink) - self.get_lr() * mean)
            self.means[p.name] = mean


def averaged(model: nn.Layer) -> Any:
    return Averaged(model.parameters())


def kept_longer(model: nn.Layer) -> Any:
    return Averaged(model.parameters(), 0.95)


def with_a_name(model: nn.Layer) -> Any:
    return paddle.optimizer.AdamW(0.002, parameters=model.parameters(), weight_decay=0.05, name="adam")
