"""Faults of weights: conversion, copying, initialisation."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np

from parity.arrays import Array
from parity.network import nodes as n
from parity.network.initialisers import FAN_IN_NORMAL, FAN_IN_UNIFORM, Init
from parity.selftest import changes as c
from parity.selftest.fault import at_start
from parity.weights.canonical_state import State


def _square(transpose: tuple[int, ...]) -> c.Change:
    return c.array("conv2.weight", lambda w: w.transpose(transpose))


def _channels_last(w: Array) -> Array:
    return w.reshape(32, 8, 2, 2).transpose(0, 2, 3, 1).reshape(32, 32)


def _deviation(state: State) -> State:
    return {name: np.sqrt(a) if name.endswith(".variance") else a for name, a in state.items()}


CONVERSION = (
    at_start("linear_not_transposed", "conversion", "the weight of a square linear layer is not transposed",
        c.array("fc1.weight", np.transpose), "fc1", "transposed"),
    at_start("kernel_rotated", "conversion", "kernels are rotated by 180 degrees, as for a true convolution",
        c.array("conv2.weight", lambda w: w[..., ::-1, ::-1]), "conv2", "rotated"),
    at_start("kernel_transposed", "conversion", "kernel height and width are exchanged",
        _square((0, 1, 3, 2)), "conv2", "height and width"),
    at_start("kernel_in_out", "conversion", "input and output channels of a square kernel are exchanged",
        _square((1, 0, 2, 3)), "conv2", "channels exchanged"),
    at_start("filters_bgr", "conversion", "the first kernels expect BGR",
        c.array("conv1.weight", lambda w: w[:, ::-1]), "conv1", "BGR"),
    at_start("flatten_order_of_weights", "conversion",
        "the columns of the first linear weight are ordered channels last",
        c.array("fc1.weight", _channels_last), "fc1", "another order"),
    at_start("gamma_beta_exchanged", "conversion", "gamma and beta are exchanged",
        c.exchanged("bn2.gamma", "bn2.beta"), "bn2", "belongs to bn2.beta"),
    at_start("mean_variance_exchanged", "conversion", "running mean and variance are exchanged",
        c.exchanged("bn2.mean", "bn2.variance"), "bn2", "belongs to bn2.variance"),
    at_start("means_exchanged", "conversion", "the running means of two layers are exchanged",
        c.exchanged("bn1.mean", "bn2.mean"), "bn1", "belongs to bn2.mean"),
    at_start("variance_as_deviation", "conversion", "running deviations are stored as variances",
        c.states(_deviation), "bn1", "square root"),
)  # fmt: skip


WEIGHTS = (
    at_start("bias_not_copied", "weights", "a bias stays at zero",
        c.array("conv3.bias", np.zeros_like), "conv3", "zero"),
    at_start("layer_not_copied", "weights", "a layer keeps its own fresh weights",
        c.array("fc2.weight", lambda w: np.random.default_rng(1).normal(size=w.shape)), "fc2"),
    at_start("layers_exchanged", "weights", "two layers of one shape are exchanged",
        c.exchanged("fc1.weight", "fc2.weight"), "fc1", "belongs to fc2.weight"),
    at_start("biases_tied", "weights", "two layers start with one bias",
        c.states(lambda s: s | {"conv2.bias": s["conv1.bias"]}), "conv2", "belongs to conv1.bias"),
    at_start("bias_shared", "weights", "two layers share one bias", c.patch("share_bias", "fc2", "fc1"), "fc2",
        "belongs to fc1.bias"),
    at_start("norms_tied", "weights", "two batch norms start with the arrays of one",
        c.states(lambda s: s | {f"bn2.{x}": s[f"bn1.{x}"] for x in ("gamma", "beta", "mean", "variance")}), "bn2",
        "belongs to bn1.gamma"),
    at_start("through_float16", "weights", "weights went through a float16 file",
        c.states(lambda s: {k: a.astype(np.float16).astype(a.dtype) for k, a in s.items()}), "conv1", "float16"),
    at_start("affine_not_copied", "weights", "the affine part of a batch norm stays at one and zero",
        c.states(lambda s: s | {"bn3.gamma": np.ones_like(s["bn3.gamma"]), "bn3.beta": np.zeros_like(s["bn3.beta"])}),
        "bn3"),
)  # fmt: skip


INIT = (
    at_start("xavier_for_msra", "init", "convolutions start from Xavier's uniform distribution",
        c.drawn(
            lambda x: replace(x, init=Init("uniform", sqrt(3.0), "in")) if isinstance(x, n.Conv) else x,
            ("conv1", "conv2"),
        ),
        "conv1"),
    at_start("deviation_without_fan", "init", "linear weights start with deviation 0.01",
        c.drawn(lambda x: replace(x, init=Init("normal", 0.01)) if isinstance(x, n.Linear) else x, ("fc1",)), "fc1"),
    replace(
        at_start("another_seed", "init", "fresh weights are drawn from another seed", c.field(seed=1), "conv1"),
        phase="fresh",
    ),
    replace(
        at_start("fresh_deviation", "init", "fresh kernels have a deviation of 1/sqrt(fan)",
            c.nodes(lambda x: replace(x, init=FAN_IN_NORMAL) if isinstance(x, n.Conv) else x), "conv1"),
        phase="fresh",
    ),
    at_start("bias_drawn", "init", "biases are drawn, as PyTorch does by default",
        c.drawn(lambda x: replace(x, bias_init=FAN_IN_UNIFORM) if isinstance(x, n.Linear) else x, ("fc3",)), "fc3"),
    at_start("variance_starts_at_one", "init", "running variances start at one instead of zero",
        c.drawn(lambda x: replace(x, start_variance=1.0) if isinstance(x, n.BatchNorm) else x, ("bn1", "bn2")), "bn1"),
)  # fmt: skip
