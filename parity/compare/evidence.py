"""The evidence at the first divergence of a training step, from which its likely cause is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.compare.step_inputs import StepInput
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer
from parity.short_repr import ShortRepr
from parity.weights.canonical_state import State

Record = Mapping[str, Array]


@dataclass(frozen=True, repr=False)
class Evidence(ShortRepr):
    """What the check asks of both sides, and what the sides computed.

    The check asks for `network`, `optimizer`, the weights `start`, the `seed` of fresh ones, `step_input` and `rates`. `rates` are the
    learning rates of the previous, this and the next step. `names` are the names of reference and candidate in sentences. `records` are
    their records of this step, `before` those of the previous step (empty at step 1).
    """

    network: Network
    optimizer: Optimizer
    start: State
    seed: int
    step_input: StepInput
    rates: tuple[float, float, float]
    names: tuple[str, str]
    records: tuple[Record, Record]
    before: tuple[Record, Record]

    def before_of(self, own: Record) -> Record:
        """Return the record of the previous step of the side that recorded `own`."""
        return self.before[own is not self.records[0]]

    def parameter(self, own: Record, name: str) -> Array | None:
        """Return, in float64, the parameter or statistic `name` of the side that recorded `own`, before this step's update."""
        first = own.get(f"start/{name}", self.start.get(name))
        array = first if self.step_input.number == 1 else self.before_of(own).get(f"update/{name}")
        return None if array is None else array.astype(np.float64)

    def parameters(self, own: Record, layer: str) -> dict[str, Array]:
        """Return the known parameters and statistics of `layer` by short name."""
        found = {}
        where = self.network.layers[layer]
        for spec in where.node.parameters(where.input):
            array = self.parameter(own, spec.name)
            if array is not None:
                found[spec.name.partition(".")[2]] = array
        return found
