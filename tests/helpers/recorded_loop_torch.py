"""A training script of a user in PyTorch, with parity.record around some steps. `recorded_loop_paddle` is the same in Paddle."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parity

SHAPES = {
    "conv1.weight": (6, 3, 3, 3),
    "bn1.weight": (6,),
    "bn1.bias": (6,),
    "conv2.weight": (8, 6, 3, 3),
    "conv2.bias": (8,),
    "fc.weight": (5, 32),
    "fc.bias": (5,),
}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by PyTorch's names."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape) * 0.3 for name, shape in SHAPES.items()}


def batches(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of images [8, 3, 8, 8] and labels."""
    random = np.random.default_rng([seed, 1])
    return [(random.standard_normal((8, 3, 8, 8)), random.integers(0, 5, 8)) for _ in range(count)]


class Net(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.drop(F.gelu(self.conv2(x)).flatten(1)))


def make(dtype: str = "float32", seed: int = 0, drop: float = 0.0) -> Net:
    """A network with `weights`."""
    net = Net(drop).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, array in weights(seed).items():
            net.get_parameter(name).copy_(torch.from_numpy(array))
    return net


def make_optimizer(net: Net, rate: float = 0.05, decay: float = 1e-2, of_norms: bool = False) -> torch.optim.Optimizer:
    """SGD with momentum. Norms have no decay unless `of_norms`."""
    norms = list(net.bn1.parameters())
    rest = [p for p in net.parameters() if not any(p is norm for norm in norms)]
    groups = [{"params": rest}, {"params": norms, "weight_decay": decay if of_norms else 0.0}]
    return torch.optim.SGD(groups, rate, momentum=0.9, weight_decay=decay)


def train(
    path: Path | None,
    count: int = 4,
    dtype: str = "float32",
    seed: int = 0,
    data: int = 0,
    rate: float = 0.05,
    second_rate: float | None = None,
    of_norms: bool = False,
    clip: float | None = 0.5,
    reduction: str = "mean",
    ignored: int = -100,
    smoothing: float = 0.0,
    accumulate: int = 1,
    drop: float = 0.0,
    killed_in: int = 0,
    before: int = 0,
    **options: Any,
) -> list[float]:
    """Train and record, or only train without a path; return the losses. The process kills itself in step `killed_in`.

    `before` steps are not recorded.
    """
    torch.manual_seed(3)
    net = make(dtype, seed, drop)
    optimizer = make_optimizer(net, rate, of_norms=of_norms)
    for images, _ in batches(before):
        net(torch.from_numpy(images).to(getattr(torch, dtype))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    losses = []
    idle = contextlib.nullcontext(SimpleNamespace(keep=lambda **_: None))
    with parity.record(net, optimizer, path, **{"steps": 3, **options}) if path else idle as recorder:
        for step, (images, labels) in enumerate(batches(count, data)):
            if step == 1 and second_rate:
                for group in optimizer.param_groups:
                    group["lr"] = second_rate
            recorder.keep(labels=torch.from_numpy(labels))
            optimizer.zero_grad()
            for part in np.array_split(np.arange(8), accumulate):
                target = torch.from_numpy(labels[part])
                output = net(torch.from_numpy(images[part]).to(getattr(torch, dtype)))
                how = {"ignore_index": ignored, "reduction": reduction, "label_smoothing": smoothing}
                loss = F.cross_entropy(output, target, **how) / accumulate
                loss.backward()
                if killed_in == step + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                losses.append(loss.item())
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            net.eval()
            with torch.no_grad():
                net(torch.zeros(1, 3, 8, 8, dtype=getattr(torch, dtype)))  # what a validation does is not recorded
            net.train()
    return losses


def replay(path: Path, output: Path, drop: float = 0.0, **options: Any) -> list[float]:
    """Train on what a recording holds, and record that; return the losses."""
    net = make(seed=7, drop=drop)
    optimizer = make_optimizer(net)
    losses = []
    with parity.replay(path, net, optimizer, output=output, **options) as steps:
        for step in steps:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(*step.inputs), step.kept["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    train(Path(sys.argv[1]), killed_in=int(sys.argv[2]))
