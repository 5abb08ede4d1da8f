"""A small network, and optimizers of it as users write them, in PyTorch; `program_models_paddle` has the same names."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 5).astype(np.float32)
"""Soft labels of each class; they add up to 1 but for rounding."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.outer = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.outer(torch.tanh(self.inner(x)))


def loss(scores: Any, labels: Any) -> Any:
    return nn.functional.cross_entropy(scores, labels)


def adam(model: nn.Module) -> Any:
    return torch.optim.AdamW(model.parameters(), 0.002, weight_decay=0.05)


def momentum(model: nn.Module) -> Any:
    return torch.optim.SGD(model.parameters(), 0.02, 0.9)


def rate_in_a_tensor(model: nn.Module) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), torch.tensor(0.02), 0.9, foreach=False)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def two_with_schedules(model: Any) -> Any:
    one, two = torch.optim.AdamW(model.inner.parameters(), 0.002), torch.optim.SGD(model.outer.parameters(), 0.02)
    return {"optimizers": [one, two], "schedules": [{"schedule": torch.optim.lr_scheduler.StepLR(one, 1, 0.5)}]}


class TwoInAnObject:
    def __init__(self, model: Any) -> None:
        self.main = torch.optim.AdamW(model.inner.parameters(), 0.002)
        self.others = {"outer": torch.optim.AdamW(model.outer.parameters(), 0.001)}

    def step(self) -> None:
        self.main.step()
        self.others["outer"].step()


class RateByHand:
    def __init__(self, model: Any) -> None:
        self.optimizer, self.steps = torch.optim.SGD(model.parameters(), 0.02, 0.9), 0

    def step(self) -> None:
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = 0.02 / self.steps
        self.optimizer.step()


class Copied:
    """Keeps averages of weights in a copy of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.optimizer, self.model = momentum(model), model
        self.averages = copy.deepcopy(model)

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        for average, weight in zip(self.averages.parameters(), self.model.parameters(), strict=True):
            average.copy_(0.9 * average + 0.1 * weight)


def rates_of_groups(model: Any) -> Any:
    groups = [{"params": model.inner.parameters(), "lr": 7e-4}, {"params": model.outer.parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=0.007)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.3)


def adagrad(model: nn.Module) -> Any:
    return torch.optim.Adagrad(model.parameters(), 0.02, initial_accumulator_value=0.1)


def soft_loss(scores: Any, labels: Any) -> Any:
    return nn.functional.cross_entropy(scores, torch.from_numpy(SOFT).to(scores.dtype)[labels])


class Idle:
    """Holds an optimizer and does not call it."""

    def __init__(self, model: nn.Module) -> None:
        self.optimizer = momentum(model)

    def step(self) -> None: ...


def plateau(model: nn.Module) -> Any:
    optimizer = momentum(model)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.1, patience=0)


def nothing(model: nn.Module) -> Any:
    return model


class Renamed(torch.optim.AdamW):
    """Another name for the same step."""


def renamed(model: nn.Module) -> Any:
    return Renamed(model.parameters(), 0.002, weight_decay=0.05)


class Uncorrected(torch.optim.Adam):
    """The first step of Adam without bias correction."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            (one, two), eps, rate = group["betas"], group["eps"], group["lr"]
            for p in group["params"]:
                p.sub_(rate * (1 - one) * p.grad / (((1 - two) * p.grad**2).sqrt() + eps))


def uncorrected(model: nn.Module) -> Any:
    return Uncorrected(model.parameters(), 0.002)


class RateInVelocity(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                p.sub_(velocity.mul_(group["momentum"]).add_(p.grad + group["weight_decay"] * p, alpha=group["lr"]))


def rate_in_velocity(model: nn.Module) -> Any:
    optimizer = RateInVelocity(model.parameters(), 0.02, 0.9, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


class Averaged(torch.optim.Optimizer):
    """Momentum that multiplies gradients by 1 - momentum, with its settings in groups."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.02, "keep": 0.9, "shrink": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.mul_(group["keep"]).add_(p.grad, alpha=1 - group["keep"])
                p.mul_(1 - group["lr"] * group["shrink"]).sub_(mean, alpha=group["lr"])


def averaged(model: nn.Module) -> Any:
    return Averaged(model.parameters())
