"""One pair from beginning to end: three workers, a mapping, inference, training steps, verdicts, and where the two models part first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from parity.compare import ZERO_GRADIENT_BOUND, Difference, NothingCompared, norm, norm_of_difference, relative_l2
from parity.errors import InputError
from parity.pairs import align, causes, mapping, tree
from parity.pairs.align import Alignment, Compared
from parity.pairs.kinds import SIDES, name_in
from parity.pairs.losses import LOSSES
from parity.pairs.mapping import Apart, Model, Pairing
from parity.pairs.outcome import STAGES, Outcome, Place
from parity.pairs.worker import ModelWorker, Run
from parity.randomness import stream
from parity.recipe import Optimizer
from parity.stages import Stage
from parity.twin import perturb
from parity.worker import Record

ONE_STEP = 1e-12
"""Bound in float64 on every tensor of inference and of the first step (relative L2)."""

MANY_STEPS = 1e-10
"""Bound on every tensor of later steps. Where ten times what the one-ULP twin stands apart is more, that is the bound."""

TWIN = 10.0
"""How much farther apart the sides may be than the reference and its one-ULP twin."""

CALM = 1e-10
"""A bound above this is the twin's, and the verdict says so: chaotic but equal."""

JITTER = 0.1
"""Fresh arrays that are constant (biases of 0, gammas of 1) are spread by this, so that an exchange of two of them shows."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Pair:
    """What to compare: two factories, and how they are run. `parity.pairs.compare_models` explains the fields."""

    torch: str
    paddle: str
    inputs: Sequence[np.ndarray]
    loss: str = "mse"
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("momentum", 0.01))
    steps: int = 10
    seed: int = 0
    stages: tuple[str, ...] = tuple(STAGES)
    given: Mapping[str, Any] | None = None
    folder: str | None = None
    isolate: bool = False

    @property
    def length(self) -> int:
        """Training steps."""
        if not set(self.stages) - {"eval"}:
            return 0
        return self.steps if "trajectory" in self.stages else 1


def run(
    pair: Pair,
    workers: Mapping[str, ModelWorker],
    say: Callable[[str], None] = lambda line: None,
    start: Mapping[str, Record] | None = None,
) -> Outcome:
    """Compares the models of `pair` in float64; `workers` are torch, paddle and twin (of torch's framework), not yet open.

    `start` may hold the arrays of one side's model, by its name and by their own, to start from.
    """
    started = time.monotonic()
    if pair.loss not in LOSSES:
        raise InputError(f"unknown loss {pair.loss!r}; known: {', '.join(LOSSES)}")
    with ThreadPoolExecutor(len(workers)) as pool:
        check = _Check(pair, workers, pool, say, start or {})
        check.compare()
    check.outcome.seconds = time.monotonic() - started
    return check.outcome


class _Check:
    """The parts of one run, in the order of `compare`."""

    def __init__(
        self,
        pair: Pair,
        workers: Mapping[str, ModelWorker],
        pool: ThreadPoolExecutor,
        say: Callable[[str], None],
        start: Mapping[str, Record],
    ) -> None:
        self.pair, self.workers, self.pool, self.say, self.start = pair, workers, pool, say, start
        self.inputs = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in pair.inputs]
        self.given = dict.fromkeys(workers, self.inputs) | {
            "twin": [perturb({"x": x}, 7 + i)["x"] if x.dtype.kind == "f" else x for i, x in enumerate(self.inputs)]
        }
        self._open()
        self.keys: dict[str, dict[int, str]] = {side: {} for side in SIDES}
        trained = self._plan()
        self.state = self._state()
        self.outcome = Outcome(
            {"torch": pair.torch, "paddle": pair.paddle}, self.versions, self.pairing, "float64", pair.stages
        )
        aligned = align.align(self.pairing, *(align.calls_of(self.models[s].units, trained[s].calls) for s in SIDES))
        self.outcome.differences, self.outcome.explained = causes.settings(
            self.pairing, aligned, trained, self.variance, bool(pair.length)
        )
        self.evidence = causes.Evidence(self.pairing, aligned, self.state, self.outcome.differences)

    def everywhere(self, act: Callable[[str], _Answer], names: Iterable[str] | None = None) -> dict[str, _Answer]:
        """`act` of every worker's name, at the same time."""
        jobs = {name: self.pool.submit(act, name) for name in names or self.workers}
        return {name: job.result() for name, job in jobs.items()}

    def _open(self) -> None:
        pair = self.pair
        factory = {"torch": pair.torch, "twin": pair.torch, "paddle": pair.paddle}
        opened = self.everywhere(
            lambda name: self.workers[name].open(factory[name], "float64", pair.optimizer, pair.seed, pair.folder)
        )
        self.modules = {side: opened[side]["modules"] for side in SIDES}
        self.versions = {side: opened[side]["versions"] for side in SIDES}
        self.variance = self.workers["paddle"].kernel_variance()
        self.everywhere(lambda name: self.workers[name].agree(self.variance))

    def _plan(self) -> dict[str, Run]:
        """Runs both models as they are, to see what is called and drawn, and matches them."""
        bare = {side: Model.of(side, self.modules[side]) for side in SIDES}
        self.wanted = {side: [unit.path for unit in bare[side].units] for side in SIDES}
        self.wanted["twin"] = self.wanted["torch"]
        seen = self.everywhere(lambda side: self._run(side, False, randomness=True), SIDES)
        trained = seen
        if self.pair.length:
            trained = self.everywhere(lambda side: self._run(side, True, randomness=True), SIDES)
        for side, found in trained.items():
            for path in {*found.random, *seen[side].random}:
                raise InputError(
                    f"the {side} model draws random numbers at layer {path or '(the model itself)'} by other ways than dropout: both "
                    "sides cannot be given the same. Take that layer out, or set its probability to 0"
                    + (", or leave training out with --stages eval" if path not in seen[side].random else "")
                )
        self.models = {}
        for side in SIDES:
            called = [note["path"] for note in seen[side].calls]
            order = list(dict.fromkeys([*called, *(note["path"] for note in trained[side].calls)]))
            self.models[side] = Model.of(side, self.modules[side], order, called)
        self.pairing = mapping.match(self.models["torch"], self.models["paddle"], self.pair.given)
        if not align.returned(seen["torch"].outputs, seen["paddle"].outputs):
            raise InputError("the models return no tensor of floats that could be compared")
        if self.pair.length:
            calls = [align.calls_of(self.models[side].units, trained[side].calls) for side in SIDES]
            self.keys = align.dropout_keys(self.pairing, trained, align.align(self.pairing, *calls))
        return trained

    def _state(self) -> Record:
        """Where both sides start, canonical: the reference's fresh arrays, or those that were given."""
        raw = self.everywhere(lambda side: self.workers[side].state(), SIDES)
        self.shapes = {side: {name: array.shape for name, array in raw[side].items()} for side in SIDES}
        self.aliases = {
            side: {
                f"{m['path']}.{n}".lstrip("."): a["same_as"]
                for m in self.modules[side]
                for n, a in m["arrays"].items()
                if a["same_as"]
            }
            for side in SIDES
        }
        for side, arrays in self.start.items():
            if missing := [name for name in raw[side] if name not in arrays]:
                raise InputError(f"the weights for the {side} model lack {missing[0]} ({len(missing)} in all)")
            given = self.canonical(side, {name: arrays[name].astype(np.float64) for name in raw[side]})
            return given
        fresh = self.canonical("torch", raw["torch"])
        return {name: _spread(name, array, self.pair.seed) for name, array in fresh.items()}

    def canonical(self, side: str, arrays: Record) -> Record:
        """A side's own arrays in canonical names and layout; a shared one under all its names."""
        shared = {name: arrays[first] for name, first in self.aliases[side].items() if first in arrays}
        return mapping.canonical(self.pairing, side, arrays | shared)

    def begin(self) -> None:
        """Puts all sides at the start."""
        moved = perturb(self.state, self.pair.seed)
        for name in self.workers:
            side, state = ("torch", moved) if name == "twin" else (name, self.state)
            self.workers[name].put(mapping.spelled(self.pairing, side, state, self.shapes[side]))

    def _run(self, name: str, train: bool, record: bool = True, randomness: bool = False, step: int = 0) -> Run:
        side = "torch" if name == "twin" else name
        keys = self.keys[side] if hasattr(self, "keys") else {}
        wanted = self.wanted[name] if record else []
        seed = self.pair.seed * 1_000_003 + step
        return self.workers[name].run(self.given[name], train, wanted, seed, keys, randomness)

    def compare(self) -> None:
        """All stages."""
        self.begin()
        if "eval" in self.pair.stages:
            runs = self.everywhere(lambda name: self._run(name, False))
            self._forward("eval", runs)
            self.say(f"inference: {self._line('eval')}")
        for step in range(1, self.pair.length + 1):
            if step > 1 and self.outcome.first:
                break
            self._step(step)
        if not self.outcome.stages:
            raise NothingCompared("no tensor was compared")
        if self.outcome.first:
            self.outcome.tree = tree.draw(self.models, self.pairing, self.outcome.first)
        if self.pair.isolate:
            self.outcome.isolated = self._isolate()

    def _line(self, stage: str) -> str:
        found = self.outcome.stages.get(stage)
        if not found or not found.worst:
            return "nothing compared"
        return f"{found.compared} tensors, worst {found.worst.error:.1e} of {found.worst.bound:.1e} at {found.worst.name}"

    def _alignment(self, runs: Mapping[str, Run]) -> Alignment:
        calls = [align.calls_of(self.models[side].units, runs[side].calls) for side in SIDES]
        return align.align(self.pairing, *calls)

    def _forward(self, phase: str, runs: Mapping[str, Run]) -> None:
        aligned = self._alignment(runs)
        self.evidence = replace(self.evidence, alignment=aligned, runs=runs, phase=phase)
        for compared in align.forward(aligned, phase, runs["torch"], runs["paddle"], runs["twin"]):
            self._add(1, compared)

    def _step(self, step: int) -> None:
        record = step == 1
        runs = self.everywhere(lambda name: self._run(name, True, record, step=step))
        if record and "forward" in self.pair.stages:
            self._forward("forward", runs)
        losses, backs = self._backward(step, runs)
        aligned = self._alignment(runs)
        if step == 1:
            self._gradients(aligned, backs)
        kept = self._zero(backs)
        states = self.everywhere(lambda name: self.workers[name].update(kept[name]))
        found = {n: self.canonical("torch" if n == "twin" else n, states[n]) for n in states}
        self._update(step, found, losses)

    def _backward(self, step: int, runs: Mapping[str, Run]) -> tuple[dict[str, float], dict[str, Record]]:
        names = align.returned(runs["torch"].outputs, runs["paddle"].outputs)
        losses, seeds = {}, {}
        for name, each in runs.items():
            here = {one: each.outputs[two if name == "paddle" else one] for one, two in names}
            losses[name], gradients = LOSSES[self.pair.loss](here, self.pair.seed)
            seeds[name] = {two if name == "paddle" else one: gradients[one] for one, two in names}
        if step == 1 and "forward" in self.pair.stages:
            arrays = {name: np.array([loss]) for name, loss in losses.items()}
            self._add(1, Compared("loss/loss", None, arrays["torch"], arrays["paddle"], arrays["twin"]))
        return losses, self.everywhere(lambda name: self.workers[name].backward(seeds[name]))

    def _gradients(self, aligned: Alignment, backs: Mapping[str, Record]) -> None:
        """Gradients of layers' outputs and inputs, then of arrays, from the last layer to the first."""
        own = {n: self.canonical("torch" if n == "twin" else n, _gradients_of(backs[n])) for n in backs}
        self.zero = self._zero_names(own)
        self.outcome.zero_gradients = sorted(self.zero)
        if "backward" not in self.pair.stages:
            return
        for compared in align.backward(aligned, backs["torch"], backs["paddle"], backs["twin"]):
            self._add(1, compared)
        for name in sorted(n for n in backs["torch"] if n.startswith("input/") and n in backs["paddle"]):
            arrays = (backs["torch"][name], backs["paddle"][name], backs["twin"].get(name))
            self._add(1, Compared(f"backward/(model):{name}", None, *arrays))
        for name in reversed([*self.pairing.arrays]):
            here, there = own["torch"].get(name), own["paddle"].get(name)
            if name in self.zero:
                self._count(1, Difference(f"gradient/{name}", self.zero[name], ZERO_GRADIENT_BOUND), None)
            elif here is not None or there is not None:
                nothing = np.zeros(0)
                one, two = (nothing if a is None else a for a in (here, there))
                self._add(1, Compared(f"gradient/{name}", None, one, two, own["twin"].get(name)))
        trained = [n for n, a in self._trained().items() if a and n not in own["torch"] and n not in own["paddle"]]
        if trained:
            self.outcome.explained.append(f"unused in training, so without a gradient on both sides: {_few(trained)}")

    def _trained(self) -> dict[str, bool]:
        found = {}
        for a, _ in self.pairing.pairs:
            for name, array in a.arrays.items():
                found[f"{a.path}.{name}".lstrip(".")] = array.trained
        return found

    def _zero_names(self, own: Mapping[str, Record]) -> dict[str, float]:
        """The gradients that are zero in exact arithmetic: on both sides no more than rounding beside their layer's largest."""
        found = {}
        for a, _ in self.pairing.pairs:
            names = [f"{a.path}.{name}".lstrip(".") for name in a.arrays]
            names = [n for n in names if n in own["torch"] and n in own["paddle"]]
            size = max((norm(own["torch"][n]) for n in names), default=0.0)
            for n in names:
                largest = max(norm(own["torch"][n]), norm(own["paddle"][n]))
                if size and 0 < largest <= ZERO_GRADIENT_BOUND * size:
                    found[n] = largest / size
        return found

    def _zero(self, backs: Mapping[str, Record]) -> dict[str, Record]:
        """By worker, 0/1 arrays that multiply the gradients of tensors of which something is zero in exact arithmetic."""
        found: dict[str, Record] = {}
        for name in backs:
            side = "torch" if name == "twin" else name
            tensors = {name_in(self.pairing.arrays[n][side]) for n in self.zero}
            ones = {
                n: np.full_like(self.state[n], float(n not in self.zero))
                for n, where in self.pairing.arrays.items()
                if name_in(where[side]) in tensors
            }
            found[name] = mapping.spelled(self.pairing, side, ones, self.shapes[side])
        return found

    def _update(self, step: int, states: Mapping[str, Record], losses: Mapping[str, float]) -> None:
        if step > 1 or "update" in self.pair.stages:
            self.evidence = replace(self.evidence, states=states, phase="update")
            for name, array in states["torch"].items():
                self._add(step, Compared(f"update/{name}", None, array, states["paddle"][name], states["twin"][name]))
        names = [n for n, trained in self._trained().items() if trained and n in states["torch"]] or list(states["torch"])
        error = _distance(names, states["torch"], states["paddle"])
        twin = _distance(names, states["torch"], states["twin"])
        row = {"step": step, "error": error, "twin": twin, "losses": {n: losses[n] for n in SIDES}}
        self.outcome.trajectory.append(row)
        self.say(f"step {step}: weights apart by {error:.1e}, twin {twin:.1e}")

    def _add(self, step: int, compared: Compared) -> None:
        twin = compared.twin
        calm = ONE_STEP if step == 1 else MANY_STEPS
        same = compared.torch.shape == compared.paddle.shape
        error = relative_l2(compared.torch, compared.paddle) if same else math.inf
        noise = relative_l2(compared.torch, twin) if twin is not None and twin.shape == compared.torch.shape else 0.0
        self._count(step, Difference(compared.name, error, max(calm, TWIN * noise)), compared)

    def _count(self, step: int, difference: Difference, compared: Compared | None) -> None:
        outcome, phase = self.outcome, difference.name.partition("/")[0]
        name = "trajectory" if step > 1 else next(stage for stage, phases in STAGES.items() if phase in phases)
        stage = outcome.stages.setdefault(name, Stage(name))
        stage.add(difference)
        stage.chaotic |= CALM < difference.error <= difference.bound
        if outcome.first is None and not difference.equal:
            outcome.first = self._place(step, difference, compared)

    def _place(self, step: int, difference: Difference, compared: Compared | None) -> Place:
        phase, _, tensor = difference.name.partition("/")
        calls = compared.calls if compared else None
        torch, paddle = (calls[0].name, calls[1].name) if calls else self._owners(tensor)
        if phase == "update" and tensor.rpartition(".")[2] in ("mean", "variance"):
            phase = "statistics"
        cause = causes.of(self.evidence, phase, tensor, compared) if compared else None
        return Place(step, phase, torch, paddle, tensor, difference.error, difference.bound, cause)

    def _owners(self, tensor: str) -> tuple[str, str]:
        for a, b in self.pairing.pairs:
            if tensor in {f"{a.path}.{name}".lstrip(".") for name in a.arrays}:
                return a.path, b.path
        return "", ""

    def _isolate(self) -> list[dict[str, Any]]:
        """Every matched layer by itself, on what the reference gives it in inference: its own error, and none that it inherits."""
        self.begin()
        reference = self._run("torch", False)
        rows = []
        for a, b in self._alignment({"torch": reference, "paddle": self._run("paddle", False)}).pairs:
            given = [reference.arrays[key] for key in a.inputs]
            try:
                runs = [self.workers[s].run(given, False, path=c.unit.path) for s, c in zip(SIDES, (a, b), strict=True)]
            except InputError as error:
                rows.append({"torch": a.name, "paddle": b.name, "error": math.inf, "verdict": "different", "why": str(error)})
                continue
            pairs = align.returned(runs[0].outputs, runs[1].outputs)
            arrays = [(runs[0].outputs[one], runs[1].outputs[two]) for one, two in pairs]
            errors = [relative_l2(x, y) if x.shape == y.shape else math.inf for x, y in arrays]
            error = max(errors, default=0.0)
            verdict = "equal" if error <= ONE_STEP else "different"
            rows.append({"torch": a.name, "paddle": b.name, "error": error, "verdict": verdict})
        return rows


def _gradients_of(back: Record) -> Record:
    return {name.removeprefix("gradient/"): array for name, array in back.items() if name.startswith("gradient/")}


def _spread(name: str, array: np.ndarray, seed: int) -> np.ndarray:
    """A constant array with some noise, one of positive numbers staying so; any other as it is."""
    if array.size < 2 or np.ptp(array):
        return array
    noise = stream(seed, "spread", name).standard_normal(array.shape) * JITTER
    return array * np.exp(noise) if array.flat[0] > 0 else array + noise


def _distance(names: Sequence[str], a: Record, b: Record) -> float:
    """Relative L2 distance of the named arrays, taken as one vector."""
    apart = math.hypot(*(norm_of_difference(a[n], b[n]) for n in names))
    return apart / (math.hypot(*(norm(a[n]) for n in names)) or 1.0)


def _few(names: Sequence[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
