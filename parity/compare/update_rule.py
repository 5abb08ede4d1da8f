"""Compute an optimizer's update of one parameter in numpy, by the settings of the optimizer and of the parameter's group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.network.initialisers import float32
from parity.recipe import muon
from parity.recipe.optimizer import Optimizer

Made = tuple[Array, Mapping[str, Array]]
"""A weight after an update, and its slots."""


@dataclass(frozen=True)
class Rule:
    """How one parameter is updated: the settings of the optimizer and of the parameter's group.

    `rate` includes the group's factor. `factor` multiplies the velocity before the update. `muon` is the number of Newton-Schulz steps
    (0: no Muon). `how` names a variant that no setting expresses. Two fields describe mistakes: `scale` multiplies the gradient, and
    Adam's counter is `counted` (0: the right count).
    """

    optimizer: Optimizer
    rate: float
    factor: float
    momentum: float
    nesterov: bool
    weight_decay: float
    muon: int
    how: str = ""
    scale: float = 1.0
    counted: int = 0

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of this update; Muon keeps a velocity with any momentum."""
        return self.optimizer.slots if self.optimizer.kind == "adam" or self.momentum or self.muon else ()

    def sentence(self) -> str:
        """Return the rule's settings as text."""
        kind = (
            "Muon"
            if self.muon
            else "Adam"
            if self.optimizer.kind == "adam"
            else "Nesterov " * self.nesterov + "momentum"
        )
        momentum = "" if self.optimizer.kind == "adam" else f" {self.momentum:g}"
        return f"{kind}{momentum}, weight decay {self.weight_decay:g}, rate {self.rate:g}"


def rule_of(settings: Optimizer, name: str, rate: float, factor: float) -> Rule:
    """Return the rule by which `settings` update the parameter `name` at the learning rate `rate`."""
    group = settings.group(name)
    decay = float32(settings.weight_decay * group.weight_decay)
    nesterov = bool(group.muon) or settings.nesterov
    return Rule(settings, rate * group.rate, factor, settings.momentum_of(name), nesterov, decay, group.muon)


def update(rule: Rule, w: Array, g: Array, old: Mapping[str, Array], step: int) -> Made:
    """Update the weights `w` with the gradient `g`; return them and the slots of `rule`."""
    rate, settings = rule.rate, rule.optimizer
    g, step = rule.scale * g, rule.counted or step
    if rule.how == "decoupled":
        w = w - rate * rule.weight_decay * w
    else:
        g = g + rule.weight_decay * w
    if settings.kind == "momentum":
        entering = g * (1 - rule.momentum) if rule.how == "dampened" else g
        v = rule.momentum * old["velocity"] * rule.factor + entering if "velocity" in old else entering
        if rule.how == "rate in velocity":
            v = rule.momentum * old["velocity"] + rate * g
            return w - v, dict.fromkeys(rule.slots, v)
        direction = g + rule.momentum * v if rule.nesterov else v
        if rule.muon:
            direction = muon.orthogonal(direction, rule.muon, np.multiply)
            if rule.how != "unnormalised":
                w = w * (math.sqrt(len(w)) / muon.norm(w))
        return w - rate * direction, dict.fromkeys(rule.slots, v)
    m = settings.beta1 * old["moment1"] + (1 - settings.beta1) * g
    s = settings.beta2 * old["moment2"] + (1 - settings.beta2) * g * g
    corrections = (1.0, 1.0) if rule.how == "uncorrected" else (1 - settings.beta1**step, 1 - settings.beta2**step)
    m_hat, s_hat = m / corrections[0], s / corrections[1]
    root = np.sqrt(s_hat + settings.eps) if rule.how == "inside" else np.sqrt(s_hat) + settings.eps
    return w - rate * m_hat / root, {"moment1": m, "moment2": s}
