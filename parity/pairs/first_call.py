"""The first function call at which two models diverge: which functions both call before the first divergence, and which one differs.

Both models run again, and record their calls and which tensor feeds which. From the tensor that diverges, the calls are followed back to
tensors that are equal on both sides. What remains is where the models differ.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.compare.relative_error import distance, norm, relative_l2
from parity.compare.verdicts import Divergence
from parity.modules.function_calls import LOSS
from parity.modules.layer_kinds import OTHER_SIDE, SIDES, name_in
from parity.pairs import alignment
from parity.pairs.alignment import Alignment, Call
from parity.pairs.causes import LIKE_ROUNDING, OTHER_CHANCE, describe_places, other_sizes
from parity.pairs.model_worker import ModelRun
from parity.pairs.outer_padding import padding_of
from parity.pairs.session import Session
from parity.short_repr import few

MOST_CALLS = 96
"""At most this many calls of each side are followed back, and their values compared."""

MOST_NAMES = 12
"""A sentence lists at most this many calls of each side."""

IN_ORDER = ("subtract", "divide", "matmul", "concat", "stack", "power", "where")
"""Functions that compute something else if two inputs are exchanged."""

LAYOUTS = ("reshape", "transpose", "unsqueeze", "squeeze", "flatten", "getitem", "cast", "contiguous", "moveaxis")
"""Functions that return the numbers of their input, in another shape or dtype. `getitem` is one if it leaves nothing out."""

CONSTANTS = ("to_tensor", "tensor", "as_tensor", "from_numpy")
"""Functions that return a constant."""

SAME_FACTOR = 1e-12
"""Largest relative error of a factor between two tensors in float64."""

OWN_FUNCTIONS = {"torch": "a torch.autograd.Function", "paddle": "a PyLayer"}
"""What a function is whose backward the user has written."""

MASK = 1e6
"""Numbers of at least this size, such as -1e9, are those that attention adds to scores that it hides."""

HIDDEN = re.compile(r"\$|(None|False|\?|(torch|paddle)\.\w+)$")
"""Arguments that a sentence does not show: tensors, dtypes, and defaults of most functions."""

INFINITE = re.compile(r"float\('(-?inf|nan)'\)")
"""How a program spells these numbers."""

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
"""How a program spells a number."""

NUMBER_INSIDE = re.compile(rf"(?<![\w.]){NUMBER.pattern}")
"""A number in the text of a call."""

TENSOR = re.compile(r"\$(\d+)")
"""How the arguments of a call spell its tensors, by the number of its inputs."""

SLICE = re.compile(r"slice\(([^(),]+, [^(),]+, [^(),]+)\)")
"""How a program spells a slice outside of brackets."""


@dataclass(frozen=True)
class FirstCall:
    """Where two models diverge: a sentence, and by side the numbers of the calls that compute different tensors from equal ones.

    `runs` are the runs in which the calls have these numbers. `results` are the origins of the tensors that differ. `backward`: these are
    the gradients of these tensors, which the backward passes of the calls compute. `step`: the step with the calls' random numbers.
    """

    sentence: str
    train: bool = False
    runs: Mapping[str, ModelRun] = field(default_factory=dict)
    calls: Mapping[str, Sequence[int]] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    backward: bool = False
    step: int = 1

    def functions(self, side: str) -> list[dict[str, Any]]:
        """Return the calls of a side as they were recorded."""
        return [self.runs[side].functions[number] for number in self.calls[side]]

    def describe(self, first: Divergence) -> Divergence:
        """Return the first divergence with the function calls that differ.

        They are the cause, or a part of it, unless it names a mistake already.
        """
        if is_explained(first):
            return first
        if first.cause and not first.generic:
            return replace(first, calls=self.sentence)
        joined = ": " if self.backward else "; "
        known = None if first.cause == LIKE_ROUNDING and self._other_functions() else first.cause
        return replace(first, cause=joined.join(filter(None, (known, self.sentence))), generic=False)

    def _other_functions(self) -> bool:
        """Whether the sides call other functions, none of which changes the dtype: then no rounding is the cause."""
        names = [{call["name"] for call in self.functions(side)} for side in SIDES if side in self.calls]
        return len(names) == len(SIDES) and names[0] != names[1] and "cast" not in names[0] | names[1]


def is_explained(first: Divergence) -> bool:
    """Whether the cause of a difference is known, such as a setting of a layer, so that function calls add nothing."""
    if not first.cause or first.generic or first.phase == "backward":
        return False
    return ":output" in first.tensor or first.cause.startswith(OTHER_CHANCE)


def run_recorded(
    session: Session,
    train: bool,
    record: bool,
    wanted: Mapping[str, Sequence[str]],
    step: int = 1,
    loss: bool = False,
) -> dict[str, ModelRun]:
    """Run both models from the start state, record the functions that they call, and the values of the origins `wanted` by side.

    In training, they get the inputs and the random numbers of `step`. With `loss`, the functions of the users' losses are recorded, too.
    """
    session.put({}, SIDES)

    def run(side: str) -> ModelRun:
        return session.run(side, train, record, step=step if train else 0, functions=wanted[side], loss=loss)

    return session.everywhere(run, SIDES)


def run_backward(session: Session, wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, Record], dict[str, Record]]:
    """Run a training step in both models up to the gradients; return by side values and gradients of the origins `wanted`."""
    runs = run_recorded(session, True, False, wanted)
    found = session.backward(session.seeds(runs)[1], SIDES)
    prefix = "backward/"
    gradients = {
        side: {key.removeprefix(prefix): array for key, array in record.items() if key.startswith(prefix)}
        for side, record in found.items()
    }
    return {side: run.arrays for side, run in runs.items()}, gradients


def find_first_call(session: Session, first: Divergence) -> FirstCall | None:
    """Return the call at which the first divergence arises; None if it is none of a pass, and no gradient that one side lacks.

    Functions of a loss are named only where nothing else explains the difference, and in the first step.
    A forward pass that diverges in a later step runs from the start state, with the inputs and random numbers of that step.
    """
    of_loss = first.phase == "loss" and first.step == 1 and (first.cause is None or first.generic)
    if not of_loss and first.phase not in ("eval", "forward", *(("backward", "gradient") if first.step == 1 else ())):
        return None
    if first.phase == "gradient" and not math.isinf(first.error):
        return None
    train = first.phase != "eval"
    try:
        runs = run_recorded(session, train, True, {side: [] for side in SIDES}, first.step, of_loss)
        aligned = session.alignment(runs)
        start = _first_tensor(first, aligned, runs) if first.step > 1 else first
        if not start:
            return None
        found = _Search(session, start, runs, aligned, train).find()
        if found and _lacks_a_reason(found):
            # Such as a softmax: a row that is hidden as a whole shows the numbers of the mask.
            found = _Search(session, start, runs, aligned, train, masks_alike=False).find() or found
        return found
    except Exception as error:  # the verdict stands without it
        return FirstCall(f"the search for the first call that differs failed ({type(error).__name__}: {error})")


def _first_tensor(first: Divergence, aligned: Alignment, runs: Mapping[str, ModelRun]) -> Divergence | None:
    """Return the divergence at the first tensor of these runs that differs, where only the outputs were compared."""
    for compared in alignment.forward(aligned, "forward", runs["torch"], runs["paddle"], ()):
        if not compared.shapes and distance(compared.torch, compared.paddle) > first.bound:
            layers = [call.name for call in compared.calls] if compared.calls else ["", ""]
            tensor = compared.name.partition("/")[2]
            return replace(first, tensor=tensor, layer=layers[0], candidate_layer=layers[1])
    return None


def find_call_of_largest(session: Session, largest: Divergence) -> FirstCall | None:
    """Return the call at which a much larger error arises than the first one. Tensors with small errors count as equal."""
    return find_first_call(session, replace(largest, bound=largest.error / 100))


class _Search:
    """The search in the recorded `runs` of both models."""

    def __init__(
        self,
        session: Session,
        first: Divergence,
        runs: Mapping[str, ModelRun],
        aligned: Alignment,
        train: bool,
        masks_alike: bool = True,
    ) -> None:
        self.session, self.first, self.recorded, self.aligned, self.train = session, first, runs, aligned, train
        self.masks_alike = masks_alike
        self.runs = {side: replace(run, functions=_with_numbers(run.functions)) for side, run in runs.items()}
        self.tolerance = first.bound
        self.partner: dict[str, str] = {}
        """Origin of a tensor of PyTorch -> that of its equal partner in Paddle."""
        self.outputs: dict[str, dict[str, str]] = {side: {} for side in SIDES}
        """By side: origin of an output of a matched layer -> the layer's name."""
        self.inputs: dict[str, dict[str, str]] = {side: {} for side in SIDES}
        """The same for inputs."""

    def find(self) -> FirstCall | None:
        layer, _, tensor = self.first.tensor.rpartition(":")
        pairs = self.aligned.pairs
        if self.first.phase == "gradient" or tensor.startswith("input/"):
            self._know(pairs, "all")
            inputs = dict.fromkeys(SIDES, tensor.replace("/", " "))
            return self._lost() if self.first.phase == "gradient" else self._guilty_backward(inputs)
        if layer:
            place = [
                i
                for i, pair in enumerate(pairs)
                if (pair[0].name, pair[1].name) == (self.first.layer, self.first.candidate_layer)
            ]
            if not place:
                return None
            what = "inputs" if tensor.startswith("input") else "outputs"
            number = int(tensor.removeprefix(what[:-1]) or 0)
            if self.first.phase != "backward" and what == "outputs" and self._has_other_sizes(*pairs[place[0]]):
                what, number = "inputs", 0  # compared as far as both have them
            if self.first.phase == "backward":
                self._know(pairs, "all")
                return self._backward(pairs[place[0]], number)
            self._know(pairs[: place[0]], "all")
            if what == "outputs":
                self._know(pairs[place[0] : place[0] + 1], "inputs")
            calls = dict(zip(SIDES, pairs[place[0]], strict=True))
            starts = {side: self._event(side, call)[what][number] for side, call in calls.items()}
            if what == "inputs":
                starts = {side: self._before_padding(side, starts[side], *calls.values()) for side in SIDES}
            to = f"in {self.first.layer}" if what == "outputs" else self.first.layer
        elif self.first.phase != "backward" and tensor.startswith("(output)"):
            self._know(pairs, "all")
            names = alignment.returned(self.runs["torch"].outputs, self.runs["paddle"].outputs, "fiub")
            name = tensor.removeprefix("(output)").removeprefix(".")
            other = dict(names).get(name)
            if other is None:
                return None
            starts = {"torch": self.runs["torch"].origins[name], "paddle": self.runs["paddle"].origins[other]}
            to = "the output"
        elif self.first.phase == "loss":
            self._know(pairs, "all")
            self._know_outputs()
            starts, to = {side: self.runs[side].origins[LOSS] for side in SIDES}, f"in {LOSS}"
        else:
            return None
        return self._forward(starts, to)

    def _before_padding(self, side: str, start: str, one: Call, two: Call) -> str:
        """Return the tensor that becomes `start` by the padding which the other side's layer does inside."""
        arrays = [self.runs[side].arrays[call.inputs[0]] for side, call in zip(SIDES, (one, two), strict=True)]
        number = _number(start)
        if number is None or padding_of(one.unit, two.unit, *arrays) is None:
            return start
        call = self.runs[side].functions[number]
        return str(call["inputs"][0]) if call["name"] == "pad" and call["inputs"] else start

    def _has_other_sizes(self, one: Call, two: Call) -> bool:
        """Whether a layer gets an input of another size, which padding inside of it does not make up for."""
        inputs = [self.runs[s].arrays[call.inputs[0]] for s, call in zip(SIDES, (one, two), strict=True) if call.inputs]
        return len(inputs) == len(SIDES) and other_sizes(one, two, *inputs) != ""

    def _event(self, side: str, call: Call) -> Mapping[str, Sequence[str]]:
        """Return the recorded layer of a call, with the origins of its inputs and outputs."""
        found: Mapping[str, Sequence[str]] = [
            layer for layer in self.runs[side].layers if layer["path"] == call.unit.holder
        ][call.turn]
        return found

    def _know(self, pairs: Sequence[tuple[Call, Call]], what: str) -> None:
        """Note that the tensors of these pairs are equal."""
        for pair in pairs:
            events = dict(zip(SIDES, zip(pair, map(self._event, SIDES, pair), strict=True), strict=True))
            seen = all(call.inputs for call in pair)  # those of an attention layer that is opened were not compared
            for side, (call, event) in events.items():
                if seen:
                    self.inputs[side] |= dict.fromkeys(event["inputs"], call.name)
                if what == "all":
                    self.outputs[side] |= dict.fromkeys(event["outputs"], call.name)
            whole = all(call.unit.layer is None and not call.unit.settings.get("activation") for call in pair)
            for kind in (*(("inputs",) if seen else ()), *(("outputs",) if what == "all" and whole else ())):
                self.partner |= dict(zip(*(event[kind] for _, event in events.values()), strict=False))
        for where in self.session.pairing.arrays.values():
            self.partner[f"weight {name_in(where['torch'])}"] = f"weight {name_in(where['paddle'])}"
        self.partner |= {f"input {i}": f"input {i}" for i in range(len(self.session.inputs))}

    def _know_outputs(self) -> None:
        """Note that what the models return is equal, and so are the inputs of the losses."""
        origins = [self.runs[side].origins for side in SIDES]
        for names in alignment.returned(self.runs["torch"].outputs, self.runs["paddle"].outputs, "fiub"):
            one, two = (own[name] for own, name in zip(origins, names, strict=True))
            self.partner[one] = two
            for side, origin in zip(SIDES, (one, two), strict=True):
                self.outputs[side].setdefault(origin, f"output {names[0]} of the model")
        self.partner |= {f"target {i}": f"target {i}" for i in range(len(self.session.targets("torch", 1)))}

    def _forward(self, starts: Mapping[str, str], to: str) -> FirstCall | None:
        far = {side: self._back(side, starts[side], self.outputs[side]) for side in SIDES}
        wanted = {side: [starts[side], *self._tensors(side, far[side])] for side in SIDES}
        runs = run_recorded(self.session, self.train, False, wanted, self.first.step, self.first.phase == "loss")
        values = {side: run.arrays for side, run in runs.items()}
        same = _Same(self.partner, values["torch"], values["paddle"], self.tolerance, self.masks_alike)
        aligned = {side: self.outputs[side].keys() | self.inputs[side].keys() for side in SIDES}
        place, after, only = self._deepest(starts, same, aligned)
        ends = {side: aligned[side] | self._reached(side, place, same) for side in SIDES}
        near = {
            side: [_number(place[side]) or 0]
            if only
            else []
            if place[side] in ends[side]
            else self._back(side, place[side], same.known(side) - {place[side]})
            for side in SIDES
        }
        for side, other in OTHER_SIDE.items():
            if near[side] and not near[other]:
                near[side] = self._with_layouts(side, near[side], place[other], same)
        between = {side: self._back(side, starts[side], aligned[side]) for side in SIDES}
        for side, other in OTHER_SIDE.items():
            elsewhere = {
                o for n in set(far[other]) - set(between[other]) for o in self.runs[other].functions[n]["outputs"]
            }
            between[side] = [n for n in between[side] if not self._is_elsewhere(side, n, same, elsewhere)]
        said = self._between(between, to)
        guilty, calls = self._guilty(near, place, after, same)
        sentence = ": ".join(text for text in (said, guilty) if text)
        results = {
            side: self.runs[side].functions[numbers[-1]]["outputs"][0] if (numbers := calls[side]) else place[side]
            for side in SIDES
        }
        step = self.first.step
        return FirstCall(sentence, self.train, self.recorded, calls, results, step=step) if sentence else None

    def _back(self, side: str, start: str, stops: Collection[str]) -> list[int]:
        """Return the numbers of the calls that make the tensor `start` from tensors of `stops`, in order; the last ones, if many."""
        calls, found, heap = self.runs[side].functions, set[int](), list[int]()

        def follow(origin: str) -> None:
            number = _number(origin)
            if number is not None and number not in found:
                found.add(number)
                heapq.heappush(heap, -number)

        if start not in stops:
            follow(start)
        done: list[int] = []
        while heap and len(done) < MOST_CALLS:
            done.append(-heapq.heappop(heap))
            for origin in calls[done[-1]]["inputs"]:
                if origin not in stops:
                    follow(origin)
        return sorted(done)

    def _reached(self, side: str, place: Mapping[str, str], same: _Same) -> set[str]:
        """Return the tensor of `place` if the other side computes the same one, too, and then changes it by further calls."""
        other = OTHER_SIDE[side]
        numbers = self._back(other, place[other], self.outputs[other])
        computed = {origin for number in numbers[:-1] for origin in self.runs[other].functions[number]["outputs"]}
        return {place[side]} if computed & set(same.equals(side, place[side])) else set()

    def _deepest(
        self, starts: Mapping[str, str], same: _Same, stops: Mapping[str, Collection[str]]
    ) -> tuple[dict[str, str], dict[str, int], bool]:
        """Return the earliest tensors, one a side, that differ and from which both sides compute `starts` by the same functions.

        Also return the next calls, one a side, that both have one name, or {}; and whether it is known that the tensors differ because the
        calls that make them take other tensors.
        """
        place, after = dict(starts), dict[str, int]()
        for _ in range(MOST_CALLS):
            numbers = {side: _number(place[side]) for side in SIDES}
            known = {side: place[side] in same.known(side) and place[side] != starts[side] for side in SIDES}
            if any(n is None or known[side] or place[side] in stops[side] for side, n in numbers.items()):
                break
            one, two = (self.runs[side].functions[numbers[side] or 0] for side in SIDES)
            rest = _unmatched(one, two, same)
            if one["name"] != two["name"] and self._take_other_constants(one, two, same):
                return place, after, True
            if one["name"] == two["name"] and len(one["inputs"]) == len(two["inputs"]):
                rest = self._earliest(one, two, rest)
                if len(rest[0]) != 1 or len(rest[1]) != 1:
                    break
                below = {"torch": rest[0][0], "paddle": rest[1][0]}
                if all(self._is_source(side, o) or o in same.known(side) for side, o in below.items()):
                    return place, after, True
                sources = {side: self._behind_layouts(side, o, same) for side, o in below.items()}
                if all(self._is_source(*row) for row in sources.items()):
                    return place, after, not same(sources["torch"], sources["paddle"])
                place, after = below, {side: number or 0 for side, number in numbers.items()}
                continue
            moved = self._without_layout(place, same) or self._without_factor(place, same)
            if moved is None:
                break
            place = moved
        return place, after, False

    def _take_other_constants(self, one: Mapping[str, Any], two: Mapping[str, Any], same: _Same) -> bool:
        """Whether two calls take the same tensors but for one, which is a constant or a buffer on both sides."""
        rest = dict(zip(SIDES, _unmatched(one, two, same), strict=True))
        if len(one["inputs"]) != len(two["inputs"]) or len(one["inputs"]) < 2 or {len(r) for r in rest.values()} != {1}:
            return False
        sources = {side: self._behind_layouts(side, origins[0], same) for side, origins in rest.items()}
        return all(self._is_source(*row) for row in sources.items()) and not same(sources["torch"], sources["paddle"])

    def _earliest(
        self, one: Mapping[str, Any], two: Mapping[str, Any], rest: tuple[list[str], list[str]]
    ) -> tuple[list[str], list[str]]:
        """Return the earliest pair of inputs in `rest`, which no input of the other side equals; `rest` where their order is free."""
        pairs = [(a, b) for a, b in zip(one["inputs"], two["inputs"], strict=True) if a in rest[0] and b in rest[1]]
        made = [(number, [a], [b]) for a, b in pairs if (number := _number(a)) is not None and _number(b) is not None]
        if one["name"] not in IN_ORDER or len(made) < 2 or len(pairs) < max(map(len, rest)):
            return rest
        return min(made)[1:]

    def _with_layouts(self, side: str, numbers: Sequence[int], end: str, same: _Same) -> list[int]:
        """Return calls that only change a shape with those before them, up to the tensor that has the other side's numbers in order."""
        found = list(numbers)
        while (call := self.runs[side].functions[found[0]])["name"] in LAYOUTS and call["inputs"]:
            before = call["inputs"][0]
            number = _number(before)
            if number is None or before in self.outputs[side] or same.has_order(side, before, end):
                break
            found.insert(0, number)
        return found if self.runs[side].functions[found[0]]["name"] in LAYOUTS else list(numbers)

    def _is_source(self, side: str, origin: str) -> bool:
        """Whether no call makes a tensor from others: an input, a weight, or a constant, such as an array of numpy."""
        number = _number(origin)
        return number is None or self.runs[side].functions[number]["name"] in CONSTANTS

    def _without_layout(self, place: Mapping[str, str], same: _Same) -> dict[str, str] | None:
        """Return `place` before a call of one side that only brings a tensor into another shape; None if that call is the difference."""
        for side in SIDES:
            before = self._before_layout(side, place[side], same)
            moved = {**place, side: before or ""}
            if before and not same(moved["torch"], moved["paddle"]):
                return moved
        return None

    def _without_factor(self, place: Mapping[str, str], same: _Same) -> dict[str, str] | None:
        """Return `place` before two calls that multiply by one number, such as multiply(0.5) and divide(2); None for other calls."""
        calls = {side: self.runs[side].functions[_number(origin) or 0] for side, origin in place.items()}
        if any(len(call["inputs"]) != 1 for call in calls.values()):
            return None
        before: dict[str, str] = {side: call["inputs"][0] for side, call in calls.items()}
        factors = [same.factor(side, before[side], place[side]) for side in SIDES]
        if None in factors or not math.isclose(factors[0] or 0, factors[1] or 0, rel_tol=SAME_FACTOR):
            return None
        return None if same(before["torch"], before["paddle"]) else before

    def _before_layout(self, side: str, origin: str, same: _Same) -> str | None:
        """Return the tensor of which `origin` has all numbers, in another shape; None if it is made in another way."""
        number = _number(origin)
        call = self.runs[side].functions[number] if number is not None else {}
        if call.get("name") not in LAYOUTS or len(call["inputs"]) != 1:
            return None
        sizes = [same.size(side, o) for o in (origin, call["inputs"][0])]
        return call["inputs"][0] if sizes[0] == sizes[1] is not None else None

    def _behind_layouts(self, side: str, origin: str, same: _Same) -> str:
        while before := self._before_layout(side, origin, same):
            origin = before
        return origin

    def _is_elsewhere(self, side: str, number: int, same: _Same, elsewhere: Collection[str]) -> bool:
        """Whether the other side makes the same tensor, too, and before the last tensors that are known to be equal."""
        equals = [o for origin in self.runs[side].functions[number]["outputs"] for o in same.equals(side, origin)]
        return bool(equals) and set(equals) <= set(elsewhere)

    def _tensors(self, side: str, numbers: Iterable[int]) -> list[str]:
        """Return the origins of all tensors of some calls, without weights."""
        calls = [self.runs[side].functions[number] for number in numbers]
        found = [origin for call in calls for origin in (*call["inputs"], *call["outputs"])]
        return list(dict.fromkeys(origin for origin in found if not origin.startswith("weight")))

    def _between(self, between: Mapping[str, Sequence[int]], to: str) -> str:
        """List the calls of both sides, if they have different names."""
        names = {side: [self.runs[side].functions[n]["name"] for n in between[side]] for side in SIDES}
        if names["torch"] == names["paddle"]:
            return ""
        said = ""
        if max(map(len, names.values())) <= MOST_NAMES:
            said = " " + "; ".join(f"{NAMES[side]} calls {_listed(names[side])}" for side in SIDES)
        if to.startswith("in "):
            return f"{to}{said}" if said or to != f"in {LOSS}" else ""
        begin = self._begin(between)
        return f"between {begin} and {to}{said}" if begin else f"before {to}{said}"

    def _begin(self, between: Mapping[str, Sequence[int]]) -> str:
        """Name the last tensor that is equal on both sides before these calls."""
        for side in SIDES:
            origins = [o for n in between[side] for o in self.runs[side].functions[n]["inputs"]]
            for known, words in ((self.outputs[side], ""), (self.inputs[side], "the input of ")):
                if reached := [origin for origin in origins if origin in known]:
                    last = max(reached, key=lambda origin: _number(origin) or -1)
                    name = known[last] if side == "torch" else self._reference(known[last])
                    return f"{words}{name}"
        return ""

    def _reference(self, name: str) -> str:
        """Return PyTorch's name of a call of Paddle."""
        return next((a.name for a, b in self.aligned.pairs if b.name == name), name)

    def _guilty(
        self, near: Mapping[str, Sequence[int]], starts: Mapping[str, str], after: Mapping[str, int], same: _Same
    ) -> tuple[str, dict[str, list[int]]]:
        """Describe the first calls that differ, and return their numbers by side. `after` are the next calls that both sides have."""
        names = [[self.runs[side].functions[n]["name"] for n in near[side]] for side in SIDES]
        codes = difflib.SequenceMatcher(None, names[0], names[1], autojunk=False).get_opcodes()
        if len(names[0]) != len(names[1]):  # a call of two tensors is not that of a tensor and a number
            taken = [
                [(call["name"], len(call["inputs"])) for call in map(self.runs[side].functions.__getitem__, near[side])]
                for side in SIDES
            ]
            exact = difflib.SequenceMatcher(None, taken[0], taken[1], autojunk=False).get_opcodes()
            codes = codes if any(code[0] == "replace" for code in exact) else exact
        if not codes:
            return self._origin_of_start(starts), {side: [] for side in SIDES}
        tag, i, i_end, j, j_end = codes[0]
        if tag == "equal":
            calls = {"torch": [near["torch"][i]], "paddle": [near["paddle"][j]]}
            text = self._one_function(calls["torch"][0], calls["paddle"][0], same)
            alike = len({len(self.runs[side].functions[calls[side][0]]["inputs"]) for side in SIDES}) == 1
            return text, calls if alike else {side: list(near[side]) for side in SIDES}
        calls = {"torch": list(near["torch"][i:i_end]), "paddle": list(near["paddle"][j:j_end])}
        counts, extra = [Counter(side) for side in names], Counter([*names[0][i:i_end], *names[1][j:j_end]])
        in_another_order = tag != "replace" and all(counts[0][name] == counts[1][name] for name in extra)
        # If both sides have calls of their own, any of them may differ.
        if in_another_order or len({code[0] for code in codes} - {"equal"}) > 1:
            tag, calls = "replace", {side: list(near[side]) for side in SIDES}
        pair = [self.runs[side].functions[near[side][-1]] for side in SIDES if len(near[side]) == 1]
        if len(pair) == len(SIDES) and self._take_other_constants(pair[0], pair[1], same):
            text = self._one_function(near["torch"][0], near["paddle"][0], same)
        elif tag == "replace":
            text = self._replaced(calls)
        else:
            side = "paddle" if tag == "insert" else "torch"
            text = f"only {NAMES[side]} calls {self._texts(side, calls[side])} in {self._paths(side, calls[side])}"
        if tag != "replace" and (len(codes) > 1 or after):  # the next call of one name shows the difference
            following = {"torch": near["torch"][i_end : i_end + 1], "paddle": near["paddle"][j_end : j_end + 1]}
            for side, numbers in following.items():
                calls[side] += numbers if len(codes) > 1 else [after[side]]
        return text, calls

    def _origin_of_start(self, starts: Mapping[str, str]) -> str:
        """Say what the tensor is on both sides, where neither side computes it from other tensors."""
        said = {side: self._described(side, starts[side]) for side in SIDES}
        return f"{NAMES['torch']} uses {said['torch']}, and {NAMES['paddle']} uses {said['paddle']}"

    def _one_function(self, torch: int, paddle: int, same: _Same) -> str:
        """Say how two calls of one function differ whose tensors are equal on both sides."""
        one, two = self.runs["torch"].functions[torch], self.runs["paddle"].functions[paddle]
        inputs, others = _unmatched(one, two, same)
        at = _at(one["path"], two["path"])
        name = one["name"] if one["name"] == two["name"] else f"{one['name']} ({NAMES['paddle']}: {two['name']})"
        if inputs and others:
            taken = dict(zip(SIDES, (inputs, others), strict=True))
            behind = {s: [self._behind_layouts(s, origin, same) for origin in origins] for s, origins in taken.items()}
            are_sources = all(self._is_source(s, origin) for s, origins in behind.items() for origin in origins)
            are_layouts = all(behind[s] != taken[s] for s in SIDES)
            shown = behind if are_sources or are_layouts else taken
            said = [
                f"{' and '.join(self._described(side, o) for o in origins)} in {NAMES[side]}"
                for side, origins in shown.items()
            ]
            alone = are_sources and len(inputs) == len(others) == 1
            which = same.first_difference(inputs[0], others[0]) if alone else ""
            # A number that differs, too, may be the cause: a factor before or behind another call.
            numbers = [sorted(NUMBER_INSIDE.findall(_text(call))) for call in (one, two)]
            if one["name"] == two["name"] and numbers[0] != numbers[1]:
                name = _text_of_both(one, two)
            return f"{name} {at} takes {', and '.join(said)}{which}"
        if inputs or others:
            side = SIDES[bool(others)]
            more = " and ".join(self._described(side, o) for o in inputs or others)
            return f"{one['name']} {at} takes {more} only in {NAMES[side]}"
        if one["name"] in IN_ORDER and not all(map(same, one["inputs"], two["inputs"])):
            return f"{one['name']} {at} takes its inputs in another order"
        for a, b in itertools.product(one["inputs"], two["inputs"]):
            if same(a, b) and (shapes := same.broadcast_elsewhere(a, b)):
                return f"{one['name']} {at} takes {self._described('torch', self._behind_layouts('torch', a, same))} {shapes}"
        return f"{_text_of_both(one, two)} {at} returns different tensors for equal ones"

    def _replaced(self, calls: Mapping[str, Sequence[int]]) -> str:
        """Say that one side calls other functions than the other."""
        paths = {side: self._paths(side, calls[side]) for side in SIDES}
        if paths["torch"] == paths["paddle"]:
            said = ", and ".join(f"{NAMES[side]} calls {self._texts(side, calls[side])}" for side in SIDES)
            return f"in {paths['torch']} {said}"
        return ", and ".join(f"{NAMES[side]} calls {self._texts(side, calls[side])} in {paths[side]}" for side in SIDES)

    def _texts(self, side: str, numbers: Sequence[int]) -> str:
        return _listed([_text(self.runs[side].functions[number]) for number in numbers])

    def _paths(self, side: str, numbers: Sequence[int]) -> str:
        paths = dict.fromkeys(self.runs[side].functions[number]["path"] or "the model itself" for number in numbers)
        return few(list(paths))

    def _described(self, side: str, origin: str) -> str:
        """Name a tensor: the output of a layer or of a call, an input of the model, or a weight."""
        kind, _, name = origin.partition(" ")
        if kind == "weight":
            return name
        if kind == "input":
            return f"input {self.session.label(name)} of the model"
        if kind in ("target", "other"):
            constant = "a constant" if name.isdigit() else f"the constant {name}"
            return constant if kind == "other" else f"input {int(name) + 2} of the loss"
        for layer in self.runs[side].layers:
            if layer["path"] and layer["outputs"] == [origin]:
                return f"the output of {layer['path']}"
        call = self.runs[side].functions[_number(origin) or 0]
        if call["name"] in CONSTANTS:
            return "a constant"
        number = f"output {call['outputs'].index(origin) + 1}" if len(call["outputs"]) > 1 else "the output"
        return f"{number} of {_text(call)} in {call['path'] or 'the model itself'}"

    def _backward(self, pair: tuple[Call, Call], number: int) -> FirstCall | None:
        """Name the calls behind an output whose gradient differs, up to the next layers."""
        starts = {side: self._event(side, call)["outputs"][number] for side, call in zip(SIDES, pair, strict=True)}
        if guilty := self._guilty_backward(starts):
            return guilty
        names = {}
        for side in SIDES:
            reached, found = {starts[side]}, []
            for function in self.runs[side].functions:
                if reached & set(function["inputs"]) and function["outputs"][0] not in self.outputs[side]:
                    found.append(function["name"])
                    reached |= set(function["outputs"]) - self.inputs[side].keys()
            names[side] = found
        if not any(names.values()):
            return None
        said = "; ".join(f"{NAMES[side]} calls {_listed(names[side])}" for side in SIDES)
        return FirstCall(f"behind {pair[0].name} {said}")

    def _lost(self) -> FirstCall | None:
        """Name the call that gets the output of a layer detached on one side, which is why its weights have no gradient there."""
        both = self.first.layer, self.first.candidate_layer or self.first.layer
        calls = next((pair for pair in self.aligned.pairs if tuple(call.unit.path for call in pair) == both), None)
        if calls is None:
            return None
        found = self._guilty_backward({s: self._event(s, c)["outputs"][0] for s, c in zip(SIDES, calls, strict=True)})
        return found if found and not found.calls else None

    def _guilty_backward(self, starts: Mapping[str, str]) -> FirstCall | None:
        """Return the calls, one a side, that get equal gradients of equal outputs, and whose input's gradient differs."""
        calls = {side: self._ahead(side, starts[side]) for side in SIDES}
        wanted = {side: [starts[side], *self._tensors(side, calls[side])] for side in SIDES}
        values, gradients = run_backward(self.session, wanted)
        same = _Same(self.partner, values["torch"], values["paddle"], self.tolerance, self.masks_alike)

        def users(side: str, origin: str) -> list[int]:
            return [number for number in calls[side] if origin in self.runs[side].functions[number]["inputs"]]

        def outputs(side: str, origin: str) -> list[str]:
            return [o for number in users(side, origin) for o in self.runs[side].functions[number]["outputs"]]

        def differ(torch: str, paddle: str) -> bool:
            arrays = gradients["torch"].get(torch), gradients["paddle"].get(paddle)
            if arrays[0] is None or arrays[1] is None:
                return arrays[0] is not arrays[1]
            return not _is_same(_floats(arrays[0]), _floats(arrays[1]), self.tolerance, False)

        at, further = starts, True
        while further:  # to the last tensor whose gradient differs
            pairs = [
                (a, b)
                for a in outputs("torch", at["torch"])
                for b in outputs("paddle", at["paddle"])
                if same(a, b) and differ(a, b)
            ]
            further = bool(pairs)
            at = dict(zip(SIDES, pairs[0], strict=True)) if pairs else at
        lost = [side for side in SIDES if gradients[side].get(at[side]) is None]
        if at != starts and len(lost) == 1 and all(at[side] in self.outputs[side] for side in SIDES):
            return self._guilty_backward(at)  # the gradient of this layer's output was not compared
        found = {side: users(side, at[side]) for side in SIDES}
        if detached := self._one_detached(found, at):
            return FirstCall(detached, True, backward=True)
        if any(len(numbers) > 1 for numbers in found.values()):
            found = {
                side: [n for n in numbers if _is_own(side, self.runs[side].functions[n])]
                for side, numbers in found.items()
            }
        if any(len(numbers) != 1 for numbers in found.values()):
            return None
        ends = [self.runs[side].functions[found[side][0]]["outputs"] for side in SIDES]
        if len(ends[0]) != len(ends[1]) or not all(same(*row) and not differ(*row) for row in zip(*ends, strict=True)):
            return None
        both = {side: self.runs[side].functions[numbers[0]] for side, numbers in found.items()}
        return FirstCall(self._one_backward(both), True, self.recorded, found, at, backward=True)

    def _ahead(self, side: str, start: str) -> list[int]:
        """Return the numbers of the calls that use the tensor `start`, up to those that make the outputs of layers that are equal."""
        reached, found = {start}, list[int]()
        for number, function in enumerate(self.runs[side].functions):
            if reached & set(function["inputs"]) and len(found) < MOST_CALLS:
                found.append(number)
                reached |= set(function["outputs"]) - self.outputs[side].keys()
        return found

    def _one_detached(self, found: Mapping[str, Sequence[int]], at: Mapping[str, str]) -> str:
        """Say which of the calls that use a tensor on both sides gets it detached on one side only."""
        users = [[self.runs[side].functions[number] for number in found[side]] for side in SIDES]
        # The only call that uses it may be another one, such as a reshape before the one of the other side.
        if [c["name"] for c in users[0]] != [c["name"] for c in users[1]] and not len(users[0]) == len(users[1]) == 1:
            return ""
        said = (self._detached(dict(zip(SIDES, calls, strict=True)), at) for calls in zip(*users, strict=True))
        return next(filter(None, said), "")

    def _detached(self, calls: Mapping[str, Mapping[str, Any]], at: Mapping[str, str]) -> str:
        """Say which side detaches an input of two calls that the other one does not detach."""
        graded = [
            sum(
                g for origin, g in zip(calls[side]["inputs"], calls[side]["graded"], strict=False) if origin == at[side]
            )
            for side in SIDES
        ]
        if graded[0] == graded[1]:
            return ""
        side = SIDES[graded[0] > graded[1]]
        where = _at(calls["torch"]["path"], calls["paddle"]["path"])
        return f"only {NAMES[side]} detaches an input of {calls[side]['name']} {where}"

    def _one_backward(self, calls: Mapping[str, Mapping[str, Any]]) -> str:
        """Say that the backward passes of two calls differ."""
        kinds = [f"{OWN_FUNCTIONS[side]} in {NAMES[side]}" for side, call in calls.items() if _is_own(side, call)]
        which = _text_of_both(*(calls[side] for side in SIDES))
        which += f" ({', '.join(kinds)})" if kinds else ""
        where = _at(calls["torch"]["path"], calls["paddle"]["path"])
        return f"the backward of {which} {where} returns different gradients for equal ones"


class _Same:
    """Which tensors of both sides are equal: known partners, and those with equal values, in any shape.

    `masks_alike`: numbers of masks with one sign are equal, such as -1e9 and -inf.
    """

    def __init__(
        self, partner: Mapping[str, str], torch: Record, paddle: Record, tolerance: float, masks_alike: bool = True
    ) -> None:
        self._partner, self._values, self._tolerance = partner, (torch, paddle), tolerance
        self._masks_alike = masks_alike
        norms = [
            {origin: norm(_ordinary(_floats(array))) for origin, array in side.items()} for side in (torch, paddle)
        ]
        self._matches: dict[str, dict[str, list[str]]] = {side: {} for side in SIDES}
        for one, size in norms[0].items():
            for two, other in norms[1].items():
                if abs(size - other) <= 2 * tolerance * max(size, other) and self(one, two):
                    self._matches["torch"].setdefault(one, []).append(two)
                    self._matches["paddle"].setdefault(two, []).append(one)

    def equals(self, side: str, origin: str) -> list[str]:
        """Return the tensors of the other side that have the values of `origin`."""
        return self._matches[side].get(origin, [])

    def first_difference(self, torch: str, paddle: str) -> str:
        """Say at how many places two constants differ, and show the first one; "" if they have no values in one shape."""
        a, b = self._values[0].get(torch), self._values[1].get(paddle)
        if a is None or b is None or a.size != b.size:
            return ""
        a, b = _floats(a), _floats(b).reshape(a.shape)
        differ = ~np.isclose(a, b, rtol=self._tolerance, atol=0, equal_nan=True)
        return f", which {describe_places(a, b, differ, '.6g')}" if differ.any() else ""

    def has_order(self, side: str, origin: str, other: str) -> bool:
        """Whether a tensor of a side and one of the other side have equal numbers in the same order. Their shapes may differ."""
        values = self._values if side == "torch" else self._values[::-1]
        a, b = values[0].get(origin), values[1].get(other)
        return (
            a is not None
            and b is not None
            and a.size == b.size
            and _agree(_floats(a).ravel(), _floats(b).ravel(), self._tolerance, self._masks_alike)
        )

    def factor(self, side: str, before: str, after: str) -> float | None:
        """Return the number that makes one tensor of a side another one; None if there is none."""
        arrays = [self._values[SIDES.index(side)].get(origin) for origin in (before, after)]
        if arrays[0] is None or arrays[1] is None or arrays[0].size != arrays[1].size:
            return None
        a, b = (_ordinary(_floats(array)).ravel() for array in arrays if array is not None)
        size = float(a @ a)  # 0 for numbers as small as 1e-200, too
        found = float(a @ b) / size if size else 0.0
        return found if found and relative_l2(b, found * a) <= SAME_FACTOR else None

    def broadcast_elsewhere(self, torch: str, paddle: str) -> str:
        """State the shapes of two tensors with equal numbers if they have axes of size 1 at other places; else ""."""
        a, b = self._values[0].get(torch), self._values[1].get(paddle)
        if a is None or b is None:
            return ""
        wide, ones = (
            [[size for size in x.shape if size > 1] for x in (a, b)],
            [_without_first_ones(x.shape) for x in (a, b)],
        )
        differ = wide[0] == wide[1] and ones[0] != ones[1]
        return f"with shape {list(a.shape)} in {NAMES['torch']}, {list(b.shape)} in {NAMES['paddle']}" if differ else ""

    def size(self, side: str, origin: str) -> int | None:
        """Return how many numbers a tensor has; None if its value is not known."""
        array = self._values[SIDES.index(side)].get(origin)
        return None if array is None else array.size

    def known(self, side: str) -> set[str]:
        """Return the tensors of a side that the other one has, too."""
        return {*self._matches[side], *(self._partner if side == "torch" else self._partner.values())}

    def __call__(self, torch: str, paddle: str) -> bool:
        if self._partner.get(torch) == paddle:
            return True
        a, b = self._values[0].get(torch), self._values[1].get(paddle)
        return a is not None and b is not None and _is_same(_floats(a), _floats(b), self._tolerance, self._masks_alike)


def _with_numbers(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return calls that take a number where they take one as a tensor, such as `to_tensor(0.9)`."""
    numbers = {
        call["outputs"][0]: call["arguments"][0]
        for call in calls
        if call["name"] in CONSTANTS and call["arguments"] and NUMBER.fullmatch(call["arguments"][0])
    }
    return [_with_texts(call, [numbers.get(origin, "") for origin in call["inputs"]]) for call in calls]


def _with_texts(call: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return a call with `texts` in the place of the inputs for which there is one, if not for all."""
    kept = [i for i, text in enumerate(texts) if not text]
    if not 0 < len(kept) < len(texts):
        return call
    places = [text or f"${kept.index(i)}" for i, text in enumerate(texts)]
    arguments = [TENSOR.sub(lambda match: places[int(match[1])], text) for text in call["arguments"]]
    return {**call, "arguments": arguments} | {key: [call[key][i] for i in kept] for key in ("inputs", "graded")}


def _unmatched(one: Mapping[str, Any], two: Mapping[str, Any], same: _Same) -> tuple[list[str], list[str]]:
    """Return the inputs of two calls that the other one does not take."""
    inputs, others = list(one["inputs"]), list(two["inputs"])
    for origin in one["inputs"]:
        match = next((other for other in others if same(origin, other)), None)
        if match is not None:
            inputs.remove(origin)
            others.remove(match)
    return inputs, others


def _is_same(a: Array, b: Array, tolerance: float, masks_alike: bool) -> bool:
    """Whether two arrays have equal numbers, in one shape or with their axes in another order."""
    if a.size != b.size:
        return False
    if _agree(a, b.reshape(a.shape), tolerance, masks_alike):
        return True
    order = _order_of_axes(a.shape, b.shape)
    return order is not None and _agree(a, b.transpose(order), tolerance, masks_alike)


def _order_of_axes(shape: Sequence[int], other: Sequence[int]) -> list[int] | None:
    """Return the axes of `other` in the order of `shape`, those of one size in their own order; None if the sizes differ.

    Rows and columns of a square are not exchanged: that is a mistake, which equal sizes would hide.
    """
    if len(shape) != len(other) or sorted(shape) != sorted(other):
        return None
    axes = sorted(range(len(other)), key=lambda axis: other[axis])
    places = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return [axis for _, axis in sorted(zip(places, axes, strict=True))]


def _without_first_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the leading axes of size 1, which broadcasting adds."""
    return tuple(itertools.dropwhile(lambda size: size == 1, shape))


def _agree(a: Array, b: Array, tolerance: float, masks_alike: bool) -> bool:
    """Whether two arrays of one shape are equal. Numbers of masks are compared by themselves: they would hide all others."""
    masks = ~(np.abs(a) < MASK), ~(np.abs(b) < MASK)  # NaN, too
    hidden = [np.sign(x[m]) if masks_alike else x[m] for x, m in zip((a, b), masks, strict=True)]
    return (
        relative_l2(_ordinary(a), _ordinary(b)) <= tolerance
        and np.array_equal(*masks)
        and np.allclose(hidden[0], hidden[1], rtol=tolerance, atol=0, equal_nan=True)
    )


def _ordinary(array: Array) -> Array:
    """Return an array with 0 for infinite numbers and those of a mask."""
    return np.where(np.abs(array) < MASK, array, 0)


def _lacks_a_reason(found: FirstCall) -> bool:
    """Whether both sides make the call that is named with the same arguments, so that it does not say why its results differ."""
    calls = [found.functions(side) for side in SIDES if side in found.calls]
    return [len(of_side) for of_side in calls] == [1, 1] and _text(calls[0][0]) == _text(calls[1][0])


def _is_own(side: str, call: Mapping[str, Any]) -> bool:
    """Whether the user has written the backward of a call."""
    return not call["function"].startswith(f"{side}.")


def _floats(array: Array) -> Array:
    return array.astype(np.float64, copy=False)


def _number(origin: str) -> int | None:
    """Return the number of the call that makes a tensor; None for inputs, weights and tensors from elsewhere."""
    return int(origin.partition(".")[0]) if origin[:1].isdigit() else None


def _text(call: Mapping[str, Sequence[str]]) -> str:
    """Return the name of a function with the arguments that are no tensors."""
    shown = [text for text in call["arguments"] if not HIDDEN.search(text)]
    arguments = INFINITE.sub(r"\1", SLICE.sub(_colons, ", ".join(shown)))
    return f"{call['name']}({arguments})" if shown else str(call["name"])


def _text_of_both(torch: Mapping[str, Any], paddle: Mapping[str, Any]) -> str:
    """Return the text of a call on both sides; one text if they are alike."""
    one, two = _text(torch), _text(paddle)
    return one if one == two else f"{one} in {NAMES['torch']}, {two} in {NAMES['paddle']},"


def _colons(match: re.Match[str]) -> str:
    """Return a slice as in brackets: `1:` for `slice(1, None, None)`."""
    start, stop, step = ("" if part == "None" else part for part in match[1].split(", "))
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def _listed(names: Sequence[str]) -> str:
    return few(names, MOST_NAMES) or "nothing"


def _at(torch: str, paddle: str) -> str:
    place = torch or "the model itself"
    return f"in {place}" if torch == paddle else f"in {place} ({NAMES['paddle']}: {paddle or 'the model itself'})"
