"""Faults of an update: loss, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.compare.default_inputs import GROUPS
from parity.compare.step_inputs import StepInput
from parity.compare.update_rule import Made, Rule
from parity.recipe.recipe import Schedule
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer
from parity.weights.canonical_state import State

LOSS = (
    at_layer("summed", "loss", "the loss is summed over the batch",
        c.field(divisor=lambda count: 1), "loss", "loss", "summed over the batch"),
    at_layer("softmax_twice", "loss", "probabilities go into the cross-entropy",
        c.patch("softmax", "fc3"), "eval", "fc3"),
    at_layer("cost_capped", "loss", "the loss of an image is capped at 64 nats",
        c.patch("cap_cost", "64"), "loss", "loss", "counts at most 64 nats an image"),
    at_layer("probability_plus_eps", "loss", "the loss is -log(p + 1e-12)",
        c.patch("add_to_probability", "1e-12"), "loss", "loss", "adds 1e-12 to the probability"),
    at_layer("labels_smoothed", "loss", "labels are smoothed by 0.1",
        c.settings(label_smoothing=0.1), "loss", "loss", "smooths the labels by 0.1"),
    replace(
        at_layer("labels_not_smoothed", "loss", "labels are not smoothed",
            c.settings(label_smoothing=0.0), "loss", "loss", "does not smooth the labels"),
        recipe="best",
    ),
    replace(
        at_layer("smoothed_among_others", "loss", "the smoothing is shared by the other classes only",
            c.settings(label_smoothing=0.1 * 10 / 9), "loss", "loss", "among the other classes only"),
        recipe="best",
    ),
    at_layer("right_images_counted", "loss", "right images are counted as wrong ones",
        c.patch("count_right"), "loss", "wrong", "counts right images"),
    at_layer("cost_averaged", "loss", "the loss that is shown is the mean over the batch",
        c.patch("average_cost"), "loss", "cost", "averaged over the batch"),
    Fault("mean_of_a_short_batch", "loss", "a short last batch is averaged by its own size",
        c.field(divisor=lambda count: count), "trajectory", "loss", "loss", "nominal"),
)  # fmt: skip


_UPDATE = ("update", "update", "conv1")


def _only_kernels_decay(w: Array, old: Array, g: Array, decay: float) -> Array | None:
    return None if w.ndim > 1 else old + g - decay * w


def _without_correction(before: State, behind: State, step_input: StepInput) -> State:
    state = dict(behind)
    for name in [x.removeprefix("optimizer.moment1.") for x in behind if x.startswith("optimizer.moment1.")]:
        moments = [behind[f"optimizer.{slot}.{name}"] for slot in ("moment1", "moment2")]
        state[name] = before[name] - step_input.rate * moments[0] / (np.sqrt(moments[1]) + 1e-8)
    return state


def _ascending(before: State, behind: State, step_input: StepInput) -> State:
    trained = [name.partition(".velocity.")[2] for name in behind if ".velocity." in name]
    return behind | {name: 2 * before[name] - behind[name] for name in trained}


def _rest_alone_drops(before: State, behind: State, step_input: StepInput) -> State:
    """Keep the starting learning rate in all groups but the first, as `set_rate` of the first group does."""
    state = dict(behind)
    for name in [x for x in before if f"optimizer.velocity.{x}" in behind and x.endswith((".gamma", ".bias"))]:
        rate = float(np.float32(0.1)) * (2.0 if name.endswith(".gamma") else 0.5)
        state[name] = before[name] - rate * behind[f"optimizer.velocity.{name}"]
    return state


def _eps_inside(rule: Rule, w: Array, g: Array, old: Mapping[str, Array], step: int) -> Made:
    settings = rule.optimizer
    m, s = settings.beta1 * old["moment1"] + (1 - settings.beta1) * g, settings.beta2 * old["moment2"]
    s = s + (1 - settings.beta2) * g * g
    root = np.sqrt(s / (1 - settings.beta2**step) + settings.eps)
    return w - rule.rate * m / (1 - settings.beta1**step) / root, {"moment1": m, "moment2": s}


def _frozen(before: State, behind: State, step_input: StepInput) -> State:
    return behind | {name: before[name] for name in behind if name.endswith("conv4.weight")}


OPTIMIZER = (
    Fault("no_decay", "optimizer", "no weight decay", c.settings(weight_decay=0.0), *_UPDATE, "no weight decay"),
    Fault("decoupled_decay", "optimizer", "weight decay does not go through the momentum",
        c.velocity(lambda w, old, g, decay: old + g - decay * w, decoupled=True), *_UPDATE, "decouples"),
    Fault("only_kernels_decay", "optimizer", "biases and batch norms do not decay",
        c.velocity(_only_kernels_decay), *_UPDATE, "no weight decay"),
    Fault("nesterov", "optimizer", "Nesterov momentum instead of plain",
        c.settings(nesterov=True), *_UPDATE, "Nesterov"),
    Fault("dampened", "optimizer", "the gradient enters the velocity times 0.1",
        c.velocity(lambda w, old, g, decay: old + g * (1 - float(np.float32(0.9)))), *_UPDATE, "dampens"),
    Fault("no_momentum", "optimizer", "no momentum, as in release 0.10",
        c.settings(momentum=0.0), *_UPDATE, "has no optimizer.velocity.conv1.weight"),
    Fault("velocity_not_rescaled", "optimizer", "the velocity is not rescaled when the rate drops",
        c.field(factor=lambda old, new: 1.0), "trajectory", "update", "conv1", "does not rescale the momentum"),
    Fault("gradients_kept", "optimizer", "gradients are not cleared",
        c.patch("keep_gradients"), "trajectory", "gradient", "fc3", "not cleared"),
    Fault("layer_frozen", "optimizer", "a layer is missing from the optimizer",
        c.after(_frozen), "update", "update", "conv4", "does not update conv4.weight"),
    Fault("rate_not_rounded", "optimizer", "the learning rate is not rounded to float32",
        c.rates(lambda right, s: round(right(s), 6)), *_UPDATE, "uses the learning rate 0.1 instead of 0.100000001"),
    Fault("decay_doubled", "optimizer", "weight decay is twice as large, as for a penalty of w*w instead of w*w/2",
        c.settings(weight_decay=4e-4), *_UPDATE, "uses weight decay 0.0004 instead of 0.0002"),
    Fault("bias_decays_twice", "optimizer", "biases decay twice",
        c.settings(groups=(GROUPS[0], replace(GROUPS[1], weight_decay=4.0))), *_UPDATE, "uses weight decay 0.0008"),
    Fault("momentum_of_99", "optimizer", "momentum is 0.99",
        c.settings(momentum=0.99), "trajectory", "update", "conv1", "uses momentum 0.99 instead of 0.9"),
    Fault("plain_for_nesterov", "optimizer", "plain momentum instead of Nesterov's",
        c.settings(nesterov=False), *_UPDATE, "uses plain momentum", "quick"),
    Fault("ascent", "optimizer", "weights go up the gradient", c.after(_ascending), *_UPDATE, "learning rate -0.1"),
    Fault("gradients_accumulated", "optimizer", "gradients are added over two steps",
        c.patch("accumulate"), *_UPDATE, "does not update conv1.weight"),
    Fault("gradients_divided", "optimizer", "the optimizer divides gradients by the batch once more",
        c.patch("scale_gradients", "0.125"), *_UPDATE, "divides the gradient by the batch of 8"),
    Fault("update_fails", "optimizer", "the optimizer raises an error",
        c.patch("raise_in_update"), *_UPDATE, " does not: "),
    Fault("layer_frozen_later", "optimizer", "a layer is frozen from the third epoch on",
        c.since(5, c.after(_frozen)), "trajectory", "update", "conv4", "does not update conv4.weight"),
    Fault("groups_forgotten", "optimizer", "all parameters are in one group",
        c.settings(groups=()), *_UPDATE, "leaves out the group's factors"),
    Fault("rate_of_group_forgotten", "optimizer", "the second group has the learning rate of the first",
        c.settings(groups=(GROUPS[0], replace(GROUPS[1], rate=1.0))), *_UPDATE, "factor 0.5 of the learning rate"),
    Fault("decay_of_group_forgotten", "optimizer", "the second group has the weight decay of the first",
        c.settings(groups=(GROUPS[0], replace(GROUPS[1], weight_decay=1.0))), *_UPDATE, "factor 2 of the weight decay"),
    Fault("group_names_exchanged", "optimizer", "two groups hold each other's parameters",
        c.settings(groups=tuple(replace(g, names=o.names) for g, o in zip(GROUPS, GROUPS[::-1], strict=True))), *_UPDATE,
        "treats it as one of the group *.gamma"),
    Fault("first_group_alone_drops", "optimizer", "the learning rate is set in the first group only",
        c.after(_rest_alone_drops), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("adam_eps_inside", "optimizer", "Adam's eps is added under the root",
        c.updates(_eps_inside), *_UPDATE, "eps under the root", "adam"),
    Fault("adam_beta1", "optimizer", "beta1 is 0.95", c.settings(beta1=0.95), *_UPDATE, "uses beta1 0.95", "adam"),
    Fault("adam_eps", "optimizer", "Adam's eps is TensorFlow's 1e-7",
        c.settings(eps=1e-7), *_UPDATE, "uses eps 1e-07", "adam"),
    Fault("adam_uncorrected", "optimizer", "Adam without bias correction",
        c.after(_without_correction), *_UPDATE, "bias correction", "adam"),
    Fault("adam_beta2", "optimizer", "beta2 is 0.99", c.settings(beta2=0.99), "update", "update", "conv1", "uses beta2 0.99", "adam"),
)  # fmt: skip


SCHEDULE = (
    Fault("one_step_late", "schedule", "the schedule does not count the current batch",
        c.rates(lambda right, s: right(s - 8)), "trajectory", "update", "conv1", "step before"),
    Fault("counted_in_steps", "schedule", "the schedule counts steps instead of samples",
        c.rates(lambda right, s: right(s // 8)), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("never_drops", "schedule", "the rate never drops",
        c.recipes(lambda r: replace(r, schedule=Schedule())), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("second_drop_missing", "schedule", "the rate drops once",
        c.rates(lambda right, s: right(min(s, 24))), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("drops_by_half", "schedule", "the rate drops to a half, not to a tenth",
        c.recipes(lambda r: replace(r, schedule=replace(r.schedule, factor=0.5))), "trajectory", "update", "conv1",
        "uses the learning rate 0.05 instead of 0.01"),
    Fault("velocity_rescaled_inversely", "schedule", "the velocity is divided where it should be multiplied",
        c.field(factor=lambda old, new: new / old), "trajectory", "update", "conv1", "divides the momentum buffer"),
    Fault("warm_up_missing", "schedule", "the rate does not warm up",
        c.recipes(lambda r: replace(r, schedule=replace(r.schedule, warmup=0.0))), *_UPDATE, "uses the learning rate",
        "quick"),
    Fault("warm_up", "schedule", "the rate warms up", c.rates(lambda right, s: right(s) * min(1.0, s / 16)), *_UPDATE,
        "uses the learning rate 0.05 instead of 0.1"),
    Fault("rate_times_batch", "schedule", "the rate is divided by the batch size once more",
        c.rates(lambda right, s: right(s) / 8), *_UPDATE, "uses the learning rate 0.0125 instead of 0.1"),
)  # fmt: skip
