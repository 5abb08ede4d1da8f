"""Optimizers as data: which, with which settings, and for which parameters."""

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

    `rate` multiplies the learning rate: a power of two, so that every framework multiplies exactly. `weight_decay` multiplies the
    weight decay that the gradient gets.

    With `muon` above 0 they are kernels of convolutions, and updated by Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) of
    so many Newton-Schulz steps, with a `momentum` of their own: v = momentum * v + g, u = g + momentum * v; w, brought to a norm of
    sqrt(filters), less rate times what is nearest to u, as a matrix [filters, ...], among those of orthonormal rows or columns
    (`parity.recipe.muon`). That keeps the norm, so there is no weight decay.
    """

    names: str
    rate: float = 1.0
    weight_decay: float = 1.0
    muon: int = 0
    momentum: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or math.frexp(self.rate)[0] != 0.5:
            raise InputError(f"group {self.names}: rate is a power of two, not {self.rate}")
        object.__setattr__(self, "momentum", float32(self.momentum))
        within(f"group {self.names}: weight_decay", self.weight_decay, 0, math.inf)
        within(f"group {self.names}: muon", self.muon, 0, 20)
        within(f"group {self.names}: momentum", self.momentum, 0, 1)
        if self.muon and self.weight_decay:
            raise InputError(f"group {self.names}: muon keeps the norm of its weights, so it takes a weight_decay of 0")


REST = Group("*")
"""The group of a parameter that is in no other."""


@dataclass(frozen=True, repr=False)
class Optimizer(ShortRepr):
    """The settings of an optimizer, as data.

    "momentum" computes v = momentum * v + (g + weight_decay * w), then w -= rate * v. "adam" is Kingma and Ba 2015, with bias
    correction. The gradient g is that of sum(cross-entropy) / divisor, see `Recipe.divisor`. Weight decay acts on every trainable
    parameter, also on biases, gamma and beta. All scalars are rounded to float32.

    Attributes:
        kind: "momentum" or "adam".
        rate: The learning rate.
        momentum: The momentum. 0 is plain gradient descent.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: The factor of the weight in the gradient.
        beta1: Adam's decay rate of the first moment.
        beta2: Adam's decay rate of the second moment.
        eps: Adam's epsilon.
        velocity_holds_rate: Follow Paddle v2, whose velocity contains the learning rate. When the rate changes, the momentum
            buffer is multiplied by old rate / new rate.
        groups: Groups of parameters. A parameter belongs to the first group whose pattern matches its name.
        label_smoothing: The share of every label that is spread over all classes (Szegedy et al. 2016, section 7).

    Raises:
        InputError: A setting is not possible.

    Examples:
        ```python
        from parity.recipe.optimizer import Optimizer

        optimizer = Optimizer("adam", rate=1e-4)
        outcome = parity.compare_models(torch_model, paddle_model, inputs, optimizer=optimizer)
        ```
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
            raise InputError(f"optimizer is momentum or adam, not {self.kind!r}")
        for field in ("rate", "momentum", "weight_decay", "beta1", "beta2", "eps", "label_smoothing"):
            object.__setattr__(self, field, float32(getattr(self, field)))
        for field in ("rate", "weight_decay", "eps"):
            within(f"optimizer {field}", getattr(self, field), 0, math.inf)
        for field in ("momentum", "beta1", "beta2", "label_smoothing"):
            within(f"optimizer {field}", getattr(self, field), 0, 1)
        if self.nesterov and not self.momentum:
            raise InputError("optimizer nesterov needs a momentum above 0")
        if any(group.muon for group in self.groups) and not (self.kind == "momentum" and self.momentum):
            raise InputError("optimizer with a group of muon is momentum, with a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays kept per trainable parameter, in the canonical state under `optimizer.SLOT.PARAMETER`.

        None where the momentum is 0: Paddle then keeps the last gradient as a velocity that nobody reads, PyTorch keeps nothing.
        """
        if self.kind == "adam":
            return ("moment1", "moment2")
        return ("velocity",) if self.momentum else ()

    def grouped(self, network: Network) -> list[tuple[list[str], float, float]]:
        """The trainable parameters of `network` by group: names, factor of the learning rate, and weight decay, rounded to float32.

        Those of no group come first; groups without parameters are left out, and so are those of `by_muon`.
        """
        found: dict[Group, list[str]] = {group: [] for group in (REST, *self.groups)}
        for name, parameter in network.parameters.items():
            if parameter.trainable:
                found[self.group(name)].append(name)
        decay = self.weight_decay
        return [(names, g.rate, float32(decay * g.weight_decay)) for g, names in found.items() if names and not g.muon]

    def group(self, name: str) -> Group:
        """The group of the parameter `name`."""
        return next((group for group in self.groups if fnmatchcase(name, group.names)), REST)

    def momentum_of(self, name: str) -> float:
        """The momentum of the parameter `name`."""
        group = self.group(name)
        return group.momentum if group.muon else self.momentum

    def by_muon(self, network: Network) -> dict[str, Group]:
        """The trainable parameters of `network` that Muon updates, and their groups; `InputError` for one that is no kernel."""
        trainable = {name: p.shape for name, p in network.parameters.items() if p.trainable}
        found = {name: group for name in trainable if (group := self.group(name)).muon}
        if wrong := [name for name in found if len(trainable[name]) != 4]:
            raise InputError(f"muon is for kernels of convolutions, not for {wrong[0]}")
        return found


def read_optimizer(fields: Any) -> Optimizer:
    """The optimizer in a parsed JSON object (what `dataclasses.asdict` made of it); `InputError` names what does not fit."""
    groups = fields.get("groups", []) if isinstance(fields, dict) else []
    if not isinstance(groups, list | tuple):
        raise InputError("recipe optimizer: groups is no list")
    made = [from_fields(Group, group, "recipe optimizer group") for group in groups]
    return from_fields(Optimizer, fields | {"groups": made} if groups else fields, "recipe optimizer")
