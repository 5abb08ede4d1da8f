"""Two recordings whose layers are matched: what each step of both has, under the names of the reference."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.errors import InputError
from parity.modules.description import arrays_of
from parity.modules.layer_kinds import KINDS, SIDES, Kinds, name_in, parse_spelling
from parity.pairs import alignment, mapping, match_values
from parity.pairs.alignment import Alignment
from parity.pairs.layouts import Form, channels_first, channels_last
from parity.pairs.match_fused import ATTENTION
from parity.pairs.match_layers import Problem
from parity.pairs.match_models import ModelDescription
from parity.pairs.match_outputs import match_outputs
from parity.pairs.match_runs import Splits, split_gradients, split_run
from parity.pairs.model_server import ModelRun
from parity.recipe.optimizer_description import Clip, OptimizerDescription
from parity.recordings.recording import RankRecording, StepDescription, StepRecord, norms
from parity.short_repr import steps_in_words


def kinds_of_one(framework: str, kinds: Kinds = KINDS) -> Kinds:
    """Return kinds of layers for two models of one framework: both sides spell everything as it does."""

    def both(spelled: Mapping[str, Any]) -> dict[str, Any]:
        return dict.fromkeys(SIDES, spelled[framework])

    return {
        name: replace(
            kind,
            classes=both(kind.classes),
            arrays={n: both(s) for n, s in kind.arrays.items()},
            settings={n: both(s) for n, s in kind.settings.items()},
        )
        for name, kind in kinds.items()
    }


class RecordedPair:
    """A recording as the reference and another one as the candidate, with layers matched by a map file, names, order and values.

    The sides have the names `SIDES` also where both are of one framework; `names` are their names in sentences. `InputError` if the
    models cannot be matched, or no step is in both.
    """

    def __init__(
        self,
        sides: tuple[RankRecording, RankRecording],
        given: Mapping[str, Any] | None = None,
        kinds: Kinds = KINDS,
        dtype: str = "float32",
    ) -> None:
        self.sides = dict(zip(SIDES, sides, strict=True))
        self.dtype = dtype
        frameworks = [one.description.framework for one in sides]
        self.is_of_one = frameworks[0] == frameworks[1]
        self.names = (
            ("the reference", "the candidate") if self.is_of_one else (NAMES[frameworks[0]], NAMES[frameworks[1]])
        )
        kinds = kinds_of_one(frameworks[0], kinds) if self.is_of_one else kinds
        self.numbers = sorted(set(sides[0].numbers) & set(sides[1].numbers))
        if not self.numbers:
            raise InputError(
                f"no step is in both recordings: {sides[0].path} has {steps_in_words(sides[0].numbers)}, {sides[1].path} "
                f"has {steps_in_words(sides[1].numbers)}; record both with the same every="
            )
        self.modules = {
            side: modules_of_side(side, one.description.framework, one.description.modules)
            for side, one in self.sides.items()
        }
        self._channels_last = {} if self.is_of_one else channels_last(self.modules[SIDES[1]])
        self._passing = {m["path"] for m in self.modules[SIDES[1]] if not m["arrays"]} - set(self._channels_last)
        described = {side: arrays_of(self.modules[side]) for side in SIDES}
        self.shapes = {side: {n: list(a["shape"]) for n, a in described[side].items()} for side in SIDES}
        self.aliases = {side: {n: a["same_as"] for n, a in described[side].items() if a["same_as"]} for side in SIDES}
        self.has_weights = all(one.description.weights for one in sides)
        self._outputs: dict[str, str] = {}
        self._match(given or {}, kinds)

    def record(self, side: str, number: int) -> StepRecord:
        """Return what a side has of a step."""
        return self.sides[side].step(number)

    def _match(self, given: Mapping[str, Any], kinds: Kinds) -> None:
        first = {side: self.record(side, self.numbers[0]) for side in SIDES}
        runs = {side: run_of(first[side]) for side in SIDES}
        bare = [ModelDescription.of(side, self.modules[side], kinds=kinds) for side in SIDES]
        whole = [sum(unit.kind == ATTENTION for unit in one.units) for one in bare]
        opened = whole[0] != whole[1]
        models = {}
        for side in SIDES:
            order = list(dict.fromkeys(call["path"] for call in runs[side].calls))
            inputs = match_values.inputs_of(runs[side])
            models[side] = ModelDescription.of(side, self.modules[side], order, order, kinds, inputs, opened)
        problem = Problem(models[SIDES[0]], models[SIDES[1]], given)

        def recorded() -> match_values.Models:
            arrays = {
                side: {n: np.broadcast_to(np.float32(0), s) for n, s in self.shapes[side].items()} for side in SIDES
            }
            return match_values.Models(
                lambda side, own: None,
                lambda side: self._turned(side, runs[side]),
                arrays,
                lambda name, array: array,
                self.aliases,
                self.dtype,
            )

        self.pairing = match_values.decide(problem, recorded)
        self.models = problem.described(self.pairing)
        if runs[SIDES[0]].outputs.keys() != runs[SIDES[1]].outputs.keys():
            self._outputs, _ = match_outputs(runs[SIDES[0]].outputs, runs[SIDES[1]].outputs, self.dtype)

    def _turned(self, side: str, run: ModelRun) -> ModelRun:
        """Return a run of a side in the order of axes of the reference."""
        if side == SIDES[0] or not self._channels_last:
            return run
        return channels_first(run, self._channels_last, self._passing)[0]

    def run(self, side: str, record: StepRecord) -> tuple[ModelRun, Mapping[str, Array]]:
        """Return what a side computed in a step, and the gradients of its layers' outputs."""
        run = run_of(record)
        forms: dict[str, Form] = {}
        if side == SIDES[1]:
            run = replace(run, outputs={self._outputs.get(name, name): array for name, array in run.outputs.items()})
            if self._channels_last:
                run, forms = channels_first(run, self._channels_last, self._passing)
        found, splits = split_run(run, side, self.pairing)
        return found, _gradients(record, splits, {key: form.axes for key, form in forms.items()})

    def output_gradients(self, side: str, record: StepRecord) -> Record:
        """Return the gradients of what the model of a side returned, where they were recorded, by the name of the output."""
        last = {key: record[key] for call in record.description.calls for key in call["outputs"]}
        found: Record = {}
        for name, key in _output_keys(record).items():
            output = record[key]
            layers = [
                one for one, array in last.items() if array.shape == output.shape and np.array_equal(array, output)
            ]
            known = [f"backward/{one}" for one in (key, *reversed(layers)) if f"backward/{one}" in record]
            if known:
                found[self._outputs.get(name, name) if side == SIDES[1] else name] = record[known[0]]
        return found

    def align(self, runs: Mapping[str, ModelRun]) -> Alignment:
        """Match the calls of two runs."""
        calls = [alignment.calls_of(self.models[side].units, runs[side].calls) for side in SIDES]
        aligned = alignment.align(self.pairing, *calls)
        return alignment.without_other_inputs(aligned, runs[SIDES[0]], runs[SIDES[1]])

    def fetch(self, side: str, record: Mapping[str, Array], prefix: str, names: Iterable[str]) -> Record:
        """Return arrays of a side by canonical name, of those it recorded: in canonical layout, or their norms if weights are private.

        Parts of arrays have no norms.
        """
        spelled = {name: self.pairing.arrays[name][side] for name in names}
        aliases = self.aliases[side]
        stored = {own: f"{prefix}/{aliases.get(own, own)}" for own in map(name_in, spelled.values())}
        arrays = {own: record[key] for own, key in stored.items() if key in record}
        if self.has_weights:
            return mapping.canonical(self.pairing, side, arrays, names)
        shared = self.sides[side].description.weights
        whole = {name: name_in(where) for name, where in spelled.items() if parse_spelling(where).whole}
        return {n: norms(arrays[own]) if shared else arrays[own] for n, own in whole.items() if own in arrays}

    def optimizers(self, number: int) -> tuple[OptimizerDescription, OptimizerDescription]:
        """Return the optimizers of both sides in a step, with the canonical names of the trained parameters that both sides have."""
        one, two = (self._optimizer(side, number) for side in SIDES)
        return one, two

    def _optimizer(self, side: str, number: int) -> OptimizerDescription:
        step = self.record(side, number).description
        found = step.described_optimizer
        own = {
            name: self.aliases[side].get(name_in(where[side]), name_in(where[side]))
            for name, where in self.pairing.arrays.items()
            if self.pairing.trained.get(name)
        }
        parameters = {name: found.parameters[o] for name, o in own.items() if o in found.parameters}
        clip = found.clip
        if clip is None and step.clips:
            clip = _clip_of(step)
            named = {name for names in step.clipped for name in names}
            alone = [name for name, o in own.items() if step.clipped and name in parameters and o not in named]
            parameters |= {name: {**parameters[name], "unclipped": True} for name in alone}
        return replace(found, parameters=parameters, clip=clip)

    def in_words(self, text: str) -> str:
        """Return a sentence about PyTorch and Paddle with the names of the sides, where both are of one framework."""
        if not self.is_of_one:
            return text
        return text.replace("PyTorch", self.names[0]).replace("Paddle", self.names[1])


def _clip_of(step: StepDescription) -> Clip:
    """Return the clipping by functions that were called in a step."""
    kind, limit = step.clips[0]
    found = [name for names in step.clipped for name in names]
    is_repeated = kind == "global norm" and len(step.clips) > 1 and len(found) == len(set(found)) > 0
    if is_repeated and all(len(names) < 2 for names in step.clipped):
        return Clip("norm", float(limit))
    return Clip(str(kind), float(limit), is_repeated)


def modules_of_side(side: str, framework: str, modules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the modules of a model, whose framework's classes have the prefix that the table of kinds expects of the side."""
    own = f"{framework}."
    return [
        {**module, "classes": [f"{side}.{n.removeprefix(own)}" if n.startswith(own) else n for n in module["classes"]]}
        for module in modules
    ]


def run_of(record: StepRecord) -> ModelRun:
    """Return a recorded step as the run of a model. With several forward passes, the outputs of the second end with `@2`."""
    step, arrays = record.description, cast(Record, record)
    outputs = {name: record[key] for name, key in _output_keys(record).items()}
    return ModelRun(outputs, arrays, list(map(dict, step.calls)), list(map(dict, step.draws)), [], [], [])


def _output_keys(record: StepRecord) -> dict[str, str]:
    """Return the name of each output of the model -> that of its array."""
    return {
        place + (f"@{batch + 1}" if batch else ""): f"output/{batch}/{place}"
        for batch in range(record.description.batches)
        for place in record.named(f"output/{batch}")
    }


def _gradients(record: StepRecord, splits: Splits, axes: Mapping[str, Sequence[int]]) -> Mapping[str, Array]:
    turned = {
        f"backward/{key}": np.ascontiguousarray(record[f"backward/{key}"].transpose(np.argsort(order)))
        for key, order in axes.items()
        if f"backward/{key}" in record
    }
    found: Mapping[str, Array] = ChainMap(turned, cast(Record, record))
    if not splits:
        return found
    whole = {f"backward/{key}" for key in splits}
    return ChainMap(split_gradients({key: found[key] for key in whole if key in found}, splits), cast(Record, found))
