"""Small models whose inner tensors differ from those of value_models_paddle.py, and whose results do not.

The faults are planted in the Paddle models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Places(nn.Module):
    """Adds learned places, which have no batch axis here."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(12, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.places(torch.arange(x.shape[1])))


class Bordered(nn.Module):
    """Pads before the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(self.stem(x), (1, 1, 1, 1)))


class Causal(nn.Module):
    """Pads both ends of a sequence, and cuts the end off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 5, 3, padding=2), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x)[..., :-2].tanh())


class Turned(nn.Module):
    """Computes with the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.transpose(0, 1)).tanh()).transpose(0, 1)


class Moved(nn.Module):
    """Scales before a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * 3)


class Indexed(nn.Module):
    """Has a buffer of integers and one of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 0, 1, 3]))
        self.register_buffer("kept", torch.tensor([True, False, True, True]))
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.where(self.kept[:, None], x + self.table(self.order), x))


class Activated(nn.Module):
    """Has one activation, by its name in `torch.nn`."""

    def __init__(self, name: str, *given: Any) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 40), getattr(nn, name)(*given), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(x) * 9))


class Swapped(nn.Module):
    """Uses a layer for one activation and a function for the other; both get the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.act(x) * torch.sigmoid(x))


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Cubed(nn.Module):
    """Has a function with its own gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(_Cube.apply(self.before(x)))


class Dropped(nn.Module):
    """Dropout as a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, 30), nn.Dropout(p), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x)))
