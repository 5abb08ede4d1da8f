"""Small models whose inner tensors differ from those of value_models_paddle.py, and whose results do not.

The faults are planted in the Paddle models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Places(nn.Module):
    """Adds learned places, which have no batch axis here."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(12, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.places(torch.arange(x.shape[1])))


class Bordered(nn.Module):
    """Pads before the convolution."""

    def __init__(self, pads: Sequence[int] = (1, 1, 1, 1), mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        self.pads, self.mode, self.value = tuple(pads), mode, value
        self.stem, self.conv = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(self.stem(x), self.pads, self.mode, self.value))


class Affine(nn.Module):
    """One scale and one shift for all values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def without_effect() -> nn.Module:
    """A convolution and a batch norm behind an affine layer, which leave its parameters no effect."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), Affine(), nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-7), nn.Conv2d(4, 2, 1)
    )


def one_channel() -> nn.Module:
    """Without noise on the bias of the first batch norm, the mean of the last one would be zero but for rounding."""
    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4))


class Mean(nn.Module):
    """Returns one number, as a model does that computes its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) ** 2).mean()


class Causal(nn.Module):
    """Pads both ends of a sequence, and cuts the end off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 5, 3, padding=2), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x)[..., :-2].tanh())


class Turned(nn.Module):
    """Computes with the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.transpose(0, 1)).tanh()).transpose(0, 1)


class Moved(nn.Module):
    """Scales before a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * 3)


class Indexed(nn.Module):
    """Has a buffer of integers and one of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 0, 1, 3]))
        self.register_buffer("kept", torch.tensor([True, False, True, True]))
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.where(self.kept[:, None], x + self.table(self.order), x))


class Activated(nn.Module):
    """Has one activation, by its name in `torch.nn`."""

    def __init__(self, name: str, *given: Any) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 40), getattr(nn, name)(*given), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(x) * 9))


class Swapped(nn.Module):
    """Uses a layer for one activation and a function for the other; both get the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.act(x) * torch.sigmoid(x))


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Cubed(nn.Module):
    """Has a function with its own gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(_Cube.apply(self.before(x)))


class Dropped(nn.Module):
    """Dropout as a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, 30), nn.Dropout(p), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x)))


class Normed(nn.Module):
    """Computes a norm in float32, or in `dtype`; "" in the dtype of the model."""

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.ones(9))

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(getattr(torch, self.dtype)) if self.dtype else x
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)
        return self.weight * y.to(x.dtype)


class Islands(nn.Module):
    """Two norms in float32, and a softmax in `softmax`."""

    def __init__(self, norm: str = "float32", softmax: str = "float32") -> None:
        super().__init__()
        self.softmax = softmax
        self.first, self.norm, self.query, self.key = nn.Linear(6, 9), Normed(norm), nn.Linear(9, 9), nn.Linear(9, 9)
        self.last, self.head = Normed(norm), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        dtype = getattr(torch, self.softmax) if self.softmax else None
        return self.head(self.last(F.softmax(scores, -1, dtype=dtype).to(x.dtype) @ x))


TABLE = torch.arange(9, dtype=torch.float32) / 8


class Tabled(nn.Module):
    """Multiplies by a table in float32 that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x.to(torch.float32) * TABLE).to(x.dtype))


class Placed(nn.Module):
    """Multiplies by a `table`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.out(self.fc(x) * table)


class Rates(nn.Module):
    """A table of positions: cosines of `rates`, which are a buffer or made in forward, in `dtype`."""

    def __init__(self, dtype: torch.dtype, is_buffer: bool) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("rates", self.make() if is_buffer else None, persistent=False)

    def make(self) -> Tensor:
        return 1.0 / (100.0 ** (torch.arange(6, dtype=self.dtype) / 6))

    def forward(self, x: Tensor) -> Tensor:
        rates = self.make() if self.rates is None else self.rates.to(self.dtype)
        return torch.outer(torch.arange(x.shape[1], dtype=self.dtype), rates).cos().to(x.dtype)


class Tables(nn.Module):
    """Two layers that share a table of positions."""

    def __init__(self, dtype: str = "float32", is_buffer: bool = False) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(5, 6), nn.ModuleList([Placed() for _ in range(2)])
        self.table = Rates(getattr(torch, dtype), is_buffer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        table = self.table(x)
        for block in self.blocks:
            x = block(x, table)
        return x


class Random(nn.Module):
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
        size = (len(x), 1)
        ways: dict[str, Callable[[], Tensor]] = {
            "floor": lambda: torch.floor(0.75 + torch.rand(size, dtype=x.dtype)) / 0.75,
            "bernoulli": lambda: torch.bernoulli(torch.full(size, 0.75, dtype=x.dtype)) / 0.75,
            "in place": lambda: x.new_empty(size).bernoulli_(0.75).div_(0.75),
            "like": lambda: torch.rand_like(x) + torch.randn_like(x),
            "range": lambda: x.new_empty(size).uniform_(-1, 2) + x.new_empty(size).normal_(1, 3),
            "integers": lambda: (torch.randint(2, 7, size) + torch.randperm(len(x))[:, None]).to(x.dtype),
            "gumbel": lambda: F.gumbel_softmax(x, 0.7) + F.gumbel_softmax(x, hard=True),
            "poisson": lambda: torch.poisson(torch.ones_like(x)),
        }
        return ways[self.how]()


class Hard(nn.Module):
    """A hard sigmoid as a layer or a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.hard, self.head = nn.Linear(6, 30), nn.Hardsigmoid(), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.hard(x) * F.hardsigmoid(2 * x))


class Scaled(nn.Module):
    """A function with scalars that float32 does not hold, and the layer of its kind."""

    def __init__(self, kind: str, softly: float = 0.3) -> None:
        super().__init__()
        slope = 0.2
        made: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
            "selu": (nn.SELU(), F.selu),
            "other selu": (OtherSELU(), OtherSELU()),
            "softshrink": (nn.Softshrink(softly), lambda x: F.softshrink(x, softly)),
            "softplus": (nn.Softplus(softly, 2.1), lambda x: F.softplus(x, softly, 2.1)),
            "elu": (nn.ELU(slope), lambda x: F.elu(x, slope)),
            "celu": (nn.CELU(slope), lambda x: F.celu(x, slope)),
            "leaky_relu": (nn.LeakyReLU(slope), lambda x: F.leaky_relu(x, slope)),
            "hardtanh": (nn.Hardtanh(-0.3, 0.7), lambda x: F.hardtanh(x, -0.3, 0.7)),
            "hardshrink": (nn.Hardshrink(0.3), lambda x: F.hardshrink(x, 0.3)),
            "thresholded_relu": (nn.Threshold(0.3, 0), lambda x: F.threshold(x, 0.3, 0)),
            "rrelu": (nn.Identity(), lambda x: F.rrelu(x, 0.1, 0.3, training=False)),
            "stanh": (nn.Identity(), lambda x: 1.7159 * torch.tanh(0.67 * x)),
            "logit": (nn.Sigmoid(), lambda x: torch.logit(torch.sigmoid(x), 0.3)),
            "label_smooth": (nn.Identity(), lambda x: 0.9 * x + 0.1 / 30),
        }
        self.act, self.function = made[kind]
        self.body, self.head = nn.Linear(6, 30), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(self.act(x) + self.function(2 * x))


class OtherSELU(nn.Module):
    """SELU with other scalars."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.1 * torch.where(x > 0, x, 1.7 * torch.expm1(x.clamp(max=0)))


class ByHand(nn.Module):
    """A norm over all channels, in groups, or over one channel, written by hand."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        rows = x if self.kind == "layer" else x.reshape(len(x), 3 if self.kind == "group" else 6, -1)
        off = rows - rows.mean(-1, keepdim=True)
        rows = off / torch.sqrt((off**2).mean(-1, keepdim=True) + 1e-5)
        shape = (6,) if self.kind == "layer" else (6, 1)
        return rows.reshape(x.shape) * self.weight.view(shape) + self.bias.view(shape)


class Normalised(nn.Module):
    """A norm of the framework, or one `by_hand`."""

    def __init__(self, kind: str, by_hand: bool) -> None:
        super().__init__()
        made = {
            "layer": lambda: nn.LayerNorm(6),
            "group": lambda: nn.GroupNorm(3, 6),
            "instance": lambda: nn.InstanceNorm1d(6, affine=True),
        }
        self.norm = ByHand(kind) if by_hand else made[kind]()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(0.1 * self.body(x)))


@dataclass
class Answer:
    """What `Named` returns."""

    scores: Tensor
    hidden: Tensor
    notes: str = "none"


class Named(nn.Module):
    """Takes arguments by keyword only, and returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, *, mask: Tensor, shift: Tensor) -> Answer:
        hidden = (self.words(ids) + shift) * mask[..., None].to(shift.dtype)
        return Answer(self.head(hidden), hidden)


class Centred(nn.Module):
    """The batch's mean of the second batch norm is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free = nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False)
        self.turn, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.turn(self.free(self.first(x)))))


class Averaged(nn.Module):
    """Every gradient before the last batch norm is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free = nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)
        self.second, self.norm, self.last = nn.Conv1d(4, 5, 2), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.free(self.first(x)))
        return self.last(self.norm(self.second(x)).mean((0, 2)))


class Attended(nn.Module):
    """Attention along the second axis, or the first one where the axes are `turned` around it or it is not `batch_first`."""

    def __init__(self, turned: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.body, self.head, self.turned = nn.Linear(8, 8), nn.Linear(8, 3), turned
        self.attend = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = x.transpose(0, 1) if self.turned else x
        x = self.attend(x, x, x)[0]
        return self.head(x.transpose(0, 1) if self.turned else x)


class Halved(nn.Module):
    """Pads by a function before a convolution with stride 2."""

    def __init__(self, *pads: int) -> None:
        super().__init__()
        self.stem, self.conv, self.pads = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, stride=2), pads

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(self.stem(x), self.pads))


class Shared(nn.Module):
    """Divides by a sum, in a function whose eps the framework looks up."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.body, self.head, self.times = nn.Linear(8, 8), nn.Linear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_share(self.body(x)) * self.times)


def _share(x: Tensor) -> Tensor:
    return x / (x.abs().sum(-1, keepdim=True) + torch.finfo(x.dtype).eps)


class Counted(nn.Module):
    """Scales by numbers of integers: a product, a quotient, a power and a sum with numbers in Python."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.body, self.head, self.times = nn.Linear(8, 8), nn.Linear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        n = (x > 0).sum(-1, keepdim=True) + 1
        return self.head(x * (1 + 0.1 * n) * (n / 7) * (n**0.3) / (n + 0.7) * self.times)


class Cancelling(nn.Module):
    """Takes the mean of what a norm returns, and adds `leak` times the gradient that the norm takes away."""

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.conv, self.head, self.leak = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), leak
        self.norm = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.norm(x).mean((2, 3)) + self.leak * (x - x.detach()).mean((2, 3)))


def compiled(name: str, part: str = "", **settings: Any) -> nn.Module:
    """A model that is compiled, or one with a `part` that is."""
    model: nn.Module = globals()[name](**settings)
    if not part:
        return torch.compile(model, backend="aot_eager")
    setattr(model, part, torch.compile(getattr(model, part), backend="aot_eager"))
    return model
