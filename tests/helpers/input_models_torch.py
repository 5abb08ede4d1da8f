"""PyTorch models with inputs, outputs and layers in another form than their Paddle ports, for the tests of pairs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Images(nn.Module):
    """Its port has channels last. The sizes of inner tensors are all different, or all the same where `square`."""

    def __init__(self, square: bool = False, maps: bool = False) -> None:
        super().__init__()
        width = 8 if square else 5
        self.maps = maps
        self.one, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.two, self.pool = nn.Conv2d(width, 6, 1), nn.MaxPool2d(2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.two(self.act(self.norm(self.one(x)))))
        return x if self.maps else self.head(x.mean((2, 3)))


class Norms(nn.Module):
    """Has batch norms behind its layers. Its port has folded them, all or some."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.two, self.norm2 = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
        self.head, self.norm3 = nn.Linear(5, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))))
        return self.norm3(self.head(x.mean((2, 3))))


class Folded(nn.Module):
    """Convolution number `bare` has lost its bias."""

    def __init__(self, bare: int = 0) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1, bias=bare != 1), nn.Conv2d(4, 5, 3, bias=bare != 2)
        self.head = nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(x)))).mean((2, 3)))


class Mixed(nn.Module):
    """One layer for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.head((query @ key.transpose(1, 2)).softmax(-1) @ value)


class Groups(nn.Module):
    """One layer holds, group by group, two heads of queries with one head of keys and one of values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).unflatten(-1, (3, 8))
        query, key, value = (part.flatten(-2) for part in parts.split([4, 2, 2], -1))
        scores = query @ torch.cat([key, key], -1).transpose(1, 2)
        return self.head(scores.softmax(-1) @ torch.cat([value, value], -1))


class Halves(nn.Module):
    """Joins key and value, where its port joins query and key."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.head = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key, value = self.kv(x).chunk(2, -1)
        return self.head((self.q(x) @ key.transpose(1, 2)).softmax(-1) @ value)


class Masked(nn.Module):
    """Takes integers and booleans. Its port may take the mask as integers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(10, 8), nn.Linear(8, 2)

    def forward(self, words: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(words).masked_fill(~mask[..., None], 0.0))


class Heads(nn.Module):
    """Returns a dict. Its port has other names in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.scores, self.help = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loc": self.boxes(x), "conf": self.scores(x), "aux": F.relu(self.help(x))}


class Dropped(nn.Module):
    """Runs compiled, as a whole or in a part, with what a comparison replaces: a batch norm and dropouts."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.block, self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.drop(F.relu(self.norm(self.one(x))))))


def compiled(how: str = "whole") -> nn.Module:
    model = Dropped()
    if how == "whole":
        return torch.compile(model, backend="aot_eager")
    if how == "part":
        model.block = torch.compile(model.block, backend="aot_eager")
    if how == "method":
        model.compile(backend="aot_eager")
    return model
