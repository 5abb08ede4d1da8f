"""Residual networks (He et al. 2015, arXiv 1512.03385): those for CIFAR-10 (section 4.2), and the one of 18 layers for ImageNet (table 1).

Kernels start as the paper's reference [13] says (`MSRA`). The paper does not say how the linear layer starts: as in PyTorch, here.
"""

from __future__ import annotations

from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import Network
from parity.network.nodes import (
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Node,
    Nodes,
    PadChannels,
    ReLU,
)

DEPTHS, PLAIN_DEPTHS = (20, 32, 56), (20, 56)
"""The depths for CIFAR-10 that have a name, with and without shortcuts. The paper also has 44 and 110."""

WIDTHS = (16, 32, 64)
"""Filters of the three groups of blocks for CIFAR-10."""

IMAGENET_WIDTHS = (64, 128, 256, 512)


def resnet(depth: int, shortcut: str = "A") -> Network:
    """For 3x32x32: 6n+2 layers with weights, in three groups of n blocks; `resnet20`, or `resnet20_b` with shortcut B.

    Where the number of channels changes, shortcut A takes every second pixel and pads with channels of zeros. Shortcut B is a 1x1
    convolution of stride 2 with batch norm. The paper reports A. `shortcut` "none" is the plain network, `plain20`.
    """
    nodes: list[Node] = [*_conv("conv1", "bn1", WIDTHS[0]), ReLU("relu1")]
    channels = WIDTHS[0]
    for group, width in enumerate(WIDTHS, start=1):
        for number in range(1, (depth - 2) // 6 + 1):
            name, stride = f"block{group}_{number}", 2 if group > 1 and number == 1 else 1
            nodes += _block(name, width, stride, _shortcut(name, shortcut, channels, width, stride))
            channels = width
    nodes += [GlobalAvgPool("avgpool"), Linear("fc", 10, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM)]
    name = {"none": f"plain{depth}", "A": f"resnet{depth}"}.get(shortcut, f"resnet{depth}_{shortcut.lower()}")
    words = "without shortcuts" if shortcut == "none" else f"shortcut {shortcut}"
    return Network(name, (3, 32, 32), tuple(nodes), source=f"arXiv 1512.03385, section 4.2: {depth} layers, {words}")


def resnet18() -> Network:
    """For 3x224x224, with shortcut B: `resnet18` of `torchvision.models` and of `paddle.vision.models`; 11,689,512 parameters."""
    nodes: list[Node] = [
        Conv("conv1", IMAGENET_WIDTHS[0], 7, 2, 3, bias=False),
        BatchNorm("bn1"),
        ReLU("relu1"),
        MaxPool("pool1", 3, 2, padding=1),
    ]
    channels = IMAGENET_WIDTHS[0]
    for group, width in enumerate(IMAGENET_WIDTHS, start=1):
        for number in (1, 2):
            name, stride = f"block{group}_{number}", 2 if group > 1 and number == 1 else 1
            nodes += _block(name, width, stride, _shortcut(name, "B", channels, width, stride))
            channels = width
    nodes += [GlobalAvgPool("avgpool"), Linear("fc", 1000, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM)]
    return Network("resnet18", (3, 224, 224), tuple(nodes), source="arXiv 1512.03385, table 1: 18 layers, shortcut B")


def _block(name: str, width: int, stride: int, shortcut: Nodes | None) -> Nodes:
    """Two convolutions of 3x3; the sum with the `shortcut` (None: no sum); a ReLU."""
    main = (
        *_conv(f"{name}_conv1", f"{name}_bn1", width, stride=stride),
        ReLU(f"{name}_relu1"),
        *_conv(f"{name}_conv2", f"{name}_bn2", width),
    )
    end = ReLU(f"{name}_relu2")
    return (*main, end) if shortcut is None else (Add(f"{name}_add", (main, shortcut)), end)


def _shortcut(name: str, kind: str, channels: int, width: int, stride: int) -> Nodes | None:
    """The branch beside the convolutions of a block; empty for the identity, None for a plain network."""
    if kind == "none":
        return None
    if channels == width and stride == 1:
        return ()
    if kind == "A":
        return AvgPool(f"{name}_subsample", 1, stride), PadChannels(f"{name}_pad", width)
    return _conv(f"{name}_down", f"{name}_down_bn", width, 1, stride)


def _conv(name: str, norm: str, filters: int, kernel: int = 3, stride: int = 1) -> Nodes:
    return Conv(name, filters, kernel, stride, kernel // 2, bias=False), BatchNorm(norm)
