"""Models with the initialisations of users, in PyTorch. `init_models_paddle.py` holds the same, and the same with planted faults."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import init

from torch_impl.transformer import Transformer


def gpt(layers: int = 2) -> Transformer:
    """The small transformer, initialised as GPT-2: N(0, 0.02), biases 0, and what ends a residual branch scaled by 1/sqrt(2 layers)."""
    model = Transformer(layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            ends = name.endswith((".out", ".down"))
            init.normal_(module.weight, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
    return model


class Net(nn.Module):
    """A convolution, a batch norm and a linear layer with PyTorch's own initialisers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.bn = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


class Fused(nn.Module):
    """Query, key and value in one layer, with one Xavier initialiser for all, as `nn.MultiheadAttention` has it."""

    def __init__(self, width=32):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        init.xavier_uniform_(self.qkv.weight)
        init.zeros_(self.qkv.bias)

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        return torch.softmax(query @ key.transpose(-1, -2), -1) @ value


class Tables(nn.Module):
    """An embedding whose padding row is 0, a table of sines, an orthogonal matrix, and the head tied to the embedding."""

    def __init__(self, words=5000, width=16):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=3)
        angles = torch.arange(12.0)[:, None] / 10000 ** (torch.arange(width) / width)
        self.places = nn.Parameter(torch.sin(angles))
        self.mix = nn.Linear(width, width, bias=False)
        init.orthogonal_(self.mix.weight)

    def forward(self, tokens):
        x = self.mix(self.words(tokens) + self.places[: tokens.shape[1]])
        return x @ self.words.weight.T


class Seeded(Net):
    """Seeds the framework itself."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()


LIVE = Net()


def same():
    """Return one model, again and again."""
    return LIVE
