"""The source of tensors for our networks: both sides train one network by one recipe, in lock-step with one-ULP twins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record, WorkerFailed
from parity.backend.registry import spoken_name
from parity.backend.worker import Worker
from parity.compare.cancellation import magnifications
from parity.compare.cancelled_terms import CancelledTerms
from parity.compare.causes import Cause, failure_cause
from parity.compare.causes_of_layers import likely_cause
from parity.compare.evidence import Evidence
from parity.compare.noise_model import training_noise
from parity.compare.pool_ties import find_pool_ties
from parity.compare.program import LockStep, Program, Step, in_order, layer_of, let_go, parameter_of, run_in_lockstep
from parity.compare.record import inputs_of
from parity.compare.relative_error import distance, norm_of_difference
from parity.compare.source import Isolated, Kink, Rounded, Source, Tensor
from parity.compare.source import Step as SourceStep
from parity.compare.step_inputs import RunInputs, make_twin
from parity.compare.tolerances import ROUNDING, ZERO_GRADIENT
from parity.compare.verdicts import UNWATCHED
from parity.compare.zero_gradients import zero_gradients
from parity.network.graph import consumers
from parity.network.network import Network
from parity.network.nodes import ReLU

_Found = TypeVar("_Found")

REMEMBERED = 2**24
"""Size of the largest tensor that is kept for the causes of the next step: VGG's second linear layer, not its first."""

WATCHED = {unwatched: watched for watched, unwatched in UNWATCHED.items()}
"""Phase of the unwatched run -> phase of the watched run."""

RETURNED = ("loss/cost", "loss/wrong")
"""What a step returns at its end. It is missing if the step fails, wherever that is."""

ALONE = ("input", "eval", "forward", "backward")
"""The phases whose tensors are the inputs of an isolated layer."""


class TrainingSource(Source):
    """The first of `workers` is the reference, the second the candidate; all others run one-ULP twins of the reference.

    `inputs_of` are the run inputs of the two sides. `exact` are those of the reference's float64 step beside a float32 step. `asked` are
    those that both sides should have (None: the reference's). `phases` are recorded in each of `steps` steps. See
    `parity.compare.source.Source`.
    """

    def __init__(
        self,
        workers: Mapping[str, Worker],
        inputs_of: Mapping[str, RunInputs],
        steps: int,
        phases: tuple[str, ...],
        exact: RunInputs | None = None,
        asked: RunInputs | None = None,
    ) -> None:
        reference, candidate, *twins = workers
        self.sides, self.twins, self.steps, self.phases = (reference, candidate), twins, steps, phases
        self.workers, self.exact = workers, exact
        self.run_inputs = asked or inputs_of[reference]
        moved = {name: make_twin(inputs_of[reference], seed, inputs=True) for seed, name in enumerate(twins)}
        self.programs = {n: Program(worker, inputs_of.get(n) or moved[n]) for n, worker in workers.items()}
        self.dtype, self.optimizer = self.run_inputs.dtype, self.run_inputs.optimizer
        self.trains = "update" in phases
        self.start_again()

    def start_again(self) -> bool:
        """Start both sides and the twins afresh; return whether there is a twin, which then can record every tensor."""
        self.explained: list[str] = []
        self.before: tuple[Record, Record] = ({}, {})
        self.failed = {}
        self.samples, self.batch, self.rate = 0, 0, 0.0
        self._together = LockStep(self.programs)
        self.asked_steps = self.run_inputs.steps()
        return bool(self.twins)

    @property
    def network(self) -> Network:
        """The network that both sides should have."""
        return self.run_inputs.network

    @property
    def zero_gradients(self) -> Collection[str]:
        """The gradients that are zero in exact arithmetic, by the network's structure."""
        return self.network.zero_gradients if "gradient" in self.phases else ()

    def step(self, number: int, whole: str | None) -> TrainingStep:
        """Take the next step. In float32 only the loss and the weights are recorded."""
        phases = self.phases if self.dtype == "float64" else ("loss", "update")
        fewer = ("update",) if self.trains else ()
        by_name = {name: phases if name in (*self.sides, whole) else fewer for name in self.programs}
        made = TrainingStep(self, self._together.step(by_name), whole)
        self.failed = made.failed
        self.samples, self.batch, self.rate = made.samples, made.batch, made.rate
        return made

    def rounded_step(self, seed: int | None) -> Iterator[Rounded]:
        """Take one step on both sides; if `seed` is None, also in float64 on the reference."""
        exact: Record = {}
        if seed is None:
            assert self.exact
            exact = self._one_step({self.sides[0]: self.exact})[self.sides[0]]
        given = {name: self.programs[name].run_inputs for name in self.sides}
        if seed is not None:
            given = {name: make_twin(run_inputs, seed, inputs=True) for name, run_inputs in given.items()}
        first, second = self._one_step(given).values()
        zero, sums = known_zero_gradients(self.network, first, second), training_noise(self.network, exact)
        for name in in_order(self.network, list({**exact, **first, **second})):
            if self.failed and name in RETURNED:
                continue
            layer = layer_of(name.partition("/")[2])
            sizes = zero.get(name)
            yield Rounded(
                name,
                (first.get(name), second.get(name)),
                exact.get(name),
                (layer, layer),
                is_copied(name),
                (sizes[0], sizes[1]) if sizes else None,
                share := _share(name, exact),
                sums.get(name, 0.0) * (1.0 if name.endswith((".mean", ".variance")) else share),
                self.behind.get(layer),
            )

    def _one_step(self, given: Mapping[str, RunInputs]) -> Mapping[str, Record]:
        programs = {name: Program(self.workers[name], run_inputs) for name, run_inputs in given.items()}
        phases = tuple(phase for phase in self.phases if phase != "fresh" and phase not in UNWATCHED.values())
        try:
            step = LockStep(programs).step(dict.fromkeys(programs, phases))
        except WorkerFailed as failed:
            if len(programs) > 1 or not failed.reason:
                raise
            self.failed = {**self.failed, **dict.fromkeys(programs, failed.reason)}  # the other side may continue
            return dict.fromkeys(programs, failed.record)
        self.failed = {**self.failed, **step.failed}
        return step.records

    @cached_property
    def behind(self) -> Mapping[str, Collection[str]]:
        """For each layer, the layers that its gradients come from."""
        return behind(self.network)

    def kinks(self, steps: int) -> Iterator[tuple[Mapping[str, float], Sequence[Kink]]]:
        """Take the first `steps` steps again, with the twins, and yield the outputs of every ReLU."""
        relus = [name for name, layer in self.network.layers.items() if isinstance(layer.node, ReLU)]
        for step in run_in_lockstep(self.programs, steps, ("loss", "forward", "backward")):
            first, second, *twins = step.records.values()
            found = [
                Kink(
                    layer,
                    "ReLU",
                    first[f"forward/{layer}"],
                    second[f"forward/{layer}"],
                    [twin[f"forward/{layer}"] for twin in twins],
                    first.get(f"backward/{layer}"),
                )
                for layer in relus
                if f"forward/{layer}" in second
            ]
            yield _losses(self.sides, step), found

    def isolated(self) -> Iterator[Isolated]:
        """Yield every layer in isolation, on the input that it had on the reference."""
        here, there = (self.workers[name] for name in self.sides)
        step = LockStep({self.sides[0]: self.programs[self.sides[0]]}).step({self.sides[0]: ALONE})
        record, masks = step.records[self.sides[0]], step.inputs[self.sides[0]].masks
        for name in self.sides:
            self.programs[name].start()
        for layer in self.network.layers:
            inputs, inference = (inputs_of(self.network, layer, record, phase) for phase in ("forward", "eval"))
            assert inputs is not None
            if layer not in self.programs[self.sides[1]].run_inputs.network.shapes:
                yield Isolated((layer, ""), problem="the candidate has no such layer")
                continue
            # Inference has no auxiliary heads: their layers get the input of training.
            # Before the first weight there is no gradient: the layer's own output is as good as any other.
            gradient = record.get(f"backward/{layer}", record[f"forward/{layer}"])
            given = (inputs, inference or inputs, masks.get(layer), gradient)
            first = here.isolate(layer, *given)
            try:
                second = there.isolate(layer, *given)
            except WorkerFailed as failed:
                yield Isolated((layer, layer), problem=failed.reason or str(failed))
                continue
            zero = {f"gradient/{name}" for name in self.network.zero_gradients}
            names = [name for name in {**first, **second} if name not in zero]
            pairs = {name: (first.get(name), second.get(name)) for name in names}
            backward = [pair for name, pair in pairs.items() if name.startswith(("backward", "gradient"))]
            forward = [pair for name, pair in pairs.items() if not name.startswith(("backward", "gradient"))]
            yield Isolated((layer, layer), forward, backward)


class TrainingStep(SourceStep):
    """What all programs recorded of one step. See `parity.compare.source.Step`."""

    def __init__(self, source: TrainingSource, step: Step, whole: str | None) -> None:
        self.source, self.step, self.number = source, step, step.number
        given = next(source.asked_steps)
        self.given, self.rate, self.factor = given, given.rate, given.factor
        self.samples = source.samples + len(given.labels)
        self.losses = _losses(source.sides, step)
        self.batch = max(source.batch, len(given.labels))
        following = source.run_inputs.rate(self.samples + self.batch)
        self._rates = (source.rate, given.rate, following)
        self._first, self._second = (step.records[name] for name in source.sides)
        self._before = source.before
        self._whole = whole
        self.failed = {name: reason for name, reason in step.failed.items() if name in source.sides}

    def tensors(self) -> Iterator[Tensor]:
        """Yield everything that was recorded, in the order of computation; the records are dropped at the end."""
        network, twins = self.source.network, [self.step.records[name] for name in self.source.twins]
        zero = known_zero_gradients(network, self._first, self._second)
        start = self.source.run_inputs.state
        for name in in_order(network, [n for n in {**self._first, **self._second} if not n.startswith("saved/")]):
            phase, _, tensor = name.partition("/")
            layer = layer_of(tensor)
            if self.failed and name in RETURNED and not (name in self._first and name in self._second):
                continue
            if phase == "loaded":
                yield from self._loaded(name, f"saved/{tensor}", layer)
                continue
            if phase in WATCHED:
                yield from self._unwatched(name, f"{WATCHED[phase]}/{tensor}", layer)
                continue
            trained = phase == "update" and tensor in network.parameters and network.parameters[tensor].trainable
            yield Tensor(
                name,
                self._first.get(name),
                self._second.get(name),
                self._twins_of(name, twins),
                (layer, layer),
                is_copied(name),
                max(zero[name]) if name in zero else None,
                start.get(tensor) if trained else None,
            )
        # In chaos a third record is in memory, and rounding hides causes. After the last step no cause is needed.
        forgets = self._whole or self.number == self.source.steps
        self.source.before = ({}, {}) if forgets else (_remembered(self._first), _remembered(self._second))
        held: list[Any] = [self.step, self._first, self._second]
        del self.step, self._first, self._second
        let_go(held)

    def _loaded(self, name: str, saved: str, layer: str) -> Iterator[Tensor]:
        """Yield the loaded arrays, each compared with the saved one of the same side."""
        for side, record in zip(self.source.sides, (self._first, self._second), strict=True):
            if name in record:
                yield Tensor(name, record[saved], record[name], layers=(layer, layer), copied=True, side=side)

    def _unwatched(self, name: str, watched: str, layer: str) -> Iterator[Tensor]:
        """Yield the tensor of the unwatched run of each side, compared with its `watched` run."""
        for side, record in zip(self.source.sides, (self._first, self._second), strict=True):
            yield Tensor(name, record.get(watched), record.get(name), layers=(layer, layer), side=side)

    def _twins_of(self, name: str, twins: Sequence[Record]) -> Sequence[Array]:
        if not self._whole:
            return [twin[name] for twin in twins if name in twin]
        return [self._whole_twin[name] if name in self._whole_twin else t[name] for t in twins if name in t]

    @cached_property
    def _whole_twin(self) -> Record:
        """The record of the twin that records everything. At max-pool ties it holds the reference's elements."""
        assert self._whole
        found = dict(self.step.records[self._whole])
        for name in [name for name in found if name.startswith("backward/") and name in self._first]:
            ties = find_pool_ties(
                self.source.network, name.partition("/")[2], self._first, self.step.records[self._whole]
            )
            if ties is not None and ties.shape == found[name].shape:
                found[name] = np.where(ties, self._first[name], found[name])
        return found

    def phase_noise(self, without: Collection[str]) -> Mapping[str, float]:
        """Return the largest error of the twin that recorded everything, by phase."""
        noise: dict[str, float] = {}
        for name, array in (self._whole_twin if self._whole else {}).items():
            phase, _, tensor = name.partition("/")
            parameter = parameter_of(tensor)
            if parameter not in without and not (
                phase == "gradient" and parameter in self.source.network.zero_gradients
            ):
                noise[phase] = max(noise.get(phase, 0.0), distance(self._first.get(name), array))
        return noise

    @cached_property
    def _magnified(self) -> Mapping[str, float]:
        given = self.given
        return _fitting(lambda: magnifications(self.source.network, self._first, given.labels, given.divisor), {})

    def magnification(self, name: str) -> float:
        """Return the factor on the usual relative rounding of a tensor."""
        return self._magnified.get(name, 1.0)

    @cached_property
    def _cancelled(self) -> CancelledTerms:
        return CancelledTerms(self.source.network, self._first)

    def cancellation(self, name: str) -> float:
        """Return the further factor by which cancelling terms magnify the rounding of a tensor.

        The gradient of a bias before a batch norm is zero in exact arithmetic: the gradient of its layer's weight stands for it.
        """
        parameter = name.removeprefix("gradient/")
        held_against = (
            f"gradient/{layer_of(parameter)}.weight" if parameter in self.source.network.zero_gradients else name
        )
        return _fitting(lambda: self._cancelled.magnification(held_against), 1.0)

    def update_difference(self, parameter: str) -> float:
        """Return the difference of the two sides' updates of `parameter`, from the slots after the step; 0 if they were not recorded."""
        here, there = (self._direction(parameter, record) for record in (self._first, self._second))
        if here is None or there is None or here.shape != there.shape:
            return 0.0
        return self.rate * self.source.optimizer.group(parameter).rate * norm_of_difference(here, there)

    def _direction(self, parameter: str, record: Record) -> Array | None:
        """Return what the learning rate is multiplied by in the update."""
        settings = self.source.optimizer
        slots = [record.get(f"update/optimizer.{slot}.{parameter}") for slot in settings.slots]
        gradient = record.get(f"gradient/{parameter}")
        if settings.group(parameter).muon or gradient is None or any(slot is None for slot in slots):
            return None
        known = [slot for slot in slots if slot is not None]
        if settings.kind == "adam":
            one, two = known
            root = np.sqrt(two / (1 - settings.beta2**self.number)) + settings.eps
            found: Array = one / (1 - settings.beta1**self.number) / root
            return found
        velocity = known[0] if known else gradient
        return gradient + settings.momentum_of(parameter) * velocity if settings.nesterov else velocity

    def ties(self, tensor: Tensor) -> Array | None:
        """Return the max-pool ties in the gradient before a max pool."""
        layer = tensor.layers[0]
        if tensor.phase != "backward" or layer not in self.source.network.layers:
            return None
        if distance(self._first.get(f"forward/{layer}"), self._second.get(f"forward/{layer}")) > ROUNDING:
            return None
        return _fitting(lambda: find_pool_ties(self.source.network, layer, self._first, self._second), None)

    def comes_through(self, layer: str, behind: str) -> bool:
        """Answer from the network's graph."""
        return behind in self.source.behind.get(layer, ())

    def likely_cause(self, tensor: Tensor) -> Cause | None:
        """Return which side is wrong, and its likely mistake."""
        source, names = self.source, [spoken_name(side) for side in self.source.sides]
        failure = failure_cause(self.failed, source.sides) if self.failed else None
        if failure and tensor.side:
            return replace(failure, sentence=f"{failure.sentence}; it does not fail in the watched run")
        if failure and (tensor.reference is None or tensor.candidate is None):
            return failure
        if tensor.side:
            return self._cause_on_one_side(tensor, names)
        evidence = Evidence(
            source.network,
            source.optimizer,
            source.run_inputs.state,
            source.run_inputs.seed,
            self.given,
            self._rates,
            (names[0], names[1]),
            (self._first, self._second),
            self._before,
        )
        found = likely_cause(evidence, tensor.name)
        if found and self.given.resumes:
            found = replace(found, sentence=f"{found.sentence} (before this step each side saves and loads its state)")
        if failure and found:
            return replace(found, sentence=f"{found.sentence}; {failure.sentence}")
        return failure or found

    def _how_it_loads(self, tensor: Tensor, it: str) -> str:
        """Describe how a side changed an array that it saved and loaded."""
        saved, loaded = tensor.reference, tensor.candidate
        record = self._first if tensor.side == self.source.sides[0] else self._second
        assert saved is not None and loaded is not None
        if not loaded.any():
            return f"loses {it}, which is zero once loaded"
        others = {n.partition("/")[2]: a for n, a in record.items() if n.startswith("saved/")}
        alike = [name for name, array in others.items() if name != it and np.array_equal(array, loaded)]
        if alike:
            return f"loads {alike[0]} into {it}"
        if np.array_equal(saved.astype(np.float32), loaded):
            return f"rounds {it} to float32 as it is saved or loaded"
        return f"does not restore {it}"

    def _cause_on_one_side(self, tensor: Tensor, names: Sequence[str]) -> Cause:
        """Describe the difference between two runs of one side."""
        own, other = sorted(names, key=lambda name: name != spoken_name(tensor.side))
        it = tensor.name.partition("/")[2]
        if tensor.phase == "loaded" and tensor.name in self._first and tensor.name in self._second:
            return Cause(f"{own} {self._how_it_loads(tensor, it)}, {other} does not restore it either")
        if tensor.phase == "loaded":
            return Cause(f"{own} {self._how_it_loads(tensor, it)}, {other} loads it as it was saved", wrong=own)
        where = "in the unwatched run of this step, where layers run together on several threads"
        return Cause(f"{own} gets another result {where}; {other} gets the same", wrong=own, generic=True)


def _fitting(compute: Callable[[], _Found], otherwise: _Found) -> _Found:
    """Return what `compute` returns; `otherwise` if the tensors of a side do not fit the network, so that nothing can be excused."""
    try:
        return compute()
    except (ValueError, LookupError):
        return otherwise


def known_zero_gradients(network: Network, first: Record, second: Record) -> dict[str, tuple[float, ...]]:
    """Return record name -> size on both sides, for the recorded gradients that are zero by the network's structure."""
    found: dict[str, tuple[float, ...]] = {}
    for parameter in network.zero_gradients:
        name = f"gradient/{parameter}"
        if name in first or name in second:
            layer = f"gradient/{layer_of(parameter)}."
            sides = [{n: a for n, a in record.items() if n.startswith(layer)} for record in (first, second)]
            found |= zero_gradients(sides, ZERO_GRADIENT["float64"], [name])
    return found


def behind(network: Network) -> dict[str, frozenset[str]]:
    """Return, for each layer, that layer and all layers between it and the loss: its gradients come from them."""
    following, found = consumers(network.layers), dict[str, frozenset[str]]()
    for layer in reversed(network.layers):
        found[layer] = frozenset({layer}).union(*(found[name] for name in following[layer]))
    return found


def is_copied(name: str) -> bool:
    """Whether a recorded tensor is an input of the side, not computed by it."""
    return name.startswith(("fresh/", "start/", "input/")) or name.endswith(".mask")


def _losses(sides: Sequence[str], step: Step) -> dict[str, float]:
    found = {name: step.records[name].get("loss/loss") for name in sides}
    return {name: float(loss[0]) for name, loss in found.items() if loss is not None}


def _remembered(record: Record) -> Record:
    """Return copies of the arrays that explain a divergence in the next step.

    Arrays of one message share their memory: without copies, the activations and the largest weights would stay in memory.
    """
    small = {name: array for name, array in record.items() if array.size <= REMEMBERED}
    return {name: array.copy() for name, array in small.items() if name.startswith(("gradient/", "update/"))}


def _share(name: str, exact: Record) -> float:
    """Return the share of a relative error of the gradients that reaches a tensor: 1, or the part of a weight that one step changes."""
    phase, _, tensor = name.partition("/")
    before, after = exact.get(f"start/{tensor}"), exact.get(name)
    if phase != "update" or before is None or after is None:
        return 1.0
    return distance(after, before)
