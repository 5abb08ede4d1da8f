"""Faults of porting from Paddle to PyTorch: defaults, names, order of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.compare.update_rule import Made, Rule
from parity.network import nodes as n
from parity.network.initialisers import FAN_IN_UNIFORM
from parity.recipe.optimizer import Group
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer, at_start


def _decoupled(rule: Rule, w: Array, g: Array, old: Mapping[str, Array], step: int) -> Made:
    beta1, beta2, eps = rule.optimizer.beta1, rule.optimizer.beta2, rule.optimizer.eps
    m, s = beta1 * old["moment1"] + (1 - beta1) * g, beta2 * old["moment2"] + (1 - beta2) * g * g
    moved = m / (1 - beta1**step) / (np.sqrt(s / (1 - beta2**step)) + eps)
    return w * (1 - rule.rate * rule.weight_decay) - rule.rate * moved, {"moment1": m, "moment2": s}


def _rate_in_velocity(rule: Rule, w: Array, g: Array, old: Mapping[str, Array], step: int) -> Made:
    v = rule.momentum * old["velocity"] + rule.rate * (g + rule.weight_decay * w)
    return w - v, {"velocity": v}


def _per_image(kind: str, old: Array, batch: Array, decay: float) -> Array:
    """n/(n-1) with the 8 or 4 images of a batch: pixels are forgotten."""
    return decay * old + (1 - decay) * batch * (8 / 7 if kind == "variance" else 1)


def _fresh(name: str, sentence: str, change: c.Change, layer: str, cause: str = "") -> Fault:
    return replace(at_start(name, "init", sentence, change, layer, cause), phase="fresh")


_UPDATE = ("update", "update", "conv1")

TO_PYTORCH = (
    at_layer("weight_transposed_in_use", "layers", "a square linear layer multiplies by its weight transposed",
        c.patch("transpose_weight", "fc2"), "eval", "fc2", "uses its weight transposed"),
    _fresh("kaiming_kernels", "kernels keep PyTorch's Kaiming uniform default",
        c.nodes(lambda x: replace(x, init=FAN_IN_UNIFORM) if isinstance(x, n.Conv) else x), "conv1"),
    _fresh("kaiming_biases", "fresh biases of linear layers keep PyTorch's uniform default",
        c.nodes(lambda x: replace(x, bias_init=FAN_IN_UNIFORM) if isinstance(x, n.Linear) else x), "fc1"),
    _fresh("fresh_variance_of_one", "fresh running variances are one, as in PyTorch, not zero",
        c.kinds(n.BatchNorm, start_variance=1.0), "bn1"),
    replace(
        at_start("no_bias_under_norm", "layers", "a convolution in front of a batch norm has no bias",
            c.node("conv2", bias=False), "conv2", "has no fresh conv2.bias"),
        phase="fresh",
    ),
    at_layer("never_eval", "bn", "nobody calls eval() for inference",
        c.patch("always_training_everywhere"), "eval", "bn1", "batch's own statistics"),
    at_layer("never_train", "bn", "nobody calls train() after inference",
        c.patch("never_training_everywhere"), "forward", "bn1", "running statistics"),
    at_layer("norm_without_affine", "bn", "a batch norm is built with affine=False",
        c.patch("normalise_otherwise", "bn4", "plain"), "eval", "bn4", "leaves gamma and beta out"),
    Fault("unbiased_by_images", "bn", "the running variance takes n/(n-1) of the images, not of the pixels",
        c.statistics(_per_image), "update", "statistics", "bn1", "counts images"),
    Fault("step_before_backward", "optimizer", "optimizer.step() comes before backward()",
        c.patch("update_before_backward"), *_UPDATE, "does not update conv1.weight"),
    Fault("gradients_of_a_layer_kept", "optimizer", "zero_grad() leaves one layer out",
        c.patch("keep_gradients_of", "fc2"), "trajectory", "gradient", "fc2", "not cleared"),
    Fault("rate_in_velocity", "optimizer", "the velocity holds the learning rate, as in Paddle v2",
        c.updates(_rate_in_velocity), *_UPDATE, "velocity times the learning rate"),
    Fault("adamw_for_adam", "optimizer", "AdamW's decoupled decay instead of Adam's L2",
        c.updates(_decoupled), *_UPDATE, "decouples", "adam_with_decay"),
    Fault("adam_without_decay", "optimizer", "Adam gets no weight decay",
        c.settings(weight_decay=0.0), *_UPDATE, "applies no weight decay", "adam_with_decay"),
    Fault("betas_count_as_biases", "optimizer", "the group of biases holds betas, too, which PyTorch calls bias",
        c.settings(groups=(Group("*.gamma", 2.0, 0.5), Group("*.b*", 0.5, 2.0))), "update", "update", "bn1",
        "treats it as one of the group *.bias"),
    Fault("gammas_count_as_weights", "optimizer", "the group of gammas is empty, since PyTorch calls them weight",
        c.settings(groups=(Group("*.bias", 0.5, 2.0),)), "update", "update", "bn1", "leaves out the group's factors"),
    Fault("clipped_together", "optimizer", "clip_grad_norm_ clips all gradients together",
        c.patch("clip_together", "1.0"), *_UPDATE, "clips the gradients to a norm of 1 together"),
    Fault("clipped_one_by_one", "optimizer", "every gradient is clipped to a norm of its own",
        c.patch("clip_each", "0.1"), *_UPDATE, "clips each gradient to a norm of 0.1"),
    Fault("schedule_by_pass", "schedule", "scheduler.step() comes once an epoch",
        c.rates(lambda right, s: right((s - 1) // 12 * 12)), "trajectory", "update", "conv1", "rate of the step before"),
    at_layer("mean_over_classes", "loss", "the loss is divided by the number of classes, too",
        c.field(divisor=lambda count: 80), "loss", "loss", "divided by the number of classes"),
)  # fmt: skip
