"""The TensorFlow VGG16 with which the first article compares its program: 24x24 crops, no batch norm, Xavier's initialiser."""

from __future__ import annotations

from parity.network.initialisers import XAVIER, Init
from parity.network.network import Network
from parity.network.nodes import Conv, Dropout, Flatten, Linear, MaxPool, Node, ReLU
from parity.network.windows import SAME

GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""The filters and the number of convolutions of each group."""

FC_BIAS = Init("constant", 0.1)


def tf_vgg16(relu_on_logits: bool = True) -> Network:
    """`conv_op`, `fc_op` and `mpool_op`: SAME convolutions and pools (24-12-6-3-2-1), fc 2048, 2048, 1000; 22,010,664 parameters.

    The article's `fc_op` ends in a ReLU, also for the class scores; without that ReLU the network is `tf_vgg16_logits`.
    """
    nodes: list[Node] = []
    for g, (filters, count) in enumerate(GROUPS, start=1):
        for i in range(1, count + 1):
            nodes += [Conv(f"conv{g}_{i}", filters, padding=SAME, init=XAVIER), ReLU(f"relu{g}_{i}")]
        nodes.append(MaxPool(f"pool{g}", padding=SAME))
    nodes.append(Flatten("flatten"))
    for name in ("fc6", "fc7"):
        nodes += [Linear(name, 2048, init=XAVIER, bias_init=FC_BIAS), ReLU(f"relu_{name}"), Dropout(f"drop_{name}")]
    nodes.append(Linear("fc8", 1000, init=XAVIER, bias_init=FC_BIAS))
    if relu_on_logits:
        nodes.append(ReLU("relu_fc8"))
    name = "tf_vgg16" if relu_on_logits else "tf_vgg16_logits"
    return Network(
        name, (3, 24, 24), tuple(nodes), source="first article's TensorFlow twin (2017): conv_op, fc_op, mpool_op"
    )
