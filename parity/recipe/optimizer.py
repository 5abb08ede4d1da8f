"""Optimizers as data: kind, settings, and groups of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parity.errors import InputError, within
from parity.files.strict_json import from_fields
from parity.network.initialisers import float32
from parity.network.network import Network
from parity.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Group(ShortRepr):
    """Parameters whose names match the pattern `names` (of `fnmatch`: "*.beta", "fc.weight"), with factors of their own.

    `rate` multiplies the learning rate. It is a power of two, so that every framework multiplies exactly. `weight_decay` multiplies the
    weight decay of the optimizer.

    With `muon` above 0, the parameters are kernels of convolutions, and Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon)
    updates them with `muon` Newton-Schulz steps and the group's own `momentum`: v = momentum * v + g, u = g + momentum * v. The kernel w is
    scaled to a norm of sqrt(filters), and then w -= rate * o. Here o is the matrix with orthonormal rows or columns that is nearest to u
    as a matrix [filters, ...] (`parity.recipe.muon`). This fixes the norm, so there is no weight decay.
    """

    names: str
    rate: float = 1.0
    weight_decay: float = 1.0
    muon: int = 0
    momentum: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or math.frexp(self.rate)[0] != 0.5:
            raise InputError(f"group {self.names}: rate must be a power of two, not {self.rate}")
        object.__setattr__(self, "momentum", float32(self.momentum))
        within(f"group {self.names}: weight_decay", self.weight_decay, 0, math.inf)
        within(f"group {self.names}: muon", self.muon, 0, 20)
        within(f"group {self.names}: momentum", self.momentum, 0, 1)
        if self.muon and self.weight_decay:
            raise InputError(f"group {self.names}: muon fixes the norm of its weights, so weight_decay must be 0")


REST = Group("*")
"""The group of parameters that no other group contains."""


@dataclass(frozen=True, repr=False)
class Optimizer(ShortRepr):
    """The settings of an optimizer, as data.

    The gradient g is that of sum(cross-entropy) / divisor (see `Recipe.divisor`). Weight decay acts on every trainable parameter, also
    on biases, gamma and beta. All scalars are rounded to float32 (see `parity.network.initialisers.float32`).

    `velocity_holds_rate` follows Paddle v2, whose velocity contains the learning rate. When the rate changes, the momentum buffer of
    today's frameworks is therefore multiplied by old rate / new rate. A parameter belongs to the first of `groups` that its name matches.
    `label_smoothing` is the share of every label that is spread over all classes (Szegedy et al. 2016, section 7).
    """

    kind: str
    rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    velocity_holds_rate: bool = False
    groups: tuple[Group, ...] = ()
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("momentum", "adam"):
            raise InputError(
                f"optimizer must be momentum or adam, not {self.kind!r}; compare takes others by --torch-optimizer and --paddle-optimizer"
            )
        for field in ("rate", "momentum", "weight_decay", "beta1", "beta2", "eps", "label_smoothing"):
            object.__setattr__(self, field, float32(getattr(self, field)))
        for field in ("rate", "weight_decay", "eps"):
            within(f"optimizer {field}", getattr(self, field), 0, math.inf)
        for field in ("momentum", "beta1", "beta2", "label_smoothing"):
            within(f"optimizer {field}", getattr(self, field), 0, 1)
        if self.nesterov and not self.momentum:
            raise InputError("optimizer nesterov needs a momentum above 0")
        if any(group.muon for group in self.groups) and not (self.kind == "momentum" and self.momentum):
            raise InputError("optimizer with a muon group must be momentum, with a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays for each trainable parameter; the canonical state holds them as `optimizer.SLOT.PARAMETER`.

        Without momentum there are none: Paddle then keeps the last gradient as an unused velocity, and PyTorch keeps nothing.
        """
        if self.kind == "adam":
            return ("moment1", "moment2")
        return ("velocity",) if self.momentum else ()

    def grouped(self, network: Network) -> list[tuple[list[str], float, float]]:
        """Return the trainable parameters of `network` by group: names, factor of the learning rate, weight decay rounded to float32.

        Parameters without a group come first. Empty groups, and the groups of `by_muon`, are left out.
        """
        found: dict[Group, list[str]] = {group: [] for group in (REST, *self.groups)}
        for name, parameter in network.parameters.items():
            if parameter.trainable:
                found[self.group(name)].append(name)
        decay = self.weight_decay
        return [(names, g.rate, float32(decay * g.weight_decay)) for g, names in found.items() if names and not g.muon]

    def group(self, name: str) -> Group:
        """Return the group of the parameter `name`."""
        return next((group for group in self.groups if fnmatchcase(name, group.names)), REST)

    def momentum_of(self, name: str) -> float:
        """Return the momentum of the parameter `name`."""
        group = self.group(name)
        return group.momentum if group.muon else self.momentum

    def by_muon(self, network: Network) -> dict[str, Group]:
        """Return the trainable parameters of `network` that Muon updates, and their groups. `InputError` if one is not a kernel."""
        trainable = {name: p.shape for name, p in network.parameters.items() if p.trainable}
        found = {name: group for name in trainable if (group := self.group(name)).muon}
        if wrong := [name for name in found if len(trainable[name]) != 4]:
            raise InputError(f"muon can update kernels of convolutions, not {wrong[0]}")
        return found


def read_optimizer(fields: Any) -> Optimizer:
    """Return the optimizer of a parsed JSON object, as `dataclasses.asdict` made it. `InputError` names what does not fit."""
    groups = fields.get("groups", []) if isinstance(fields, dict) else []
    if not isinstance(groups, list | tuple):
        raise InputError("recipe optimizer: groups is not a list")
    made = [from_fields(Group, group, "recipe optimizer group") for group in groups]
    return from_fields(Optimizer, fields | {"groups": made} if groups else fields, "recipe optimizer")
