"""Faults of a backward pass whose forward pass is right."""

from __future__ import annotations

from dataclasses import replace

from parity.selftest import changes as c
from parity.selftest.fault import Fault
from parity.selftest.subject import BRANCHED


def _at(name: str, sentence: str, change: c.Change, layer: str, cause: str = "", phase: str = "backward") -> Fault:
    return Fault(name, "backward", sentence, change, "backward", phase, layer, cause)


BACKWARD = (
    _at("relu_passes_gradient", "a ReLU passes the whole gradient",
        c.patch("pass_gradient", "relu2"), "bn2", "returns the gradient of its output unchanged"),
    _at("relu_gradient_leaks", "a ReLU has the gradient of a leaky one",
        c.patch("leak_gradient", "relu2"), "bn2", "slope of 0.01"),
    _at("dropout_passes_gradient", "a dropout is not applied to the gradient",
        c.patch("pass_gradient", "drop2"), "relu2", "returns the gradient of its output unchanged"),
    _at("dropout_scales_gradient", "a dropout scales the gradient by 1/(1-p), as upscale_in_train does",
        c.patch("unscale_dropout", "drop2", f"{1 / 0.7!r}"), "relu2", "scales the gradient by 1/(1-p) once more"),
    _at("norm_fixes_variance", "a batch norm takes its variance as a constant",
        c.patch("fix_statistics", "bn2", "variance"), "conv2", "the batch's variance as a constant"),
    _at("norm_fixes_mean", "a batch norm takes its mean as a constant",
        c.patch("fix_statistics", "bn2", "mean"), "conv2", "the batch's mean as a constant"),
    _at("norm_fixes_both", "a batch norm takes mean and variance as constants",
        c.patch("fix_statistics", "bn2", "both"), "conv2", "mean and variance as constants"),
    _at("pool_spreads_gradient", "a maximum pool gives its gradient to all pixels of a window",
        c.patch("spread_gradient", "pool4"), "drop4"),
    _at("gradient_reversed", "a layer reverses the sign of the gradient",
        c.patch("scale_gradient", "relu_fc1", "-1"), "bn_fc1", "with the sign reversed"),
    _at("bias_gradient_averaged", "a bias gets the mean of its gradient over the images",
        c.patch("scale_gradient_of", "fc3.bias", "0.125"), "fc3", "mean over images", "gradient"),
    replace(
        _at("conv_bias_gradient_averaged", "a convolution's bias gets the mean of its gradient over images and pixels",
            c.patch("scale_gradient_of", "three.bias", f"{1 / 512!r}"), "three", "mean over images and pixels", "gradient"),
        network=BRANCHED,
    ),
    _at("gradient_values_clipped", "the numbers of a gradient are clipped to 0.001",
        c.patch("clip_values_of", "fc2.weight", "0.001"), "fc2", "to 0.001", "gradient"),
    replace(
        _at("branch_detached", "a branch gets no gradient", c.patch("detach", "proj_relu"), "proj_relu",
            "has no gradient of proj_relu"),
        network=BRANCHED,
    ),
    _at("bias_without_gradient", "a bias is a constant in the graph",
        c.patch("fix_bias", "fc2"), "fc2", "has no gradient of fc2.bias", "gradient"),
    _at("weight_frozen", "a weight does not require a gradient",
        c.patch("freeze", "fc2.weight"), "fc2", "has no gradient of fc2.weight", "gradient"),
    _at("backward_fails", "the backward pass raises an error",
        c.patch("raise_in_backward", "fc2.weight"), "fc3", " does not: ", "gradient"),
)  # fmt: skip
