"""VGG16 with batch norm and dropout for CIFAR-10: the network of the first article and of the Paddle book (2017)."""

from __future__ import annotations

from parity.network.network import Network, img_conv_group
from parity.network.nodes import BatchNorm, Dropout, Flatten, Linear, Nodes, ReLU

V2_DROPOUT = "downscale_in_infer"
V2_BATCH_NORM = BatchNorm("v2", decay=0.9, eps=1e-5, variance="biased", start_variance=0.0)

GROUPS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (64, (0.3, 0.0)),
    (128, (0.4, 0.0)),
    (256, (0.4, 0.4, 0.0)),
    (512, (0.4, 0.4, 0.0)),
    (512, (0.4, 0.4, 0.0)),
)
"""The filters of each group, and the dropout rate after each convolution's batch norm and ReLU."""


def vgg16_bn_drop() -> Network:
    """`vgg_bn_drop` of the Paddle book, chapter "image classification" (v0.11): 15,254,602 trainable parameters."""
    nodes: Nodes = ()
    for filters, rates in GROUPS:
        nodes = img_conv_group(
            nodes,
            conv_num_filter=[filters] * len(rates),
            pool_size=2,
            conv_padding=1,
            conv_filter_size=3,
            conv_act="relu",
            conv_with_batchnorm=True,
            conv_batchnorm_drop_rate=rates,
            pool_stride=2,
            pool_type="max",
            batch_norm=V2_BATCH_NORM,
            dropout_kind=V2_DROPOUT,
        )
    nodes = (
        *nodes,
        Flatten("flatten"),
        Dropout("drop_fc1", 0.5, V2_DROPOUT),
        Linear("fc1", 512),
        BatchNorm("bn_fc1", variance="biased", start_variance=0.0),
        ReLU("relu_fc1"),
        Dropout("drop_fc2", 0.5, V2_DROPOUT),
        Linear("fc2", 512),
        Linear("fc3", 10),
    )
    return Network("vgg16_bn_drop", (3, 32, 32), nodes, source="Paddle book, image classification (v0.11): vgg_bn_drop")
