"""How an update goes wrong: loss, optimizer, schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.compare.step_inputs import StepInput
from parity.recipe.recipe import Schedule
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer
from parity.weights.canonical_state import State

LOSS = (
    at_layer("summed", "loss", "the cost is summed over the batch",
        c.field(divisor=lambda count: 1), "loss", "loss", "summed over the batch"),
    at_layer("softmax_twice", "loss", "probabilities go into the cross-entropy",
        c.patch("softmax", "fc3"), "eval", "fc3"),
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
    Fault("adam_eps", "optimizer", "Adam's eps is TensorFlow's 1e-7",
        c.settings(eps=1e-7), *_UPDATE, "uses eps 1e-07", "adam"),
    Fault("adam_uncorrected", "optimizer", "Adam without bias correction",
        c.after(_without_correction), *_UPDATE, "bias correction", "adam"),
    Fault("adam_beta2", "optimizer", "beta2 is 0.99", c.settings(beta2=0.99), "update", "update", "conv1", "uses beta2 0.99", "adam"),
)  # fmt: skip


SCHEDULE = (
    Fault("one_step_late", "schedule", "the batch at hand does not count in the schedule",
        c.rates(lambda right, s: right(s - 8)), "trajectory", "update", "conv1", "step before"),
    Fault("counted_in_steps", "schedule", "the schedule counts steps instead of samples",
        c.rates(lambda right, s: right(s // 8)), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("never_drops", "schedule", "the rate never drops",
        c.recipes(lambda r: replace(r, schedule=Schedule())), "trajectory", "update", "conv1", "rate of the step before"),
    Fault("warm_up", "schedule", "the rate warms up", c.rates(lambda right, s: right(s) * min(1.0, s / 16)), *_UPDATE,
        "uses the learning rate 0.05 instead of 0.1"),
    Fault("rate_times_batch", "schedule", "the rate is divided by the batch size once more",
        c.rates(lambda right, s: right(s) / 8), *_UPDATE, "uses the learning rate 0.0125 instead of 0.1"),
)  # fmt: skip
