"""Networks as users write their own, in `docs/networks/NAME.json`: an inverted residual block, and squeeze and excitation.

They are no networks of an article, so they have no name on the command line. Tests hold the files to these functions.
"""

from __future__ import annotations

from parity.network.network import Network
from parity.network.nodes import (
    Add,
    BatchNorm,
    Conv,
    GlobalAvgPool,
    Linear,
    Multiply,
    Nodes,
    ReLU,
    Sigmoid,
    SiLU,
)


def mobilenet_block() -> Network:
    """An inverted residual (Sandler et al. 2018, arXiv 1801.04381, section 3.3) between a stem and a head, for 3x32x32.

    The paper has ReLU6 where this network has SiLU, as in EfficientNet (Tan and Le 2019, arXiv 1905.11946).
    """
    block = (
        *_conv("expand", "expand_bn", 64, 1),
        SiLU("expand_silu"),
        *_conv("depthwise", "depthwise_bn", 64, groups=64),
        SiLU("depthwise_silu"),
        *_conv("project", "project_bn", 16, 1),
    )
    nodes = (
        *_conv("stem", "stem_bn", 16, stride=2),
        SiLU("stem_silu"),
        Add("add", (block, ())),
        *_conv("head", "head_bn", 64, 1),
        SiLU("head_silu"),
        *_scores(),
    )
    source = "arXiv 1801.04381, section 3.3: an inverted residual, with SiLU instead of ReLU6"
    return Network("mobilenet_block", (3, 32, 32), nodes, source)


def squeeze_excitation() -> Network:
    """A residual block with squeeze and excitation (Hu, Shen and Sun 2017, arXiv 1709.01507, figure 3), for 3x32x32."""
    factors = (
        GlobalAvgPool("squeeze"),
        Linear("reduce", 4),
        ReLU("reduce_relu"),
        Linear("restore", 16),
        Sigmoid("gate"),
    )
    block = (
        *_conv("conv1", "bn1", 16),
        ReLU("relu1"),
        *_conv("conv2", "bn2", 16),
        Multiply("scale", ((), factors)),
    )
    nodes = (
        *_conv("stem", "stem_bn", 16, stride=2),
        ReLU("stem_relu"),
        Add("add", (block, ())),
        ReLU("relu2"),
        *_scores(),
    )
    source = "arXiv 1709.01507, figure 3: a residual block with squeeze and excitation"
    return Network("squeeze_excitation", (3, 32, 32), nodes, source)


def _conv(name: str, norm: str, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Nodes:
    return Conv(name, filters, kernel, stride, kernel // 2, groups, bias=False), BatchNorm(norm)


def _scores() -> Nodes:
    return GlobalAvgPool("pool"), Linear("fc", 10)


EXAMPLES = {network.name: network for network in (mobilenet_block(), squeeze_excitation())}
"""Both networks by name."""
