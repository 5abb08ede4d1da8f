"""The models of call_models_torch.py. `flaw` is planted in block `at`; without one, the models are equal to PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class Unit(nn.Layer):
    def __init__(self, width: int, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.conv1, self.norm1 = nn.Conv2D(width, width, 3, padding=1), nn.BatchNorm2D(width)
        self.conv2, self.norm2 = nn.Conv2D(width, width, 3, padding=1), nn.BatchNorm2D(width)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, before = pair
        y = self.norm1(self.conv1(x))
        y = y if self.flaw == "missing" else F.relu(y)
        y = self.norm2(self.conv2(y))
        if self.flaw == "scale":
            y = y * 0.999
        y = y + (before if self.flaw == "shortcut" else x)
        return (F.gelu if self.flaw == "gelu" else F.relu)(y), y


class Residual(nn.Layer):
    def __init__(self, flaw: str = "", at: int = 0) -> None:
        super().__init__()
        self.flaw = flaw
        self.conv, self.norm = nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6)
        self.units = nn.Sequential(*(Unit(6, flaw if i == at else "") for i in range(5)))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x, _ = self.units((x, x))
        pool = F.avg_pool2d if self.flaw == "pool" else F.max_pool2d
        return self.head(self.drop(pool(x, 2).flatten(1)))


class Attention(nn.Layer):
    def __init__(self, width: int, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = paddle.matmul(self.q(x), self.k(x), transpose_y=True) / (3.0 if self.flaw == "scale" else 2.0)
        allowed = paddle.tril(paddle.ones([x.shape[1], x.shape[1]])) > 0
        outside = paddle.full_like(scores, -2.0 if self.flaw == "mask" else float("-inf"))
        weights = F.softmax(paddle.where(allowed.expand_as(scores), scores, outside), 1 if self.flaw == "axis" else -1)
        return self.o(weights @ self.v(x))


class Encoder(nn.Layer):
    def __init__(self, flaw: str = "", at: int = 0) -> None:
        super().__init__()
        self.flaw = flaw
        self.words = nn.Embedding(20, 8)
        self.attention = nn.LayerList([Attention(8, flaw if i == at else "") for i in range(3)])
        self.head = nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for attention in self.attention:
            x = x + attention(x)
        return self.head(F.gelu(x, approximate=self.flaw == "gelu"))


class Dropped(nn.Layer):
    """A tiny difference of eps before a large one, in dropout that scales in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.LayerNorm(16, epsilon=1.0001e-5)
        self.drop, self.last = nn.Dropout(0.2, mode="downscale_in_infer"), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x))))


class DroppedByFunction(Dropped):
    def __init__(self) -> None:
        super().__init__()
        self.drop = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.last(F.dropout(x, 0.2, training=self.training, mode="downscale_in_infer"))


class Last(nn.Layer):
    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (F.relu if self.flaw == "relu" else F.relu6)(self.first(x) * 9)
        return self.last(x[:, :-1] if self.flaw == "slice" else x[:, 1:])


class Whole(nn.Layer):
    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.q, self.k, self.v, self.o, self.last = (nn.Linear(8, width) for width in (8, 8, 8, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).reshape([*x.shape[:2], 2, 4]).transpose([0, 2, 1, 3]) for f in (self.q, self.k, self.v))
        y = F.softmax(q @ k.transpose([0, 1, 3, 2]) * self.scale) @ v
        return self.last(self.o(y.transpose([0, 2, 1, 3]).reshape(x.shape)))


class _Square(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        return x * gradient  # the flaw: half the gradient


class OwnGradient(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Square.apply(self.first(x)))


class _Cube(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class OwnFunction(OwnGradient):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Cube.apply(self.first(x)))


class Exchanged(nn.Layer):
    """Multiplies with the weight that the other side adds."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = self.create_parameter([6]), self.create_parameter([6])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.two + self.one)


class Detached(OwnGradient):
    """Its port passes half of the gradient on."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y * y.detach())


class Kink(OwnGradient):
    """Every number lies at the kink of an activation, where the frameworks define its gradient in two ways."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(F.leaky_relu(y - y.detach(), 0.1))


class DetachedBranch(OwnGradient):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.last(y + self.branch(y.detach()))


class Gated(OwnGradient):
    def __init__(self, of: str = "first") -> None:
        super().__init__()
        self.of, self.gate = of, nn.Linear(8 if of == "first" else 6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        of = {"first": y, "input": x, "ones": paddle.ones_like(x)}[self.of]
        return self.last(y * F.sigmoid(self.gate(of)).detach().reshape([-1, 8]))


class Divided(OwnGradient):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y / 0.8 * F.tanh(y))


class Rotated(OwnGradient):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        one, two = (paddle.cos(z) - z * paddle.sin(z) for z in (F.tanh(y), F.sigmoid(y)))
        return self.last(one - two)


class Chance(OwnGradient):
    def __init__(self, chance: float = 0.9, threshold: float = 0.9) -> None:
        super().__init__()
        self.chance, self.threshold = chance, threshold

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.training:
            size = [len(x), 1]
            y = y * paddle.bernoulli(paddle.full(size, self.chance, dtype=x.dtype))
            y = y * (paddle.rand(size, dtype=x.dtype) < self.threshold).astype(x.dtype)
        return self.last(y)


class Named(nn.Layer):
    """Returns its outputs in a tuple."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = paddle.tanh(self.first(x))
        z = paddle.tanh(self.last(y))
        return y, z if self.scale == 1 else z * self.scale


class Normed(nn.Layer):
    """Its batch norm uses running statistics in training, so that the gradient of the first bias is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1D(8, use_global_stats=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class ChannelNorm(nn.Layer):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(4, epsilon=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


class Channels(nn.Layer):
    """Transposes around the norm."""

    def __init__(self, act: str = "relu", eps: float = 2**-20) -> None:
        super().__init__()
        self.act = act
        self.first, self.norm, self.second = nn.Conv2D(3, 4, 1), ChannelNorm(eps), nn.Conv2D(4, 4, 1)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(getattr(F, self.act)(self.second(self.norm(self.first(x)))).mean((2, 3)))


class Turned(nn.Layer):
    """Forgets to transpose between layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


class RootNorm(nn.Layer):
    def __init__(self, epsilon: float, scale: float) -> None:
        super().__init__()
        self.weight = self.create_parameter([8])
        self.epsilon, self.scale = epsilon, scale

    def forward(self, x: Tensor) -> Tensor:
        y = x * paddle.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return (y if self.scale == 1 else y * self.scale) * self.weight


class Rooted(nn.Layer):
    """Has another name for the class of the norm."""

    def __init__(self, epsilon: float = 1e-6, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), RootNorm(epsilon, scale), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Centred(Rooted):
    """Has a class of its own for PyTorch's layer, and does not subtract the mean."""


class Biased(nn.Layer):
    """Holds a table as an array of numpy, multiplies and divides in another order, and may have a flaw."""

    def __init__(self, hidden: float = -9.0, scale: float = 2.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.table, self.scale = np.array([0, hidden, 0, 0, hidden, 0]), scale

    def forward(self, x: Tensor) -> Tensor:
        scores = self.first(x) * self.scale + paddle.to_tensor(self.table, dtype=x.dtype).unsqueeze(0)
        return self.last(F.softmax(scores) / 2)


class Grid(nn.Layer):
    """Spells its axes and its choice of rows in another way, and may exchange rows and columns at one place."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.rows, self.columns, self.last = nn.Embedding(3, 6), nn.Embedding(3, 6), nn.Conv2D(6, 2, 1)
        self.table, self.flaw = self.create_parameter([9, 6]), flaw
        index = paddle.arange(9).reshape([3, 3])
        self.register_buffer("chosen", index.t() if flaw == "index" else index)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.rows(paddle.arange(3)), self.columns(paddle.arange(3))
        across = self.flaw == "rows"
        grid = rows.unsqueeze(int(not across)) + columns.unsqueeze(int(across))
        chosen = paddle.gather(self.table, self.chosen.flatten()).reshape([3, 3, 6])
        return self.last(x + grid.transpose([2, 0, 1]) + chosen.transpose([2, 0, 1]).unsqueeze(0))


class Positions(nn.Layer):
    """Expands its positions, and may begin with another one."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start
        self.table, self.last = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = paddle.arange(self.start, self.start + x.shape[1]).unsqueeze(0).expand([x.shape[0], x.shape[1]])
        return self.last(x + self.table(places))


class Projected(nn.Layer):
    """Has no bias behind the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.o, self.last = nn.Linear(8, 8, bias_attr=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.reshape([y.shape[0], y.shape[1], 2, 4]).transpose([0, 2, 1, 3])

        scores = heads(self.q(x)) @ heads(self.k(x)).transpose([0, 1, 3, 2]) * 0.5
        y = F.softmax(scores) @ heads(self.v(x))
        return self.last(self.o(y.transpose([0, 2, 1, 3]).reshape(x.shape)))


class Additive(nn.Layer):
    """The same with a mask of -1e9."""

    def __init__(self, diagonal: int = 1, scale: float = 2.0) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.diagonal, self.scale = diagonal, scale

    def forward(self, x: Tensor) -> Tensor:
        mask = paddle.triu(paddle.full([x.shape[1], x.shape[1]], -1e9), self.diagonal)
        scores = self.q(x) @ self.k(x).transpose([0, 2, 1]) / self.scale
        return self.o(F.softmax(scores + mask.astype(x.dtype), -1) @ self.v(x))
