"""Small PyTorch models for the tests of pairs; `pair_models_paddle` holds their partners under the same names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Convolution, batch norm, pooling, a residual sum, functional calls, two square linear layers, dropout as layer and as function."""

    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, padding: int = 1, p: float = 0.4, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(6, eps=1e-5)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=padding)
        self.bn2 = nn.BatchNorm2d(6, eps=eps, momentum=momentum)
        self.fc1 = nn.Linear(6, 6)
        self.drop = nn.Dropout(p)
        self.fc2 = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(x + self.bn2(self.conv2(x)) if self.conv2.padding == (1, 1) else self.bn2(self.conv2(x)))
        x = F.avg_pool2d(x, 3, 2, 1).mean((2, 3))
        x = F.dropout(F.relu(self.fc1(x)), 0.2, self.training)
        return self.fc2(self.drop(x))


class OneKind(nn.Module):
    """One layer of the kind at hand."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        made = {
            "Linear": lambda: nn.Linear(6, 6),
            "Conv1d": lambda: nn.Conv1d(6, 8, 3, 2, 1, groups=2),
            "Conv2d": lambda: nn.Conv2d(6, 6, 3, 2, 1, 2),
            "Conv3d": lambda: nn.Conv3d(6, 6, 3),
            "ConvTranspose1d": lambda: nn.ConvTranspose1d(6, 8, 3, 2, 1, 1),
            "ConvTranspose2d": lambda: nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=2),
            "ConvTranspose3d": lambda: nn.ConvTranspose3d(6, 6, 2),
            "BatchNorm1d": lambda: nn.BatchNorm1d(6),
            "BatchNorm2d": lambda: nn.BatchNorm2d(6),
            "BatchNorm3d": lambda: nn.BatchNorm3d(6),
            "LayerNorm": lambda: nn.LayerNorm(6),
            "GroupNorm": lambda: nn.GroupNorm(3, 6),
            "InstanceNorm2d": lambda: nn.InstanceNorm2d(6, affine=True),
            "Embedding": lambda: nn.Embedding(6, 6, padding_idx=0),
            "PReLU": lambda: nn.PReLU(6),
            "LSTM": lambda: nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
            "GRU": lambda: nn.GRU(6, 5, batch_first=True),
            "RNN": lambda: nn.RNN(6, 5, batch_first=True),
            "AvgPool2d": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
            "AvgPool2d_exclusive": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(3),
            "LeakyReLU": lambda: nn.LeakyReLU(0.1),
            "ELU": lambda: nn.ELU(0.7),
            "Dropout2d": lambda: nn.Dropout2d(0.4),
            "GELU": nn.GELU,
        }  # fmt: skip
        self.layer = made[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Words(nn.Module):
    """An embedding, and a layer behind it."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(5, 4, padding_idx=padding), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))


class Attention(nn.Module):
    """Multi-head attention with dropout on its weights, a shift by a parameter of the model's own, and a constant behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shift
        return 0.1 + self.attention(x, x, x, need_weights=False)[0]


class TwoInputs(nn.Module):
    """Words and numbers in, a dict and a tuple out; the words' table is used twice, one layer never."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 5)
        self.unused = nn.Linear(4, 4)
        self.inner = nn.Linear(5, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, words: Tensor, numbers: Tensor) -> dict[str, object]:
        hidden = self.act(self.inner(self.words(words) + numbers))
        hidden = self.act(self.inner(hidden))
        return {"scores": hidden @ self.words.weight.t(), "more": (hidden.mean(1), hidden)}


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Chain(nn.Module):
    """Three equal layers, run in the order given, with or without a ReLU behind the first, or a detached gradient."""

    def __init__(self, order: str = "abc", relu: bool = True, detached: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.order, self.relu, self.detached = order, relu, detached

    def forward(self, x: Tensor) -> Tensor:
        for i, name in enumerate(self.order):
            x = getattr(self, name)(x)
            x = F.relu(x) if self.relu and not i else x
            x = x.detach() if self.detached and not i else x
        return x


READY = Chain()
"""A model that is there already."""


class Own(nn.Module):
    """A layer of a kind of its own, whose array the other side holds transposed and under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Mix()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class Mix(nn.Module):
    """Multiplies by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.t()


class Numbers(nn.Module):
    """Sums, products and powers with numbers that float32 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).abs() + 1.1
        return self.out(torch.pow(x, 0.3) + x**0.7 - 0.3 + (0.2 - x) * 0.1 + x.pow(1.3) / 0.7)


class ClassToken(nn.Module):
    """A token before the input. In Paddle, its shape holds a tensor beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.fc = nn.Parameter(torch.zeros(1, 1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        return torch.cat([token, self.fc(x)], 1)


class Renamed(nn.Module):
    """A chain whose layers the other side calls otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


class Branches(nn.Module):
    """Two branches of equal layers; the other side runs them in the other order, between layers that it has in another order, too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.middle = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.one(x) * self.two(x))


class Auxiliary(nn.Module):
    """A head that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> object:
        x = self.body(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class Fails(nn.Module):
    """Its second layer cannot take what the first makes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Single(nn.Module):
    """Multiplies by a constant in the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x) * 0.1)


class Kinked(nn.Module):
    """Half of what its ReLU gets is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.fc1(x))
        return self.fc2(self.relu(torch.cat([h, h - h.detach()], 1)))


class Tailed(nn.Module):
    """Half of what its pool gets is in the far tail of a GELU, where it is zero or one rounding error."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.gelu = nn.GELU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16 * 16, 4)
        with torch.no_grad():
            self.conv.bias[:4] = -8.2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.gelu(self.conv(x))).flatten(1))


class TiedHead(nn.Module):
    """A head without a bias, whose weight is that of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.words(x)))
