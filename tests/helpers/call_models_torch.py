"""Models that call functions between their layers. call_models_paddle.py has the same, with a flaw planted in one block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.units = nn.Sequential(*(Unit(6) for _ in range(5)))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(F.relu(self.norm(self.conv(x))))
        return self.head(self.drop(F.max_pool2d(x, 2).flatten(1)))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 2.0
        allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return self.o(scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ self.v(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.attention = nn.ModuleList([Attention(8) for _ in range(3)])
        self.head = nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for attention in self.attention:
            x = x + attention(x)
        return self.head(F.gelu(x))


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(8, 16),
            nn.LayerNorm(16),
            nn.Dropout(0.2),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x))))


class DroppedByFunction(Dropped):
    def __init__(self) -> None:
        super().__init__()
        self.drop = None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(self.norm(self.first(x)), 0.2, self.training))


class Last(nn.Module):
    """A layer where the other side has a function, and a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(9 * self.first(x))[:, 1:])


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0])


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class OwnGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Square.apply(self.first(x)))


class Exchanged(nn.Module):
    """Its port exchanges both weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.one + self.two)


class Detached(OwnGradient):
    """Its port passes half of the gradient on."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y * y)


class Kink(OwnGradient):
    """Every number lies at the kink of an activation, where the frameworks define its gradient in two ways."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(F.leaky_relu(y - y.detach(), 0.1))


class DetachedBranch(OwnGradient):
    """Its port detaches the input of a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.last(y + self.branch(y))


class Gated(OwnGradient):
    """Its port detaches the gate, whose layer gets no gradient then."""

    def __init__(self, of: str = "first") -> None:
        super().__init__()
        self.of, self.gate = of, nn.Linear(8 if of == "first" else 6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        of = {"first": y, "input": x, "ones": torch.ones_like(x)}[self.of]
        return self.last(y * torch.sigmoid(self.gate(of)))


class Divided(OwnGradient):
    """Its port divides the other factor of a product, and by another number."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y * (torch.tanh(y) / 0.9))


class Rotated(OwnGradient):
    """Both terms of a difference are made in one way, in which its port subtracts instead of adding."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        one, two = (torch.cos(z) + z * torch.sin(z) for z in (torch.tanh(y), torch.sigmoid(y)))
        return self.last(one - two)


class Chance(OwnGradient):
    """Multiplies samples by random zeros and ones; its port draws more zeros, and step 1 draws only ones on both sides."""

    def __init__(self, chance: float = 0.9, threshold: float = 0.9) -> None:
        super().__init__()
        self.chance, self.threshold = chance, threshold

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.training:
            size = [len(x), 1]
            y = y * torch.bernoulli(torch.full(size, self.chance, dtype=x.dtype))
            y = y * (torch.rand(size, dtype=x.dtype) < self.threshold)
        return self.last(y)


class Named(nn.Module):
    """Returns its outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.tanh(self.first(x))
        return {"hidden": y, "pooled": torch.tanh(self.last(y))}


class Normed(nn.Module):
    """The gradient of the first bias is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class ChannelNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        y = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 2**-20)
        return self.weight[:, None, None] * y + self.bias[:, None, None]


class Channels(nn.Module):
    """Its port transposes around the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.last = (
            nn.Conv2d(3, 4, 1),
            ChannelNorm(),
            nn.Conv2d(4, 4, 1),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(self.norm(self.first(x)))).mean((2, 3)))


class Turned(nn.Module):
    """Its port forgets to transpose between layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).transpose(1, 2))


class Rms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Rooted(nn.Module):
    """Its port has another name for the class of the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), Rms(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Centred(Rooted):
    """Its port has a class of its own for a layer of the framework."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, elementwise_affine=True, bias=False)  # type: ignore[assignment]


class Biased(nn.Module):
    """Adds a table of its own to scores; its port holds the table as an array of numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor([[0.0, -9, 0, 0, -9, 0]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(torch.softmax(2 * y + self.mask, -1) * 0.5)


class Grid(nn.Module):
    """Adds a table for rows, one for columns, and rows of a table that a buffer chooses, to square maps."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns, self.last = nn.Embedding(3, 6), nn.Embedding(3, 6), nn.Conv2d(6, 2, 1)
        self.table = nn.Parameter(torch.randn(9, 6))
        self.register_buffer("index", torch.arange(9).view(3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.rows(torch.arange(3))[:, None] + self.columns(torch.arange(3))[None]
        chosen = self.table[self.index.view(-1)].view(3, 3, 6)
        return self.last(x + grid.permute(2, 0, 1)[None] + chosen.permute(2, 0, 1))


class Positions(nn.Module):
    """Its positions have no axis of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.table(torch.arange(x.shape[1])[None]))


class Projected(nn.Module):
    """Its port has no bias behind the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0])


class Additive(nn.Module):
    """Attention whose mask is added."""

    def __init__(self, diagonal: int = 1) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.diagonal = diagonal

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(self.diagonal)
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 2.0
        return self.o((scores + mask).softmax(-1) @ self.v(x))
