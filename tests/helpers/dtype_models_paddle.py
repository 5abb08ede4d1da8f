"""The models of `dtype_models_torch` for Paddle."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

ACTIVATIONS = {"erf": F.gelu, "tanh": lambda x: F.gelu(x, approximate=True), "relu": F.relu}


class Mlp(nn.Layer):
    def __init__(self, act: str = "erf", factor: float = 1.0) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 10)
        self.act, self.factor = ACTIVATIONS[act], factor

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.norm(self.a(x))) * self.factor)


class Conv(nn.Layer):
    def __init__(self, act: str = "relu", momentum: float = 0.9) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8, momentum=momentum)
        self.conv2, self.bn2 = nn.Conv2D(8, 16, 3, padding=1), nn.BatchNorm2D(16, momentum=momentum)
        self.pool, self.fc, self.act = nn.MaxPool2D(2), nn.Linear(16, 10), ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.act(self.bn2(self.conv2(x))).mean((2, 3)))


class Block(nn.Layer):
    def __init__(self, scale: float = 8**-0.5, mask: float = -1e4, offset: int = 0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(20, 32)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 50)
        self.scale, self.mask, self.offset = scale, mask, offset

    def forward(self, words: Tensor) -> Tensor:
        batch, length = words.shape
        x = self.words(words) + self.places(paddle.arange(length) + self.offset)
        y = self.norm1(x)
        q, k, v = (f(y).reshape([batch, length, 4, 8]).transpose([0, 2, 1, 3]) for f in (self.q, self.k, self.v))
        mask = paddle.triu(paddle.full([length, length], self.mask), 1).astype(q.dtype)
        scores = q @ k.transpose([0, 1, 3, 2]) * self.scale + mask
        x = x + self.out((F.softmax(scores) @ v).transpose([0, 2, 1, 3]).reshape([batch, length, 32]))
        return self.head(x + self.down(F.gelu(self.up(self.norm2(x)))))


class Spaced(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * paddle.linspace(0, 1, 5, dtype="bfloat16")


class Shifted(nn.Layer):
    """Adds a constant that the norm takes off again."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(F.relu(self.a(x)) + self.shift))


def make(name: str, dtype: str, keep: str = "", **settings: object) -> nn.Layer:
    """A model in `dtype`; layers whose names begin with `keep` stay float32."""
    model: nn.Layer = globals()[name](**settings)
    for path, layer in model.named_children():
        if dtype != "float32" and (not keep or not path.startswith(keep)):
            layer.to(dtype=dtype)
    return model
