"""Where the engine gets its tensors from: those of a reference, a candidate and the reference's one-ULP twins, in the order of computation.

A source is two programs that run in lock-step. Our networks with a recipe are one kind of program (`parity.compare.training_source`),
two models of somebody else are another (`parity.pairs.model_source`). A new source subclasses `Source` and `Step`. Rules that
need a graph are methods of `Step` that a source may answer; twins that record every tensor do without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from parity.arrays import Array
from parity.compare.causes import Cause
from parity.recipe.optimizer import Optimizer
from parity.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Tensor(ShortRepr):
    """One tensor of one step, of every side that recorded it.

    `name` is PHASE/TENSOR. `reference` and `candidate` are None where that side lacks it; `twins` are those of the one-ULP twins that
    recorded it. `layers` are the layers on the two sides that it belongs to, "" for the model itself. `copied` tensors are given to a side,
    not computed by it. `side` is a side that is compared with itself: where nobody watches with where it is watched, or what it loads with
    what it saved; "" where both sides are compared. `zero` is the size of a gradient that is zero in exact arithmetic, relative to its
    layer's largest. `start` is the value before training of a weight that training moves.
    """

    name: str
    reference: Array | None
    candidate: Array | None
    twins: Sequence[Array] = ()
    layers: tuple[str, str] = ("", "")
    copied: bool = False
    zero: float | None = None
    start: Array | None = None
    side: str = ""

    @property
    def phase(self) -> str:
        """What the step was doing: eval, forward, loss, backward, gradient, update, ..."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, repr=False)
class Kink(ShortRepr):
    """The outputs of a layer with a kink, such as a ReLU, in one training step.

    `gradient` is the reference's gradient of its outputs, None where it has none.
    """

    layer: str
    kind: str
    reference: Array
    candidate: Array
    twins: Sequence[Array]
    gradient: Array | None


@dataclass(frozen=True, repr=False)
class Rounded(ShortRepr):
    """One tensor of one float32 step of both sides, and the reference's in float64 (None where that was not asked for).

    `share` is how much of a relative error of the gradients arrives in it, and `behind` are the layers whose gradients it comes from (None:
    all whose gradients were computed before it). `summed` is what the rounding of sums adds. For the rest see `Tensor`.
    """

    name: str
    sides: tuple[Array | None, Array | None]
    exact: Array | None = None
    layers: tuple[str, str] = ("", "")
    copied: bool = False
    zero: tuple[float, float] | None = None
    share: float = 1.0
    summed: float = 0.0
    behind: Collection[str] | None = None

    @property
    def phase(self) -> str:
        """What the step was doing."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, repr=False)
class Isolated(ShortRepr):
    """One layer by itself on the reference's own input: (reference, candidate) of what it computes; or why it could not be run."""

    layers: tuple[str, str]
    forward: Sequence[tuple[Array | None, Array | None]] = ()
    backward: Sequence[tuple[Array | None, Array | None]] = ()
    problem: str = ""


class Step(ABC):
    """One step of a source: its `number`, the learning `rate`, and the `factor` that multiplied the optimizer's velocities before it.

    `losses` by side are known once `tensors` has come to its end. `failed` says why a side could not go on, in one line.
    """

    number: int
    rate: float
    factor: float = 1.0
    losses: Mapping[str, float]
    failed: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Everything that was recorded, in the order of computation. It is taken once, to its end."""

    def magnification(self, name: str) -> float:
        """How many times its usual relative rounding a tensor has since terms cancel in it, see `parity.compare.cancellation`."""
        return 1.0

    def cancellation(self, name: str) -> float:
        """How many times more the terms of a sum cancel in a tensor, see `parity.compare.cancelled_terms`. Asked where it counts."""
        return 1.0

    def update_difference(self, parameter: str) -> float:
        """By how much the sides moved `parameter` differently, by the slots that they recorded, as a norm."""
        return 0.0

    def ties(self, tensor: Tensor) -> Array | None:
        """The elements of a gradient in front of a maximum pool at which rounding chose another largest element, as booleans."""
        return None

    def comes_through(self, layer: str, behind: str) -> bool:
        """Whether gradients of `layer`'s output and parameters come through the output of the layer `behind`."""
        return True

    def phase_noise(self, without: Collection[str]) -> Mapping[str, float]:
        """By phase, the largest relative error of a twin that recorded every tensor; empty where that is not known before.

        Tensors of the parameters `without`, whose gradients' terms cancel, say nothing of others.
        """
        return {}

    @abstractmethod
    def likely_cause(self, tensor: Tensor) -> Cause | None:
        """Why the sides differ at `tensor`; None if nothing known explains it."""


class Source(ABC):
    """Two programs in lock-step (`sides`: the reference's name, the candidate's), and `twins` of the reference: `steps` steps in `dtype`.

    `trains`: a step updates the weights by `optimizer`, so that it is a step of the trajectory. `explained` are sentences on what was
    neutralised or left out, `zero_gradients` the gradients found so far that are zero in exact arithmetic. `failed` says why a side could
    not go on, in one line.
    """

    sides: tuple[str, str]
    twins: Sequence[str]
    dtype: str
    optimizer: Optimizer
    steps: int
    trains: bool
    explained: list[str]
    failed: Mapping[str, str] = MappingProxyType({})

    @property
    def absent(self) -> Collection[str]:
        """The stages that cannot have a tensor, such as the update of models without weights."""
        return ()

    @property
    @abstractmethod
    def zero_gradients(self) -> Collection[str]:
        """The gradients found so far that are zero in exact arithmetic."""

    @abstractmethod
    def step(self, number: int, whole: str | None) -> Step:
        """Run step 1, 2, ...; the twin `whole`, if there is one, records every tensor, and the others what they always do."""

    @abstractmethod
    def float32_step(self, seed: int | None) -> Iterable[Rounded]:
        """Run one float32 step from the start on both sides, moved by one ULP drawn from `seed`; None: not moved, and float64 beside it."""

    @abstractmethod
    def kinks(self, steps: int) -> Iterator[tuple[Mapping[str, float], Sequence[Kink]]]:
        """Take the first `steps` steps again: of each the losses by side, and the outputs of all layers with kinks."""

    @abstractmethod
    def isolated(self) -> Iterator[Isolated]:
        """Every layer by itself, in the reference's order. Starts both sides afresh."""
