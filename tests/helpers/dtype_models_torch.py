"""Small models for PyTorch, in bfloat16, float16 or float32. Their ports have settings for mistakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.gelu(self.norm(self.a(x))))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(20, 32)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 50)

    def forward(self, words: Tensor) -> Tensor:
        batch, length = words.shape
        x = self.words(words) + self.places(torch.arange(length))
        y = self.norm1(x)
        q, k, v = (f(y).reshape(batch, length, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(2, 3) * 8**-0.5 + torch.full((length, length), -1e4, dtype=q.dtype).triu(1)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, 32))
        return self.head(x + self.down(F.gelu(self.up(self.norm2(x)))))


class Spaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.linspace(0, 1, 5, dtype=torch.bfloat16)


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(F.relu(self.a(x))))


def make(name: str, dtype: str) -> nn.Module:
    """A model in `dtype`."""
    model: nn.Module = globals()[name]()
    return model.to(getattr(torch, dtype))
