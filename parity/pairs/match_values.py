"""Decide between assignments of layers by values: load the same weights by each, run inference, and see how far all tensors agree.

The assignment whose tensors all agree is taken. If none does, the one that agrees farthest is taken, so that a mistake in one model does
not hide which layers are pairs. Pairs that names decide are not exchanged: an exchange of them is a difference, which is then reported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.compare.relative_error import distance
from parity.errors import InputError
from parity.modules.layer_kinds import SIDES
from parity.pairs import alignment, mapping, match_names
from parity.pairs.alignment import Call
from parity.pairs.match_fused import Fusion, outputs_of
from parity.pairs.match_layers import Assignment, Problem, neighbours, normal
from parity.pairs.match_models import Pairing
from parity.pairs.match_outputs import AGREE, match_outputs
from parity.pairs.match_runs import split_run
from parity.pairs.model_server import ModelRun

MOST_TRIED = 100
"""This many assignments are tried at most."""

MOST_DIGESTED = 100_000
"""About so many elements of an array say whether it equals another one."""

MOST_ORDERS = 24
"""This many orders of the parts of a fused layer are tried at most."""

MOST_LAYOUTS = 36
"""Of at most this many layouts of a fused layer, the function calls behind it are compared."""

MOST_CYCLED = 5
"""The partners of more than two layers with the same input are changed together for at most this many layers."""

MOST_NAMED = 3
"""A sentence names this many pairs and counts the rest."""


@dataclass(frozen=True, order=True)
class Reach:
    """How far the tensors of an assignment agree: all of them, the outputs, up to which call of the reference, and how many."""

    whole: bool
    outputs: bool
    call: int
    count: int


@dataclass(frozen=True)
class Trial:
    """An assignment with what its values showed. `failing`: the calls of the first mismatch, and whether it is in an input."""

    assignment: Assignment
    reach: Reach
    failing: tuple[Call, Call, bool] | None
    paddle: ModelRun | None


def digest(arrays: Sequence[Array]) -> bytes:
    """Return a digest that is equal for equal arrays. Of large arrays it takes only some elements."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.ravel()[:: max(1, array.size // MOST_DIGESTED)].tobytes())
    return found.digest()


def inputs_of(run: ModelRun) -> dict[str, bytes]:
    """Return path of a layer -> digest of the inputs of its first call."""
    found: dict[str, bytes] = {}
    for note in run.calls:
        if note["path"] not in found and note["inputs"]:
            found[note["path"]] = digest([run.arrays[key] for key in note["inputs"]])
    return found


class Models:
    """Both models of a comparison: `put` loads own arrays into one side, `run` runs it in inference. `arrays` are the fresh ones.

    `run` records the functions that the side calls, and the values of some origins, if it gets a list of these.
    """

    def __init__(
        self,
        put: Callable[[str, Record], None],
        run: Callable[..., ModelRun],
        arrays: Mapping[str, Record],
        spread: Callable[[str, Array], Array],
        aliases: Mapping[str, Mapping[str, str]],
        dtype: str,
    ) -> None:
        self.put, self.run, self.arrays, self.aliases, self.dtype = put, run, arrays, aliases, dtype
        self.spread = {name: spread(name, array) for name, array in arrays["torch"].items()}
        self.spread |= {name: self.spread[first] for name, first in aliases["torch"].items() if first in self.spread}
        self.shapes = {side: {name: list(array.shape) for name, array in arrays[side].items()} for side in SIDES}


def decide(problem: Problem, models: Callable[[], Models]) -> Pairing:
    """Return the pairing of the likeliest assignment whose values agree. Models run only if names leave a choice."""
    first = mapping.checked(problem, problem.first[0])
    choice = problem.fusions or max(problem.ways.values(), default=1) > 1
    if problem.exact and not choice:
        return first
    return Search(problem, models()).decide()


class Search:
    """The search over the assignments of a problem. Every trial loads Paddle's model and runs it once."""

    def __init__(self, problem: Problem, models: Models) -> None:
        self.problem, self.models = problem, models
        self.tried: dict[str, Trial] = {}
        self.laid_out: set[str] = set()
        """The fused layers whose layout the function calls behind them decide."""
        models.put("torch", {name: array for name, array in models.spread.items() if name in models.shapes["torch"]})
        self.torch = models.run("torch")
        self._inputs = inputs_of(self.torch)

    def decide(self) -> Pairing:
        """Return the pairing; both models get their arrays back."""
        try:
            best = max((self.attempt(one) for one in self._first()), key=lambda trial: trial.reach)
            best = self._by_calls(self._improve(best))
            notes = self._undecided(best) if best.reach.whole else self._exchanged(best)
        finally:
            self.models.put("torch", dict(self.models.arrays["torch"]))
        found = mapping.checked(self.problem, best.assignment)
        if not best.reach.whole and not notes:
            words = self._doubtful(best)
            found.named = not words and self.problem.how == "names"
            notes += [f"matched by order, and not confirmed by values: {words}"] if words else []
        found.tried, found.confirmed, found.notes = len(self.tried), best.reach.whole, notes
        return found

    def _first(self) -> Iterator[Assignment]:
        """Yield the likeliest assignments, until one agrees."""
        for one in self.problem.first:
            yield one
            if self.attempt(one).reach.whole:
                return

    def attempt(self, assignment: Assignment) -> Trial:
        """Return the trial of an assignment, which runs only once."""
        key = repr(
            (sorted(assignment.partner.items()), list(map(str, assignment.fusions)), sorted(assignment.ways.items()))
        )
        if key not in self.tried:
            trial = self._try(assignment)
            self.tried[key] = dataclasses.replace(trial, paddle=None)  # the tensors of all trials do not fit in memory
            return trial
        return self.tried[key]

    def _try(self, assignment: Assignment) -> Trial:
        models, pairing = self.models, self.problem.pairing(assignment)
        state = mapping.canonical(pairing, "torch", models.spread)
        try:
            models.put(
                "paddle", mapping.spelled(pairing, "paddle", state, models.shapes["paddle"], models.arrays["paddle"])
            )
            run = models.run("paddle")
        except InputError:
            return Trial(assignment, Reach(False, False, -1, 0), None, None)
        names, _ = match_outputs(self.torch.outputs, run.outputs, models.dtype)
        run = dataclasses.replace(run, outputs={names.get(name, name): array for name, array in run.outputs.items()})
        described = self.problem.described(pairing)
        runs = {side: split_run(one, side, pairing)[0] for side, one in (("torch", self.torch), ("paddle", run))}
        calls = [alignment.calls_of(described[side].units, runs[side].calls) for side in SIDES]
        aligned = alignment.align(pairing, *calls)
        count, failing, outputs = 0, None, True
        for compared in alignment.forward(aligned, "eval", runs["torch"], runs["paddle"], ()):
            one, two = compared.fitted or (compared.torch, compared.paddle)
            agrees = one is not None and two is not None and one.shape == two.shape
            agrees = agrees and distance(one, two) <= AGREE[models.dtype]
            count += agrees
            if not agrees and compared.calls is None:
                outputs = False
            elif not agrees and failing is None and compared.calls:
                failing = (*compared.calls, ":input" in compared.name)
        call = failing[0].number if failing else len(runs["torch"].calls)
        whole = failing is None and outputs
        return Trial(assignment, Reach(whole, outputs, call, count), failing, runs["paddle"])

    def _improve(self, best: Trial) -> Trial:
        """Change the assignment as long as its tensors agree farther."""
        while not best.reach.whole:
            better = None
            for change in self._changes(best):
                if len(self.tried) >= MOST_TRIED:
                    return best
                trial = self.attempt(change)
                if trial.reach > best.reach:
                    better = trial
                    break
            if better is None:
                return best
            best = better
        return best

    def _by_calls(self, best: Trial) -> Trial:
        """Return, of the layouts of fused layers whose tensors agree as far, the one whose function calls agree farthest.

        Behind a fused layer, the tensors of layers agree by any layout up to the first one that mixes its parts. The functions in
        between, such as the one that takes the parts out, do not.
        """
        place = best.failing[0].unit.path.rpartition(".")[0] if best.failing else ""
        fused = [f for f in best.assignment.fusions if f.whole.path.rpartition(".")[0] == place]
        fixed = set(map(str, self.problem.fixed_fusions))
        if best.reach.whole or not best.failing or len(fused) != 1 or str(fused[0]) in fixed:
            return best
        alike = [f for f in best.assignment.fusions if str(f) not in fixed and len(f.parts) == len(fused[0].parts)]
        layouts = itertools.product(*self._layouts(fused[0]))
        found: dict[int, list[Assignment]] = defaultdict(list)
        results: list[Array] | None = None
        for order, heads in itertools.islice(layouts, MOST_LAYOUTS):
            changed = [_reordered(f, order, heads) if f in alike else f for f in best.assignment.fusions]
            one = dataclasses.replace(best.assignment, fusions=tuple(changed))
            if self.attempt(one).reach == best.reach:
                if results is None:  # PyTorch's model has the same weights by every layout
                    results = self._results_of_calls("torch", fused[0].whole.path)
                found[self._agreeing_calls(one, fused[0], results)].append(one)
        if len(found) < 2:
            return best
        likeliest = found[max(found)]
        if len(likeliest) == 1:
            self.laid_out = set(map(str, likeliest[0].fusions))
        return self.attempt(likeliest[0])

    def _agreeing_calls(self, assignment: Assignment, fused: Fusion, results: Sequence[Array]) -> int:
        """Return how many of the `results` of PyTorch's functions behind a fused layer Paddle's functions compute, too."""
        pairing = self.problem.pairing(assignment)
        state, shapes = mapping.canonical(pairing, "torch", self.models.spread), self.models.shapes["paddle"]
        self.models.put("paddle", mapping.spelled(pairing, "paddle", state, shapes, self.models.arrays["paddle"]))
        others = self._results_of_calls("paddle", fused.parts[0].path)
        limit = AGREE[self.models.dtype]
        return sum(any(x.shape == y.shape and distance(x, y) <= limit for y in others) for x in results)

    def _results_of_calls(self, side: str, path: str) -> list[Array]:
        """Return the results of the functions that the layer around the one at `path` calls, each with its numbers in order of size."""
        place = path.rpartition(".")[0]
        calls = [call for call in self.models.run(side, []).functions if call["path"] == place]
        wanted = [origin for call in calls for origin in call["outputs"]]
        arrays = self.models.run(side, wanted).arrays
        return [np.sort(arrays[o], None) for o in wanted if o in arrays and arrays[o].size <= MOST_DIGESTED]

    def _changes(self, trial: Trial) -> Iterator[Assignment]:
        """Yield changed assignments, the likeliest first."""
        yield from self._by_data_flow(trial)
        if trial.failing and not trial.failing[2] and trial.failing[0].unit.kind != trial.failing[1].unit.kind:
            yield from self._by_ways(trial.assignment)
        yield from self._by_fusions(trial.assignment)
        yield from self._by_ways(trial.assignment)
        yield from self._by_exchange(trial, neighbours(self.problem, trial.assignment))

    def _by_data_flow(self, trial: Trial) -> Iterator[Assignment]:
        """Exchange partners so that a layer whose input differs gets one with the same input."""
        if trial.failing is None or trial.paddle is None or not trial.failing[2]:
            return
        one = trial.failing[0]
        path = one.unit.path
        if path not in trial.assignment.partner or path in self.problem.named:
            return
        wanted = [self.torch.arrays[key] for key in one.inputs if key in self.torch.arrays]
        same = set(self.problem.of_key("paddle", self.problem.keys["torch"].get(path, ())))
        for note in trial.paddle.calls:
            if note["path"] not in same or len(note["inputs"]) != len(wanted):
                continue
            given = [trial.paddle.arrays[key] for key in note["inputs"]]
            if all(distance(a, b) <= AGREE[self.models.dtype] for a, b in zip(wanted, given, strict=True)):
                back = {b: a for a, b in trial.assignment.partner.items()}
                other = back.get(note["path"])
                if other and other != path and other not in self.problem.named:
                    yield _exchange(trial.assignment, [(path, other)])

    def _by_fusions(self, assignment: Assignment) -> Iterator[Assignment]:
        """Change the order of the parts of fused layers and their layout: of all in the same way, and then of one."""
        fixed = set(map(str, self.problem.fixed_fusions))
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, fusion in enumerate(assignment.fusions):
            if str(fusion) not in fixed:
                groups[len(fusion.parts), fusion.whole.kind, fusion.whole.classes[0]].append(i)
        for numbers in groups.values():
            orders, heads = self._layouts(assignment.fusions[numbers[0]])
            for order, head in itertools.product(orders, heads):
                changed = list(assignment.fusions)
                for i in numbers:
                    changed[i] = _reordered(changed[i], order, head)
                yield dataclasses.replace(assignment, fusions=tuple(changed))
            for i in numbers if len(numbers) > 1 else ():
                for order, head in itertools.product(orders, heads):
                    changed = list(assignment.fusions)
                    changed[i] = _reordered(changed[i], order, head)
                    yield dataclasses.replace(assignment, fusions=tuple(changed))

    def _layouts(self, fusion: Fusion) -> tuple[list[tuple[int, ...]], list[int]]:
        """Return the orders of the parts that names leave open, and the numbers of heads that are possible."""
        count = len(fusion.parts)
        orders = (
            [tuple(range(count))]
            if _is_spelled(fusion)
            else list(itertools.islice(itertools.permutations(range(count)), MOST_ORDERS))
        )
        size = math.gcd(*(outputs_of(part) for part in fusion.parts))
        stated = [n for side in SIDES for n in self.problem.models[side].heads]
        usual = [n for n in range(2, min(size, 129)) if size % n == 0]
        return orders, [1, *(n for n in dict.fromkeys([*stated, *usual]) if size % n == 0)]

    def _by_ways(self, assignment: Assignment) -> Iterator[Assignment]:
        """Match the arrays of own classes in another way."""
        for choice, ways in self.problem.ways.items():
            now = assignment.ways.get(choice, 0)
            for number in range(ways):
                if number != now:
                    yield dataclasses.replace(assignment, ways={**assignment.ways, choice: number})

    def _by_exchange(self, trial: Trial, pairs: Sequence[tuple[str, str]]) -> Iterator[Assignment]:
        """Exchange partners of `pairs` that the first mismatch may depend on: in all blocks in the same way, and then of one pair."""
        place = {note["path"]: i for i, note in reversed(list(enumerate(self.torch.calls)))}
        failing = trial.failing[0].unit.path if trial.failing else None
        until = place.get(trial.failing[0].unit.holder if trial.failing else "", len(self.torch.calls))
        chosen = [
            pair
            for pair in pairs
            if failing in pair
            or not any(path in place for path in pair)  # their weights are used without a call
            or (self._same_input(pair) and min(place[path] for path in pair) <= until)
        ]
        chosen.sort(key=lambda pair: (not self._same_input(pair), until - max(place.get(path, -1) for path in pair)))
        alike: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for pair in chosen:
            alike[_last_names(pair)].append(pair)
        for group in alike.values():
            if len(group) > 1 and group[0][0].rpartition(".")[0]:
                yield _exchange(trial.assignment, group)
        for pair in chosen:
            yield _exchange(trial.assignment, [pair])
        alike_inputs = [pair for pair in chosen if self._same_input(pair) or not any(path in place for path in pair)]
        yield from self._by_cycles(trial.assignment, alike_inputs)

    def _by_cycles(self, assignment: Assignment, pairs: Sequence[tuple[str, str]]) -> Iterator[Assignment]:
        """Change the partners of three or more layers of which each two may be exchanged."""
        found: list[list[str]] = []
        for pair in pairs:
            known = next((group for group in found if set(pair) & set(group)), None)
            if known is None:
                found.append(list(pair))
            else:
                known += [path for path in pair if path not in known]
        alike: dict[Any, list[list[str]]] = defaultdict(list)
        for group in found:
            if 2 < len(group) <= MOST_CYCLED:
                alike[_last_names(sorted(group))].append(sorted(group))
        for groups in alike.values():
            count = len(groups[0])
            for chosen in [groups, *([group] for group in groups if len(groups) > 1)]:
                for order in itertools.islice(itertools.permutations(range(count)), 1, MOST_ORDERS):
                    partner = dict(assignment.partner)
                    for group in chosen:
                        partner |= {path: assignment.partner[group[i]] for path, i in zip(group, order, strict=True)}
                    yield dataclasses.replace(assignment, partner=partner)

    def _same_input(self, pair: tuple[str, str]) -> bool:
        first, second = (self._inputs.get(path) for path in pair)
        return first is not None and first == second

    def _undecided(self, best: Trial) -> list[str]:
        """Return a sentence on layers whose exchange changes no value, although their names do not say which is which.

        Of pairs with the same names in several blocks, one is tried.
        """
        alike: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for pair in neighbours(self.problem, best.assignment):
            if self._same_input(pair):
                alike[_last_names(pair)].append(pair)
        found, untested = list[tuple[str, str]](), 0
        for pairs in alike.values():
            if len(self.tried) >= MOST_TRIED:
                untested += len(pairs)
            elif self.attempt(_exchange(best.assignment, [pairs[0]])).reach.whole:
                found += pairs
        partner = best.assignment.partner
        notes = []
        if found:
            words = _few([f"{a} = {partner[a]} and {b} = {partner[b]}" for a, b in found])
            one, two = found[0]
            exchanged = _map_text(_rows({one: partner[two], two: partner[one]}, [one, two]))
            notes.append(
                f"neither names nor values decide {words}: the order of execution does, unless --map says {exchanged}"
            )
        if untested:
            notes.append(
                f"{untested} exchanges of layers with the same input were not tried: the limit is {MOST_TRIED} assignments"
            )
        return notes

    def _exchanged(self, best: Trial) -> list[str]:
        """Return a sentence on an exchange of layers, against their names, that makes all tensors agree."""
        before = best.assignment
        for change in self._against_names(best):
            if len(self.tried) >= MOST_TRIED:
                break
            if not self.attempt(change).reach.whole:
                continue
            changed = [path for path in change.partner if change.partner[path] != before.partner[path]]
            fusions = [new for old, new in zip(before.fusions, change.fusions, strict=True) if str(old) != str(new)]
            rows = [*_rows(change.partner, changed), *(fusion.map_row() for fusion in fusions)]
            words = [*(f"{path} = {change.partner[path]}" for path in changed), *map(str, fusions)]
            return [
                f"with {_few(words)}, against the names, all tensors agree; if that is intended, pass --map with {_map_text(rows)}"
            ]
        return []

    def _against_names(self, trial: Trial) -> Iterator[Assignment]:
        """Yield the assignment with layers, or parts of fused layers, exchanged against their names."""
        named = self.problem.named
        pairs = [
            pair
            for key in dict.fromkeys(self.problem.keys.get("torch", {}).values())
            for pair in itertools.combinations([p for p in self.problem.of_key("torch", key) if p in named], 2)
        ]
        yield from self._by_exchange(trial, pairs)
        fusions = trial.assignment.fusions
        for count in dict.fromkeys(len(fusion.parts) for fusion in fusions):
            numbers = [i for i, fusion in enumerate(fusions) if len(fusion.parts) == count]
            for chosen in [numbers, *([i] for i in numbers if len(numbers) > 1)]:
                for order in itertools.islice(itertools.permutations(range(count)), 1, MOST_ORDERS):
                    changed = [_reordered(f, order, f.heads) if i in chosen else f for i, f in enumerate(fusions)]
                    yield dataclasses.replace(trial.assignment, fusions=tuple(changed))

    def _doubtful(self, trial: Trial) -> str:
        """Return the pairs that neither names nor agreeing tensors decide."""
        calls = [note["path"] for note in self.torch.calls]
        failing = trial.failing[0].unit.holder if trial.failing else ""
        agreeing = set(calls[: calls.index(failing)] if failing in calls else calls)
        partner = trial.assignment.partner
        pairs = [pair for pair in neighbours(self.problem, trial.assignment) if not agreeing & set(pair)]
        found = [f"{path} = {partner[path]}" for path in dict.fromkeys(path for pair in pairs for path in pair)]
        if trial.failing and trial.failing[2]:
            found += [f"{path} = {partner[path]}" for path in self._by_shape_alone(trial) if path not in found]
        fixed = set(map(str, self.problem.fixed_fusions))
        known = fixed | self.laid_out
        found += [
            str(f)
            for f in trial.assignment.fusions
            if str(f) not in known and not (_is_spelled(f) and len(self._layouts(f)[1]) == 1)
        ]
        return _few(found)

    def _by_shape_alone(self, trial: Trial) -> Iterator[str]:
        """Yield layers that share their input with others and have another name than their partner: any weights agree before a mismatch."""
        partner, shared = trial.assignment.partner, Counter(self._inputs.values())
        for path, other in partner.items():
            last = [normal(one).rpartition(".")[2] for one in (path, other)]
            if last[0] != last[1] and path not in self.problem.named and shared[self._inputs.get(path, b"")] > 1:
                yield path


def _last_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of layers without those of the blocks that hold them."""
    return tuple(path.rpartition(".")[2] for path in paths)


def _few(words: Sequence[str]) -> str:
    """Join the first words, and say how many more there are."""
    rest = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + rest


def _is_spelled(fusion: Fusion) -> bool:
    """Whether the name of a fused layer says in which order it has its parts."""
    return match_names.order_of_parts(fusion.whole.path, [part.path for part in fusion.parts]) is not None


def _map_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the content of a map file with these rows."""
    return json.dumps({"layers": list(rows)})


def _rows(partner: Mapping[str, str], paths: Sequence[str]) -> list[dict[str, str]]:
    return [{"torch": path, "paddle": partner[path]} for path in paths]


def _exchange(assignment: Assignment, pairs: Sequence[tuple[str, str]]) -> Assignment:
    partner = dict(assignment.partner)
    for one, two in pairs:
        partner[one], partner[two] = partner[two], partner[one]
    return dataclasses.replace(assignment, partner=partner)


def _reordered(fusion: Fusion, order: Sequence[int], heads: int) -> Fusion:
    return dataclasses.replace(fusion, parts=tuple(fusion.parts[i] for i in order), heads=heads)
