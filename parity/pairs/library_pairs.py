"""Pairs of library models: networks of torchvision and paddle.vision, and both frameworks' transformer encoder layer.

Inputs are small and classes few where a network allows it, so that a laptop can compare all of them. Weights are random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from parity.errors import InputError, suggest


@dataclass(frozen=True)
class LibraryPair:
    """A named pair: the two factories, the shape of the input, and the attributes to set first.

    A pair that differs may have a second entry NAME-set-right. It sets the differing attributes, to show that nothing else differs.
    """

    name: str
    torch: str
    paddle: str
    input_shape: tuple[int, ...] = (4, 3, 64, 64)
    set_torch: tuple[str, ...] = ()
    set_paddle: tuple[str, ...] = ()


def _vision(name: str, shape: tuple[int, ...] = (4, 3, 64, 64), more: str = "", paddle: str = "") -> LibraryPair:
    torch = f"torchvision.models:{name}(num_classes=10{more})"
    return LibraryPair(name, torch, f"paddle.vision.models:{paddle or name}", shape)


def _set_right(pair: LibraryPair, torch: tuple[str, ...], paddle: tuple[str, ...], factory: str = "") -> LibraryPair:
    return replace(pair, name=f"{pair.name}-set-right", torch=factory or pair.torch, set_torch=torch, set_paddle=paddle)


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
