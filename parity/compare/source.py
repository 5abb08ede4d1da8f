"""Sources of tensors for the engine: a reference, a candidate and the reference's one-ULP twins, in the order of computation.

A source is two programs that run in lock-step, or two recordings of programs (`parity.recordings.recording_source`). Our networks with a
recipe are one kind of program (`parity.compare.training_source`), two models of a user another (`parity.pairs.model_source`). A new
source subclasses `Source` and `Step`. Rules that need a graph are optional methods of `Step`; a source whose twins record every tensor
works without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from parity.arrays import Array
from parity.compare.causes import Cause
from parity.compare.tolerances import calm_tolerance
from parity.recipe.optimizer import Optimizer
from parity.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Tensor(ShortRepr):
    """One tensor of one step, of every side that recorded it.

    `name` is PHASE/TENSOR. `reference` and `candidate` are None if that side lacks it; `twins` are the arrays of the one-ULP twins that
    recorded it. `layers` are its layers on the two sides, "" for the model itself. `copied` tensors are inputs of a side, not computed by
    it. `side` is a side that is compared with itself: its unwatched with its watched run, or what it loaded with what it saved; "" if both
    sides are compared. `zero` is the size of a gradient that is zero in exact arithmetic, relative to its layer's largest. `start` is the
    value, before training, of a weight that training moves.

    An `inner` tensor decides nothing alone: models may compute the same results by other tensors inside. If it differs, it counts only if
    a later tensor of its stage that is not inner differs, too. `shapes` are the shapes of both sides if they differ. `fitted` is the part
    that both have, if one of them has more, such as padding.
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
    inner: bool = False
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    fitted: tuple[Array, Array] | None = None

    @property
    def phase(self) -> str:
        """The phase of the step: eval, forward, loss, backward, gradient, update, ..."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, repr=False)
class Kink(ShortRepr):
    """The outputs of a layer with a kink, such as a ReLU, in one training step.

    `gradient` is the reference's gradient of its outputs, or None.
    """

    layer: str
    kind: str
    reference: Array
    candidate: Array
    twins: Sequence[Array]
    gradient: Array | None


@dataclass(frozen=True, repr=False)
class Rounded(ShortRepr):
    """One tensor of one step of both sides in a dtype narrower than float64, and the reference's in float64 (None if not asked for).

    `share` is the share of a relative error of the gradients that reaches it. `behind` are the layers whose gradients it comes from (None:
    all whose gradients were computed before it). `summed` is what the rounding of sums adds. For the rest, such as `inner`, see `Tensor`.
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
    inner: bool = False

    @property
    def phase(self) -> str:
        """The phase of the step."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, repr=False)
class Isolated(ShortRepr):
    """One isolated layer on the reference's own input: pairs (reference, candidate) of its results, or why it could not run."""

    layers: tuple[str, str]
    forward: Sequence[tuple[Array | None, Array | None]] = ()
    backward: Sequence[tuple[Array | None, Array | None]] = ()
    problem: str = ""


class Step(ABC):
    """One step of a source: its `number`, the learning `rate`, and the `factor` that multiplied the optimizer's velocities before it.

    `losses` by side are known once `tensors` is exhausted. `failed` has, in one line, the error of a side that raised one.
    """

    number: int
    rate: float
    factor: float = 1.0
    losses: Mapping[str, float]
    failed: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Yield everything that was recorded, in the order of computation. Iterate once, to the end."""

    def magnification(self, name: str) -> float:
        """Return the factor on the usual relative rounding of a tensor, see `parity.compare.cancellation`."""
        return 1.0

    def cancellation(self, name: str) -> float:
        """Return the further factor of cancelling terms in a tensor, see `parity.compare.cancelled_terms`. Called only if it matters."""
        return 1.0

    def update_difference(self, parameter: str) -> float:
        """Return the norm of the difference of the sides' updates of `parameter`, from their recorded slots."""
        return 0.0

    def ties(self, tensor: Tensor) -> Array | None:
        """Return, as booleans, the max-pool ties in a gradient before a max pool."""
        return None

    def comes_through(self, layer: str, behind: str) -> bool:
        """Whether the gradients of `layer` come through the output of the layer `behind`."""
        return True

    def crossed_share(self, tensor: Tensor) -> float:
        """Return the part of a gradient that goes another way at kinks where rounding decides; asked only where it matters."""
        return 0.0

    def phase_noise(self, without: Collection[str]) -> Mapping[str, float]:
        """Return, by phase, the largest relative error of a twin that recorded every tensor; empty if unknown in advance.

        It leaves out the parameters `without`, whose gradients have cancelling terms: they say nothing about other tensors.
        """
        return {}

    @abstractmethod
    def likely_cause(self, tensor: Tensor) -> Cause | None:
        """Return why the sides differ at `tensor`; None if no known cause explains it."""


class Source(ABC):
    """Two programs in lock-step (`sides`: the reference's name, the candidate's), and `twins` of the reference: `steps` steps in `dtype`.

    `trains`: a step updates the weights by `optimizer`, so it is a step of the trajectory. `explained` are sentences on what was changed
    or left out. `zero_gradients` are the gradients found so far that are zero in exact arithmetic. `failed` has, in one line, the error
    of a side that raised one.
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
    def by_tensor(self) -> bool:
        """Whether every tensor is compared with the other side's. If not, one step is compared with float64 (`rounded_step`)."""
        return self.dtype == "float64"

    def calm_tolerance(self, phase: str, step: int) -> float:
        """Return the tolerance of a tensor without magnification and chaos."""
        return calm_tolerance(self.dtype, step)

    @property
    def absent(self) -> Collection[str]:
        """The stages that cannot have a tensor, such as the update of models without weights."""
        return ()

    @property
    def incomplete(self) -> bool:
        """Whether one side has arrays that the other lacks. The verdict is "different" then, and inner tensors show where."""
        return False

    @property
    @abstractmethod
    def zero_gradients(self) -> Collection[str]:
        """The gradients found so far that are zero in exact arithmetic."""

    @abstractmethod
    def step(self, number: int, whole: str | None) -> Step:
        """Run step 1, 2, ...; the twin `whole`, if given, records every tensor, other twins only the usual ones."""

    def start_again(self) -> bool:
        """Start both sides and the twins afresh, for the same steps again; return whether a twin then records more than it did."""
        return False

    @abstractmethod
    def rounded_step(self, seed: int | None) -> Iterable[Rounded]:
        """Run one step in `dtype` from the start on both sides, moved by one ULP drawn from `seed`; None: not moved, and with float64."""

    def cause_of_rounded(self, tensor: Rounded) -> Cause | None:
        """Return why a tensor of the last `rounded_step` differs, None if that is unknown."""
        return None

    @abstractmethod
    def kinks(self, steps: int) -> Iterator[tuple[Mapping[str, float], Sequence[Kink]]]:
        """Take the first `steps` steps again; yield the losses by side, and the outputs of all layers with kinks."""

    @abstractmethod
    def isolated(self) -> Iterator[Isolated]:
        """Yield every layer in isolation, in the reference's order. Starts both sides afresh."""
