"""The partners of the models in `match_models_torch`, with other names, orders and divisions of layers. `flaw` plants a mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    axes = [*range(k.ndim - 2), k.ndim - 1, k.ndim - 2]
    return F.softmax(q @ k.transpose(axes) / k.shape[-1] ** 0.5, -1) @ v


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.reshape([*x.shape[:2], heads, -1]).transpose([0, 2, 1, 3])


def joined(x: Tensor) -> Tensor:
    return x.transpose([0, 2, 1, 3]).flatten(2)


def exchanged(parts: list[Tensor], flaw: str) -> list[Tensor]:
    return [parts[1], parts[0], *parts[2:]] if flaw == "exchanged" else parts


class Encoder(nn.Layer):
    """Three layers for query, key and value, registered and called in another order. The blocks of the numbers `at` have the flaw."""

    def __init__(
        self, width: int = 12, depth: int = 3, heads: int = 3, flaw: str = "", at: Sequence[int] = (1,)
    ) -> None:
        super().__init__()
        self.layers = nn.LayerList([EncoderBlock(width, heads, flaw if i in at else "") for i in range(depth)])
        self.final_norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.final_norm(x))


class EncoderBlock(nn.Layer):
    """Attention with separate projections."""

    def __init__(self, width: int, heads: int, flaw: str) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias_attr=False if flaw == "no bias" else None)
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Linear(width, width)
        self.heads, self.flaw = heads, flaw

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_a(x)
        v, k, q = (heads_of(layer(y), self.heads) for layer in (self.value, self.key, self.query))
        x = x + self.output(joined(attend(*exchanged([q, k, v], self.flaw))))
        return x + F.tanh(self.feed(self.norm_b(x)))


class Transposed(nn.Layer):
    """Linear layers of the framework."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(10, 10) for _ in range(3))
        self.out_proj, self.score, self.flaw = nn.Linear(10, 10), nn.Linear(10, 4), flaw

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        y = self.out_proj(attend(*parts))
        return self.score(2 * y if self.flaw == "scaled" else y)


class Interleaved(nn.Layer):
    """Separate layers."""

    def __init__(self, heads: int = 4, flaw: str = "") -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(8, 8) for _ in range(4))
        self.heads, self.flaw = heads, flaw

    def forward(self, x: Tensor) -> Tensor:
        parts = [heads_of(layer(x), self.heads) for layer in (self.query, self.key, self.value)]
        parts[0] = parts[0] * 0.5 if self.flaw == "halved" else parts[0]
        return self.dense(joined(attend(*exchanged(parts, self.flaw))))


class Memory(nn.Layer):
    """Separate layers for key and value."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.flaw = flaw

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        k, v = exchanged([self.k(memory), self.v(memory)], self.flaw)
        return self.out(attend(self.q(x), k, v))


class Grouped(nn.Layer):
    """Separate layers of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8, bias_attr=False), nn.Linear(8, 4, bias_attr=False)
        self.value, self.out = nn.Linear(8, 4, bias_attr=False), nn.Linear(8, 8, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.key(x).unsqueeze(1), self.value(x).unsqueeze(1)
        return self.out(joined(attend(heads_of(self.query(x), 2), k, v)))


class Maps(nn.Layer):
    """Three convolutions."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.to_k, self.to_q, self.to_v = (nn.Conv2D(6, 6, 1, bias_attr=False) for _ in range(3))
        self.last, self.flaw = nn.Conv2D(6, 6, 1), flaw

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(x).flatten(2) for layer in (self.to_q, self.to_k, self.to_v)]
        return self.last(attend(*exchanged(parts, self.flaw)).reshape(x.shape))


class Attention(nn.Layer):
    """The framework's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.mha, self.head = nn.MultiHeadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mha(x, x, x))


class Projections(nn.Layer):
    """Attention written out."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.head, self.flaw = nn.Linear(8, 3), flaw

    def forward(self, x: Tensor) -> Tensor:
        parts = [heads_of(layer(x), 2) for layer in (self.query, self.key, self.value)]
        return self.head(self.out(joined(attend(*exchanged(parts, self.flaw)))))


class Unnamed(nn.Layer):
    """Attention written out, with names that say nothing, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        v, q, k = (heads_of(layer(x), 2) for layer in (self.a, self.b, self.c))
        return self.head(self.d(joined(attend(q, k, v))))


class Fused(nn.Layer):
    """The fused layer is Paddle's; its weight is stored [in, out], and perhaps each of two heads holds its parts in sequence."""

    def __init__(self, interleaved: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)
        self.interleaved, self.factor = interleaved, factor

    def forward(self, x: Tensor) -> Tensor:
        if self.interleaved:
            parts = self.qkv(x).reshape([*x.shape[:2], 2, 3, -1]).transpose([0, 2, 1, 3, 4]).unbind(3)
        else:
            parts = [heads_of(part, 2) for part in self.qkv(x).chunk(3, -1)]
        q, k, v = parts
        return self.head(self.proj(joined(attend(self.factor * q, k, v))))


class Held(nn.Layer):
    """A layer inside holds everything, under another name."""

    def __init__(self, interleaved: bool, factor: float) -> None:
        super().__init__()
        self.core = Fused(interleaved, factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)


class Keyed(nn.Layer):
    """Separate layers for key and value."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[KeyedBlock() for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class KeyedBlock(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm_a, self.to_q, self.to_k, self.to_v = (
            nn.LayerNorm(6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
        )
        self.to_out, self.norm_b, self.fc_a, self.fc_b = (
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 12),
            nn.Linear(12, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_a(x)
        x = x + self.to_out(attend(self.to_q(y), self.to_k(y), self.to_v(y)))
        return x + self.fc_b(F.gelu(self.fc_a(self.norm_b(x))))


class Classed(nn.Layer):
    """Registers and names the tokens otherwise."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.distillation, self.class_token = self.create_parameter([1, 1, 6]), self.create_parameter([1, 1, 6])
        self.score, self.flaw = nn.Linear(6, 3), flaw

    def forward(self, x: Tensor) -> Tensor:
        tokens = [t.expand([len(x), -1, -1]) for t in exchanged([self.class_token, self.distillation], self.flaw)]
        return self.score(F.tanh(paddle.concat([*tokens, x], 1)))


class Graded(nn.Layer):
    """Registers its parameters in another order. Their names say nothing."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.v, self.u = self.create_parameter([5, 6]), self.create_parameter([5, 6])
        self.out, self.factor = nn.Linear(6, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.factor * ((x + self.u) * self.v))


class Tables(nn.Layer):
    """Called in the other order; with abbreviated names, or with names that say nothing."""

    def __init__(self, flaw: str = "", unnamed: bool = False) -> None:
        super().__init__()
        tables = nn.Embedding(11, 6), nn.Embedding(11, 6)
        self.names = ("a", "b") if unnamed else ("k", "w")
        for name, table in zip(self.names, tables, strict=True):
            setattr(self, name, table)
        self.out, self.flaw = nn.Linear(6, 4), flaw

    def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
        if self.flaw == "exchanged":
            words, kinds = kinds, words
        of_kinds = getattr(self, self.names[0])(kinds)
        return self.out(getattr(self, self.names[1])(words) + of_kinds)


class Padded(nn.Layer):
    """Called in the other order, and names abbreviate nothing. It may exchange its inputs, or the index of padding."""

    def __init__(self, exchanged: bool = False, padded: bool = True) -> None:
        super().__init__()
        self.token_type = nn.Embedding(11, 6, padding_idx=None if padded else 0)
        self.word = nn.Embedding(11, 6, padding_idx=0 if padded else None)
        self.out, self.exchanged = nn.Linear(6, 4), exchanged

    def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
        if self.exchanged:
            words, kinds = kinds, words
        return self.out(self.token_type(kinds) + self.word(words))


class Summed(nn.Layer):
    """Called in the other order. The norms may be exchanged with their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.last_norm, self.first_norm = nn.LayerNorm(6), nn.LayerNorm(6)
        self.type_table, self.word, self.out = nn.Embedding(11, 6), nn.Embedding(11, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor) -> Tensor:
        of_type = self.type_table(words)
        return self.out(self.last_norm(self.first_norm(self.word(words) + of_type)))


class Product(nn.Layer):
    """Called in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.right(x)
        return self.out(self.left(x) * y)


class Steps(nn.Layer):
    """Registered in the other order."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.east, self.west, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.flaw = flaw

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.west(x))
        return self.out(F.relu(0.9 * self.east(x) if self.flaw else self.east(x)))


class Scaled(nn.Layer):
    """Norms of an own class, of another name, with arrays of other names."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.body, self.scale, self.last = nn.Linear(6, 6), Normed(6, eps), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale(self.body(x)))


class Normed(nn.Layer):
    """Scales by the root of the mean square, and shifts."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.beta, self.gamma = self.create_parameter([width], is_bias=True), self.create_parameter([width])
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.gamma + self.beta


class Tokens(nn.Layer):
    """Some parameters in the model, some in a layer inside."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.scale, self.embed = self.create_parameter([6]), Embed(flaw)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.scale * self.embed(x)))


class Embed(nn.Layer):
    """Holds the tokens, two of one shape."""

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.position = self.create_parameter([1, 5, 6])
        self.masked, self.cls = self.create_parameter([1, 1, 6]), self.create_parameter([1, 1, 6])
        self.flaw = flaw

    def forward(self, x: Tensor) -> Tensor:
        cls, mask = exchanged([self.cls, self.masked], self.flaw)
        return paddle.concat([cls.expand([len(x), -1, -1]), x + 0.3 * mask], 1) + self.position


class Seven(nn.Layer):
    """The parts in an order that only values tell."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.z, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, c, a = self.y(x), self.x(x), self.z(x)
        return self.out(F.sigmoid(a) * F.tanh(b) + c)


class Lost(nn.Layer):
    """One of the layers is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.sigmoid(self.y(x)) * F.tanh(self.x(x)))


class Unsure(nn.Layer):
    """The partner, perhaps with a factor behind the first layer."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.start, self.left, self.right, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        self.flaw = flaw

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.start(x))
        x = 2 * x if self.flaw == "scaled" else x
        return self.out(self.left(x) - self.right(x))


class Bare(nn.Layer):
    """Linear layers, and a parameter of the model itself."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.fc1, self.proj = nn.Linear(6, 6), nn.Linear(6, 6, bias_attr=False)
        self.gamma, self.flaw = self.create_parameter([6]), flaw

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(F.relu(self.fc1(x)))
        return x if self.flaw == "no scale" else self.gamma * x


class Masked(nn.Layer):
    """A mask and a table of positions are stored, or are only attributes. `low` is the number that masks."""

    def __init__(self, stored: bool = True, low: float = -100.0) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        mask = paddle.triu(paddle.full([4, 4], low), 1)
        table = paddle.arange(24, dtype="float32").reshape([4, 6]) / 8
        for name, value in (("mask", mask), ("table", table)):
            self.register_buffer(name, value) if stored else setattr(self, name, value)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.table
        scores = self.query(x) @ x.transpose([0, 2, 1]) + self.mask
        return self.head(F.softmax(scores, -1) @ x)


class Placed(nn.Layer):
    """A class token and a table of positions, which is stored in any `shape`."""

    def __init__(self, *shape: int, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.pos = self.create_parameter(shape)
        self.cls, self.head = self.create_parameter([1, 1, 6]), nn.Linear(6, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pos = self.pos.t() if tuple(self.pos.shape) == (6, 5) else self.pos.reshape([1, 5, 6])
        x = paddle.concat([self.cls.expand([x.shape[0], -1, -1]), x], 1)
        return self.head(x + self.factor * pos)


class Pointwise(nn.Layer):
    """A block, a gate and a sequence, of Linears or of `convolutions` with a kernel of size 1. The block is added `factor` times."""

    def __init__(self, convolutions: bool = False, factor: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.convolutions, self.factor = convolutions, factor
        self.stem = nn.Conv2D(3, 4, 3, padding=1)
        sizes = {"up": (4, 8), "down": (8, 4), "first": (4, 1), "second": (1, 4)}
        for name, (given, made) in sizes.items():
            has_bias = bias or name != "second"
            attr = None if has_bias else False
            layer = nn.Conv2D(given, made, 1, bias_attr=attr) if convolutions else nn.Linear(given, made, None, attr)
            setattr(self, name, layer)
        self.last = nn.Conv1D(4, 6, 1) if convolutions else nn.Linear(4, 6)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.stem(x))
        if self.convolutions:
            x = x + self.factor * self.down(F.gelu(self.up(x)))
            x = x * F.sigmoid(self.second(F.relu(self.first(x.mean([2, 3], keepdim=True)))))
            return self.last(x.flatten(2)).mean(2)
        block = self.down(F.gelu(self.up(x.transpose([0, 2, 3, 1]))))
        x = x + self.factor * block.transpose([0, 3, 1, 2])
        gate = F.sigmoid(self.second(F.relu(self.first(x.mean([2, 3])))))
        return self.last((x * gate[:, :, None, None]).flatten(2).transpose([0, 2, 1])).mean(1)


class Shares(nn.Layer):
    """Two parameters say themselves how they are updated."""

    def __init__(self, own: bool = True) -> None:
        super().__init__()
        slow, decayed = (
            paddle.ParamAttr(learning_rate=0.1),
            paddle.ParamAttr(regularizer=paddle.regularizer.L2Decay(0.25)),
        )
        self.body, self.head = nn.Linear(6, 6, slow if own else None), nn.Linear(6, 3, None, decayed if own else None)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(F.relu(self.body(x)))


class Affine(nn.Layer):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.gain = self.create_parameter([6], default_initializer=nn.initializer.Constant(1.0))
        self.shift = self.create_parameter([6], default_initializer=nn.initializer.Constant(0.0)) if bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.gain * x if self.shift is None else self.gain * x + self.shift


class Gains(nn.Layer):
    """Layers of an own class, which has another name on the other side. The one number `bare` has lost its shift."""

    def __init__(self, bare: int = -1) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.gains = nn.LayerList([Affine(i != bare) for i in range(3)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.body(x)
        for gain in self.gains:
            x = paddle.tanh(gain(x))
        return self.head(x)


class Types(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(11, 6), nn.Embedding(7, 6), nn.Embedding(4, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.words(x) + self.places(paddle.arange(x.shape[1])) + self.types(x * 0))


class Joined(nn.Layer):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose([0, 2, 1]) * self.scale
        return self.out(F.softmax(scores, -1) @ self.v(x))


class Hidden(nn.Layer):
    """A layer whose name is that of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.apply = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply(x)


class Gate(nn.Layer):
    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.right, self.left, self.lower = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)
        self.first, self.second, self.end = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.right(x), self.left(x)
        x = x + self.lower(F.silu(a) * b if self.flaw == "layers" else F.silu(b) * a)
        a, b = self.first(x), self.second(x)
        return x + self.end(F.tanh(b) - a if self.flaw == "fused" else F.tanh(a) - b)


class Gates(nn.Layer):
    """The second block may take two of its layers in another order than the others."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Gate(flaw if i == 1 else "") for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Recurrent(nn.Layer):
    """Its backward cell may get the time steps from the first to the last."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw, self.last = flaw, nn.Linear(8, 3)
        self.cells, self.gru = nn.LayerList([nn.LSTMCell(5, 8) for _ in range(2)]), nn.GRU(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for cell, back in zip(self.cells, (False, not self.flaw), strict=True):
            steps, states, found = range(x.shape[1]), None, {}
            for step in reversed(steps) if back else steps:
                found[step], states = cell(x[:, step], states)
            sides.append(paddle.stack([found[step] for step in steps], 1))
        return self.last(self.gru(paddle.concat(sides, -1))[0][:, -1])


class Crossed(nn.Layer):
    """The same with layers of its own; `fused`: one for key and value."""

    def __init__(self, kdim: int = 6, vdim: int = 5, fused: bool = False) -> None:
        super().__init__()
        self.q_proj, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        if fused:
            self.kv = nn.Linear(kdim, 16)
        else:
            self.k_proj, self.v_proj = nn.Linear(kdim, 8), nn.Linear(vdim, 8)
        self.fused = fused

    def forward(self, x: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor | None = None) -> paddle.Tensor:
        k, v = self.kv(key).chunk(2, -1) if self.fused else (self.k_proj(key), self.v_proj(value))
        q, k, v = (t.reshape([t.shape[0], t.shape[1], 2, 4]).transpose([0, 2, 1, 3]) for t in (self.q_proj(x), k, v))
        mixed = nn.functional.softmax(q @ k.transpose([0, 1, 3, 2]) / 2, -1) @ v
        return self.out_proj(mixed.transpose([0, 2, 1, 3]).reshape(x.shape))


class Biased(nn.Layer):
    """The same with one layer for all three, and the biases beside it."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.qkv, self.proj, self.scale = nn.Linear(8, 24, bias_attr=False), nn.Linear(8, 8), scale
        self.table = self.create_parameter([5, 5])
        self.q_bias, self.v_bias = (self.create_parameter([8], is_bias=True) for _ in range(2))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        bias = paddle.concat([self.q_bias, paddle.zeros_like(self.q_bias), self.v_bias])
        q, k, v = nn.functional.linear(x, self.qkv.weight, bias).chunk(3, -1)
        return self.proj(nn.functional.softmax(self.scale * q @ k.transpose([0, 2, 1]) + self.table, -1) @ v)


class Square(nn.Layer):
    """The same with the matrix stored transposed, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weights, self.last = nn.Linear(6, 8), self.create_parameter([8, 8]), nn.Linear(8, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.last(paddle.tanh(self.first(x) @ self.weights.T))


class Branches(nn.Layer):
    """The same in another order, with a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q, self.spare, self.out = nn.Linear(6, 4), nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(12, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        p = self.p(x)
        return self.out(paddle.concat([self.q(x), p], -1))


class Quiet(nn.Layer):
    """The same with another eps."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm, self.inner, self.out = nn.LayerNorm(8, epsilon=eps), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        squares = self.norm(x) ** 2
        return self.out(
            nn.functional.relu(self.inner(paddle.concat([squares[..., :7], 100 * (1 + squares[..., 7:])], -1)))
        )


class Doubled(nn.Layer):
    """A model whose inner layer sees `factor` times the input, which its output does not show."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.out, self.factor = nn.Linear(6, 5, bias_attr=False), nn.Linear(5, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.factor * x) / self.factor)


class Factored(nn.Layer):
    """A ReLU that passes nothing, and a Cholesky factor: with its numbers in another order, the matrix has none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        value = nn.initializer.Assign(3 * np.eye(5, dtype="float32") + np.float32(0.1))
        self.matrix = self.create_parameter([5, 5], default_initializer=value)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.inner(x) - 100)) + paddle.linalg.cholesky(self.matrix).sum()
