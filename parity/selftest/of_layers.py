"""Faults of layers: activations, dropout, batch norm, pooling."""

from __future__ import annotations

import numpy as np

from parity.network import nodes as n
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer

LAYERS = (
    at_layer("relu_missing", "layers", "an activation is missing",
        c.without("relu_fc1"), "eval", "relu_fc1", "has no relu_fc1"),
    at_layer("leaky_relu", "layers", "a leaky ReLU replaces a ReLU",
        c.patch("leaky_relu", "relu2"), "eval", "relu2", "slope of 0.01"),
    at_layer("capped_relu", "layers", "a ReLU is capped", c.patch("capped_relu", "relu2"), "eval", "relu2", "stops at 1"),
    at_layer("relu_before_norm", "layers", "the activation comes before the batch norm",
        c.swapped("bn2", "relu2"), "eval", "bn2"),
    at_layer("stride_elsewhere", "layers", "a convolution strides where the next one should",
        c.both(c.node("conv3", stride=1), c.node("pool3", stride=4)), "eval", "conv3", "has stride 1"),
    at_layer("flatten_channels_last", "layers", "maps are flattened channels last",
        c.patch("flatten_channels_last", "flatten"), "eval", "flatten", "channels last"),
    at_layer("silu", "layers", "x * sigmoid(x) replaces a ReLU", c.patch("swish", "relu2"), "eval", "relu2", "SiLU"),
    at_layer("reflected_edges", "layers", "a convolution mirrors the edge to pad",
        c.patch("pad_by", "conv2", "reflect"), "eval", "conv2", "mirrors the edge to pad"),
    at_layer("repeated_edges", "layers", "a convolution repeats the edge to pad",
        c.patch("pad_by", "conv2", "replicate"), "eval", "conv2", "repeats the edge to pad"),
    at_layer("circular_edges", "layers", "a convolution goes on at the other edge",
        c.patch("pad_by", "conv2", "circular"), "eval", "conv2", "pads by the opposite edge"),
    at_layer("dilated", "layers", "a convolution takes every second pixel",
        c.patch("dilate", "conv2"), "eval", "conv2", "dilation 2"),
    at_layer("bias_not_used", "layers", "a linear layer leaves its bias out",
        c.patch("without_bias", "fc2"), "eval", "fc2", "leaves the bias out"),
    at_layer("flatten_columns_first", "layers", "maps are flattened column by column",
        c.patch("flatten_columns_first", "flatten"), "eval", "flatten", "column by column"),
    at_layer("layer_twice", "layers", "one linear layer is used in two places",
        c.patch("compute_as", "fc2", "fc1"), "eval", "fc2", "parameters of fc1"),
    at_layer("norm_shared", "bn", "two batch norms are one module",
        c.patch("compute_as", "bn2", "bn1"), "eval", "bn2", "parameters of bn1"),
    Fault("flatten_for_whole_batches", "layers", "flatten assumes a full batch",
        c.patch("flatten_for", "flatten", "8"), "trajectory", "eval", "flatten", " does not: "),
    at_layer("axis_squeezed", "layers", "the batch axis is removed, whatever its length",
        c.patch("squeeze", "relu_fc1", "0"), "eval", "relu_fc1", " does not: "),
    at_layer("output_scaled", "layers", "a layer's output is off by one part in ten million",
        c.patch("scale_output", "conv4", "1e-7"), "eval", "conv4", "times 1.0000001"),
)  # fmt: skip


DROPOUT = (
    at_layer("upscale_in_train", "dropout", "upscale_in_train instead of downscale_in_infer",
        c.kinds(n.Dropout, kind="upscale_in_train"), "eval", "drop1", "returns its input unchanged in inference"),
    at_layer("rate_is_keep", "dropout", "the rate is taken as the probability to keep",
        c.node("drop1", rate=0.7), "eval", "drop1", "by p = 0.3"),
    at_layer("dropout_missing", "dropout", "a dropout does nothing",
        c.patch("identity", "drop2"), "eval", "drop2", "returns its input unchanged in inference"),
    at_layer("dropout_in_inference", "dropout", "dropout acts in inference",
        c.patch("always_training", "drop1"), "eval", "drop1", "drops in inference"),
    at_layer("whole_channels", "dropout", "whole channels are dropped",
        c.mask(lambda right, u, k: {
            x: np.broadcast_to(m[..., :1, :1], m.shape) if m.ndim == 4 else m for x, m in right(u, k).items()
        }),
        "forward", "drop1"),
    at_layer("one_mask_for_all", "dropout", "all images of a batch share one mask",
        c.mask(lambda right, u, k: {x: np.broadcast_to(m[:1], m.shape) for x, m in right(u, k).items()}),
        "forward", "drop1"),
    at_layer("mask_inverted", "dropout", "the mask says what to drop",
        c.patch("invert_mask", "drop2"), "forward", "drop2", "mask is inverted"),
    Fault("dropout_stops", "dropout", "dropout stops in the third epoch",
        c.since(5, c.mask(lambda right, u, k: {x: np.ones_like(m) for x, m in right(u, k).items()})),
        "trajectory", "forward", "drop1"),
    Fault("same_mask_every_step", "dropout", "the mask is drawn once",
        c.mask(lambda right, u, k: right(1, k)), "trajectory", "forward", "drop1"),
)  # fmt: skip


BATCH_NORM = (
    at_layer("eps", "bn", "eps is 1e-3 instead of 1e-5", c.kinds(n.BatchNorm, eps=1e-3), "eval", "bn1", "eps 0.001"),
    at_layer("eps_of_one_layer", "bn", "eps of one layer is 1.1e-5",
        c.node("bn3", eps=1.1e-5), "eval", "bn3", "eps 1.1e-05"),
    at_layer("eps_printed", "bn", "eps of one layer is 1.0001e-05",
        c.node("bn3", eps=1.0001e-5), "eval", "bn3", "eps 1.0001e-05"),
    at_layer("eps_outside_root", "bn", "eps is added to the root",
        c.patch("normalise_otherwise", "bn2", "outside"), "eval", "bn2", "adds eps after the square root"),
    at_layer("normalised_by_unbiased", "bn", "training normalises by the unbiased variance",
        c.patch("normalise_otherwise", "bn2", "unbiased"), "forward", "bn2", "unbiased variance of the batch"),
    at_layer("batch_statistics_in_inference", "bn", "a batch norm uses the batch in inference",
        c.patch("always_training", "bn2"), "eval", "bn2", "batch's own statistics"),
    at_layer("frozen", "bn", "a batch norm is frozen in training",
        c.patch("never_training", "bn2"), "forward", "bn2", "running statistics"),
    Fault("momentum_convention", "bn", "0.9 weighs the new value",
        c.kinds(n.BatchNorm, decay=0.1), "update", "statistics", "bn1", "momentum convention"),
    Fault("unbiased_variance", "bn", "the unbiased variance enters the running one",
        c.kinds(n.BatchNorm, variance="unbiased"), "update", "statistics", "bn1", "n/(n-1)"),
    Fault("decay_of_one_layer", "bn", "one layer decays by 0.99",
        c.node("bn4", decay=0.99), "update", "statistics", "bn4", "decays bn4.mean by 0.99"),
    Fault("statistics_moved_twice", "bn", "a layer runs twice a step",
        c.patch("forward_twice", "bn3"), "update", "statistics", "bn3", "twice"),
    Fault("statistics_move_in_inference", "bn", "running statistics move in inference, too",
        c.patch("move_in_inference", "bn3"), "update", "statistics", "bn3", "in inference, too"),
    Fault("variance_without_momentum", "bn", "momentum acts on the running mean only",
        c.statistics(lambda kind, old, batch, d: batch if kind == "variance" else d * old + (1 - d) * batch),
        "update", "statistics", "bn1", "without decay"),
    Fault("deviation_for_variance", "bn", "the batch's deviation enters the running variance",
        c.statistics(lambda kind, old, b, d: d * old + (1 - d) * (np.sqrt(b) if kind == "variance" else b)),
        "update", "statistics", "bn1", "adds the batch's deviation"),
    Fault("statistics_stop", "bn", "running statistics stop in the third epoch",
        c.since(5, c.statistics(lambda kind, old, batch, decay: old)),
        "trajectory", "statistics", "bn1", "does not move bn1.mean"),
)  # fmt: skip


POOLING = (
    at_layer("average_for_maximum", "pooling", "average instead of maximum",
        c.nodes(lambda x: n.AvgPool("pool4") if x.name == "pool4" else x), "eval", "pool4", "average"),
    at_layer("corner_for_maximum", "pooling", "a pool takes the top left pixel",
        c.patch("take_top_left", "pool4"), "eval", "pool4", "top left pixel"),
    at_layer("sum_for_average", "pooling", "a pool sums, and does not divide",
        c.patch("scale_output", "pool3", "8"), "eval", "pool3"),
    at_layer("pool_missing", "pooling", "a pool does nothing",
        c.patch("identity", "pool4"), "eval", "pool4", " does not: "),
    at_layer("floor_for_ceil", "pooling", "the size of a pooled map is rounded down",
        c.node("pool1", ceil=False), "eval", "pool1", "rounds the size of its output down"),
    at_layer("padding_counts", "pooling", "padding counts in an average",
        c.patch("count_padding", "pool3"), "eval", "pool3", "counts padding in its averages"),
)  # fmt: skip
