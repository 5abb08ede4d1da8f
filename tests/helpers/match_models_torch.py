"""Small PyTorch models whose layers the other side names, orders, fuses or nests differently; see `match_models_paddle`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5).softmax(-1) @ v


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """Blocks with one linear layer for query, key and value, and linear layers of one shape after it."""

    def __init__(self, width: int = 12, depth: int = 3, heads: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class EncoderBlock(nn.Module):
    """Attention with a fused projection, and a square layer behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(self.ln1(x)).chunk(3, -1))
        x = x + self.proj(joined(attend(q, k, v)))
        return x + self.mix(self.ln2(x)).tanh()


class Transposed(nn.Module):
    """GPT-2's way: a layer of an own class, stored [in, out], for query, key and value, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.head = InOut(10, 30), InOut(10, 10), InOut(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c_proj(attend(*self.c_attn(x).chunk(3, -1))))


class InOut(nn.Module):
    """A linear layer that stores its weight [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / 3)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Interleaved(nn.Module):
    """Every head holds its query, key and value one after the other."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.query_key_value, self.dense, self.num_heads = nn.Linear(8, 24), nn.Linear(8, 8), heads

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(x).reshape(*x.shape[:2], self.num_heads, 3, -1).transpose(1, 2).unbind(3)
        return self.dense(joined(attend(*parts)))


class Memory(nn.Module):
    """Cross-attention: key and value of a second input in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.out(attend(self.q(x), *self.kv(memory).chunk(2, -1)))


class Grouped(nn.Module):
    """Grouped queries: parts of different sizes without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj, self.o_proj = nn.Linear(8, 16, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_proj(x).split([8, 4, 4], -1)
        return self.o_proj(joined(attend(heads_of(q, 2), k[:, None], v[:, None])))


class Maps(nn.Module):
    """A convolution for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Conv2d(6, 18, 1, bias=False), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2) for part in self.to_qkv(x).chunk(3, 1))
        return self.to_out(attend(q, k, v).reshape(x.shape))


class Attention(nn.Module):
    """The framework's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Projections(nn.Module):
    """Attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = (heads_of(layer(x), 2) for layer in (self.wq, self.wk, self.wv))
        return self.head(self.wo(joined(attend(*parts))))


class Tables(nn.Module):
    """Two tables of one size for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.kind, self.out = nn.Embedding(11, 6), nn.Embedding(11, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
        return self.out(self.word(words) + self.kind(kinds))


class Padded(nn.Module):
    """Two tables of one size for two inputs, one with an index of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.seg, self.out = nn.Embedding(11, 6, padding_idx=0), nn.Embedding(11, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
        return self.out(self.tok(words) + self.seg(kinds))


class Summed(nn.Module):
    """Two tables of one size for one input, and two norms of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.t, self.out = nn.Embedding(11, 6), nn.Embedding(11, 6), nn.Linear(6, 4)
        self.before, self.after = nn.LayerNorm(6), nn.LayerNorm(6)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.after(self.before(self.w(words) + self.t(words))))


class Product(nn.Module):
    """A product of two layers: nothing says which is which."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(x) * self.two(x))


class Steps(nn.Module):
    """Two layers of one shape, one after the other, with names that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lower(self.upper(x).relu()).relu())


class Scaled(nn.Module):
    """Norms of an own class."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.last = nn.Linear(6, 6), Rescale(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.body(x)))


class Rescale(nn.Module):
    """Scales by the root of the mean square, and shifts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class Tokens(nn.Module):
    """Parameters of the model itself, which the other side has in another order, under other names and in a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 5, 6))
        self.mask_token = nn.Parameter(torch.randn(1, 1, 6))
        self.gamma, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), x + 0.3 * self.mask_token], 1)
        return self.head(F.gelu(self.gamma * (tokens + self.pos_embed)))


class Joint(nn.Module):
    """Attention with layers inside, which holds the weight for query, key and value itself."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.randn(24, 8)), nn.Parameter(torch.randn(24))
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        return self.head(self.out(joined(attend(*(heads_of(part, 2) for part in parts)))))


class Held(nn.Module):
    """A layer inside holds everything."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Projections()

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


class Keyed(nn.Module):
    """Attention with one layer for key and value, and behind it a layer of the same shape."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[KeyedBlock() for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class KeyedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.kv, self.q, self.out = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(6, 6), nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.out(attend(self.q(y), *self.kv(y).chunk(2, -1)))
        return x + self.mlp(x)


class Classed(nn.Module):
    """Two tokens that the model itself holds, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.dist_token = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 1, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.dist_token.expand(len(x), -1, -1), x], 1)
        return self.head(tokens.tanh())


class Graded(nn.Module):
    """Two parameters of one shape, which only the functions of the model itself take."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5, 6))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x + self.one) * self.two)


class Seven(nn.Module):
    """A fused layer whose parts nothing describes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.inner(x).chunk(3, -1)
        return self.out(a.sigmoid() * b.tanh() + c)


class Unsure(nn.Module):
    """A difference of two layers behind a layer in which the other side may have a mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.out(self.one(x) - self.two(x))


class Bare(nn.Module):
    """Parameters of the model itself, where the other side has linear layers; one is used transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.zeros(6))
        self.projection, self.scale = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (F.linear(x, self.w1, self.b1).relu() @ self.projection)


class Masked(nn.Module):
    """A mask and a table of positions are stored, or are only attributes. `low` is the number that masks."""

    def __init__(self, stored: bool = True, low: float = -100.0) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        mask = torch.triu(torch.full((4, 4), low), 1)
        table = torch.arange(24.0).reshape(4, 6) / 8
        for name, value in (("mask", mask), ("table", table)):
            self.register_buffer(name, value) if stored else setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.table
        scores = self.query(x) @ x.transpose(1, 2) + self.mask
        return self.head(scores.softmax(-1) @ x)


class Placed(nn.Module):
    """A class token and a table of positions, which is stored in any `shape`."""

    def __init__(self, *shape: int, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.pos = nn.Parameter(torch.randn(shape))
        self.cls, self.head = nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pos = self.pos.T if tuple(self.pos.shape) == (6, 5) else self.pos.reshape(1, 5, 6)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        return self.head(x + self.factor * pos)


class Pointwise(nn.Module):
    """A block, a gate and a sequence, of Linears or of `convolutions` with a kernel of size 1. The block is added `factor` times."""

    def __init__(self, convolutions: bool = False, factor: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.convolutions, self.factor = convolutions, factor
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        sizes = {"expand": (4, 8), "reduce": (8, 4), "squeeze": (4, 1), "excite": (1, 4)}
        for name, (given, made) in sizes.items():
            has_bias = bias or name != "excite"
            layer = nn.Conv2d(given, made, 1, bias=has_bias) if convolutions else nn.Linear(given, made, has_bias)
            setattr(self, name, layer)
        self.line = nn.Conv1d(4, 6, 1) if convolutions else nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        if self.convolutions:
            x = x + self.factor * self.reduce(F.gelu(self.expand(x)))
            x = x * F.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
            return self.line(x.flatten(2)).mean(2)
        block = self.reduce(F.gelu(self.expand(x.permute(0, 2, 3, 1))))
        x = x + self.factor * block.permute(0, 3, 1, 2)
        gate = F.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.line((x * gate[:, :, None, None]).flatten(2).permute(0, 2, 1)).mean(1)


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.body(x)))


class Gain(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((6,), 1.0))
        self.shift = nn.Parameter(torch.full((6,), 0.0)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x if self.shift is None else self.gain * x + self.shift


class Gains(nn.Module):
    """Layers of an own class, which has another name on the other side. The one number `bare` has lost its shift."""

    def __init__(self, bare: int = -1) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.gains = nn.ModuleList([Gain(i != bare) for i in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        for gain in self.gains:
            x = torch.tanh(gain(x))
        return self.head(x)


class Types(nn.Module):
    """The tables of a BERT; its port has more types, and adds the places first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(11, 6), nn.Embedding(7, 6), nn.Embedding(2, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.words(x) + self.types(x * 0) + self.places(torch.arange(x.shape[1])))


class Joined(nn.Module):
    """Its port has the parts, with names that say which is which, and no scale."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v)


class Hidden(nn.Module):
    """A layer whose name is that of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.type = nn.Linear(6, 3)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.type(x)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.both, self.last = nn.Linear(6, 12), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.w2(F.silu(self.w1(x)) * self.w3(x))
        one, two = self.both(x).chunk(2, -1)
        return x + self.last(one.tanh() - two)


class Gates(nn.Module):
    """Blocks with two layers of one input and a fused layer, which their names do not tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Gate() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Recurrent(nn.Module):
    """A recurrent layer in two directions, where the other model has cells, and a cell, where it has a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 8, batch_first=True, bidirectional=True)
        self.cell, self.out = nn.GRUCell(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, h = self.rnn(x)[0], None
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return self.out(h)


class Crossed(nn.Module):
    """Cross-attention whose keys and values may have other widths than its queries."""

    def __init__(self, kdim: int = 6, vdim: int = 5) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=vdim, batch_first=True)

    def forward(self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None = None) -> torch.Tensor:
        found: torch.Tensor = self.attention(x, key, key if value is None else value, need_weights=False)[0]
        return found


class Biased(nn.Module):
    """Projections of which the key alone has no bias, and a table that the model holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.table, self.dense = nn.Parameter(torch.randn(5, 5)), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) + self.table
        return self.dense(scores.softmax(-1) @ self.value(x))


class Square(nn.Module):
    """A square matrix that the model holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.matrix, self.last = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x) @ self.matrix))


class Branches(nn.Module):
    """Two branches of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.a(x), self.b(x)], -1))


class Quiet(nn.Module):
    """A model whose ReLU passes nothing with its first weights; with another order of them, or no bias far below zero, it does."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.norm, self.inner, self.out = nn.LayerNorm(8), nn.Linear(8, 4), nn.Linear(4, 3)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([0.5] * 7 + [-1.0]))
            self.inner.bias.fill_(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squares = self.norm(x) ** 2
        return self.out(torch.relu(self.inner(torch.cat([squares[..., :7], 100 * (1 + squares[..., 7:])], -1))))


class Doubled(nn.Module):
    """A model whose inner layer sees `factor` times the input, which its output does not show."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.out, self.factor = nn.Linear(6, 5, bias=False), nn.Linear(5, 3), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(self.factor * x) / self.factor)


class Factored(nn.Module):
    """A ReLU that passes nothing, and a Cholesky factor: with its numbers in another order, the matrix has none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.matrix = nn.Parameter(3 * torch.eye(5) + 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.inner(x) - 100)) + torch.linalg.cholesky(self.matrix).sum()
