"""Faults of porting transformers, and other spellings of the same transformer, as lines of `torch_impl/transformer.py` and its twin.

The texts are PyTorch's. `SPELLING` turns them into Paddle's; where that is not enough, `paddle` holds Paddle's own.
"""

from __future__ import annotations

from typing import Any

from parity.selftest.edited_models import ModelEdit
from parity.selftest.file_edit import Lines

SPELLING = {
    "torch.cat(": "paddle.concat(",
    "torch": "paddle",
    "bias=False": "bias_attr=False",
    "eps=1e-6": "epsilon=1e-6",
    'approximate="tanh"': "approximate=True",
    ".to(x.dtype)": ".astype(x.dtype)",
    ".repeat(1, self.heads // self.groups, 1, 1)": ".tile([1, self.heads // self.groups, 1, 1])",
    "nn.Module": "nn.Layer",
    ".transpose(1, 2)": ".transpose([0, 2, 1, 3])",
    ".transpose(2, 3)": ".transpose([0, 1, 3, 2])",
    ".transpose(0, 1)": ".transpose([1, 0])",
}
"""Text of PyTorch -> text of Paddle."""


def _paddle(text: str) -> str:
    for torch, paddle in SPELLING.items():
        text = text.replace(torch, paddle)
    return text


def _respelled(lines: Lines) -> Lines:
    return tuple((_paddle(old), _paddle(new)) for old, new in lines)


def _fault(
    name: str,
    sentence: str,
    layers: str,
    *lines: tuple[str, str],
    paddle: Lines | None = None,
    **more: Any,
) -> ModelEdit:
    return ModelEdit(
        name, sentence, lines, _respelled(lines) if paddle is None else paddle, tuple(layers.split()), **more
    )


def _same(name: str, sentence: str, *lines: tuple[str, str], paddle: Lines | None = None) -> ModelEdit:
    return _fault(name, sentence, "", *lines, paddle=paddle)


_BLOCK, _ATTENTION, _MLP = "blocks.0 blocks.1.norm1", "blocks.0.attention", "blocks.0.mlp"
"""Where a mistake shows; that at the end of the first block also where the second begins."""

_SCALE, _MASK, _SOFTMAX = " / math.sqrt(self.size)", "(1 - allowed) * MASKED", "F.softmax(scores, -1)"
_NORM = "x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight"
_ATTEND, _FEED = "x = x + self.attention(self.norm1(x), allowed)", "return x + self.mlp(self.norm2(x))"
_GELU, _PLACES, _HEAD = "F.gelu(self.up(x))", "self.places(torch.arange(length))", "self.words.weight.transpose(0, 1)"
_REPEAT_KEY = "key = key.repeat_interleave(self.heads // self.groups, 1)"
_REPEAT_VALUE = "value = value.repeat_interleave(self.heads // self.groups, 1)"
_TILE_KEY, _TILE_VALUE = (
    (
        text,
        text.replace("repeat_interleave(self.heads // self.groups, 1)", "repeat(1, self.heads // self.groups, 1, 1)"),
    )
    for text in (_REPEAT_KEY, _REPEAT_VALUE)
)
_END = "self.norm = nn.LayerNorm(width)"
_CALL = "self.norm(x) @ self.words.weight.transpose(0, 1)"
_TRIL = "torch.tril(torch.ones([length, length], dtype=x.dtype))"

TRANSFORMERS = (
    _fault("scale_missing", "scores are not divided by the root of the head's size", _ATTENTION, (_SCALE, "")),
    _fault("scale_by_size", "scores are divided by the head's size, not by its root", _ATTENTION,
        (_SCALE, " / self.size")),
    _fault("scale_of_width", "scores are divided by the root of the model's width", _ATTENTION,
        (_SCALE, " / math.sqrt(width)")),
    _fault("mask_sign", "a masked score is raised, not lowered", _ATTENTION, (_MASK, "(1 - allowed) * -MASKED")),
    _fault("mask_inverted", "the mask hides what a query may see", _ATTENTION, (_MASK, "allowed * MASKED")),
    _fault("mask_of_ten_thousand", "a mask adds -1e4, and a query of padding on the left sees no key", _ATTENTION,
        ("MASKED = -1e30", "MASKED = -1e4"), padding="left"),
    _fault("mask_without_effect", "a mask adds -1e-9, not -1e9", _ATTENTION, ("MASKED = -1e30", "MASKED = -1e-9")),
    _fault("mask_multiplies", "scores are multiplied by the mask", _ATTENTION,
        ("scores + (1 - allowed) * MASKED", "scores * allowed")),
    _fault("mask_without_padding", "padding is not masked", _ATTENTION, (_TRIL + " * mask", _TRIL + " * (mask >= 0)")),
    _fault("mask_sees_next", "a query sees the next token", _ATTENTION, ("dtype=x.dtype)) * mask", "dtype=x.dtype), 1) * mask")),
    _fault("softmax_over_queries", "the softmax runs over queries, not keys", _ATTENTION, (_SOFTMAX, "F.softmax(scores, -2)")),
    _fault("rms_eps", "eps of RMSNorm is 1e-5, not 1e-6", "blocks.0.norm1", ("eps: float = 1e-6", "eps: float = 1e-5"),
        cause="eps of rmsnorm"),
    _fault("rms_eps_outside", "RMSNorm adds eps to the root", "blocks.0.norm1",
        (_NORM, "x / (torch.sqrt((x * x).mean(-1, keepdim=True)) + self.eps) * self.weight")),
    _fault("rms_of_centred", "RMSNorm subtracts the mean first, as LayerNorm", "blocks.0.norm1",
        (f"return {_NORM}", f"x = x - x.mean(-1, keepdim=True)\n        return {_NORM}")),
    _fault("rms_weight_plus_one", "RMSNorm multiplies by 1 + weight", "blocks.0.norm1",
        (_NORM, _NORM.replace("self.weight", "(1 + self.weight)"))),
    _fault("layer_norm_eps", "eps of LayerNorm is 1e-6, not 1e-5", "norm",
        (_END, "self.norm = nn.LayerNorm(width, eps=1e-6)"), cause="eps of LayerNorm"),
    _fault("last_norm_missing", "the last norm is not called", "norm", ("self.norm(x) @", "x @"),
        cause="calls norm"),
    _fault("rotary_interleaved", "rotary positions rotate neighbours, not halves", _ATTENTION,
        ("x[..., :half], x[..., half:]", "x[..., ::2], x[..., 1::2]")),
    _fault("rotary_interleaved_back", "rotary positions rotate neighbours and put them back as neighbours", _ATTENTION,
        ("x[..., :half], x[..., half:]", "x[..., ::2], x[..., 1::2]"),
        ("torch.cat([first * cos - second * sin, second * cos + first * sin], -1)",
            "torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)")),
    _fault("rotary_backwards", "rotary positions rotate in the other direction", _ATTENTION,
        ("sin = torch.cos(angles), torch.sin(angles)", "sin = torch.cos(angles), torch.sin(-angles)")),
    _fault("rotary_base", "the base of rotary positions is 1000, not 10000", _ATTENTION, ("10000 **", "1000 **")),
    _fault("rotary_of_query_only", "keys are not rotated", _ATTENTION,
        ("self.rotate(query), self.rotate(key)", "self.rotate(query), key")),
    _fault("rotary_over_heads", "rotary positions count heads, not tokens", _ATTENTION,
        ("arange(x.shape[2], dtype=x.dtype)[:, None]", "arange(x.shape[1], dtype=x.dtype)[:, None, None]")),
    _fault("kv_heads_tiled", "keys and values repeat as 0 1 0 1, not 0 0 1 1", _ATTENTION, _TILE_KEY, _TILE_VALUE),
    _fault("v_heads_tiled", "only values repeat as 0 1 0 1", _ATTENTION, _TILE_VALUE),
    _fault("heads_not_transposed", "heads are taken from the length", _ATTENTION,
        ("reshape([batch, length, self.heads, self.size]).transpose(1, 2)",
            "reshape([batch, self.heads, length, self.size])")),
    _fault("heads_not_transposed_back", "heads are joined without a transpose", _ATTENTION,
        ("mixed.transpose(1, 2).reshape", "mixed.reshape")),
    _fault("value_and_key_exchanged", "keys are used as values, and values as keys", _ATTENTION,
        ("query, key = self.rotate", "key, value = value, key\n        query, key = self.rotate")),
    _fault("bias_of_value_lost", "the projection of values has no bias", f"{_ATTENTION}.value",
        ("self.value = nn.Linear(width, groups * self.size)", "self.value = nn.Linear(width, groups * self.size, bias=False)"),
        cause="has blocks.0.attention.value.bias"),
    _fault("bias_of_key_lost", "the projection of keys has no bias", f"{_ATTENTION}.key",
        ("self.key = nn.Linear(width, groups * self.size)", "self.key = nn.Linear(width, groups * self.size, bias=False)"),
        cause="has blocks.0.attention.key.bias"),
    _fault("keys_detached", "no gradient flows into the keys", "blocks.1.attention blocks.1.norm1",
        ("query @ key.transpose", "query @ key.detach().transpose")),
    _fault("gelu_tanh", "GELU is computed by tanh, not by erf", _MLP, (_GELU, 'F.gelu(self.up(x), approximate="tanh")')),
    _fault("gelu_sigmoid", "GELU is x sigmoid(1.702 x)", _MLP,
        (f"return self.down({_GELU})", "up = self.up(x)\n        return self.down(up * F.sigmoid(1.702 * up))")),
    _fault("gelu_silu", "SiLU replaces GELU", _MLP, (_GELU, "F.silu(self.up(x))")),
    _fault("activation_last", "GELU comes after both layers of the MLP", _MLP,
        (f"self.down({_GELU})", "F.gelu(self.down(self.up(x)))")),
    _fault("post_norm", "norms come after the residual connections", _BLOCK,
        (_ATTEND, "x = self.norm1(x + self.attention(x, allowed))"), (_FEED, "return self.norm2(x + self.mlp(x))")),
    _fault("residual_of_norm", "the residual connection of the MLP starts after its norm", _BLOCK,
        (_FEED, "x = self.norm2(x)\n        return x + self.mlp(x)")),
    _fault("residual_missing", "the MLP has no residual connection", _BLOCK, (_FEED, "return self.mlp(self.norm2(x))")),
    _fault("residual_scaled", "the branch of attention is multiplied by 0.999", _BLOCK,
        (_ATTEND, "x = x + 0.999 * self.attention(self.norm1(x), allowed)")),
    _fault("blocks_in_parallel", "attention and MLP see the same input", _BLOCK,
        (f"{_ATTEND}\n        {_FEED}",
            "return x + self.attention(self.norm1(x), allowed) + self.mlp(self.norm2(x))")),
    _fault("places_offset", "positions count from one", "places", (_PLACES, "self.places(torch.arange(length) + 1)"),
        cause="the whole numbers that go into places differ"),
    _fault("places_backwards", "positions count from the end", "places",
        (_PLACES, "self.places(length - 1 - torch.arange(length))")),
    _fault("places_missing", "position embeddings are not added", _BLOCK, (f" + {_PLACES}", "")),
    _fault("words_scaled", "embeddings are multiplied by the root of the width", _BLOCK,
        ("self.words(tokens) +", "self.words(tokens) * math.sqrt(self.norm.weight.shape[0]) +")),
    _fault("head_untied", "the head has a weight of its own", "head",
        (_END, f"{_END}\n        self.head = nn.Linear(width, words, bias=False)"), (_CALL, "self.head(self.norm(x))"),
        refused=True, cause="tie the weight of head to it, too"),
    _fault("head_detached", "the head gives its weight no gradient", "words",
        ("@ self.words.weight", "@ self.words.weight.detach()")),
    _fault("last_block_missing", "the last block is not called", "blocks.1 norm", ("block in self.blocks:", "block in self.blocks[:-1]:")),
    _fault("first_block_again", "the first block runs in every place", "blocks.1 norm",
        ("x = block(x, allowed)", "x = self.blocks[0](x, allowed)")),
)  # fmt: skip
"""Mistakes: each must be found, at its layer or inside it."""

_QKV = """query = self.query(x).reshape([batch, length, self.heads, self.size]).transpose(1, 2)
        key = self.key(x).reshape([batch, length, self.groups, self.size]).transpose(1, 2)
        value = self.value(x).reshape([batch, length, self.groups, self.size]).transpose(1, 2)"""
_LINEARS = """self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, groups * self.size)
        self.value = nn.Linear(width, groups * self.size)"""
_SPLIT = "query, key, value = torch.split(self.qkv(x), [width, self.groups * self.size, self.groups * self.size], -1)\n        "
_SCORES = "query @ key.transpose(2, 3) / math.sqrt(self.size)"
_MIXED = f"""scores = {_SCORES}
        scores = scores + {_MASK}
        mixed = {_SOFTMAX} @ value"""
_EXPANDED = (
    "[:, :, None].expand([batch, self.groups, self.heads // self.groups, length, self.size])"
    ".reshape([batch, self.heads, length, self.size])"
)

ALIKE = (
    _same("unchanged", "no line is changed", ("MASKED = -1e30", "MASKED = -1.0e30")),
    _same("fused_qkv", "one layer projects query, key and value",
        (_LINEARS, "self.qkv = nn.Linear(width, width + 2 * groups * self.size)"),
        (_QKV, _SPLIT + _QKV.replace("self.query(x)", "query").replace("self.key(x)", "key").replace("self.value(x)", "value"))),
    _same("fused_attention", "a fused function computes attention",
        (_MIXED, f"mixed = F.scaled_dot_product_attention(query, key, value, attn_mask={_MASK})"), paddle=()),
    _same("mask_of_infinity", "a masked score is minus infinity",
        (f"scores + {_MASK}", "torch.where(allowed == 0, -math.inf, scores)"),
        paddle=((f"scores + {_MASK}", "paddle.where(allowed == 0, paddle.full_like(scores, -math.inf), scores)"),)),
    _same("mask_of_a_billion", "a mask adds -1e9", ("MASKED = -1e30", "MASKED = -1e9")),
    _same("mask_of_ten_thousand_right", "a mask adds -1e4, and every query sees a key", ("MASKED = -1e30", "MASKED = -1e4")),
    _same("mask_by_comparison", "positions are compared for the causal mask",
        (_TRIL, "(torch.arange(length)[:, None] >= torch.arange(length)).to(x.dtype)")),
    _same("einsum", "einsum computes the products of attention",
        ("query @ key.transpose(2, 3)", 'torch.einsum("bhqd,bhkd->bhqk", query, key)'),
        (f"{_SOFTMAX} @ value", f'torch.einsum("bhqk,bhkd->bhqd", {_SOFTMAX}, value)')),
    _same("softmax_written_out", "the softmax is written out",
        (_SOFTMAX, "torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))")),
    _same("query_scaled", "the query is divided, not the scores", (_SCORES, "(query / math.sqrt(self.size)) @ key.transpose(2, 3)")),
    _same("both_scaled", "query and key are divided by the fourth root",
        (_SCORES, "(query / self.size**0.25) @ (key / self.size**0.25).transpose(2, 3)")),
    _same("kv_heads_expanded", "expand repeats keys and values", (_REPEAT_KEY, f"key = key{_EXPANDED}"),
        (_REPEAT_VALUE, f"value = value{_EXPANDED}")),
    _same("rotary_offset", "rotary positions count from one: only differences of positions matter",
        ("arange(x.shape[2], dtype=x.dtype)[:, None]", "arange(1, 1 + x.shape[2], dtype=x.dtype)[:, None]")),
    _same("rotary_by_halves", "x cos + rotate_half(x) sin, as in LLaMA",
        ("torch.cat([first * cos - second * sin, second * cos + first * sin], -1)",
            "x * torch.cat([cos, cos], -1) + torch.cat([-second, first], -1) * torch.cat([sin, sin], -1)")),
    _same("rms_function", "the framework's own RMSNorm", (_NORM, "F.rms_norm(x, [x.shape[-1]], self.weight, self.eps)"), paddle=()),
    _same("rms_by_division", "RMSNorm divides by a root",
        (_NORM, "self.weight * (x / torch.sqrt(torch.mean(x**2, -1, keepdim=True) + self.eps))")),
    _same("layer_norm_function", "the last norm is a function",
        ("self.norm(x) @", "F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias) @")),
    _same("gelu_layer", "GELU is a layer", ("self.up = nn.Linear", "self.act = nn.GELU()\n        self.up = nn.Linear"),
        (_GELU, "self.act(self.up(x))")),
    _same("gelu_written_out", "GELU is written out with erf",
        (f"return self.down({_GELU})", "up = self.up(x)\n        return self.down(up * 0.5 * (1 + torch.erf(up / math.sqrt(2))))")),
    _same("head_tied", "the head is a layer with the weight of the embedding",
        (_END, f"{_END}\n        self.head = nn.Linear(width, words, bias=False)\n        self.head.weight = self.words.weight"),
        (_CALL, "self.head(self.norm(x))"), paddle=()),
    _same("head_by_matmul", "matmul transposes the weight of the head", (_CALL, "F.linear(self.norm(x), self.words.weight)"),
        paddle=((_paddle(_CALL), "paddle.matmul(self.norm(x), self.words.weight, transpose_y=True)"),)),
    _same("words_by_function", "a function looks up the embeddings",
        ("self.words(tokens) +", "F.embedding(tokens, self.words.weight) +")),
    _same("places_by_slice", "position embeddings are rows of the weight", (_PLACES, "self.places.weight[:length]")),
    _same("norms_in_other_order", "norms are registered in the other order",
        ("        self.norm1 = RMSNorm(width)\n", ""),
        ("self.norm2 = RMSNorm(width)", "self.norm2 = RMSNorm(width)\n        self.norm1 = RMSNorm(width)")),
    _same("parts_in_other_order", "value, key and query are registered and called in the other order",
        (_LINEARS, "\n        ".join(line.strip() for line in reversed(_LINEARS.splitlines()))),
        (_QKV, "\n        ".join(line.strip() for line in reversed(_QKV.splitlines())))),
    _same("mlp_in_sequence", "the MLP is a Sequential",
        ("self.up = nn.Linear(width, 4 * width)\n        self.down = nn.Linear(4 * width, width)",
            "self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))"),
        (f"self.down({_GELU})", "self.net(x)")),
)  # fmt: skip
"""Innocent changes: with each, the pair must be equal."""
