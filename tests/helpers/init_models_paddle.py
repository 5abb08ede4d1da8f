"""Models with the initialisations of users, in Paddle, right and with planted faults. `init_models_torch.py` holds the right ones."""

from __future__ import annotations

import inspect
import math

import paddle
from paddle import nn
from paddle.nn import initializer as init

from paddle_impl.transformer import Transformer

FAULTS = {
    "left at the defaults": ("Linear", "Paddle xavier_uniform"),
    "truncated": ("Linear", "Paddle trunc_normal(std=0.02, ±2 std)"),
    "residual branches not scaled": ("Linear blocks.0.attention.out", "Paddle normal(std=0.02)"),
    "wrong fan": ("Linear blocks.0.mlp.up", "Paddle xavier_normal"),
    "bias of the head's norm": ("LayerNorm norm", "Paddle bias 0.01"),
    "embedding with deviation 1": ("Embedding words", "Paddle normal(std=1)"),
}
"""A fault of `gpt(fault=...)` -> the first layer that its sentence names, and what the sentence says of Paddle."""


def truncated_normal(std: float):
    """Return the initialiser that truncates at two deviations: Paddle 2.6 always does, and Paddle 3 truncates at numbers."""
    numbers = {"a": -2 * std, "b": 2 * std} if "a" in inspect.signature(init.TruncatedNormal).parameters else {}
    return init.TruncatedNormal(0.0, std, **numbers)


def gpt(layers: int = 2, fault: str = "") -> Transformer:
    """The small transformer, initialised as GPT-2, or with a fault."""
    model = Transformer(layers)
    for name, module in model.named_sublayers():
        if isinstance(module, nn.Linear) and fault != "left at the defaults":
            ends = name.endswith((".out", ".down")) and fault != "residual branches not scaled"
            std = 0.02 / math.sqrt(2 * layers) if ends else 0.02
            (truncated_normal(std) if fault == "truncated" else init.Normal(0.0, std))(module.weight)
            init.Constant(0.0)(module.bias)
            if fault == "wrong fan" and name.endswith("mlp.up"):
                init.XavierNormal()(module.weight)
        elif isinstance(module, nn.Embedding):
            init.Normal(0.0, 1.0 if fault == "embedding with deviation 1" else 0.02)(module.weight)
    if fault == "bias of the head's norm":
        init.Constant(0.01)(model.norm.bias)
    return model


class Net(nn.Layer):
    """A convolution, a batch norm and a linear layer: with Paddle's own initialisers, or with those of PyTorch (`ported`)."""

    def __init__(self, ported=False):
        super().__init__()
        self.conv = nn.Conv2D(3, 16, 3, **self.like_torch(27, ported))
        self.bn = nn.BatchNorm2D(16)
        self.head = nn.Linear(16, 10, **self.like_torch(16, ported))

    @staticmethod
    def like_torch(fan, ported):
        attribute = paddle.ParamAttr(initializer=init.Uniform(-(fan**-0.5), fan**-0.5))
        return {"weight_attr": attribute, "bias_attr": attribute} if ported else {}

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


class Split(nn.Layer):
    """Query, key and value in three layers with a Xavier initialiser each."""

    def __init__(self, width=32, gain=1.0):
        super().__init__()
        for name in ("query", "key", "value"):
            layer = nn.Linear(width, width)
            bound = gain * math.sqrt(6 / (2 * width))
            init.Uniform(-bound, bound)(layer.weight)
            setattr(self, name, layer)

    def forward(self, x):
        query, key, value = self.query(x), self.key(x), self.value(x)
        return nn.functional.softmax(query @ key.transpose([0, 2, 1]), -1) @ value


class Tables(nn.Layer):
    """The same as in PyTorch; `padding`, `shift` and `gain` are faults."""

    def __init__(self, words=5000, width=16, padding=3, shift=0, gain=1.0, orthogonal=True):
        super().__init__()
        normal = paddle.ParamAttr(initializer=init.Normal())
        self.words = nn.Embedding(words, width, padding_idx=padding, weight_attr=normal)
        angles = (shift + paddle.arange(12, dtype="float32"))[:, None] / 10000 ** (paddle.arange(width) / width)
        self.places = self.create_parameter([12, width], default_initializer=init.Assign(paddle.sin(angles)))
        self.mix = nn.Linear(width, width, bias_attr=False)
        (init.Orthogonal(gain) if orthogonal else init.Normal(0.0, width**-0.5))(self.mix.weight)

    def forward(self, tokens):
        x = self.mix(self.words(tokens) + self.places[: tokens.shape[1]])
        return x @ self.words.weight.T
