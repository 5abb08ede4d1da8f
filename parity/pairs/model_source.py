"""The source of tensors for two user models: inference, then training steps of both models and of the one-ULP twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.backend.user_program import AVERAGE
from parity.compare.cancelled_terms import systematic, terms_of_mean
from parity.compare.causes import Cause
from parity.compare.pool_ties import ties_of_pool
from parity.compare.relative_error import distance, norm
from parity.compare.relu_kinks import KINKED
from parity.compare.source import Isolated, Kink, Rounded, Source, Step, Tensor
from parity.compare.tolerances import ONE_STEP, ROUNDING, ZERO_GRADIENT
from parity.compare.verdicts import place_of
from parity.compare.zero_gradients import zero_gradients
from parity.errors import InputError
from parity.modules.description import below
from parity.modules.layer_kinds import SIDES
from parity.network.nodes import MaxPool
from parity.pairs import alignment, causes
from parity.pairs.alignment import Alignment, Call, Compared
from parity.pairs.causes_of_programs import (
    LossEvidence,
    OptimizerEvidence,
    find_average_cause,
    find_clipping_cause,
    find_loss_cause,
    find_optimizer_cause,
)
from parity.pairs.layouts import Form
from parity.pairs.losses import projection
from parity.pairs.model_server import ModelRun
from parity.pairs.session import EXACT, Session, gradients_of, step_gradients_of, tensors_of, used_gradients_of
from parity.recipe.optimizer_description import list_settings
from parity.short_repr import few

LARGE = 30_000_000
"""Above this many array elements, only the first and the last step's arrays are compared; outputs are compared at every step."""

FOLDED_ROUNDING = 1e-6
"""Below this relative error, folding in float32 explains the difference of two weights: it rounds some five times by 6e-8."""

_Found = TypeVar("_Found")


def _compared(name: str, arrays: tuple[Array | None, Array | None, Sequence[Array | None]]) -> Compared:
    """Return a tensor of both sides and of the twins that have it."""
    return Compared(name, None, arrays[0], arrays[1], tuple(twin for twin in arrays[2] if twin is not None))


class ModelSource(Source):
    """The models of a `session`; workers other than torch, paddle and `EXACT` hold the twins. See `parity.compare.source.Source`.

    `adds_rounding`: tolerances count the rounding of Paddle's loss, too.
    """

    def __init__(self, session: Session, adds_rounding: bool = False) -> None:
        self.session, self.pair = session, session.pair
        self.sides, self.adds_rounding = (SIDES[0], SIDES[1]), adds_rounding
        self.twins = [name for name in session.workers if name not in (*SIDES, EXACT)]
        self.names = [*SIDES, *self.twins]
        self.dtype, self.optimizer = session.dtype, self.pair.optimizer
        self.trains = self.pair.length > 0
        wanted = self.pair.stages if self.dtype == "float64" else {"update", "trajectory"} & set(self.pair.stages)
        self.steps = max(1, self.pair.length) if wanted and (self.dtype == "float64" or self.twins) else 0
        self.moved = {name: self.pair.seed + number for number, name in enumerate(self.twins)}
        self.explained = session.explained
        self.cancelled_means: dict[str, float] = {}
        """Running mean of a batch norm whose inputs sum to zero -> the size of the terms of its batch's mean in the first step."""
        self.zero: dict[str, float] = {}
        """Gradient that is zero in exact arithmetic -> its norm."""
        self.zero_of_one: dict[str, float] = {}
        """The same for one that is zero on one side only. Relative to rounding, the other side's would have an error of 1e15."""
        self.zero_outputs: dict[str, float] = {}
        """The same for the gradients of outputs and inputs in the first step, by name of the tensor."""
        self.cancelled: dict[str, alignment.Cancelled] = {}
        """Gradients of the first step that are zero but for rounding, and that compiled models do not show."""
        self.output_gradients: dict[str, tuple[float, float]] = {}
        """Their layers -> the norms of the gradients of outputs, on both sides."""
        self.is_idle = True
        """Whether no optimizer of the user has taken a step so far."""
        self._loss_evidence: LossEvidence | None = None
        self.has_clipped = False
        """Whether a program has changed gradients before a step so far."""
        self.averages: dict[str, Array] = {}
        """Weight -> its average after the last step, in the reference's program."""

    @property
    def zero_gradients(self) -> Sequence[str]:
        """The gradients seen so far that are zero in exact arithmetic."""
        return list(self.zero)

    @property
    def absent(self) -> Collection[str]:
        """Stages that one step, or models without weights, cannot have. Without float64, a trajectory needs trained weights and a twin."""
        alone = self.dtype != "float64" and not (self.twins and any(self.session.trained().values()))
        short = (*(("trajectory",) if self.pair.length < 2 or alone else ()), *self.session.skipped)
        return short if self.session.pairing.arrays else ("update", *short)

    def step(self, number: int, whole: str | None) -> ModelStep:
        """Take the next step; twins record the same tensors as the sides. Before the first, load the start state into all models."""
        if number == 1:
            self._run_uncompiled()
            self.session.put(self.moved, self.names)
        return ModelStep(self, number)

    def _run_uncompiled(self) -> None:
        """Take the first step with uncompiled models, if both are compiled, to note which of its gradients and means cancel."""
        session = self.session
        if not (self.trains and self.dtype == "float64" and all(session.compiled.values())):
            return
        session.put({}, SIDES)
        runs = session.everywhere(lambda name: session.run(name, True, step=1, uncompiled=True), SIDES)
        self.note_means(runs)
        backs, aligned = session.backward(session.seeds(runs)[1], SIDES), session.alignment(runs)
        self.cancelled = alignment.cancelled_gradients(aligned, runs, backs, ZERO_GRADIENT["float64"])
        self.output_gradients = alignment.output_gradients(aligned, backs["torch"], backs["paddle"])

    def note_means(self, runs: Mapping[str, ModelRun]) -> None:
        """Note the running means whose batch's mean is zero but for rounding."""
        seen = self.session.seen
        side = seen.side if seen else SIDES[0]
        place = SIDES.index(side)
        layers = {both[place]: name for name, both in self.session.owners.items() if _is_mean(name)}
        for pair in alignment.seen_calls(self.session.alignment(runs), seen):
            call = pair[place]
            name = layers.get(call.unit.path) if call else None
            x = runs[side].arrays[call.inputs[0]] if call and name and call.inputs else None
            if name and x is not None and x.ndim > 1 and (terms := terms_of_mean(x)):
                self.cancelled_means[f"update/{name}"] = terms

    def sides_of(self, found: Mapping[str, _Found]) -> tuple[_Found, _Found, list[_Found]]:
        """Return the values of both sides and of the twins."""
        return found["torch"], found["paddle"], [found[name] for name in self.twins if name in found]

    def tensor(self, compared: Compared) -> Tensor:
        """Return a tensor of both sides with its layers."""
        phase, _, name = compared.name.partition("/")
        trained = phase == "update" and self.session.trained().get(name)
        return Tensor(
            compared.name,
            compared.torch,
            compared.paddle,
            compared.twins,
            self.layers(compared),
            zero=self.zero.get(name, self.zero_of_one.get(name))
            if phase == "gradient"
            else self.zero_outputs.get(compared.name),
            start=self.session.state[name] if trained else None,
            inner=compared.calls is not None,
            shapes=compared.shapes,
            fitted=compared.fitted,
        )

    @property
    def incomplete(self) -> bool:
        """Whether a matched layer has an array on one side only."""
        return any(self.session.pairing.single.values())

    def is_auxiliary(self, compared: Compared) -> bool:
        """Whether auxiliary layers of one side return this tensor in training. They are reported, and the rest is compared."""
        alone = any(self.session.pairing.alone.values())
        return (
            alone
            and compared.name.startswith("forward/(output)")
            and (compared.torch is None or compared.paddle is None)
        )

    def layers(self, compared: Compared) -> tuple[str, str]:
        """Return the layers of a tensor on both sides; empty for the model itself."""
        if compared.calls:
            return compared.calls[0].name, compared.calls[1].name
        phase, _, name = compared.name.partition("/")
        if phase == "state":
            name = name.partition(".")[2]
        return self.session.owners.get(name, ("", ""))

    def rounded_step(self, seed: int | None) -> Iterator[Rounded]:
        """Run inference and one training step on both sides, and in float64."""
        session, pair = self.session, self.pair
        moved, names = {} if seed is None else dict.fromkeys(SIDES, pair.seed * 100 + seed), [*SIDES, EXACT]
        session.put(moved, names)
        for chunk in session.chunks() if session.has_own_weights else ():
            states = session.fetch(chunk, names, tensors_of)
            for name, array in states[EXACT].items():
                both = states["torch"][name], states["paddle"][name]
                yield Rounded(f"start/{name}", both, array, session.owners[name])
        if "eval" in pair.stages:
            runs = session.everywhere(lambda name: session.run(name, False, moved=moved.get(name)), names)
            yield from self._rounded(alignment.forward(session.alignment(runs), "eval", *_three(runs)))
        if not pair.length:
            return
        runs = session.everywhere(lambda name: session.run(name, True, step=1, moved=moved.get(name)), names)
        yield from self._rounded(alignment.forward(session.alignment(runs), "forward", *_three(runs)))
        losses, seeds = session.seeds(runs, moved=moved)
        backs = session.backward(seeds, names)
        if seeds is None:
            if seed is None:
                self._loss_evidence = _loss_evidence(session, 1, losses, runs, backs)
            values = {name: np.array([loss]) for name, loss in losses.items()}
            yield Rounded("loss/loss", (values["torch"], values["paddle"]), values[EXACT])
            starts = {name: alignment.starts_of(record) for name, record in backs.items()}
            yield from self._rounded(alignment.outputs("backward", *_three(starts)))
        yield from self._rounded(alignment.backward(session.alignment(runs), *_three(backs)))
        for chunk in reversed(session.chunks()):
            own = session.fetch(chunk, names, gradients_of)
            exact = zero_gradients([own[EXACT]], ZERO_GRADIENT["float64"]) if seed is None else self.zero
            known = [name for name in exact if name in chunk]
            sizes = zero_gradients([own[side] for side in SIDES], ZERO_GRADIENT[self.dtype], known)
            if seed is None:
                self.zero |= {name: max(size) for name, size in sizes.items()}
            for name in [name for name in reversed(chunk) if any(name in record for record in own.values())]:
                arrays, zero = (own["torch"].get(name), own["paddle"].get(name)), sizes.get(name)
                of_both = (zero[0], zero[1]) if zero else None
                yield Rounded(f"gradient/{name}", arrays, own[EXACT].get(name), session.owners[name], zero=of_both)
        session.update(session.kept(self.zero), names)
        for chunk in session.chunks():
            states = session.fetch(chunk, names, tensors_of)
            for name, after in states[EXACT].items():
                arrays, before = (states["torch"].get(name), states["paddle"].get(name)), session.state[name]
                share = distance(after, before.astype(after.dtype))
                yield Rounded(f"update/{name}", arrays, after, session.owners[name], share=share)

    def cause_of_rounded(self, tensor: Rounded) -> Cause | None:
        """Return why users' losses differ, or which settings of their optimizers do."""
        both, name = self.session.described, tensor.name.partition("/")[2]
        if tensor.phase == "update" and both:
            found = list_settings(both["torch"], both["paddle"], at=name)
            return Cause("; ".join(found)) if found else None
        if not self._loss_evidence or not _shows_losses(tensor.name):
            return None
        what = "loss" if tensor.phase == "loss" else "gradient of the loss"
        names = (NAMES["torch"], NAMES["paddle"], f"{NAMES['torch']} in float64")
        arrays = zip(names, (*tensor.sides, tensor.exact), strict=True)
        infinite = [name for name, array in arrays if array is not None and not np.isfinite(array).all()]
        if infinite:
            return Cause(f"the {what} is not finite in {' and '.join(infinite)}", generic=True)
        return find_loss_cause(self._loss_evidence)

    def _rounded(self, found: Iterator[Compared]) -> Iterator[Rounded]:
        for c in found:
            missing = c.torch is None or c.paddle is None
            if c.calls and (c.torch is None or c.paddle is None or c.torch.shape != c.paddle.shape):
                continue  # the results decide
            # Integers have no twin and may depend on rounding: they are skipped.
            if (c.twins or missing) and not self.is_auxiliary(c):
                exact = c.twins[0] if c.twins else None
                yield Rounded(c.name, (c.torch, c.paddle), exact, self.layers(c), inner=c.calls is not None)

    def kinks(self, steps: int) -> Iterator[tuple[Mapping[str, float], Sequence[Kink]]]:
        """Take the first `steps` steps again, with the twins, and yield the outputs of every layer with a kink."""
        session = self.session
        session.put(self.moved, self.names)
        kept = session.kept(self.zero)
        for step in range(1, steps + 1):

            def forward(name: str, step: int = step) -> ModelRun:
                return session.run(name, True, True, step=step, moved=self.moved.get(name))

            runs = session.everywhere(forward, self.names)
            losses, seeds = session.seeds(runs, step)
            gradients = session.backward(seeds, self.names)["torch"]
            twins = [runs[name] for name in self.twins]
            kinks = find_kinks(session.alignment(runs), runs["torch"], runs["paddle"], twins, gradients)
            yield {side: losses[side] for side in SIDES}, kinks
            session.update(kept, self.names)
            del runs, gradients

    def isolated(self) -> Iterator[Isolated]:
        """Run every matched call alone, in inference mode. Gradients are those of a random projection of the layer's outputs."""
        session = self.session
        session.put({}, SIDES)
        runs = session.everywhere(lambda side: session.run(side, False), SIDES)
        folded = {fold.layer.path for fold in session.folds.folds}
        for a, b in session.alignment(runs).pairs:
            layers = (a.name, b.name)
            if a.unit.layer is not None or b.unit.layer is not None or folded & {a.unit.path, b.unit.path}:
                continue  # a part of a fused layer cannot run alone, and a folded one is no layer
            if a.unit.pointwise != b.unit.pointwise:
                continue  # a convolution does not take the input of a Linear
            taken = [
                (runs["torch"].arrays[x], runs["paddle"].arrays[y]) for x, y in zip(a.inputs, b.inputs, strict=False)
            ]
            if not all(alignment.has_one_shape(x, y) and not alignment.find_turn(x, y) for x, y in taken):
                continue  # neither layer takes the other's input, such as one with padding around it, or in NHWC
            try:
                yield Isolated(layers, *self._alone(a, b, [runs["torch"].arrays[key] for key in a.inputs]))
            except InputError as problem:
                yield Isolated(layers, problem=str(problem))

    def _alone(self, a: Call, b: Call, given: list[Array]) -> tuple[_Pairs, _Pairs]:
        session = self.session
        paths = dict(zip(SIDES, (a.unit.path, b.unit.path), strict=True))
        watched = session.watched[False]

        form = session.channels_last.get(paths["paddle"], Form())

        def run(side: str) -> ModelRun:
            widened = session.widened[side]
            own = [form.enter(side, x) for x in given]
            found = session.workers[side].run(own, False, path=paths[side], widened=widened, watched=watched)
            return replace(found, outputs={name: form.leave(side, x) for name, x in found.outputs.items()})

        def backward(side: str) -> Record:
            found = session.workers[side].backward({name: form.enter(side, x) for name, x in seeds[side].items()})
            return {name: form.leave(side, array) for name, array in found.items()}

        alone = session.everywhere(run, SIDES)
        names = alignment.returned(alone["torch"].outputs, alone["paddle"].outputs)
        forward: _Pairs = [(alone["torch"].outputs[one], alone["paddle"].outputs[two]) for one, two in names]
        if any(x is None or y is None or x.shape != y.shape for x, y in forward):
            return forward, []
        _, gradients = projection({one: alone["torch"].outputs[one] for one, _ in names}, session.pair.seed)
        seeds = {"torch": gradients, "paddle": {two: gradients[one] for one, two in names}}
        backs = session.everywhere(backward, SIDES)
        back: _Pairs = [(array, backs["paddle"].get(name)) for name, array in backs["torch"].items()]
        arrays = [name for name in session.pairing.arrays if name in {below(a.unit.path, n) for n in a.unit.arrays}]
        own = session.fetch(arrays, SIDES, gradients_of) if arrays else dict.fromkeys(SIDES, Record())
        zero = zero_gradients([own[side] for side in SIDES], ZERO_GRADIENT[self.dtype])
        back += [(array, own["paddle"].get(name)) for name, array in own["torch"].items() if name not in zero]
        return forward, back


_Pairs = list[tuple[Array | None, Array | None]]


class ModelStep(Step):
    """One step of both models and the twins; they run while its tensors are iterated. See `parity.compare.source.Step`."""

    def __init__(self, source: ModelSource, number: int) -> None:
        self.source, self.session, self.number = source, source.session, number
        self.rate = source.pair.optimizer.rate
        self._moves_first = number == 1 or (source.dtype == "float64" and source.is_idle)
        """Whether the weights before the step are those of the beginning."""
        self.losses: Mapping[str, float] = {}
        self._loss_evidence: LossEvidence | None = None
        self._evidence = source.session.evidence
        self._compared: Compared | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Yield everything in the order of computation, few layers at a time."""
        for compared in self._everything():
            if self.source.is_auxiliary(compared):
                continue
            self._compared = compared
            yield self.source.tensor(compared)
            del compared  # as in `_run`

    def _everything(self) -> Iterator[Compared]:
        session, source, first = self.session, self.source, self.number == 1
        if first and source.dtype == "float64" and session.has_own_weights:
            yield from self._weights()
        if first and source.dtype == "float64" and "eval" in source.pair.stages:
            yield from self._forward("eval", self._run(False))
        if not source.trains:
            return
        whole = first and source.dtype == "float64"
        runs = self._run(True, whole)
        losses, seeds = session.seeds(runs, self.number, source.adds_rounding)
        self.losses = {side: losses[side] for side in SIDES}
        self._evidence = replace(self._evidence, runs=runs)
        backs: Mapping[str, Record] = {}
        if whole:
            yield from self._forward("forward", runs)
            source.note_means(runs)
        if seeds is None:
            backs = session.backward(None, source.names)  # the gradients of the outputs show why the losses differ
            self._loss_evidence = _loss_evidence(session, self.number, losses, runs, backs)
        if whole or (seeds is None and source.dtype == "float64"):
            here, there, twins = source.sides_of({name: np.array([loss]) for name, loss in losses.items()})
            yield Compared("loss/loss", None, here, there, tuple(twins))
        if whole:
            runs = {side: runs[side] for side in SIDES}
            self._evidence, self._compared = replace(self._evidence, runs=runs), None
        backs = backs or session.backward(seeds, source.names)
        del seeds
        if whole:
            yield from self._gradients(runs, backs)
        elif source.dtype == "float64":
            yield from alignment.outputs("forward", *source.sides_of({name: run.outputs for name, run in runs.items()}))
        del runs, backs
        self._loss_evidence = self._compared = None
        session.update(session.kept(source.zero), source.names)
        if session.pair.program.optimizer:
            session.describe_optimizers()
        is_compared = session.pair.program.optimizer and source.dtype == "float64"
        if is_compared:
            yield from self._steps_of_optimizers()
        yield from self._updates()
        if is_compared:
            yield from self._averages()

    def _steps_of_optimizers(self) -> Iterator[Compared]:
        """Yield gradients that clipping has changed on one side at least, and the state that the users' optimizers keep."""
        session, source = self.session, self.source
        for chunk in session.chunks():
            used = session.fetch(chunk, source.names, used_gradients_of)
            fetched = session.fetch(chunk, SIDES, step_gradients_of)
            before = [fetched[side] for side in SIDES]
            source.is_idle &= not any(used.values())
            for name in chunk:
                arrays = source.sides_of({worker: record.get(name) for worker, record in used.items()})
                if arrays[0] is None and arrays[1] is None:
                    continue
                both = [(record.get(name), array) for record, array in zip(before, arrays[:2], strict=True)]
                if not all(a is not None and b is not None and np.array_equal(a, b) for a, b in both):
                    source.has_clipped = True
                    yield _compared(f"clipped/{name}", arrays)
        if source.is_idle and self.number == source.pair.length > 0:
            steps = f"{self.number} step{'s' * (self.number > 1)}"
            raise InputError(
                f"no optimizer takes a step in {steps}: if gradients are accumulated, pass a larger --steps; else call "
                "the optimizer's step() in the object's"
            )
        if self.number == source.pair.length and not source.has_clipped:
            said = [
                f"{NAMES[side]}'s optimizer clips {clip}" for side in SIDES if (clip := session.described[side].clip)
            ]
            if said:
                source.explained.append(
                    f"clipping is not compared, since it changes no gradient here: {', '.join(said)}"
                )
        for chunk in session.chunks():
            states = session.fetch_states(chunk, source.names)
            for name in chunk:
                slots = {worker: state.get(name, {}) for worker, state in states.items()}
                for slot in slots["torch"]:
                    if slot in slots["paddle"] and slot != AVERAGE:
                        arrays = source.sides_of({worker: found.get(slot) for worker, found in slots.items()})
                        yield _compared(f"state/{slot}.{name}", arrays)

    def _averages(self) -> Iterator[Compared]:
        """Yield the averages of weights that the users' programs keep, and note those that only one has."""
        session, source = self.session, self.source
        alone: dict[str, list[str]] = {}
        for chunk in session.chunks():
            states = session.fetch_states(chunk, source.names)
            for name in chunk:
                having = [side for side in SIDES if AVERAGE in states[side].get(name, {})]
                if len(having) == 1:
                    alone.setdefault(NAMES[having[0]], []).append(name)
                elif having:
                    found = {worker: state.get(name, {}).get(AVERAGE) for worker, state in states.items()}
                    yield _compared(f"state/{AVERAGE}.{name}", source.sides_of(found))
                    source.averages[name] = states[SIDES[0]][name][AVERAGE]
        for side, names in alone.items():
            text = f"averages of weights: only {side}'s program has those of {few(names)}"
            if text not in session.differences:
                session.differences.append(text)

    def _weights(self) -> Iterator[Compared]:
        """Yield the weights that each side has of its own, and note how many differ and what that does to the outputs."""
        session, differ = self.session, dict[str, float]()
        for chunk in session.chunks():
            states = session.fetch(chunk, SIDES, tensors_of)
            for name, array in states["torch"].items():
                other = states["paddle"][name]
                if (error := distance(array, other)) > ONE_STEP["float64"]:
                    differ[name] = error
                yield Compared(f"start/{name}", None, array, other)
        if not differ:
            return
        runs = session.everywhere(lambda side: session.run(side, False, record=False), SIDES)
        named = alignment.returned(runs["torch"].outputs, runs["paddle"].outputs)
        errors = [distance(runs["torch"].outputs[a], runs["paddle"].outputs[b]) for a, b in named]
        worst = max(differ, key=lambda name: differ[name])
        session.differences.append(
            f"weights of the two files: {len(differ)} of {len(session.pairing.arrays)} arrays, at most {worst} with error "
            f"{differ[worst]:.1e}; the outputs have error {max(errors):.1e}"
        )

    def _run(self, train: bool, record: bool = True) -> Mapping[str, ModelRun]:
        session, moved, step = self.session, self.source.moved, self.number if train else 0
        self._evidence, self._compared = session.evidence, None  # the arrays of the run before can be gigabytes

        def run(name: str) -> ModelRun:
            return session.run(name, train, record, step=step, moved=moved.get(name))

        return session.everywhere(run, self.source.names)

    def _forward(self, phase: str, runs: Mapping[str, ModelRun]) -> Iterator[Compared]:
        self._evidence = replace(self._evidence, runs=runs)
        aligned = self.session.alignment(runs)
        for text in causes.other_kinds(aligned):
            if text not in self.session.differences:
                self.session.differences.append(text)
        return alignment.forward(aligned, phase, *self.source.sides_of(runs))

    def _gradients(self, runs: Mapping[str, ModelRun], backs: Mapping[str, Record]) -> Iterator[Compared]:
        """Yield gradients of layer outputs and of the inputs, then of arrays, from the last layer to the first."""
        session, source = self.session, self.source
        compare, aligned = "backward" in source.pair.stages, session.alignment(runs)
        limit = ZERO_GRADIENT["float64"]
        cancelled = alignment.cancelled_gradients(aligned, runs, backs, limit, session.seen)
        for name, gradient in source.cancelled.items():
            left = max((norm(backs[side][name]) for side in SIDES if name in backs[side]), default=gradient.left)
            if 0 < left <= limit * gradient.terms:
                cancelled.setdefault(name, replace(gradient, left=left))
        if compare and session.pair.program.loss:
            starts = {worker: alignment.starts_of(record) for worker, record in backs.items()}
            yield from alignment.outputs("backward", *source.sides_of(starts))
        if compare:
            source.zero_outputs = {name: gradient.left / gradient.terms for name, gradient in cancelled.items()}
            yield from alignment.backward(aligned, *source.sides_of(backs))
        for name in sorted(n for n in backs["torch"] if compare and n.startswith("input/") and n in backs["paddle"]):
            here, there, twins = source.sides_of({worker: record[name] for worker, record in backs.items()})
            shown = f"backward/(model):input/{session.label(name.removeprefix('input/'))}"
            if name in source.zero_outputs:
                source.zero_outputs[shown] = source.zero_outputs[name]
            yield Compared(shown, None, here, there, tuple(twins))
        idle, nothing = [], np.zeros(0)
        outputs = source.output_gradients | alignment.output_gradients(
            aligned, backs["torch"], backs["paddle"], session.seen
        )
        for gradient in cancelled.values():
            one, two = outputs.get(gradient.path, (0.0, 0.0))
            outputs[gradient.path] = max(one, gradient.terms), max(two, gradient.terms)
        for chunk in reversed(session.chunks()):
            own = session.fetch(chunk, source.names, gradients_of)
            of_outputs = outputs.get(session.owners[chunk[0]][0], ())
            sizes = zero_gradients([own[side] for side in SIDES], math.inf, of_outputs=of_outputs)
            source.zero |= {n: max(both) for n, both in sizes.items() if max(both) <= limit}
            source.zero_of_one |= {
                n: max(both) for n, both in sizes.items() if min(both) <= limit < max(both) < math.inf
            }
            for name in reversed(chunk):
                if compare and (name in own["torch"] or name in own["paddle"]):
                    arrays = source.sides_of({worker: record.get(name, nothing) for worker, record in own.items()})
                    yield Compared(f"gradient/{name}", None, arrays[0], arrays[1], tuple(arrays[2]))
                elif session.trained().get(name) and name not in own["torch"] and name not in own["paddle"]:
                    idle.append(name)
        if idle:
            source.explained.append(f"no gradient on either side, since training does not use them: {few(idle)}")

    def _updates(self) -> Iterator[Compared]:
        session, source = self.session, self.source
        large = sum(array.size for array in session.state.values()) > LARGE
        if source.dtype == "float64" and large and 1 < self.number < source.pair.length:
            return
        for chunk in session.chunks():
            states = session.fetch(chunk, source.names, tensors_of)
            for name in states["torch"]:
                here, there, twins = source.sides_of({worker: state[name] for worker, state in states.items()})
                yield Compared(f"update/{name}", None, here, there, tuple(twins))

    def ties(self, tensor: Tensor) -> Array | None:
        """Return where rounding decided a maximum, in the gradient of the input of a max pool."""
        if self._compared is None:
            return None
        return find_ties(tensor.name, self._compared, self.session.alignment, self._evidence.runs, ROUNDING)

    def cancellation(self, name: str) -> float:
        """Return the factor on the rounding of a running mean whose terms cancel, as behind a batch norm without a shift; else 1."""
        assert self._compared
        terms, reference = self.source.cancelled_means.get(name), self._compared.torch
        return 1.0 if terms is None or reference is None else systematic(terms, norm(reference))

    def likely_cause(self, tensor: Tensor) -> Cause | None:
        """Return the cause that the settings or the functions between two layers explain."""
        assert self._compared
        if tensor.phase == "start" and self.session.folds.folds and distance(*self._compared.both) < FOLDED_ROUNDING:
            return Cause("one file's batch norms were folded in float32, which rounds; pass --dtype float32")
        return self._cause_of_program(tensor) or causes.find_cause(
            self._evidence, *place_of(tensor.name), self._compared
        )

    def _cause_of_program(self, tensor: Tensor) -> Cause | None:
        """Return the cause of a difference that a user's loss or optimizer makes."""
        phase, _, name = tensor.name.partition("/")
        if self._loss_evidence and _shows_losses(tensor.name):
            return find_loss_cause(self._loss_evidence)
        if not self.session.described or phase not in ("clipped", "state", "update"):
            return None
        slot, name = name.split(".", 1) if phase == "state" else ("", name)
        names = list(self.session.pairing.arrays) if phase == "clipped" else [name]
        evidence = OptimizerEvidence(
            self.session.described,
            self.session.fetch(names, SIDES, step_gradients_of),
            self.session.fetch(names, SIDES, used_gradients_of),
            self.session.state if self._moves_first else {},
            self.session.fetch([name], SIDES, tensors_of),
            self.session.fetch_states([name], SIDES),
        )
        if phase == "clipped":
            return find_clipping_cause(evidence, name)
        if slot == AVERAGE:
            known = {name: self.source.averages[name]} if name in self.source.averages else evidence.start
            return find_average_cause(replace(evidence, start=known), name)
        return find_optimizer_cause(evidence, phase, name, slot)


def find_kinks(
    aligned: Alignment, torch: ModelRun, paddle: ModelRun, twins: Sequence[ModelRun], gradients: Mapping[str, Array]
) -> list[Kink]:
    """Return the outputs of all layers with kinks; `gradients` are the reference's."""
    found = []
    for a, b in aligned.pairs:
        for one, two in zip(a.outputs, b.outputs, strict=False) if a.unit.kind in KINKED else ():
            moved = [array for twin in twins if (array := twin.arrays.get(one)) is not None]
            arrays = torch.arrays[one], paddle.arrays[two]
            if arrays[0].shape == arrays[1].shape:
                found.append(Kink(a.name, a.unit.kind, *arrays, moved, gradients.get(f"backward/{one}")))
    return found


def find_ties(
    name: str,
    compared: Compared,
    align: Callable[[Mapping[str, ModelRun]], Alignment],
    runs: Mapping[str, ModelRun],
    limit: float,
) -> Array | None:
    """Return where rounding decided a maximum, in a gradient of the input of a max pool; inputs farther than `limit` differ."""
    if not name.startswith("backward/") or compared.calls is None:
        return None
    number = int(name.rpartition(":output")[2] or 0)
    x, y = (runs[side].arrays[call.outputs[number]] for side, call in zip(SIDES, compared.calls, strict=True))
    pools = [
        pool
        for a, _ in align(runs).pairs
        if (pool := _max_pool(a)) and a.inputs and np.array_equal(runs["torch"].arrays[a.inputs[0]], x)
    ]
    if x.shape != y.shape or not pools or distance(x, y) > limit:
        return None
    tied: Array = np.logical_or.reduce([ties_of_pool(pool, x, y) for pool in pools])
    return tied


def _is_mean(name: str) -> bool:
    """Whether a canonical name is that of a running mean."""
    return place_of(f"update/{name}")[0] == "statistics" and name.endswith(".mean")


def _max_pool(call: Call) -> MaxPool | None:
    """Return the window of a 2-D max pool, if it is square."""
    settings = call.unit.settings
    size, stride, padding = (settings.get(name) for name in ("kernel", "stride", "padding"))
    if call.unit.kind != "MaxPool2d" or not all(isinstance(number, int) for number in (size, stride, padding)):
        return None
    return MaxPool("pool", size or 0, stride or 0, padding or 0, bool(settings.get("ceil_mode")))


def _loss_evidence(
    session: Session, step: int, losses: Mapping[str, float], runs: Mapping[str, ModelRun], backs: Mapping[str, Record]
) -> LossEvidence:
    """Return the losses, the outputs and their gradients, and the targets, in which a cause is searched."""
    starts = {side: alignment.starts_of(backs[side]) for side in SIDES}
    place = {two: one for one, two in alignment.returned(runs["torch"].outputs, runs["paddle"].outputs)}
    starts["paddle"] = {place.get(n, n): x for n, x in starts["paddle"].items()}
    targets = session.pair.program.targets_of(step)
    rounding = 0.0 if session.dtype == "float64" else ONE_STEP[session.dtype]
    return LossEvidence({s: losses[s] for s in SIDES}, runs["torch"].outputs, starts, targets, rounding)


def _shows_losses(name: str) -> bool:
    """Whether the losses alone decide on a tensor of this name."""
    return name.startswith(("loss/", "backward/(output)"))


def _three(found: Mapping[str, _Found]) -> tuple[_Found, _Found, list[_Found]]:
    """Return the values of torch and paddle, with the float64 worker in the place of a twin."""
    return found["torch"], found["paddle"], [found[EXACT]]
