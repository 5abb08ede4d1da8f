"""A small transformer, written as users write theirs. The self-test plants faults in it, as other lines of this file.

Token and position embeddings, blocks with RMSNorm, rotary attention whose groups of heads share keys and values, an MLP, and a head that
is tied to the embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e30
"""What a masked score adds."""


class RMSNorm(nn.Module):
    """Divide the last axis by its root mean square."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the shape of `x`."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal attention; `heads // groups` heads share a key and a value."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, groups * self.size)
        self.value = nn.Linear(width, groups * self.size)
        self.out = nn.Linear(width, width)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate the first half of [batch, heads, length, size] against the second by angles that grow with the position."""
        half = self.size // 2
        rates = 10000 ** (-torch.arange(half, dtype=x.dtype) / half)
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * rates
        first, second = x[..., :half], x[..., half:]
        cos, sin = torch.cos(angles), torch.sin(angles)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Return [batch, length, width]; `allowed` [batch, 1, length, length] is 1 where a query may see a key, else 0."""
        batch, length, width = x.shape
        query = self.query(x).reshape([batch, length, self.heads, self.size]).transpose(1, 2)
        key = self.key(x).reshape([batch, length, self.groups, self.size]).transpose(1, 2)
        value = self.value(x).reshape([batch, length, self.groups, self.size]).transpose(1, 2)
        query, key = self.rotate(query), self.rotate(key)
        key = key.repeat_interleave(self.heads // self.groups, 1)
        value = value.repeat_interleave(self.heads // self.groups, 1)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.size)
        scores = scores + (1 - allowed) * MASKED
        mixed = F.softmax(scores, -1) @ value
        return self.out(mixed.transpose(1, 2).reshape([batch, length, width]))


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the shape of `x`."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection around it."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attention = Attention(width, heads, groups)
        self.norm2 = RMSNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Return an array of the shape of `x`."""
        x = x + self.attention(self.norm1(x), allowed)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """The scores of the next token at every position."""

    def __init__(
        self, layers: int = 2, width: int = 16, heads: int = 4, groups: int = 2, words: int = 50, places: int = 16
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(places, width)
        self.blocks = nn.ModuleList([Block(width, heads, groups) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return scores [batch, length, words] for `tokens` and `mask` (1 for a token, 0 for padding), both [batch, length]."""
        length = tokens.shape[1]
        x = self.words(tokens) + self.places(torch.arange(length))
        allowed = torch.tril(torch.ones([length, length], dtype=x.dtype)) * mask[:, None, None, :].to(x.dtype)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x) @ self.words.weight.transpose(0, 1)
