"""Faults of residual blocks: shortcuts, the place of the ReLU, strides, padded channels, squeeze and excitation, sums in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.network import nodes as n
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer, at_start
from parity.selftest.subject import RESIDUAL


def _at(name: str, sentence: str, change: c.Change, layer: str, cause: str, phase: str = "eval") -> Fault:
    return replace(at_layer(name, "layers", sentence, change, phase, layer, cause), network=RESIDUAL)


def _relu_inside(node: n.Node) -> n.Node | None:
    """Move the ReLU after the first block's sum to the end of the block's convolutions."""
    if isinstance(node, n.Add) and node.name == "block1_add":
        main, shortcut = node.branches
        return node.with_parts(((*main, n.ReLU("block1_relu2")), shortcut))
    return None if node.name == "block1_relu2" else node


def _without_downsample(node: n.Node) -> n.Node:
    return node.with_parts((node.parts[0], ())) if node.name == "block3_add" else node


STRIDES = {"block2_conv1": 1, "block2_conv2": 2}
"""The strides of a block whose second convolution strides."""

RESIDUALS = (
    _at("shortcut_before_relu", "a shortcut starts before the ReLU that precedes the block",
        c.patch("take_input_of", "relu", "block1_add", "1"), "block1_add",
        "takes the output of bn (the input of relu)"),
    _at("sum_after_relu", "a block adds its shortcut after its last ReLU, not before",
        c.nodes(_relu_inside), "block1_add", "takes the output of block1_bn2 after a ReLU"),
    _at("shortcut_forgotten", "a block does not add its shortcut",
        c.patch("first_branch", "block1_add"), "block1_add", "leaves out the output of relu"),
    _at("downsample_not_used", "a block builds the convolution of its shortcut, but adds its input",
        c.patch("take_input_of", "block3_down", "block3_add", "1"), "block3_add",
        "takes the output of block2_relu2"),
    replace(
        at_start("downsample_missing", "layers", "a shortcut has no convolution and no batch norm",
            c.nodes(_without_downsample), "block3_down", "has no fresh block3_down.weight"),
        phase="fresh", network=RESIDUAL,
    ),
    _at("stride_on_second_conv", "the second convolution of a block strides, not the first",
        c.nodes(lambda x: replace(x, stride=STRIDES[x.name]) if isinstance(x, n.Conv) and x.name in STRIDES else x),
        "block2_conv1", "has stride 1"),
    _at("channels_padded_before", "a shortcut pads with channels of zeros before its input",
        c.node("block2_pad", side="before"), "block2_pad", "pads before the channels"),
    _at("channels_padded_around", "a shortcut pads with channels of zeros on both sides",
        c.node("block2_pad", side="around"), "block2_pad", "pads around the channels"),
    replace(
        at_start("last_gamma_zero", "init",
            "the last gamma of a block starts at zero, as with zero_init_residual of torchvision",
            c.array("block1_bn2.gamma", np.zeros_like), "block1_bn2", "is zero"),
        network=RESIDUAL,
    ),
    _at("gate_without_sigmoid", "squeeze and excitation multiplies by scores without a sigmoid",
        c.patch("identity", "block4_gate"), "block4_gate", "returns its input unchanged"),
    _at("hard_gate", "squeeze and excitation has a hard sigmoid",
        c.patch("hard_sigmoid", "block4_gate"), "block4_gate", "is a hard sigmoid (x/6 + 0.5"),
    _at("gate_not_used", "squeeze and excitation computes its factors, but does not multiply by them",
        c.patch("first_branch", "block4_scale"), "block4_scale", "leaves out the output of block4_gate"),
    _at("hard_swish", "a hardswish replaces a SiLU",
        c.patch("hard_swish", "block4_silu1"), "block4_silu1", "is a hardswish"),
    Fault("sum_over_input", "backward",
        "a sum overwrites the input of its block, from which the first convolution computes its gradient",
        c.patch("overwrite_input", "block4_add", "1"), "backward", "gradient", "block4_expand",
        "is computed from the output of block4_add, which overwrites that of narrow_bn", network=RESIDUAL),
)  # fmt: skip
