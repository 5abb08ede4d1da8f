"""Faults of nodes that a chain lacks: response normalisation, uneven padding, branches, auxiliary heads, tanh, log-softmax."""

from __future__ import annotations

from dataclasses import replace

from parity.network import nodes as n
from parity.selftest import changes as c
from parity.selftest.fault import Fault, at_layer, at_start
from parity.selftest.subject import BRANCHED

EXCHANGED = "puts the extra row and column of padding before"


def _at(
    name: str, area: str, sentence: str, change: c.Change, layer: str, cause: str = "", phase: str = "eval"
) -> Fault:
    return replace(at_layer(name, area, sentence, change, phase, layer, cause), network=BRANCHED)


def _lrn(name: str, sentence: str, cause: str, **fields: float) -> Fault:
    return _at(name, "layers", sentence, c.node("lrn", **fields), "lrn", cause)


ALPHA = next(node.alpha for node in BRANCHED.nodes if isinstance(node, n.LRN))

RESPONSE = (
    _lrn("lrn_alpha_of_mean", "alpha multiplies the mean of the squares", "divides alpha by the size 5", alpha=ALPHA / 5),
    _lrn("lrn_alpha_divided_twice", "alpha is divided by the size twice",
        "divides alpha by the size 5 twice", alpha=ALPHA / 25),
    _lrn("lrn_alpha_times_size", "alpha, already that of the sum, is multiplied by the size",
        "multiplies alpha by the size", alpha=ALPHA * 5),
    _lrn("lrn_k", "k is PyTorch's 1", "uses k = 1", k=1.0),
    _lrn("lrn_beta", "beta is 0.5", "uses beta = 0.5", beta=0.5),
    _lrn("lrn_size", "the radius is taken as the size", "uses size 2", size=2),
    _at("lrn_over_rows", "layers", "responses are normalised over rows",
        c.patch("over_rows", "lrn"), "lrn", "over rows"),
)  # fmt: skip

UNEVEN = (
    _at("same_conv_symmetric", "layers", "a SAME convolution pads both sides alike",
        c.node("conv", padding=2), "conv", EXCHANGED),
    _at("same_conv_smaller", "layers", "a SAME convolution leaves the odd row of padding out",
        c.node("conv", padding=1), "conv", "pads by 1"),
    _at("same_pool_symmetric", "pooling", "a SAME pool pads both sides alike",
        c.node("pool", padding=1), "pool", EXCHANGED),
)  # fmt: skip

BRANCHES = (
    _at("branches_exchanged", "layers", "branches are concatenated in another order",
        c.nodes(lambda x: x.with_parts((x.parts[0], *x.parts[:0:-1])) if x.name == "inception" else x),
        "inception", "another order"),
    _at("scaled_tanh", "layers", "tanh is LeCun's scaled one",
        c.patch("scaled_tanh", "tanh"), "tanh", "1.7159 tanh(2x/3)"),
    _at("sigmoid", "layers", "a sigmoid replaces a tanh", c.patch("sigmoid", "tanh"), "tanh", "a sigmoid"),
    _at("log_softmax_over_batch", "layers", "the log-softmax goes over the batch",
        c.patch("over_batch", "log_softmax"), "log_softmax", "over the batch"),
    _at("softmax_for_log_softmax", "layers", "the last layer yields probabilities, and the loss takes their softmax",
        c.patch("softmax", "log_softmax"), "log_softmax", "yields probabilities"),
)  # fmt: skip

HEADS = (
    _at("heads_weigh_one", "loss", "an auxiliary head has weight 1",
        c.kinds(n.Auxiliary, weight=1.0), "loss", "weighs auxiliary heads 1", "loss"),
    _at("heads_weigh_little", "loss", "an auxiliary head has weight 0.29",
        c.kinds(n.Auxiliary, weight=0.29), "loss", "", "loss"),
    _at("heads_do_not_count", "loss", "the loss of an auxiliary head is left out",
        c.kinds(n.Auxiliary, weight=0.0), "loss", "leaves auxiliary heads out", "loss"),
    replace(
        at_start("head_missing", "layers", "an auxiliary head is missing from training",
            c.nodes(lambda x: None if isinstance(x, n.Auxiliary) else x), "aux_fc", "has no fresh aux_fc"),
        phase="fresh", recipe="adam", network=BRANCHED,
    ),
    _at("head_in_inference", "layers", "inference adds the auxiliary head's scores",
        c.patch("head_in_inference", "inception", "fc"), "fc"),
)  # fmt: skip
