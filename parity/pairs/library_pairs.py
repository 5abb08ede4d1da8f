"""Pairs of library models: networks of torchvision and paddle.vision, of timm, transformers, diffusers and their Paddle counterparts.

Inputs are small, classes few and models tiny where a library allows it, so that a laptop can compare all of them. Weights are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from parity.backend.registry import NAMES
from parity.errors import InputError, suggest


@dataclass(frozen=True)
class LibraryPair:
    """A named pair: the two factories, the inputs, and what to set first.

    `inputs` are shapes by the name of an argument, in the place of `input_shape`. `environments` are those of
    `scripts/library_environments.py` that hold PyTorch's and Paddle's library; "" is the running one. `widen`: see `compare_models`.

    A pair that differs may have a second entry NAME-set-right. It sets what differs, to show that nothing else differs.
    """

    name: str
    torch: str
    paddle: str
    input_shape: tuple[int, ...] = (4, 3, 64, 64)
    set_torch: tuple[str, ...] = ()
    set_paddle: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    environments: tuple[str, str] = ("", "")
    widen: tuple[str, ...] = ()

    def settings(self) -> list[tuple[str, str]]:
        """Return what a user writes beyond the two factories and the inputs: (framework, setting)."""
        changes = {"torch": self.set_torch, "paddle": self.set_paddle}
        rows = [(NAMES[side], text) for side, texts in changes.items() for text in texts]
        return rows + [(NAMES[side], f"--widen {side}") for side in self.widen]


def _vision(name: str, shape: tuple[int, ...] = (4, 3, 64, 64), more: str = "", paddle: str = "") -> LibraryPair:
    torch = f"torchvision.models:{name}(num_classes=10{more})"
    return LibraryPair(name, torch, f"paddle.vision.models:{paddle or name}", shape)


def _set_right(
    pair: LibraryPair,
    torch: tuple[str, ...] = (),
    paddle: tuple[str, ...] = (),
    factory: str = "",
    widen: tuple[str, ...] = (),
) -> LibraryPair:
    changed = factory or pair.torch
    return replace(pair, name=f"{pair.name}-set-right", torch=changed, set_torch=torch, set_paddle=paddle, widen=widen)


_SMALL = (2, 3, 32, 32)
_LAYER = "d_model=16, nhead=4, dim_feedforward=32, dropout=0.1"

_PAIRS = [
    _vision("alexnet", (2, 3, 224, 224), paddle="alexnet(num_classes=10)"),
    *(_vision(f"vgg{depth}", _SMALL, paddle=f"vgg{depth}(num_classes=10)") for depth in (11, 16, 19)),
    *(_vision(f"vgg{depth}_bn", _SMALL, paddle=f"vgg{depth}(batch_norm=True, num_classes=10)") for depth in (11, 16, 19)),
    _vision("resnet18", paddle="resnet18(num_classes=10)"),
    _vision("resnet50", paddle="resnet50(num_classes=10)"),
    _vision("resnext50_32x4d", paddle="resnext50_32x4d(num_classes=10)"),
    _vision("wide_resnet50_2", paddle="wide_resnet50_2(num_classes=10)"),
    _vision("mobilenet_v2", paddle="mobilenet_v2(num_classes=10)"),
    _vision("mobilenet_v3_small", paddle="mobilenet_v3_small(num_classes=10)"),
    _vision("mobilenet_v3_large", paddle="mobilenet_v3_large(num_classes=10)"),
    _vision("densenet121", paddle="densenet121(num_classes=10)"),
    _vision("squeezenet1_1", paddle="squeezenet1_1(num_classes=10)"),
    _vision("shufflenet_v2_x1_0", paddle="shufflenet_v2_x1_0(num_classes=10)"),
    _vision("googlenet", (2, 3, 224, 224), ", init_weights=False", "googlenet(num_classes=10)"),
    _vision("inception_v3", (2, 3, 299, 299), ", init_weights=False", "inception_v3(num_classes=10)"),
    LibraryPair(
        "transformer_encoder_layer",
        f"torch.nn:TransformerEncoderLayer({_LAYER}, batch_first=True)",
        f"paddle.nn:TransformerEncoderLayer({_LAYER})",
        (4, 6, 16),
    ),
]  # fmt: skip

_CLAS = "paddleclas.ppcls.arch.backbone"
_CLAS_ENVIRONMENTS, _NLP_ENVIRONMENTS = ("torch", "paddleclas"), ("torch", "paddlenlp")
_TEXT = "num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32"
_TOKENS = {"input_ids": "2,9:12"}
"""So many tokens of so few kinds that each kind appears, also the padding token."""
_MASK = {"attention_mask": "2,9:2"}
"""Without it, BERT and ERNIE of paddlenlp mask the padding token, and those of transformers do not."""
_T5 = "num_layers=2, d_model=16, d_kv=8, d_ff=32, num_heads=2, use_cache=False"
_LLAMA = f"LlamaConfig(vocab_size=12, {_TEXT})"
_DEIT = "img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2"
_SWIN = "img_size=64, window_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4]"
_UNET = (
    "UNet2DModel(sample_size=16, layers_per_block=1, block_out_channels=[8, 16], norm_num_groups=4, attention_head_dim=4, "
    "down_block_types=['DownBlock2D', 'AttnDownBlock2D'], up_block_types=['AttnUpBlock2D', 'UpBlock2D'])"
)


def _text(name: str, torch: str, paddle: str, inputs: Mapping[str, str] | None = None) -> LibraryPair:
    factories = f"transformers:{torch}", f"paddlenlp.transformers:{paddle}"
    return LibraryPair(name, *factories, (), inputs=inputs or _TOKENS, environments=_NLP_ENVIRONMENTS)


def _timm(name: str, torch: str, paddle: str, shape: tuple[int, ...] = (2, 3, 64, 64)) -> LibraryPair:
    return LibraryPair(name, f"timm{torch}", f"{_CLAS}{paddle}", shape, environments=_CLAS_ENVIRONMENTS)


_PAIRS += [
    *(
        _text(name.lower(), *(f"{name}Model({name}Config(vocab_size=12, type_vocab_size=2, {_TEXT}))",) * 2, _TOKENS | _MASK)
        for name in ("Bert", "Ernie")
    ),
    _text(
        "gpt2",
        "GPT2Model(GPT2Config(vocab_size=12, n_positions=32, n_embd=16, n_layer=2, n_head=2))",
        "GPTModel(GPTConfig(vocab_size=12, max_position_embeddings=32, "
        "num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=64))",
    ),
    _text("t5", *(f"T5Model(T5Config(vocab_size=12, {_T5}))",) * 2, _TOKENS | {"decoder_input_ids": "2,5:12"}),
    _text("llama", *(f"LlamaModel({_LLAMA})",) * 2),
    LibraryPair(
        "unet",
        f"diffusers:{_UNET}",
        f"ppdiffusers:{_UNET}",
        (),
        inputs={"sample": "2,3,16,16", "timestep": "2:100"},
        environments=_NLP_ENVIRONMENTS,
    ),
    LibraryPair(
        "deit",
        f"timm.models.deit:VisionTransformerDistilled({_DEIT}, num_classes=10)",
        f"ppim.models.deit:DistilledVisionTransformer({_DEIT}, class_dim=10, qkv_bias=True, epsilon=1e-6)",
        (2, 3, 32, 32),
        environments=("torch", "ppim"),
    ),
    _timm(
        "swin",
        f".models.swin_transformer:SwinTransformer({_SWIN}, num_classes=10)",
        f".legendary_models.swin_transformer:SwinTransformer({_SWIN}, class_num=10)",
    ),
    _timm("pp_hgnetv2", ":create_model('hgnetv2_b0', num_classes=10)", ":PPHGNetV2_B0(class_num=10)"),
    _timm("pp_lcnet", ":create_model('lcnet_050', num_classes=10)", ":PPLCNet_x0_5(class_num=10)"),
    _timm(
        "resnet_vd",
        ":create_model('resnet18d', num_classes=10)",
        ":ResNet18_vd(class_num=10, use_first_short_conv=False)",
    ),
    _timm("mobilenet_v1", ":create_model('mobilenetv1_100', num_classes=10)", ":MobileNetV1(class_num=10)", (2, 3, 32, 32)),
]  # fmt: skip

_STAGES = ", ".join(
    f"'stage{i}': {one}"
    for i, one in enumerate(
        (
            [16, 16, 64, 1, False, False, 3, 3],
            [64, 32, 256, 1, True, False, 3, 3],
            [256, 64, 512, 2, True, True, 5, 3],
            [512, 128, 1024, 1, True, True, 5, 3],
        ),
        1,
    )
)
"""The stages of PP-HGNetV2-B0 in both libraries."""

_UPSCALE = "Dropout.mode='upscale_in_train'"

_BY_NAME = {pair.name: pair for pair in _PAIRS}

_RIGHT = [
    _set_right(_BY_NAME["alexnet"], (), (_UPSCALE,)),
    _set_right(_BY_NAME["squeezenet1_1"], ("features.0.padding=1", "MaxPool2d.ceil_mode=False"), (_UPSCALE,)),
    _set_right(
        _BY_NAME["inception_v3"],
        ("BatchNorm2d.eps=1e-5", "Dropout.p=0.2"),
        (_UPSCALE,),
        "torchvision.models:inception_v3(num_classes=10, init_weights=False, aux_logits=False)",
    ),
    _set_right(_BY_NAME["bert"], ("embeddings.word_embeddings.padding_idx=None",)),
    _set_right(_BY_NAME["t5"], widen=("paddle",)),
    # By default, transformers calls scaled_dot_product_attention, whose softmax has the dtype of the model.
    _set_right(_BY_NAME["llama"], factory=f"transformers:LlamaModel({_LLAMA[:-1]}, attn_implementation='eager'))"),
    _set_right(_BY_NAME["unet"], widen=("paddle",)),
    # 1 - 0.25 is exact in float32.
    _set_right(_BY_NAME["swin"], ("DropPath.drop_prob=0.25",), ("DropPath.drop_prob=0.25",)),
    # Without affine blocks, no number before the pool is negative: padding with 0 and with -inf are the same.
    replace(
        _set_right(
            _BY_NAME["pp_hgnetv2"],
            factory="timm.models.hgnet:HighPerfGpuNet("
            f"cfg={{'stem_type': 'v2', 'stem_chs': [16, 16], {_STAGES}}}, use_lab=False, num_classes=10)",
        ),
        paddle=f"{_CLAS}.legendary_models.pp_hgnet_v2:PPHGNetV2("
        f"stage_config={{{_STAGES}}}, stem_channels=[3, 16, 16], use_lab=False, class_num=10)",
    ),
    _set_right(
        _BY_NAME["pp_lcnet"], (), ("Dropout.p=0.0",), "timm:create_model('lcnet_050', num_classes=10, head_bias=False)"
    ),
    _set_right(
        _BY_NAME["mobilenet_v1"], factory="timm:create_model('mobilenetv1_100', num_classes=10, act_layer='relu')"
    ),
]

PAIRS = _BY_NAME | {pair.name: pair for pair in _RIGHT}
"""The pairs by name."""


def chosen(names: str) -> list[LibraryPair]:
    """Return the pairs of a comma-separated list of names, or all; `InputError` for an unknown name."""
    if names == "all":
        return list(PAIRS.values())
    if unknown := [name for name in names.split(",") if name not in PAIRS]:
        raise InputError(f"unknown pair {unknown[0]!r}{suggest(unknown[0], PAIRS)}; known: all, {', '.join(PAIRS)}")
    return [PAIRS[name] for name in names.split(",")]
