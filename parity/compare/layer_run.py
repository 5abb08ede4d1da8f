"""One run of a layer of our networks, and hypotheses about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.arrays import Array
from parity.compare.causes import Hypothesis
from parity.network.graph import Layer
from parity.network.nodes import Node
from parity.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Earlier:
    """The recorded `output` in float64 of a layer `name`, from which `node` computes the next tensor of the branch."""

    name: str
    output: Array
    node: Node


@dataclass(frozen=True, repr=False)
class Run(ShortRepr):
    """One run of a layer, in float64: inputs `parts`, output `b`, parameters and statistics by short name, and the dropout mask.

    `parts` has one array for each of the layer's sources. `earlier` has, for each, the tensors before it on its branch, the nearest first.
    It is empty for a layer with one input.
    """

    where: Layer
    phase: str
    parts: Sequence[Array]
    b: Array
    arrays: Mapping[str, Array]
    mask: Array | None
    earlier: Sequence[Sequence[Earlier]] = ()

    @property
    def x(self) -> Array:
        """The only input."""
        (x,) = self.parts
        return x

    @property
    def training(self) -> bool:
        """Whether it ran in training."""
        return self.phase == "forward"


def mistake(does: str, instead: str, prediction: Array) -> Hypothesis:
    """Return a hypothesis about a layer: what it does on the wrong side, and `instead` on the right side."""
    return Hypothesis(f"{{wrong}}'s {{it}} {does}, {{right}}'s {instead}", prediction)
