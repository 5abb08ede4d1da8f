"""Small Paddle models for the tests of pairs; `pair_models_torch` holds their partners under the same names."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class Net(nn.Layer):
    """Convolution, batch norm, pooling, a residual sum, functional calls, two square linear layers, dropout as layer and as function."""

    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.9, padding: int = 1, p: float = 0.4, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, 6, 3, padding=1, bias_attr=None if bias else False)
        self.bn1 = nn.BatchNorm2D(6, epsilon=1e-5)
        self.pool = nn.MaxPool2D(2)
        self.conv2 = nn.Conv2D(6, 6, 3, padding=padding)
        self.bn2 = nn.BatchNorm2D(6, epsilon=eps, momentum=momentum)
        self.fc1 = nn.Linear(6, 6)
        self.drop = nn.Dropout(p)
        self.fc2 = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(x + self.bn2(self.conv2(x)) if self.conv2._padding == 1 else self.bn2(self.conv2(x)))
        x = F.avg_pool2d(x, 3, 2, 1, exclusive=False).mean([2, 3])
        x = F.dropout(F.relu(self.fc1(x)), 0.2, training=self.training)
        return self.fc2(self.drop(x))


class OneKind(nn.Layer):
    """One layer of the kind at hand."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        made = {
            "Linear": lambda: nn.Linear(6, 6),
            "Conv1d": lambda: nn.Conv1D(6, 8, 3, 2, 1, groups=2),
            "Conv2d": lambda: nn.Conv2D(6, 6, 3, 2, 1, 2),
            "Conv3d": lambda: nn.Conv3D(6, 6, 3),
            "ConvTranspose1d": lambda: nn.Conv1DTranspose(6, 8, 3, 2, 1, 1),
            "ConvTranspose2d": lambda: nn.Conv2DTranspose(6, 6, 3, 2, 1, groups=2),
            "ConvTranspose3d": lambda: nn.Conv3DTranspose(6, 6, 2),
            "BatchNorm1d": lambda: nn.BatchNorm1D(6),
            "BatchNorm2d": lambda: nn.BatchNorm2D(6),
            "BatchNorm3d": lambda: nn.BatchNorm3D(6),
            "LayerNorm": lambda: nn.LayerNorm(6),
            "GroupNorm": lambda: nn.GroupNorm(3, 6),
            "InstanceNorm2d": lambda: nn.InstanceNorm2D(6),
            "Embedding": lambda: nn.Embedding(6, 6, padding_idx=0),
            "PReLU": lambda: nn.PReLU(6),
            "LSTM": lambda: nn.LSTM(6, 5, 2, direction="bidirect"),
            "GRU": lambda: nn.GRU(6, 5),
            "RNN": lambda: nn.SimpleRNN(6, 5),
            "AvgPool2d": lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True, exclusive=False),
            "AvgPool2d_exclusive": lambda: nn.AvgPool2D(3, 2, 1),
            "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2D(3),
            "LeakyReLU": lambda: nn.LeakyReLU(0.1),
            "ELU": lambda: nn.ELU(0.7),
            "Dropout2d": lambda: nn.Dropout2D(0.4),
            "GELU": nn.GELU,
        }  # fmt: skip
        self.layer = made[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Words(nn.Layer):
    """An embedding, and a layer behind it."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(5, 4, padding_idx=padding), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x))


class Attention(nn.Layer):
    """Multi-head attention with dropout on its weights, a shift by a parameter of the model's own, and a constant behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = self.create_parameter([1, 1, 8])
        self.attention = nn.MultiHeadAttention(8, 2, dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shift
        return 0.1 + self.attention(x, x, x)


class TwoInputs(nn.Layer):
    """Words and numbers in, a dict and a tuple out; the words' table is used twice, one layer never."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 5)
        self.unused = nn.Linear(4, 4)
        self.inner = nn.Linear(5, 5)
        self.act = nn.ReLU()

    def forward(self, words: Tensor, numbers: Tensor) -> dict[str, object]:
        hidden = self.act(self.inner(self.words(words) + numbers))
        hidden = self.act(self.inner(hidden))
        return {"scores": hidden @ self.words.weight.t(), "more": (hidden.mean(1), hidden)}


class Tied(nn.Layer):
    """Two layers that share one weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Chain(nn.Layer):
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


class Own(nn.Layer):
    """A layer of a kind of its own, whose array the other side holds transposed and under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Blend()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class Blend(nn.Layer):
    """Multiplies by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table = self.create_parameter([6, 5])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table


class Numbers(nn.Layer):
    """Sums, products and powers with numbers that float32 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).abs() + 1.1
        return self.out(paddle.pow(x, 0.3) + x**0.7 - 0.3 + (0.2 - x) * 0.1 + x.pow(1.3) / 0.7)


class ClassToken(nn.Layer):
    """A token before the input. In Paddle, its shape holds a tensor beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.fc = self.create_parameter([1, 1, 6]), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand((paddle.shape(x)[0], -1, -1))
        return paddle.concat([token, self.fc(x)], 1)


class Renamed(nn.Layer):
    """A chain whose layers the other side calls otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_a, self._conv_b = nn.Conv2D(3, 4, 3), nn.Conv2D(4, 4, 1)
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self._conv_b(F.relu(self._conv_a(x)))).mean([2, 3]))


class Branches(nn.Layer):
    """Two branches of equal layers; the other side runs them in the other order, between layers that it has in another order, too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.head(x)
        y = self.right(x)
        return self.head(self.left(x) * y)


class Auxiliary(nn.Layer):
    """Without the head that only training has on the other side."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> object:
        return self.head(self.body(x))


class Fails(nn.Layer):
    """Its second layer cannot take what the first makes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Single(nn.Layer):
    """Multiplies by a constant in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.fc(x).astype("float32") * 0.1).astype(x.dtype))


class Kinked(nn.Layer):
    """Half of what its ReLU gets is zero in exact arithmetic; once weights have moved, `shift` is added, `times` multiplies the rest."""

    def __init__(self, shift: float = 0.0, times: float = 1.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(128, 4)
        self.shift, self.times, self.starts = shift, times, list[float]()

    def forward(self, x: Tensor) -> Tensor:
        h = paddle.tanh(self.fc1(x))
        zero = h - h.detach()
        if self.training and self._has_moved():
            zero, h = zero + paddle.full_like(zero, self.shift), h * paddle.full_like(h, self.times)
        return self.fc2(self.relu(paddle.concat([h, zero], 1)))

    def _has_moved(self) -> bool:
        """Whether the weights are others than in the second training call: the first is before they are set."""
        self.starts = [*self.starts[:2], float(self.fc1.weight.sum())]
        return self.starts[-1] != self.starts[min(1, len(self.starts) - 1)]


class Tailed(nn.Layer):
    """Half of what its pool gets is in the far tail of a GELU, where it is zero or one rounding error."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.gelu = nn.GELU()
        self.pool = nn.MaxPool2D(2)
        self.fc = nn.Linear(8 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.gelu(self.conv(x))).flatten(1))


class TiedHead(nn.Layer):
    """The head has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.words(x)))
