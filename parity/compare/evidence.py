"""What the causes of a difference are told from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parity.arrays import Array
from parity.compare.step_inputs import StepInput
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer
from parity.short_repr import ShortRepr

Record = Mapping[str, Array]


@dataclass(frozen=True, repr=False)
class Evidence(ShortRepr):
    """What is known at the first divergence: both sides' records of this step, and the other's of the one before (empty at step 1).

    `step_input` is what the reference was given in this step, `rates` the learning rates of the step before, this one and the next.
    """

    network: Network
    optimizer: Optimizer
    step_input: StepInput
    rates: tuple[float, float, float]
    reference: Record
    other: Record
    other_before: Record
