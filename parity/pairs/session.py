"""The workers of one pair: start the models, run them once to record calls and random draws, match them, and load the start state."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Process, Record
from parity.backend.registry import NAMES
from parity.backend.watched_model import LossRounding
from parity.compare.noise_model import TWINS
from parity.compare.one_ulp_twin import move_one_ulp
from parity.compare.relative_error import relative_l2
from parity.compare.tolerances import FACTOR, FRESH_SEEDS
from parity.compare.verdicts import INIT, TRAINING
from parity.data.random_streams import stream
from parity.errors import InputError, suggest
from parity.modules import layer_kinds
from parity.modules.description import arrays_of, layer_in_words
from parity.modules.layer_kinds import KINDS, OTHER_SIDE, SIDES, Kinds, name_in
from parity.pairs import alignment, causes, mapping, match_values, narrow_dtypes
from parity.pairs.alignment import Alignment, Seen
from parity.pairs.exact_buffers import choose_exact, rounded_buffers
from parity.pairs.factories import text_of
from parity.pairs.inputs import Names
from parity.pairs.layouts import SWAPPED, Form, axes_between, channels_first, channels_last, find_form
from parity.pairs.losses import LOSSES
from parity.pairs.match_constants import names_of_constants
from parity.pairs.match_folded import Folds, find_folds
from parity.pairs.match_fused import ATTENTION
from parity.pairs.match_layers import Problem
from parity.pairs.match_models import ModelDescription, Pairing
from parity.pairs.match_outputs import match_outputs
from parity.pairs.match_runs import Splits, split_gradients, split_run
from parity.pairs.model_server import ModelRun, ModelService
from parity.pairs.narrow_dtypes import NarrowPlaces
from parity.pairs.programs import Program, find_names, settings_like
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription, list_differences
from parity.short_repr import ShortRepr, few
from parity.weights.half_precision import HALVES, round_to
from parity.weights.state_dict_content import name_variants

JITTER = 0.1
"""Standard deviation of the noise on constant arrays (biases of 0, gammas of 1). It makes an exchange of two of them visible."""

RATE = 0.00001
"""Learning rate: small, so that ten steps hardly amplify rounding (at 0.0001 the error of resnet50 grows sevenfold a step)."""

EXACT = "float64"
"""The name of the worker that computes the float64 reference of a step in a narrower dtype."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, repr=False)
class Pair(ShortRepr):
    """What to compare and how. `parity.pairs.compare_models.compare_models` explains the fields."""

    torch: Any
    paddle: Any
    inputs: Sequence[Array]
    loss: str = "mse"
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("momentum", RATE))
    steps: int = 10
    seed: int = 0
    stages: tuple[str, ...] = TRAINING
    given: Mapping[str, Any] | None = None
    folder: str | None = None
    isolate: bool = False
    changes: Mapping[str, Sequence[tuple[str, str, Any]]] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=lambda: KINDS)
    names: Names = field(default_factory=dict)
    forms: Mapping[int, Form] = field(default_factory=dict)
    output_forms: Mapping[str, Form] = field(default_factory=dict)
    widen: Sequence[str] = ()
    init_seeds: int = FRESH_SEEDS
    program: Program = field(default_factory=Program)
    batch_names: Sequence[str] = ()

    def how(self) -> dict[str, Any]:
        """Return how the pair is run, for the report."""
        settings, program = self.optimizer, self.program
        beta = (
            {"betas": [settings.beta1, settings.beta2]} if settings.kind == "adam" else {"momentum": settings.momentum}
        )
        return {
            "recipe": ", ".join([_spoken(program.loss) or self.loss, _spoken(program.optimizer) or settings.kind]),
            "optimizer": {"kind": settings.kind, "rate": settings.rate, **beta, "nesterov": settings.nesterov},
            "data": "inputs of " + " and ".join(" x ".join(map(str, x.shape)) for x in self.inputs),
            "steps": self.length,
            "batch_size": next((len(x) for x in self.inputs if x.ndim), 1),
            "seed": self.seed,
        }

    @property
    def length(self) -> int:
        """The number of training steps."""
        if not set(self.stages) - {"eval", INIT}:
            return 0
        return self.steps if "trajectory" in self.stages else 1


def _spoken(given: Mapping[str, Any]) -> str:
    """Return the names of what each side was given, "" for nothing."""
    return " and ".join(text_of(given[side]) for side in SIDES if given.get(side) is not None)


class Session:
    """Workers by name: torch, paddle, and twins of the torch model; in a dtype other than float64, one is named `EXACT`.

    The `dtype` None is bfloat16 or float16 if most numbers of both models are, and else float64. A twin is then `EXACT`. `start` may hold
    a start state: side -> arrays by that model's own names. With both sides, each model starts from its own.
    """

    def __init__(
        self,
        pair: Pair,
        workers: Mapping[str, ModelService],
        dtype: str | None,
        pool: ThreadPoolExecutor,
        start: Mapping[str, Record],
    ) -> None:
        if pair.loss not in LOSSES:
            raise InputError(f"unknown loss {pair.loss!r}; known: {', '.join(LOSSES)}")
        self.pair, self.workers, self.pool, self.start = pair, workers, pool, start
        self.keys: dict[bool, dict[str, dict[int, str]]] = {
            train: {side: {} for side in SIDES} for train in (False, True)
        }
        self.watched = dict.fromkeys((False, True), False)
        self.widened: dict[str, list[str]] = {side: [] for side in SIDES}
        self.pairing = Pairing([], "")
        self._splits: dict[str, Splits] = {}
        self.folds = Folds(SIDES[0], [], {})
        self._keeping: set[str] = set()
        """Sides whose graphs would keep the random numbers of one training run for all later ones."""
        self.skipped: tuple[str, ...] = ()
        """Stages that were asked for and that folded batch norms leave out."""
        self._knows_constants = True
        """Whether each narrow place is known to belong to a constant or to another tensor."""
        self._turned: dict[str, dict[str, Form]] = {}
        self._outputs: dict[str, str] = {}
        self._open()
        self.dtype = dtype or self._own_dtype()
        notes = self._compute()
        self.inputs = [round_to(x, self.dtype) if x.dtype.kind == "f" else x for x in pair.inputs]
        self.described: dict[str, OptimizerDescription] = {}
        """The users' optimizers of the two sides, with canonical names, as they were in the last step."""
        self._describe_arrays()
        trained = self._plan()
        self.states = {
            side: {n: round_to(x, self.dtype) for n, x in state.items()} for side, state in self._states().items()
        }
        self.state = self.states["torch"]
        self.single = {side: {} if self.has_own_weights else self._single(side) for side in SIDES}
        said = self._match_outputs(trained)
        aligned = self.alignment(trained)
        found = causes.settings(self.pairing, aligned, trained, self.variance, bool(pair.length), self.rounds)
        self.differences, self.explained = found
        self.differences += self._other_dtypes()
        self.explained += [*notes, *self._about_arrays(), *self._about_recipes(), *self._about_narrow(), *said]
        for side, paths in self.compiled.items():
            if paths:
                places = few([path or "the model itself" for path in paths])
                text = "tensors inside are not compared there"
                if side in self._keeping:
                    text += ", and training runs uncompiled, because a static graph keeps its random numbers"
                self.explained.append(f"compiled in {NAMES[side]}, at {places}: {text}")
        if self.folds.folds:
            self.explained.append(
                f"batch norms that {NAMES[OTHER_SIDE[self.folds.side]]}'s model has folded into other layers, at {self.folds}: only "
                "inference is compared, because in training a batch norm uses the statistics of the batch"
            )
        if pair.program.optimizer and pair.length:
            self.put({}, SIDES)
            self.describe_optimizers()
            # PyTorch's programs clip outside the optimizer: a step shows how.
            here, there = (replace(self.described[side], clip=None) for side in SIDES)
            self.differences += list_differences(here, there)
            self.pair = replace(self.pair, optimizer=settings_like(self.described["torch"], pair.optimizer))
        alone = {side: places for side, places in self.narrow.alone.items() if side not in self.pair.widen}
        self.evidence = causes.PairEvidence(self.pairing, self.state, narrow=alone, compiled=self.compiled)

    def everywhere(self, act: Callable[[str], _Answer], names: Iterable[str] | None = None) -> dict[str, _Answer]:
        """Call `act` with every worker's name: in parallel for worker processes, in sequence for this process."""
        chosen = list(names or self.workers)
        jobs = {n: self.pool.submit(act, n) for n in chosen if isinstance(self.workers[n], Process)}
        try:
            here = {name: act(name) for name in chosen if name not in jobs}
        finally:  # if one raises an error, the others must not be in the middle of a call: two calls would mix their messages
            wait(jobs.values())
        return {name: jobs[name].result() if name in jobs else here[name] for name in chosen}

    def _open(self) -> None:
        pair = self.pair
        factory = {"torch": pair.torch, "paddle": pair.paddle}
        opened = self.everywhere(
            lambda n: self.workers[n].open(
                factory[side_of(n)],
                pair.optimizer,
                pair.seed,
                pair.folder,
                pair.changes.get(side_of(n), ()),
            )
        )
        self.modules = {side: opened[side]["modules"] for side in SIDES}
        self.compiled = {side: opened[side]["compiled"] for side in SIDES}
        self.recipes = {side: opened[side]["recipes"] for side in SIDES}
        self.channels_last = channels_last(self.modules["paddle"])
        program = pair.program
        if program.loss or program.optimizer:
            self.everywhere(
                lambda n: self.workers[n].take_program(
                    program.loss.get(side_of(n)), program.optimizer.get(side_of(n)), pair.folder
                )
            )
        if pair.batch_names:
            names = find_names(pair.batch_names, {side: opened[side]["arguments"] for side in SIDES})
            self.pair = replace(pair, names=names)
        self.versions = {side: opened[side]["versions"] for side in SIDES}
        self.own_dtypes = {side: opened[side]["dtype"] for side in SIDES}
        self.variance = self.workers["paddle"].kernel_variance()
        self.rounds = bool(self.compiled["paddle"])  # the batch norms of a static graph do
        self.everywhere(lambda name: self.workers[name].agree(self.variance, self.rounds))

    def _own_dtype(self) -> str:
        """Return the dtype in which to compare models that hold mostly numbers of `own_dtypes`."""
        torch, paddle = (self.own_dtypes[side] for side in SIDES)
        return torch if torch == paddle and torch in HALVES else "float64"

    def _compute(self) -> list[str]:
        """Convert all models to their dtypes; return sentences on how they compute."""
        notes = []
        if self.dtype in HALVES:
            exact = next((name for name in (EXACT, *self.workers) if name in self.workers and name not in SIDES), None)
            if exact is None:
                raise InputError(
                    f"a comparison in {self.dtype} needs a twin, which runs in float64: leave out --twins 0, or pass --dtype float64"
                )
            self.workers = {side: self.workers[side] for side in SIDES} | {EXACT: self.workers[exact]}
            notes.append(
                f"{self.dtype}: both models compute in it, and are compared with PyTorch's model in float64. The tolerance is "
                f"{FACTOR[self.dtype]:.0f} times the error of the farthest of {TWINS[self.dtype]} one-ULP twins; --dtype float64 shows "
                "smaller differences"
            )
        self.dtypes = dict.fromkeys(self.workers, self.dtype) | {EXACT: "float64"}
        said = self.everywhere(lambda name: self.workers[name].compute_in(self.dtypes[name]))
        return [*notes, *dict.fromkeys(text for text in said.values() if text)]

    def _other_dtypes(self) -> Iterator[str]:
        """Yield sentences on arrays that are bfloat16 or float16 in one model and another dtype in the other."""
        found: dict[tuple[str, ...], list[str]] = {}
        for name, where in self.pairing.arrays.items():
            # A bias that only a folded layer has is not stored on the other side.
            dtypes = tuple(filter(None, (self.stored[side].get(name_in(where[side])) for side in SIDES)))
            if len(set(dtypes)) > 1 and set(dtypes) & set(HALVES):
                found.setdefault(dtypes, []).append(self.owners[name][0])
        for (torch, paddle), layers in found.items():
            yield f"dtype of weights: PyTorch {torch}, Paddle {paddle} at {few(list(dict.fromkeys(layers)))}"

    def _plan(self) -> dict[str, ModelRun]:
        """Run both models once, record their calls and random draws, and match them."""
        kinds = self.pair.kinds
        bare = {side: ModelDescription.of(side, self.modules[side], kinds=kinds) for side in SIDES}
        whole = [sum(unit.kind == ATTENTION for unit in bare[side].units) for side in SIDES]
        opened = whole[0] != whole[1]  # one side has the projections of attention layers as layers
        if opened:
            bare = {side: ModelDescription.of(side, self.modules[side], kinds=kinds, opened=True) for side in SIDES}
        constants = {side: names_of_constants(bare[side]) for side in SIDES}
        # Before any run: a buffer of the user may hold running statistics.
        self._fresh = {side: self.workers[side].tensors(constants[side]) for side in SIDES}
        self.wanted = {side: list(dict.fromkeys(unit.holder for unit in bare[side].units)) for side in SIDES}
        seen = self._run_once()
        trained = seen
        if self.pair.length:
            trained = self.everywhere(lambda side: self.run(side, True, randomness=True), SIDES)
        for side, found in trained.items():
            for path in {*found.random, *seen[side].random}:
                raise InputError(
                    f"the {side} model draws random numbers at {layer_in_words(path)} by a function that the check does "
                    "not replace: the two sides cannot use the same numbers. Remove that layer, or set its probability to 0"
                    + (", or skip training with --stages eval" if path not in seen[side].random else "")
                )
        if self.compiled["paddle"] and trained["paddle"].draws:
            self._keeping = {"paddle"}
        self.models = {}
        for side in SIDES:
            called = [note["path"] for note in seen[side].calls]
            order = list(dict.fromkeys([*called, *(note["path"] for note in trained[side].calls)]))
            inputs = match_values.inputs_of(seen[side])
            self.models[side] = ModelDescription.of(side, self.modules[side], order, called, kinds, inputs, opened)
        if self._fold(seen):
            seen = trained = {side: self.folds.run(side, run) for side, run in seen.items()}
        self._match(seen)
        seen, trained = (self._with_parts(runs) for runs in (seen, trained))
        if self.pair.inputs and not alignment.returned(seen["torch"].outputs, seen["paddle"].outputs):
            raise InputError("the models return no tensor of floats that could be compared")
        for train, runs in ((False, seen), (True, trained)):
            self.keys[train] = alignment.draw_keys(self.pairing, runs, self.alignment(runs))
            self.watched[train] = any(draw["p"] is None for run in runs.values() for draw in run.draws)
        self._widen(seen, trained)
        self.exact_buffers = self._take_exact_buffers() if self.dtype == "float64" else {}
        return trained

    def _run_once(self) -> dict[str, ModelRun]:
        """Run both models in inference; without inputs, as for fresh models alone, nothing runs."""
        if not self.pair.inputs:
            return {side: ModelRun({}, {}, [], [], [], [], []) for side in SIDES}
        try:
            return self.everywhere(lambda side: self.run(side, False, randomness=True), SIDES)
        except InputError as error:
            raise InputError(f"{error}{self._layout_remedy()}") from None

    def _layout_remedy(self) -> str:
        """Return what to do if a model fails, and both run where one of them gets its images in another order of axes."""
        pair, inputs = self.pair, self.inputs
        images = [i for i, x in enumerate(inputs) if x.ndim == len(SWAPPED[0][0]) and i not in pair.forms]
        for layouts, is_paddles in itertools.product(SWAPPED, (False, True)) if images else ():
            axes = axes_between(layouts, "an input")
            back = np.argsort(axes) if is_paddles else range(len(axes))  # the shape that was given may be Paddle's
            self.pair = replace(pair, forms={**pair.forms, **dict.fromkeys(images, Form(axes=axes))})
            self.inputs = [np.array(x.transpose(back), order="C") if i in images else x for i, x in enumerate(inputs)]
            shape = ",".join(map(str, self.inputs[images[0]].shape))
            try:
                self.everywhere(lambda side: self.run(side, False, record=False), SIDES)
            except InputError:
                continue
            finally:
                self.pair, self.inputs = pair, inputs
            return f'. Both models run with their own layouts: pass --input-shape "{shape}:{"|".join(layouts)}"'
        return ""

    def _fold(self, seen: Mapping[str, ModelRun]) -> bool:
        """Fold batch norms that the other model has folded. Then only inference is compared."""
        side, found = find_folds(self.models, seen)
        if not found:
            return False
        if "eval" not in self.pair.stages:
            raise InputError(
                f"{NAMES[OTHER_SIDE[side]]}'s model has batch norms folded into other layers ({found[0]} in {NAMES[side]}), so that only "
                "inference can be equal: pass --stages eval"
            )
        given = self.start.get(side, {})
        names = sorted(set().union(*(fold.names for fold in found)))
        fresh = self.workers[side].tensors(names)
        base = {name: given[name] if name in given else _spread(name, fresh[name], self.pair.seed) for name in names}
        self.folds = Folds(side, found, base)
        self.models[side] = self.folds.model(self.models[side])
        self.shapes[side] = self.folds.shapes(side, self.shapes[side])
        self.skipped = tuple(stage for stage in self.pair.stages if stage != "eval")
        self.pair = replace(self.pair, stages=("eval",))
        return True

    def _widen(self, seen: Mapping[str, ModelRun], trained: Mapping[str, ModelRun]) -> None:
        """Find where the models compute in a dtype narrower than float64, and compute in float64 where both do."""
        phases = (False, True) if self.pair.length else (False,)
        self.narrow = NarrowPlaces()
        if self.dtype != "float64":
            runs = [self.run(EXACT, train, randomness=True) for train in phases]
            places = [place for run in runs for place in run.narrow]
            self.widened[EXACT] = narrow_dtypes.as_compiled(places, [], self.compiled[side_of(EXACT)])
            return
        aligned = self.alignment(trained)
        self.narrow = narrow_dtypes.match_places(self.pairing, aligned, seen, trained)
        doubtful = any(self.narrow.moved.values()) or any(self.narrow.alone.values())
        self._knows_constants = not doubtful or bool(self.pair.length)  # only training tells constants from others
        if not self._knows_constants:
            with contextlib.suppress(InputError):
                graded = self.everywhere(lambda side: self.run(side, True, randomness=True), SIDES)
                self.narrow = narrow_dtypes.match_places(self.pairing, aligned, seen, graded)
                self._knows_constants = True
        for side in SIDES:
            self.widened[side] = self.narrow.widened(side, side in self.pair.widen, self.compiled[side])
        try:
            for train in phases if any(self.widened[side] for side in SIDES) else ():
                self.everywhere(functools.partial(self.run, train=train), SIDES)
        except InputError:  # in float64, the model mixes dtypes that its framework refuses
            for side in SIDES:
                self.widened[side] = []

    def _about_arrays(self) -> Iterator[str]:
        """Yield sentences on constants that only one side stores or whose fresh values differ, and on transposed arrays."""
        for side, names in self.pairing.constants.items():
            if names:
                yield (
                    f"arrays without a gradient that only {NAMES[side]} stores, at {few(list(names))}: they keep their values, and "
                    f"{NAMES[OTHER_SIDE[side]]} may compute them"
                )
        if turned := self.pairing.turned:
            yield f"square arrays of which one side stores the transpose: {few(turned)}. Values say so, and no name or shape does"
        for name, where in self.pairing.arrays.items() if not self.start else ():
            if all(name_in(where[side]) in self._fresh[side] for side in SIDES):
                torch, paddle = (layer_kinds.read(where[side], self._fresh[side]) for side in SIDES)
                if not np.array_equal(torch, paddle, equal_nan=True):
                    yield (
                        f"the fresh values of {name} differ, with a relative error of {relative_l2(torch, paddle):.2e}, and no gradient "
                        "reaches them: the check uses PyTorch's on both sides"
                    )

    def _about_recipes(self) -> Iterator[str]:
        """Yield sentences on parameters that say themselves how an optimizer updates them."""
        for side, recipes in self.recipes.items():
            said = [f"{name} ({', '.join(f'{k} {v}' for k, v in own.items())})" for name, own in recipes.items()]
            if said and self.pair.length:
                end = (
                    ""
                    if self.pair.program.optimizer
                    else ": the optimizer of the comparison updates all parameters alike"
                )
                yield f"recipe of parameters that {NAMES[side]}'s model sets, at {few(said)}{end}"

    def _take_exact_buffers(self) -> dict[str, list[str]]:
        """Take the exact values of buffers that the other model computes in forward; return their names by side."""
        taken: dict[str, list[str]] = {side: [] for side in SIDES}
        own, exact = dict[str, Record](), dict[str, Record]()
        for side in SIDES:
            own[side] = self.workers[side].buffers([name_in(where[side]) for where in self.pairing.arrays.values()])
            made = self.workers[side].make_exact_buffers(list(own[side])) if own[side] else {}
            exact[side] = rounded_buffers(own[side], made)

        def put(side: str, arrays: Record) -> None:
            self.everywhere(
                lambda n: self.workers[n].set_buffers(arrays), [n for n in self.workers if side_of(n) == side]
            )

        def choose(side: str) -> Record:
            other = OTHER_SIDE[side]
            return choose_exact(
                own[side],
                exact[side],
                lambda wanted: self.run(other, False, False, functions=wanted, uncompiled=True),
            )

        for side in SIDES:
            if chosen := choose(side):
                put(side, chosen)
                taken[side] = list(chosen)
        for side in SIDES if self._knows_constants and not any(taken.values()) and all(exact.values()) else ():
            other = OTHER_SIDE[side]
            narrow, widened = self.narrow, self.widened[other]
            self.narrow = self.narrow.with_constants_moved(other)
            self.widened[other] = self.narrow.widened(other, other in self.pair.widen, self.compiled[other])
            put(other, exact[other])
            with contextlib.suppress(InputError):  # in float64, the model mixes dtypes that its framework refuses
                if chosen := choose(side):
                    put(side, chosen)
                    return {side: list(chosen), other: list(exact[other])}
            self.narrow, self.widened[other] = narrow, widened
            put(other, {name: own[other][name] for name in exact[other]})
        return taken

    def _about_narrow(self) -> Iterator[str]:
        """Yield sentences on where the models compute in a dtype narrower than float64."""
        done, cannot = "the check computes in float64 there", "the check cannot compute in float64 there"
        if both := self.narrow.both.get("torch"):
            done_there = f"{done}, on both sides" if self.widened["torch"] else cannot
            where = few(narrow_dtypes.words(both))
            yield f"{narrow_dtypes.dtypes(both)} inside both models, at {where}: {done_there}"
        for side, places in self.narrow.moved.items():
            if places:
                where = f"{few(narrow_dtypes.words(places))} in {NAMES[side]}"
                done_there = done if self.widened[side] else cannot
                yield f"constants in {narrow_dtypes.dtypes(places)} inside both models, at {where}: {done_there}"
        for side, names in self.exact_buffers.items():
            if names:
                also = "too" if self.exact_buffers[OTHER_SIDE[side]] else "in forward"
                texts = f"{NAMES[side]}'s model makes {few(names)} in float32 at the start, and {NAMES[OTHER_SIDE[side]]}'s {also}"
                yield f"constants in float32: {texts}: {done}, on both sides"
        for side, places in self.narrow.alone.items():
            if places:
                where = few(narrow_dtypes.words(places))
                end = f": {done if self.widened[side] else cannot}" if side in self.pair.widen else ""
                yield f"{narrow_dtypes.dtypes(places)} inside {NAMES[side]}'s model only, at {where}{end}"

    def _match(self, seen: Mapping[str, ModelRun]) -> None:
        """Match the layers. Where names leave a choice, values decide, in the dtype of the sides."""
        problem = Problem(self.models["torch"], self.models["paddle"], self.pair.given or {})

        def models() -> match_values.Models:
            if not self.pair.inputs:
                raise InputError(
                    "names do not decide which layers are pairs, so that the models must run: pass --input-shape, or --map FILE"
                )
            names = {side: self.folds.sources(side, sorted(self.shapes[side])) for side in SIDES}
            arrays = {side: self.folds.fold(side, self.workers[side].tensors(names[side])) for side in SIDES}
            return match_values.Models(
                lambda side, own: self.workers[side].put(self.folds.unfold(side, own)),
                lambda side, functions=None: self.run(side, False, functions=functions, uncompiled=True),
                arrays,
                lambda name, array: (
                    array if name in problem.constants["torch"] else _spread(name, array, self.pair.seed)
                ),
                self.aliases,
                self.dtypes["paddle"],
            )

        self.pairing = match_values.decide(problem, models)
        self.pairing.folded = [str(fold) for fold in self.folds.folds]
        for side, names in self.pairing.single.items():
            names[:] = [self.folds.stored(side, name) for name in names]
        self.models = problem.described(self.pairing)

    def _match_outputs(self, trained: Mapping[str, ModelRun]) -> list[str]:
        """Match outputs that have other names on the two sides, and say how. `InputError` for a layout of an output that is not there."""
        found = [trained[side].outputs for side in SIDES]
        if unknown := [
            name for name in self.pair.output_forms if name and not any(name in outputs for outputs in found)
        ]:
            known = [name or "(output)" for name in found[0]]
            raise InputError(
                f"no output {unknown[0]!r} for --output-layout{suggest(unknown[0], known)}; known: {', '.join(known)}"
            )
        if found[0].keys() == found[1].keys() or max(map(len, found)) < 2:
            return []
        self.put({}, SIDES)
        seen = self.everywhere(lambda side: self.run(side, False, record=False), SIDES)
        self._outputs, how = match_outputs(seen["torch"].outputs, seen["paddle"].outputs, self.dtypes["paddle"])
        return [how] if how else []

    def _with_parts(self, runs: Mapping[str, ModelRun]) -> dict[str, ModelRun]:
        """Return runs in which fused layers are divided into their parts."""
        return {side: split_run(run, side, self.pairing)[0] for side, run in runs.items()}

    def _describe_arrays(self) -> None:
        """Set the shapes of the arrays of both models, and which are shared: own name -> the first name."""
        described = {side: arrays_of(self.modules[side]) for side in SIDES}
        self.shapes = {side: {n: a["shape"] for n, a in described[side].items() if not a["same_as"]} for side in SIDES}
        self.own_shapes = dict(self.shapes)
        self.stored = {side: {n: a["dtype"] for n, a in described[side].items()} for side in SIDES}
        self.aliases = {side: {n: a["same_as"] for n, a in described[side].items() if a["same_as"]} for side in SIDES}
        self.start = {side: _without_prefix(arrays, self.own_shapes[side]) for side, arrays in self.start.items()}

    def _states(self) -> dict[str, Record]:
        """Return the start state of each side, canonical: the reference's fresh arrays for both, or the given ones."""
        for side, arrays in self.start.items():
            if missing := [name for name in self.own_shapes[side] if name not in arrays]:
                raise InputError(f"the weights for the {side} model lack {missing[0]} ({len(missing)} in all)")
            for name, shape in self.own_shapes[side].items():
                if list(arrays[name].shape) != shape:
                    raise InputError(
                        f"{name} has shape {list(arrays[name].shape)} in the weights, {shape} in the {side} model"
                    )
        given = {side: self.canonical(side, self.folds.fold(side, arrays)) for side, arrays in self.start.items()}
        if given:
            return {side: given.get(side, next(iter(given.values()))) for side in SIDES}
        found: Record = {}
        for chunk in self.chunks():
            found |= self.fetch(chunk, ["torch"], tensors_of)["torch"]
        fresh = {name: _spread(name, array, self.pair.seed) for name, array in found.items()}
        return dict.fromkeys(SIDES, fresh)

    def reorder_weights(self, seed: int) -> None:
        """Bring the numbers of each trained array of the start state into an order drawn from `seed`, the same on both sides."""
        found: Record = {}
        for name, array in self.state.items():
            own = replace(
                layer_kinds.parse_spelling(self.pairing.arrays[name]["torch"]), name=self.own_name("torch", name)
            )
            draw = stream(seed, "order", str(own))  # a shared array has one order under all its names
            order = draw.permutation(array.size) if self.pairing.trained.get(name) else np.arange(array.size)
            found[name] = array.ravel()[order].reshape(array.shape)
        self.state, self.states = found, dict.fromkeys(SIDES, found)
        self.evidence = replace(self.evidence, state=found)

    @property
    def has_own_weights(self) -> bool:
        """Whether each model starts from weights of its own, which are compared, too."""
        return len(self.start) == len(SIDES)

    def _single(self, side: str) -> Record:
        """Return the start state of whole arrays that only this side has, with noise as all others: a bias of 0 would not show."""
        partly = mapping.partly_named(self.pairing, side)
        names = [name for name in self.pairing.single[side] if name in self.shapes[side] and name not in partly]
        own = self.start[side] if side in self.start else self.workers[side].tensors(names) if names else {}
        floats = [name for name in names if own[name].dtype.kind == "f"]
        return {name: round_to(_spread(name, own[name], self.pair.seed), self.dtype) for name in floats}

    def chunks(self) -> list[list[str]]:
        """Return the canonical names layer by layer, see `Pairing.chunks`."""
        return self.pairing.chunks()

    @property
    def owners(self) -> dict[str, tuple[str, str]]:
        """Canonical name of an array -> the layers on both sides that hold it."""
        return self.pairing.owners

    def own_name(self, side: str, name: str) -> str:
        """Return the first name that a side's own model gives the array with a canonical name."""
        spelled = name_in(self.pairing.arrays[name][side])
        first: str = self.aliases[side].get(spelled, spelled)
        return first

    def fetch(
        self, names: Sequence[str], workers: Iterable[str], what: Callable[[ModelService, list[str]], Record]
    ) -> dict[str, Record]:
        """Return the tensors or gradients of each worker under canonical names; missing ones are left out."""

        def one(worker: str) -> Record:
            side = side_of(worker)
            own = {self.own_name(side, name) for name in names}
            arrays = what(self.workers[worker], self.folds.sources(side, sorted(own)))
            return self.canonical(side, self.folds.fold(side, arrays), names)

        return self.everywhere(one, workers)

    def fetch_states(self, names: Sequence[str], workers: Iterable[str]) -> dict[str, dict[str, Record]]:
        """Return the state of each worker's optimizer under canonical names: name -> slot -> array, in the layout of the weight."""

        def one(worker: str) -> dict[str, Record]:
            side = side_of(worker)
            own = {self.own_name(side, name) for name in names}
            states = self.workers[worker].optimizer_state(self.folds.sources(side, sorted(own)))
            found: dict[str, Record] = {name: {} for name in names}
            shapes = self.shapes[side]
            for slot in dict.fromkeys(slot for state in states.values() for slot in state):
                arrays = {n: state[slot] for n, state in states.items() if slot in state}
                whole = {n: array for n, array in arrays.items() if list(array.shape) == shapes[n]}
                for name, array in self.canonical(side, whole, names).items():
                    found[name][slot] = array
                for name in names:  # a count belongs to no axis
                    single = arrays.get(self.own_name(side, name))
                    if slot not in found[name] and single is not None and single.size == 1:
                        found[name][slot] = single.reshape(())
            return found

        return self.everywhere(one, workers)

    def canonical(self, side: str, arrays: Record, names: Iterable[str] | None = None) -> Record:
        """Return a side's arrays in canonical names and layout; a shared array appears under all its names."""
        shared = {name: arrays[first] for name, first in self.aliases[side].items() if first in arrays}
        return mapping.canonical(self.pairing, side, arrays | shared, names)

    def put(self, moved: Mapping[str, int], names: Iterable[str]) -> None:
        """Load the start state into the workers `names`; those in `moved` get every number moved by one ULP, drawn from that seed."""

        def one(worker: str, chunk: list[str]) -> None:
            side = side_of(worker)
            dtype, whole = self.dtypes[worker], self.states[side]
            state = {name: round_to(whole[name], dtype) for name in chunk if name in whole}
            state = move_one_ulp(state, moved[worker], dtype) if worker in moved else state
            names = {name_in(self.pairing.arrays[name][side]) for name in state}
            part = sorted(mapping.partly_named(self.pairing, side) & names)
            base = self.workers[worker].tensors(part) if part else {}
            arrays = mapping.spelled(self.pairing, side, state, self.shapes[side], base)
            self.workers[worker].put(self.folds.unfold(side, arrays))

        def own(worker: str) -> None:
            arrays, shapes = self.start[side_of(worker)], self.own_shapes[side_of(worker)]
            self.workers[worker].put({name: round_to(arrays[name], self.dtypes[worker]) for name in shapes})

        if self.has_own_weights:  # also the arrays without a partner
            self.everywhere(own, names)
        for chunk in self.chunks():
            self.everywhere(functools.partial(one, chunk=chunk), names)
        for worker in names:
            if single := self.single[side_of(worker)]:
                self.workers[worker].put({name: round_to(a, self.dtypes[worker]) for name, a in single.items()})

    def given(self, name: str, moved: int | None = None, step: int = 0) -> list[Array]:
        """Return the inputs of a worker in a step, moved by one ULP if `moved` is a seed."""
        dtype, inputs = self.dtypes[name], self.pair.program.inputs_of(step, self.inputs)
        floats = {str(i): round_to(round_to(x, self.dtype), dtype) for i, x in enumerate(inputs) if x.dtype.kind == "f"}
        floats = floats if moved is None else move_one_ulp(floats, moved, dtype)
        given = [floats.get(str(i), x) for i, x in enumerate(inputs)]
        return [self.pair.forms.get(i, Form()).enter(side_of(name), x) for i, x in enumerate(given)]

    def run(
        self,
        name: str,
        train: bool,
        record: bool = True,
        randomness: bool = False,
        step: int = 0,
        moved: int | None = None,
        functions: Sequence[str] | None = None,
        uncompiled: bool = False,
        loss: bool = False,
    ) -> ModelRun:
        """Run forward in one worker, with the dropout masks of `step`. For `functions` see `ModelService.run`.

        With `loss`, the functions of the user's loss are recorded, too. Models are `uncompiled` while they are matched.
        """
        side = side_of(name)
        wanted = self.wanted[side] if record else []
        seed = self.pair.seed * 1_000_003 + step
        run = self.workers[name].run(
            self.given(name, moved, step),
            train,
            wanted,
            seed,
            self.keys[train][side],
            randomness,
            names=self.pair.names.get(side, []),
            widened=self.widened.get(name, self.widened[side]),
            watched=self.watched[train],
            functions=functions,
            uncompiled=uncompiled or not self.compiled[side] or randomness or (train and side in self._keeping),
            targets=self.targets(name, step) if loss else None,
        )
        names = self._outputs if side == SIDES[1] else {}
        outputs = {names.get(own, own): array for own, array in run.outputs.items()}
        forms = self.pair.output_forms
        origins = {names.get(own, own): origin for own, origin in run.origins.items()}
        run = replace(
            run, outputs={n: find_form(forms, n, x).leave(side, x) for n, x in outputs.items()}, origins=origins
        )
        run = self.folds.run(side, run)
        self._turned[name] = {}
        if side == SIDES[1] and self.channels_last:
            run, self._turned[name] = channels_first(run, self.channels_last, self._without_format)
        found, self._splits[name] = split_run(run, side, self.pairing)
        return found

    @functools.cached_property
    def _without_format(self) -> set[str]:
        """Paddle's layers without arrays and without a data format."""
        return {m["path"] for m in self.modules["paddle"] if not m["arrays"]} - set(self.channels_last)

    def label(self, number: str) -> str:
        """Return the argument that input `number` is for, or the number itself if it is for the next one in order."""
        names = [self.pair.names[side][int(number)] for side in SIDES] if self.pair.names else []
        return next((name for name in names if name), number)

    def alignment(self, runs: Mapping[str, ModelRun]) -> Alignment:
        """Match the calls of two runs."""
        calls = [alignment.calls_of(self.models[side].units, runs[side].calls) for side in SIDES]
        aligned = alignment.align(self.pairing, *calls)
        return alignment.without_other_inputs(aligned, runs["torch"], runs["paddle"])

    def use_compiled(self, parts: Mapping[str, list[str]]) -> None:
        """Run these compiled parts by side from now on. A side without any runs as it was before it was compiled."""
        self.compiled = dict(parts)
        self.evidence = replace(self.evidence, compiled=self.compiled)

    @property
    def seen(self) -> Seen | None:
        """The side whose layers are all recorded, if only the other model is compiled."""
        sides = [side for side in SIDES if not self.compiled[side]]
        return Seen(sides[0], self.pairing.partner("paddle")) if len(sides) == 1 else None

    def seeds(
        self,
        runs: Mapping[str, ModelRun],
        step: int = 1,
        adds_rounding: bool = False,
        moved: Mapping[str, int] | None = None,
    ) -> tuple[dict[str, float], dict[str, Record] | None]:
        """Return by worker the loss of its outputs, and the gradients from which backward starts; None: it starts from the user's loss.

        `adds_rounding`: the twins have the rounding of Paddle's loss, too. `moved` are the seeds with which losses of workers are rounded
        otherwise, by default those of the twins: no move of a weight shows the rounding of 1 - p.
        """
        if self.pair.program.loss:
            added = self._measure_rounding(runs, step) if adds_rounding else None
            if moved is None:
                moved = {name: self._rounding_seed(name, step) for name in runs if name not in (*SIDES, EXACT)}
            return self.everywhere(functools.partial(self._loss, step=step, moved=moved, added=added), runs), None
        names = alignment.returned(runs["torch"].outputs, runs["paddle"].outputs)
        losses, found = {}, {}
        for name, run in runs.items():
            place = {one: two if name == "paddle" else one for one, two in names}
            losses[name], gradients = LOSSES[self.pair.loss](
                {n: run.outputs[p] for n, p in place.items()}, self.pair.seed
            )
            found[name] = {place[n]: round_to(gradient, self.dtypes[name]) for n, gradient in gradients.items()}
        return losses, found

    def _loss(self, name: str, step: int, moved: Mapping[str, int], added: LossRounding | None) -> float:
        """Return a worker's user loss. What is `added` to that of a twin has PyTorch's names."""
        if name in (*SIDES, EXACT):
            added = None
        if added:
            forms = self.pair.output_forms
            own = {n: find_form(forms, n, x).enter(side_of(name), x) for n, x in added.gradients.items()}
            added = replace(added, gradients=own)
        return self.workers[name].compute_loss(self.targets(name, step), moved.get(name), added)

    def _measure_rounding(self, runs: Mapping[str, ModelRun], step: int) -> LossRounding:
        """Return how far rounding moves Paddle's loss, with PyTorch's names. The twins of PyTorch's model show that of PyTorch's loss."""
        side, forms = SIDES[1], self.pair.output_forms
        found = self.workers[side].measure_rounding(self.targets(side, step), self._rounding_seed(side, step))
        named = {self._outputs.get(own, own): array for own, array in found.gradients.items()}
        named = {n: find_form(forms, n, x).leave(side, x) for n, x in named.items()}
        both = alignment.returned(runs["torch"].outputs, runs["paddle"].outputs)
        return replace(found, gradients={one: named[two] for one, two in both if two in named})

    def _rounding_seed(self, name: str, step: int) -> int:
        return [*self.workers].index(name) + 1_000 * step + 1_000_003 * self.pair.seed

    def targets(self, name: str, step: int) -> list[Array]:
        """Return the inputs of the loss of a worker in a step."""
        found = self.pair.program.targets_of(step)
        return [round_to(x, self.dtypes[name]) if x.dtype.kind == "f" else x for x in found]

    def describe_optimizers(self) -> None:
        """Read the users' optimizers of both sides, with canonical names."""
        for side, found in self.everywhere(lambda name: self.workers[name].describe_optimizer(), SIDES).items():
            if found is None:
                continue
            named = {
                name: found.parameters[own]
                for name in self.pairing.arrays
                if (own := self.own_name(side, name)) in found.parameters
            }
            self.described[side] = replace(found, parameters=named)

    def kept(self, zero: Collection[str]) -> dict[str, Record]:
        """Return by side 0/1 arrays that multiply gradients; the arrays named in `zero` are zero in exact arithmetic."""
        found: dict[str, Record] = {}
        for side in SIDES:
            tensors = {name_in(self.pairing.arrays[n][side]) for n in zero}
            ones = {
                n: np.full_like(self.state[n], float(n not in zero))
                for n, where in self.pairing.arrays.items()
                if name_in(where[side]) in tensors
            }
            whole = {
                name: np.ones(self.shapes[side][name]) for name in tensors & mapping.partly_named(self.pairing, side)
            }
            found[side] = mapping.spelled(self.pairing, side, ones, self.shapes[side], whole)
        return found

    def backward(self, seeds: Mapping[str, Record] | None, names: Iterable[str] | None = None) -> dict[str, Record]:
        """Run backward after the last run, in all workers or those in `names`, from the `seeds` of each; None: from the user's loss."""

        def one(name: str) -> Record:
            side = side_of(name)
            own = {n: o for o, n in self._outputs.items()} if side == SIDES[1] else {}
            outputs = self.pair.output_forms
            if seeds is None:
                found = self.workers[name].backward_loss()
            else:
                starts = {own.get(n, n): find_form(outputs, n, x).enter(side, x) for n, x in seeds[name].items()}
                found = self.workers[name].backward(starts)
            forms = {f"input/{i}": form for i, form in self.pair.forms.items()}
            forms |= {f"backward/{key}": form for key, form in self._turned[name].items()}
            found = {key: forms.get(key, Form()).leave(side, array) for key, array in found.items()}
            if seeds is None:
                back = {o: n for n, o in own.items()}
                named = {k.removeprefix("output/"): found.pop(k) for k in list(found) if k.startswith("output/")}
                named = {back.get(n, n): array for n, array in named.items()}
                found |= {f"output/{n}": find_form(outputs, n, x).leave(side, x) for n, x in named.items()}
            return split_gradients(found, self._splits[name])

        return self.everywhere(one, names)

    def update(self, kept: Mapping[str, Record], names: Iterable[str] | None = None) -> None:
        """Take an optimizer step in all workers, or those in `names`."""
        self.everywhere(lambda name: self.workers[name].update(kept[side_of(name)]), names)

    def trained(self) -> dict[str, bool]:
        """Return canonical name -> whether training changes it, for the reference's arrays."""
        return self.pairing.trained


def tensors_of(model: ModelService, names: Sequence[str]) -> Record:
    """Return a worker's tensors, for `Session.fetch`."""
    return model.tensors(names)


def gradients_of(model: ModelService, names: Sequence[str]) -> Record:
    """Return the gradients of a worker's last backward, for `Session.fetch`."""
    return model.gradients(names)


def side_of(name: str) -> str:
    """Return the side whose model a worker holds."""
    return name if name in SIDES else "torch"


def used_gradients_of(model: ModelService, names: Sequence[str]) -> Record:
    """Return the gradients as the user's optimizer has used them, for `Session.fetch`."""
    return model.step_gradients(names, True)


def step_gradients_of(model: ModelService, names: Sequence[str]) -> Record:
    """Return the gradients before the last step of the user's program, for `Session.fetch`."""
    return model.step_gradients(names, False)


def _without_prefix(arrays: Record, shapes: Mapping[str, Any]) -> Record:
    """Return arrays without the prefix of a wrapper in their names, if the model has none."""
    return next((found for found, _ in name_variants(arrays) if shapes.keys() <= found.keys()), arrays)


def _spread(name: str, array: Array, seed: int) -> Array:
    """Add noise to a constant array of floats, or one number (a positive one stays positive); return any other array unchanged."""
    if array.dtype.kind != "f" or not array.size or np.ptp(array):
        return array
    noise = np.asarray(stream(seed, "spread", name).standard_normal(array.shape)) * JITTER
    return np.asarray(array * np.exp(noise) if array.flat[0] > 0 else array + noise)
