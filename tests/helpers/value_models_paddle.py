"""Small models whose inner tensors differ from those of value_models_torch.py, and whose results do not.

An argument plants a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class Places(nn.Layer):
    """Adds learned places, with a batch axis."""

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.places, self.head = nn.Embedding(12, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        places = paddle.arange(self.first, self.first + x.shape[1]).unsqueeze(0).expand([x.shape[0], -1])
        return self.head(x + self.places(places))


class Bordered(nn.Layer):
    """Has the padding in the convolution."""

    def __init__(self, mode: str = "zeros", factor: float = 1.0, kinked: bool = False, padding: int = 1) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2D(3, 5, 1), nn.Conv2D(5, 4, 3, padding=padding, padding_mode=mode)
        self.factor, self.kinked = factor, kinked

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) if self.factor == 1 else self.stem(x) * self.factor
        return self.conv(F.relu(x) if self.kinked else x)


class Affine(nn.Layer):
    """One scale and one shift for all values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.shift = self.create_parameter([1], is_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def without_effect() -> nn.Layer:
    """A convolution and a batch norm behind an affine layer, which leave its parameters no effect."""
    return nn.Sequential(
        nn.Conv2D(3, 5, 3),
        Affine(),
        nn.Conv2D(5, 4, 1, bias_attr=False),
        nn.BatchNorm2D(4, epsilon=1e-7),
        nn.Conv2D(4, 2, 1),
    )


def one_channel() -> nn.Layer:
    """Without noise on the bias of the first batch norm, the mean of the last one would be zero but for rounding."""
    return nn.Sequential(nn.BatchNorm2D(1), nn.Conv2D(1, 4, 1, bias_attr=False), nn.BatchNorm2D(4))


class Mean(nn.Layer):
    """Returns one number, as a model does that computes its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) ** 2).mean()


class Causal(nn.Layer):
    """Pads the beginning of a sequence only, or with `both` a part of each end."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.padding = [1, 1] if both else [2, 0]
        self.conv, self.head = nn.Conv1D(3, 5, 3), nn.Conv1D(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(paddle.tanh(self.conv(F.pad(x, self.padding, data_format="NCL"))))


class Turned(nn.Layer):
    """Computes with the batch first."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times = times
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = paddle.tanh(self.a(x))
        return self.b(y * self.times if self.times != 1 else y)


class Moved(nn.Layer):
    """Scales after the linear layer."""

    def __init__(self, times: float = 3.0) -> None:
        super().__init__()
        self.times = paddle.to_tensor(times, dtype="float64")
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) * self.times


class Indexed(nn.Layer):
    """Has a buffer of integers and one of booleans."""

    def __init__(self, last: int = 3) -> None:
        super().__init__()
        self.register_buffer("order", paddle.to_tensor([2, 0, 1, last]))
        self.register_buffer("kept", paddle.to_tensor([True, False, True, True]))
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept.unsqueeze(1).expand(x.shape)
        return self.head(paddle.where(kept, x + self.table(self.order), x))


class Activated(nn.Layer):
    """Has one activation, by its name in `paddle.nn`."""

    def __init__(self, kind: str, *given: Any) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 40), getattr(nn, kind)(*given), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(x) * 9))


class Swapped(nn.Layer):
    """Uses a function for the activation that is a layer in PyTorch, and a layer for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(F.relu(x) * self.act(x))


class _Cube(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, times: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.times = times
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        return ctx.times * x**2 * gradient


class Cubed(nn.Layer):
    """Has a function with its own gradient."""

    def __init__(self, times: float = 3) -> None:
        super().__init__()
        self.times = times
        self.before, self.after = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(_Cube.apply(self.before(x), self.times))


class Dropped(nn.Layer):
    """Dropout that scales in inference, as a layer or a function."""

    def __init__(self, p: float, function: bool = False) -> None:
        super().__init__()
        self.p, self.function = p, function
        self.body, self.drop, self.head = nn.Linear(6, 30), nn.Dropout(p, mode="downscale_in_infer"), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.function:
            return self.head(F.dropout(x, self.p, training=self.training, mode="downscale_in_infer"))
        return self.head(self.drop(x))


class Normed(nn.Layer):
    """Computes a norm in float32, or in `dtype`; "" in the dtype of the model."""

    def __init__(self, dtype: str = "float32", eps: float = 1e-5) -> None:
        super().__init__()
        self.dtype, self.eps = dtype, eps
        self.weight = self.create_parameter([9])

    def forward(self, x: Tensor) -> Tensor:
        y = x.astype(self.dtype) if self.dtype else x
        y = y * paddle.rsqrt(paddle.mean(y * y, -1, keepdim=True) + self.eps)
        return self.weight * y.astype(x.dtype)


class Islands(nn.Layer):
    """Two norms in float32, and a softmax in `softmax`. The result is multiplied by `times`."""

    def __init__(self, norm: str = "float32", softmax: str = "float32", times: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.softmax, self.times = softmax, times
        self.first, self.norm, self.query, self.key = nn.Linear(6, 9), Normed(norm), nn.Linear(9, 9), nn.Linear(9, 9)
        self.last, self.head = Normed(norm, eps), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        scores = self.query(x) @ self.key(x).transpose([0, 2, 1])
        scores = scores.astype(self.softmax) if self.softmax else scores
        mixed = F.softmax(scores, -1).astype(x.dtype) @ x
        return self.head(self.last(mixed) * self.times)


TABLE = paddle.arange(9, dtype="float32") / 8


class Tabled(nn.Layer):
    """Multiplies by a table in float32 that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x.astype("float32") * TABLE).astype(x.dtype))


class Placed(nn.Layer):
    """Multiplies by cosines of positions, which it computes in `dtype`, and by `times`. It may store those of many positions."""

    def __init__(self, dtype: str, times: float, base: float, stored: int) -> None:
        super().__init__()
        self.dtype, self.times, self.base = dtype, times, base
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 6)
        self.table = self.cosines(stored) if stored else None

    def cosines(self, length: int) -> Tensor:
        rates = 1.0 / (self.base ** (paddle.arange(6, dtype=self.dtype) / 6))
        return paddle.outer(paddle.arange(length, dtype=self.dtype), rates).cos()

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        table = self.cosines(length) if self.table is None else self.table[:length]
        return self.out(self.fc(x) * table.astype(x.dtype) * self.times)


class Tables(nn.Layer):
    """Two layers that each compute a table of positions."""

    def __init__(self, dtype: str = "float32", times: float = 1.0, base: float = 100.0, stored: int = 0) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(5, 6), nn.LayerList([Placed(dtype, times, base, stored) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Random(nn.Layer):
    """Draws by the functions that `how` names, in training or always."""

    def __init__(self, how: str, always: bool = False) -> None:
        super().__init__()
        self.how, self.always = how, always
        self.body, self.mid, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.training or self.always:
            x = self.mid(x) * self.draw(x)
        return self.head(x)

    def draw(self, x: Tensor) -> Tensor:
        size, like = [x.shape[0], 1], {"dtype": x.dtype}
        ways: dict[str, Callable[[], Tensor]] = {
            "floor": lambda: paddle.floor(0.75 + paddle.rand(size, **like)) / 0.75,
            "wider": lambda: paddle.floor(0.79 + paddle.rand(size, **like)) / 0.75,  # keeps too much
            "unscaled": lambda: paddle.floor(0.75 + paddle.rand(size, **like)),
            "bernoulli": lambda: paddle.bernoulli(paddle.full(size, 0.75, **like)) / 0.75,
            "rarer floor": lambda: (
                paddle.floor(paddle.to_tensor(0.5, **like) + paddle.rand(size, **like)) / paddle.to_tensor(0.5, **like)
            ),
            "rarer": lambda: paddle.bernoulli(paddle.full(size, 0.5, **like)) / 0.5,
            "dropout": lambda: F.dropout(paddle.ones(size, **like), 0.25),
            "like": lambda: paddle.uniform(x.shape, min=0, max=1, **like) + paddle.randn(x.shape, **like),
            "range": lambda: paddle.uniform(size, min=-1, max=2, **like) + paddle.normal(1.0, 3.0, size),
            "integers": lambda: (paddle.randint(2, 7, size) + paddle.randperm(x.shape[0]).unsqueeze(1)).astype(x.dtype),
            "gumbel": lambda: F.gumbel_softmax(x, 0.7) + F.gumbel_softmax(x, hard=True),
            "poisson": lambda: paddle.poisson(paddle.ones_like(x)),
        }
        return ways[self.how]()


class Hard(nn.Layer):
    """A hard sigmoid as a layer or a function, with its slope."""

    def __init__(self, slope: float = 1 / 6) -> None:
        super().__init__()
        self.slope = slope
        self.body, self.hard, self.head = nn.Linear(6, 30), nn.Hardsigmoid(), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.hard(x) * F.hardsigmoid(2 * x, slope=self.slope))


class Scaled(nn.Layer):
    """A function with scalars that float32 does not hold, and the layer of its kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        slope = 0.2
        made: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
            "selu": (nn.SELU(), F.selu),
            "other selu": (nn.SELU(1.1, 1.7), lambda x: F.selu(x, 1.1, 1.7)),
            "softshrink": (nn.Softshrink(0.3), lambda x: F.softshrink(x, 0.3)),
            "softplus": (nn.Softplus(0.3, 2.1), lambda x: F.softplus(x, beta=0.3, threshold=2.1)),
            "elu": (nn.ELU(slope), lambda x: F.elu(x, slope)),
            "celu": (nn.CELU(slope), lambda x: F.celu(x, slope)),
            "leaky_relu": (nn.LeakyReLU(slope), lambda x: F.leaky_relu(x, slope)),
            "hardtanh": (nn.Hardtanh(-0.3, 0.7), lambda x: F.hardtanh(x, -0.3, 0.7)),
            "hardshrink": (nn.Hardshrink(0.3), lambda x: F.hardshrink(x, 0.3)),
            "thresholded_relu": (nn.ThresholdedReLU(0.3), lambda x: F.thresholded_relu(x, 0.3)),
            "rrelu": (nn.Identity(), lambda x: F.rrelu(x, 0.1, 0.3, training=False)),
            "stanh": (nn.Identity(), lambda x: paddle.stanh(x, 0.67, 1.7159)),
            "logit": (nn.Sigmoid(), lambda x: paddle.logit(F.sigmoid(x), 0.3)),
            "label_smooth": (nn.Identity(), lambda x: F.label_smooth(x, epsilon=0.1)),
        }
        self.act, self.function = made[kind]
        self.body, self.head = nn.Linear(6, 30), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.act(x) + self.function(2 * x))


class ByHand(nn.Layer):
    """A norm over all channels, in groups, or over one channel, written by hand."""

    def __init__(self, kind: str, eps: float = 1e-5, times: float = 1.0) -> None:
        super().__init__()
        self.weight = self.create_parameter([6], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([6], is_bias=True)
        self.kind, self.eps, self.times = kind, eps, times

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        rows = x if self.kind == "layer" else x.reshape([n, 3 if self.kind == "group" else 6, -1])
        off = rows - rows.mean(-1, keepdim=True)
        rows = off / paddle.sqrt((off**2).mean(-1, keepdim=True) + self.eps) * self.times
        shape = [6] if self.kind == "layer" else [6, 1]
        return rows.reshape(x.shape) * self.weight.reshape(shape) + self.bias.reshape(shape)


class Normalised(nn.Layer):
    """A norm of the framework, or one `by_hand` with `eps` and a factor."""

    def __init__(self, kind: str, by_hand: bool, eps: float = 1e-5, times: float = 1.0) -> None:
        super().__init__()
        made = {
            "layer": lambda: nn.LayerNorm(6),
            "group": lambda: nn.GroupNorm(3, 6),
            "instance": lambda: nn.InstanceNorm1D(6),
        }
        self.norm = ByHand(kind, eps, times) if by_hand else made[kind]()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(0.1 * self.body(x)))


class Named(nn.Layer):
    """Takes arguments by keyword only, one by another name, and returns a dict with another name in it."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times = times
        self.words, self.head = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, *, attention: Tensor, shift: Tensor) -> dict[str, Tensor]:
        hidden = (self.words(ids) + shift * self.times) * attention.unsqueeze(-1).astype(shift.dtype)
        return {"last_hidden": hidden, "scores": self.head(hidden)}


class Centred(nn.Layer):
    """The batch's mean of the second batch norm is zero in exact arithmetic."""

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.first, self.free = (
            nn.Linear(6, 8),
            nn.BatchNorm1D(8, weight_attr=False, bias_attr=False, momentum=momentum),
        )
        self.turn, self.norm = nn.Linear(8, 8, bias_attr=False), nn.BatchNorm1D(8, momentum=momentum)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.turn(self.free(self.first(x)))))


class Averaged(nn.Layer):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.first, self.free = nn.Conv1D(3, 4, 2), nn.BatchNorm1D(4)
        self.second, self.norm, self.last = nn.Conv1D(4, 5, 2), nn.BatchNorm1D(5), nn.Linear(5, 3)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.free(self.first(x)))
        y = self.norm(self.second(x))
        return self.last((y + (self.factor - 1) * (y - y.detach())).mean((0, 2)))


class Attended(nn.Layer):
    """Attention along the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.attend, self.head = nn.Linear(8, 8), nn.MultiHeadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.attend(x, x, x))


class Halved(nn.Layer):
    """Pads by a function before a convolution with stride 2."""

    def __init__(self, *pads: int) -> None:
        super().__init__()
        self.stem, self.conv, self.pads = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 5, 3, stride=2), list(pads)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(self.stem(x), self.pads))


class Shared(nn.Layer):
    """Divides by a sum, in a function whose eps the framework looks up."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.body, self.head, self.times = nn.Linear(8, 8), nn.Linear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_share(self.body(x)) * self.times)


def _share(x: Tensor) -> Tensor:
    return x / (x.abs().sum(-1, keepdim=True) + paddle.finfo(x.dtype).eps)


class Counted(nn.Layer):
    """Scales by numbers of integers: a product, a quotient, a power and a sum with numbers in Python."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.body, self.head, self.times = nn.Linear(8, 8), nn.Linear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        n = (x > 0).astype("int64").sum(-1, keepdim=True) + 1
        return self.head(x * (1 + 0.1 * n) * (n / 7) * (n**0.3) / (n + 0.7) * self.times)


class Cancelling(nn.Layer):
    """Takes the mean of what a norm returns, and adds `leak` times the gradient that the norm takes away."""

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.conv, self.head, self.leak = nn.Conv2D(3, 4, 3), nn.Linear(4, 3), leak
        self.norm = nn.InstanceNorm2D(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.norm(x).mean((2, 3)) + self.leak * (x - x.detach()).mean((2, 3)))


def static(name: str, part: str = "", full_graph: bool = True, **settings: Any) -> nn.Layer:
    """A model with a static graph, or with a `part` that has one."""
    model: nn.Layer = globals()[name](**settings)
    if not part:
        return paddle.jit.to_static(model, full_graph=full_graph)
    setattr(model, part, paddle.jit.to_static(getattr(model, part), full_graph=full_graph))
    return model
