"""Small models whose inner tensors differ from those of value_models_paddle.py, and whose results do not.

The faults are planted in the Paddle models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    def __init__(self, pads: Sequence[int] = (1, 1, 1, 1), mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        self.pads, self.mode, self.value = tuple(pads), mode, value
        self.stem, self.conv = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(self.stem(x), self.pads, self.mode, self.value))


class Affine(nn.Module):
    """One scale and one shift for all values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def without_effect() -> nn.Module:
    """A convolution and a batch norm behind an affine layer, which leave its parameters no effect."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), Affine(), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-7), nn.Conv2d(4, 2, 1)
    )


def one_channel() -> nn.Module:
    """Without noise on the bias of the first batch norm, the mean of the last one would be zero but for rounding."""
    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4))


class Mean(nn.Module):
    """Returns one number, as a model does that computes its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) ** 2).mean()


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


class Normed(nn.Module):
    """Computes a norm in float32, or in `dtype`; "" in the dtype of the model."""

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.ones(9))

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(getattr(torch, self.dtype)) if self.dtype else x
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)
        return self.weight * y.to(x.dtype)


class Islands(nn.Module):
    """Two norms in float32, and a softmax in `softmax`."""

    def __init__(self, norm: str = "float32", softmax: str = "float32") -> None:
        super().__init__()
        self.softmax = softmax
        self.first, self.norm, self.query, self.key = nn.Linear(6, 9), Normed(norm), nn.Linear(9, 9), nn.Linear(9, 9)
        self.last, self.head = Normed(norm), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        dtype = getattr(torch, self.softmax) if self.softmax else None
        return self.head(self.last(F.softmax(scores, -1, dtype=dtype).to(x.dtype) @ x))


class Random(nn.Module):
    """Draws by the functions that `how` names, in training or always."""

    def __init__(self, how: str, always: bool = False) -> None:
        super().__init__()
        self.how, self.always = how, always
        self.body, self.mid, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.training or self.always:
            x = self.mid(x) * self.draw(x)
        return self.head(x)

    def draw(self, x: Tensor) -> Tensor:
        size = (len(x), 1)
        ways: dict[str, Callable[[], Tensor]] = {
            "floor": lambda: torch.floor(0.75 + torch.rand(size, dtype=x.dtype)) / 0.75,
            "bernoulli": lambda: torch.bernoulli(torch.full(size, 0.75, dtype=x.dtype)) / 0.75,
            "in place": lambda: x.new_empty(size).bernoulli_(0.75).div_(0.75),
            "like": lambda: torch.rand_like(x) + torch.randn_like(x),
            "range": lambda: x.new_empty(size).uniform_(-1, 2) + x.new_empty(size).normal_(1, 3),
            "integers": lambda: (torch.randint(2, 7, size) + torch.randperm(len(x))[:, None]).to(x.dtype),
            "gumbel": lambda: F.gumbel_softmax(x, 0.7) + F.gumbel_softmax(x, hard=True),
            "poisson": lambda: torch.poisson(torch.ones_like(x)),
        }
        return ways[self.how]()


class Hard(nn.Module):
    """A hard sigmoid as a layer or a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.hard, self.head = nn.Linear(6, 30), nn.Hardsigmoid(), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.hard(x) * F.hardsigmoid(2 * x))


@dataclass
class Answer:
    """What `Named` returns."""

    scores: Tensor
    hidden: Tensor
    notes: str = "none"


class Named(nn.Module):
    """Takes arguments by keyword only, and returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, *, mask: Tensor, shift: Tensor) -> Answer:
        hidden = (self.words(ids) + shift) * mask[..., None].to(shift.dtype)
        return Answer(self.head(hidden), hidden)


class Centred(nn.Module):
    """The batch's mean of the second batch norm is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free = nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False)
        self.turn, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.turn(self.free(self.first(x)))))


class Averaged(nn.Module):
    """Every gradient before the last batch norm is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free = nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)
        self.second, self.norm, self.last = nn.Conv1d(4, 5, 2), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.free(self.first(x)))
        return self.last(self.norm(self.second(x)).mean((0, 2)))
