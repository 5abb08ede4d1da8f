"""Paddle models with inputs, outputs and layers in another form than their PyTorch originals, for the tests of pairs."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

LAST: Any = {"data_format": "NHWC"}


class Images(nn.Layer):
    def __init__(self, square: bool = False, maps: bool = False, first: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        width = 8 if square else 5
        self.maps, self.first, self.factor = maps, first, factor
        self.one, self.norm = nn.Conv2D(3, width, 3, padding=1, **LAST), nn.BatchNorm2D(width, **LAST)
        self.act = nn.ReLU()
        self.two, self.pool = nn.Conv2D(width, 6, 1, **LAST), nn.MaxPool2D(2, **LAST)
        self.head = nn.Linear(6, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x.transpose([0, 2, 3, 1]) if self.first else x
        x = self.pool(self.two(self.act(self.norm(self.one(x))) * self.factor))
        return x if self.maps else self.head(x.mean((1, 2)))


class Norms(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False), nn.BatchNorm2D(4)
        self.two, self.norm2 = nn.Conv2D(4, 5, 3), nn.BatchNorm2D(5)
        self.head, self.norm3 = nn.Linear(5, 6), nn.BatchNorm1D(6)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))))
        return self.norm3(self.head(x.mean((2, 3))))


class Folded(nn.Layer):
    """Other names, and a batch norm that is not folded where `kept` is its eps. Convolution number `bare` has lost its bias."""

    def __init__(self, kept: float = 0.0, factor: float = 1.0, bare: int = 0) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False if bare == 1 else None)
        self.second, self.last = nn.Conv2D(4, 5, 3, bias_attr=False if bare == 2 else None), nn.Linear(5, 6)
        self.scaled = nn.BatchNorm2D(5, epsilon=kept) if kept else nn.Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.scaled(self.second(F.relu(self.first(x)) * self.factor))
        return self.last(F.relu(x).mean((2, 3)))


class Mixed(nn.Layer):
    """Uses the key as the value by mistake, so that one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        key = self.key(x)
        return self.head(F.softmax(self.query(x) @ key.transpose([0, 2, 1]), -1) @ key)


class Framed(nn.Layer):
    """The port of Bordered with other names: the padding is in the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2D(3, 5, 1), nn.Conv2D(5, 4, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.b(self.a(x))


class Groups(nn.Layer):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6)
        self.head = nn.Linear(12, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        key, value = self.k_proj(x), self.v_proj(x) * self.factor
        scores = self.q_proj(x) @ paddle.concat([key, key], -1).transpose([0, 2, 1])
        return self.head(F.softmax(scores, -1) @ paddle.concat([value, value], -1))


class Halves(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.head = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        query, key = self.qk(x).chunk(2, -1)
        return self.head(F.softmax(query @ key.transpose([0, 2, 1]), -1) @ self.v(x))


class Masked(nn.Layer):
    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.words, self.head = nn.Embedding(10, 8), nn.Linear(8, 2)

    def forward(self, words: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        assert mask.dtype == (paddle.int64 if self.whole else paddle.bool)
        x = self.words(words)
        return self.head(x * mask[..., None].astype(x.dtype))


class Heads(nn.Layer):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.boxes, self.scores, self.help = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"scores": self.scores(x), "boxes": self.boxes(x) * self.factor, "help": F.relu(self.help(x))}


class Dropped(nn.Layer):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.one, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1D(8), nn.Dropout(0.3)
        self.block, self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.block(self.drop(F.relu(self.norm(self.one(x))))) * self.factor)


def static(how: str = "whole", factor: float = 1.0) -> nn.Layer:
    model = Dropped(factor)
    if how == "part":
        model.block = paddle.jit.to_static(model.block)
        return model
    return paddle.jit.to_static(model, full_graph=how == "full")
