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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from parity.pairs.match_fused import Fusion, outputs_of, spelled_order
from parity.pairs.match_layers import POOL, Assignment, Problem, choice_of, neighbours, normal
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
        self.unsure: dict[str, str] = {}
        """Array of PyTorch -> Paddle's, for arrays of containers that no function call decides."""
        models.put("torch", {name: array for name, array in models.spread.items() if name in models.shapes["torch"]})
        self.torch = models.run("torch")
        self._inputs = inputs_of(self.torch)

    def decide(self) -> Pairing:
        """Return the pairing; both models get their arrays back."""
        try:
            best = max((self.attempt(one) for one in self._first()), key=lambda trial: trial.reach)
            best = self._by_settings(self._by_calls(self._improve(best, self._changes)))
            best, notes = self._with_equal_blocks(best)
            if not notes:
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
        key = _key_of(assignment)
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

    def _improve(self, best: Trial, changes: Callable[[Trial], Iterator[Assignment]]) -> Trial:
        """Change the assignment as long as its tensors agree farther."""
        while not best.reach.whole:
            better = None
            for change in changes(best):
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
        """Return, of the assignments whose tensors agree as far, the one whose function calls agree farthest.

        Behind a fused layer, the tensors of layers agree by any layout up to the first one that mixes its parts. The functions in
        between, such as the one that takes the parts out, do not. Parameters of a container are only taken by its functions.
        """
        if best.reach.whole:
            return best
        numbers = self._before(best, range(len(best.assignment.fusions)))
        fixed = set(map(str, self.problem.fixed_fusions))
        if numbers and str(fused := best.assignment.fusions[numbers[0]]) not in fixed:
            places = {side: {_path_of(fused, side).rpartition(".")[0]} for side in SIDES}
            alike = [
                i
                for i, f in enumerate(best.assignment.fusions)
                if str(f) not in fixed and len(f.parts) == len(fused.parts)
            ]
            layouts = list(itertools.product(*self._layouts(fused)))
            changes = self._laid_out(best.assignment, [alike, numbers[:1]], layouts)
            likeliest = self._likeliest(best, changes, places)
            if len(likeliest) == 1:
                self.laid_out = set(map(str, likeliest[0].fusions))
            best = self.attempt(likeliest[0])
        for choice, places in self._places_of_ways(best.assignment).items():
            changes = itertools.chain([best.assignment], self._by_ways(best.assignment, [choice]))
            likeliest = self._likeliest(best, changes, places)
            if len(likeliest) > 1:
                self.unsure |= self._differing_arrays(likeliest)
            best = self.attempt(likeliest[0])
        return best

    def _by_settings(self, best: Trial) -> Trial:
        """Return the trial with layers exchanged if their settings and the likeness of their names both say so.

        If a model exchanges its inputs, then values follow the inputs to the wrong layers, such as the other table. No exchange of these
        makes all tensors agree.
        """
        if best.reach.whole:
            return best
        units = {side: {unit.path: unit for unit in self.problem.owners[side]} for side in SIDES}
        partner, odd = best.assignment.partner, []
        for one, two in neighbours(self.problem, best.assignment):
            a, b = (units["torch"][path] for path in (one, two))
            c, d = (units["paddle"][partner[path]] for path in (one, two))
            differ = [x.settings != y.settings for x, y in ((a, c), (b, d), (a, d), (b, c))]
            like = [
                match_names.share_of_words(*paths)
                for paths in ((one, c.path), (two, d.path), (one, d.path), (two, c.path))
            ]
            if differ == [True, True, False, False] and sum(like[:2]) < sum(like[2:]):
                odd.append((one, two))
        return self.attempt(_exchange(best.assignment, odd[:1])) if odd else best

    def _likeliest(
        self, best: Trial, changes: Iterator[Assignment], places: Mapping[str, Collection[str]]
    ) -> list[Assignment]:
        """Return, of the assignments whose tensors agree as far, the ones whose calls in `places` have most results in common."""
        found: dict[tuple[int, int], list[Assignment]] = defaultdict(list)
        results: list[Array] | None = None
        for one in {_key_of(one): one for one in itertools.islice(changes, MOST_LAYOUTS)}.values():
            if self.attempt(one).reach == best.reach:
                if results is None:  # PyTorch's model has the same weights by every assignment
                    results = self._results_of_calls("torch", places["torch"])
                found[self._agreeing_calls(one, places["paddle"], results)].append(one)
        return found[max(found)] if len(found) > 1 else [*found.values(), [best.assignment]][0]

    def _agreeing_calls(
        self, assignment: Assignment, places: Collection[str], results: Sequence[Array]
    ) -> tuple[int, int]:
        """Return how many of the `results` of PyTorch's functions Paddle's functions in these `places` compute, too.

        First, numbers in any order count, since one side may transpose; then those in the same order.
        """
        pairing = self.problem.pairing(assignment)
        state, shapes = mapping.canonical(pairing, "torch", self.models.spread), self.models.shapes["paddle"]
        self.models.put("paddle", mapping.spelled(pairing, "paddle", state, shapes, self.models.arrays["paddle"]))
        others, limit = self._results_of_calls("paddle", places), AGREE[self.models.dtype]

        def count(torch: Sequence[Array], paddle: Sequence[Array]) -> int:
            return sum(any(x.shape == y.shape and distance(x, y) <= limit for y in paddle) for x in torch)

        return count([np.sort(x) for x in results], [np.sort(x) for x in others]), count(results, others)

    def _results_of_calls(self, side: str, places: Collection[str]) -> list[Array]:
        """Return the results of the functions that the layers `places` call themselves, flat."""
        calls = [call for call in self.models.run(side, []).functions if call["path"] in places]
        wanted = [origin for call in calls for origin in call["outputs"]]
        arrays = self.models.run(side, wanted).arrays
        return [arrays[o].ravel() for o in wanted if o in arrays and arrays[o].size <= MOST_DIGESTED]

    def _places_of_ways(self, assignment: Assignment) -> dict[tuple[str, str], dict[str, set[str]]]:
        """Return choice -> side -> the containers whose functions take arrays that can be matched in several ways."""
        units = {side: {unit.path: unit for unit in self.problem.owners[side]} for side in SIDES}
        pairs = [(units["torch"][a], units["paddle"][b]) for a, b in assignment.partner.items()]
        found: dict[tuple[str, str], dict[str, set[str]]] = {}
        for choice, ways in self.problem.ways.items():
            if choice == POOL:
                holders = [{unit.holder for unit in self.problem.pool[side] if not unit.leaf} for side in SIDES]
            else:
                own = [pair for pair in pairs if choice_of(*pair) == choice and not (pair[0].leaf and pair[1].leaf)]
                holders = [{pair[i].path for pair in own} for i in range(len(SIDES))]
            if ways > 1 and any(holders):
                found[choice] = dict(zip(SIDES, holders, strict=True))
        return found

    def _differing_arrays(self, assignments: Sequence[Assignment]) -> dict[str, str]:
        """Return array of PyTorch -> Paddle's by the first assignment, for those that the others match in another way."""
        first, *others = (self.problem.pairing(one).arrays for one in assignments)
        return {
            name: where["paddle"]
            for name, where in first.items()
            if any(other.get(name, where)["paddle"] != where["paddle"] for other in others)
        }

    def _changes(self, trial: Trial) -> Iterator[Assignment]:
        """Yield changed assignments, the likeliest first."""
        yield from self._by_data_flow(trial)
        if trial.failing and not trial.failing[2] and trial.failing[0].unit.kind != trial.failing[1].unit.kind:
            yield from self._by_ways(trial.assignment)
        yield from self._by_fusions(trial)
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

    def _by_fusions(self, trial: Trial) -> Iterator[Assignment]:
        """Change the order of the parts of fused layers and their layout."""
        fixed = set(map(str, self.problem.fixed_fusions))
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, fusion in enumerate(trial.assignment.fusions):
            if str(fusion) not in fixed:
                groups[len(fusion.parts), fusion.whole.kind, fusion.whole.classes[0]].append(i)
        for numbers in groups.values():
            layouts = list(itertools.product(*self._layouts(trial.assignment.fusions[numbers[0]])))
            yield from self._in_turn(trial, numbers, layouts)

    def _in_turn(
        self, trial: Trial, numbers: Sequence[int], layouts: Sequence[tuple[tuple[int, ...], int]]
    ) -> Iterator[Assignment]:
        """Change the layouts of fused layers: of all in the same way, and then of one, from the last one before the first mismatch."""
        known = [self._layout_of(i, trial.assignment.fusions[i]) for i in numbers]
        together = [numbers] if len(set(known)) == 1 else []
        alone = [[i] for i in self._before(trial, numbers)] if len(numbers) > 1 else []
        likely = sorted(layouts, key=lambda layout: layout not in known)  # what another block has, too
        yield from self._laid_out(trial.assignment, [*together, *alone], likely)

    def _laid_out(
        self,
        assignment: Assignment,
        groups: Sequence[Sequence[int]],
        layouts: Sequence[tuple[tuple[int, ...], int]],
    ) -> Iterator[Assignment]:
        """Yield the assignment with the fused layers of each group in each layout."""
        for group, (order, heads) in itertools.product(groups, layouts):
            fusions = [
                _reordered(first, order, heads) if i in group else now
                for i, (first, now) in enumerate(zip(self.problem.fusions, assignment.fusions, strict=True))
            ]
            yield dataclasses.replace(assignment, fusions=tuple(fusions))

    def _layout_of(self, number: int, fusion: Fusion) -> tuple[tuple[int, ...], int]:
        """Return the order of the parts of a fused layer, and its heads, as `_laid_out` takes them."""
        first = [part.path for part in self.problem.fusions[number].parts]
        return tuple(first.index(part.path) for part in fusion.parts), fusion.heads

    def _before(self, trial: Trial, numbers: Sequence[int]) -> list[int]:
        """Return the fused layers that are called before the first mismatch, from the last one."""
        called = {note["path"]: i for i, note in reversed(list(enumerate(self.torch.calls)))}
        until = trial.failing[0].number if trial.failing else len(self.torch.calls)
        places = {i: called.get(_path_of(trial.assignment.fusions[i], "torch"), -1) for i in numbers}
        return sorted((i for i in numbers if places[i] < until), key=lambda i: -places[i])

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

    def _by_ways(self, assignment: Assignment, choices: Collection[tuple[str, str]] = ()) -> Iterator[Assignment]:
        """Match the arrays of own classes in another way: by all `choices`, or those given."""
        for choice in choices or self.problem.ways:
            now = assignment.ways.get(choice, 0)
            for number in range(self.problem.ways[choice]):
                if number != now:
                    yield dataclasses.replace(assignment, ways={**assignment.ways, choice: number})

    def _by_exchange(self, trial: Trial, pairs: Sequence[tuple[str, str]]) -> Iterator[Assignment]:
        """Exchange partners of `pairs` that the first mismatch may depend on: in all blocks in the same way, and then of one pair.

        Those of the same names in later blocks, which no value decides yet, are exchanged with them.
        """
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
        later: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for pair in pairs:
            if pair not in chosen and self._alike_in_block(pair):
                later[_patterns(pair)].append(pair)
        for group in alike.values():
            if len(group) > 1 and group[0][0].rpartition(".")[0]:
                yield _exchange(trial.assignment, [*group, *later[_patterns(group[0])]])
        for pair in chosen:
            yield _exchange(trial.assignment, [pair, *later[_patterns(pair)]])
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

    def _alike_in_block(self, pair: tuple[str, str]) -> bool:
        """Whether two layers of one block get the same input."""
        return bool(_block(pair[0])) and _block(pair[0]) == _block(pair[1]) and self._same_input(pair)

    def _with_equal_blocks(self, best: Trial) -> tuple[Trial, list[str]]:
        """Return the trial in which all blocks match layers with the same input in the same way, and a sentence if its values differ.

        Blocks of one list have the same names, so one block that needs another exchange than most has a mistake.
        """
        if not best.reach.whole:
            return best, []
        usual = self.attempt(self._with_usual_ways(best.assignment))
        if usual.reach.whole:
            return usual, []
        return usual, [_told_exchange(usual.assignment, best.assignment, "unlike in the other blocks")]

    def _with_usual_ways(self, assignment: Assignment) -> Assignment:
        """Return the assignment with the layers and fused layers of each block matched as in most blocks of the same names."""
        partner = assignment.partner
        pairs: dict[Any, dict[Any, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
        for pair in neighbours(self.problem, assignment):
            if self._alike_in_block(pair):
                way = _patterns([partner[path] for path in pair])
                pairs[(*_patterns(pair), *sorted(way))][way].append(pair)
        layouts: dict[Any, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
        fixed = set(map(str, self.problem.fixed_fusions))
        for i, fusion in enumerate(assignment.fusions):
            if str(fusion) not in fixed and _block(fusion.whole.path):
                parts = _patterns([part.path for part in fusion.parts])
                layouts[_patterns([fusion.whole.path]), tuple(sorted(parts))][parts, fusion.heads].append(i)
        fusions = list(assignment.fusions)
        for found in layouts.values():
            (parts, heads), usual = max(found.items(), key=lambda item: len(item[1]))
            for i in {i for numbers in found.values() for i in numbers} - set(usual):
                own = _patterns([part.path for part in fusions[i].parts])
                fusions[i] = _reordered(fusions[i], [own.index(part) for part in parts], heads)
        odd = [pair for ways in pairs.values() for pair in _fewer(list(ways.values()))]
        return dataclasses.replace(_exchange(assignment, odd), fusions=tuple(fusions))

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
        found = self._improve(best, self._against_names)
        return [_told_exchange(best.assignment, found.assignment, "against the names")] if found.reach.whole else []

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
        for count, heads in dict.fromkeys((len(fusion.parts), fusion.heads) for fusion in fusions):
            numbers = [i for i, fusion in enumerate(fusions) if (len(fusion.parts), fusion.heads) == (count, heads)]
            orders = itertools.islice(itertools.permutations(range(count)), MOST_ORDERS)
            yield from self._in_turn(trial, numbers, [(order, heads) for order in orders])

    def _doubtful(self, trial: Trial) -> str:
        """Return the pairs that neither names nor agreeing tensors decide."""
        calls = [note["path"] for note in self.torch.calls]
        failing = trial.failing[0].unit.holder if trial.failing else ""
        agreeing = set(calls[: calls.index(failing)] if failing in calls else calls)
        partner = trial.assignment.partner
        pairs = [pair for pair in neighbours(self.problem, trial.assignment) if not agreeing & set(pair)]
        guessed = [path for pair in pairs for path in pair if normal(path) != normal(partner[path])]
        found = [f"{path} = {partner[path]}" for path in dict.fromkeys(guessed)]
        if trial.failing and trial.failing[2]:
            found += [f"{path} = {partner[path]}" for path in self._by_shape_alone(trial) if path not in found]
        fixed = set(map(str, self.problem.fixed_fusions))
        known = fixed | self.laid_out
        found += [
            str(f)
            for f in trial.assignment.fusions
            if str(f) not in known and not (_is_spelled(f) and len(self._layouts(f)[1]) == 1)
        ]
        found += [f"{name} = {other}" for name, other in self.unsure.items()]
        return _few(found)

    def _by_shape_alone(self, trial: Trial) -> Iterator[str]:
        """Yield layers that share their input with others and have another name than their partner: any weights agree before a mismatch."""
        leaves = {unit.path for unit in self.problem.owners["torch"] if unit.leaf}
        partner = {path: other for path, other in trial.assignment.partner.items() if path in leaves}
        shared = Counter(self._inputs.get(path, b"") for path in partner)
        for path, other in partner.items():
            last = [normal(one).rpartition(".")[2] for one in (path, other)]
            if last[0] != last[1] and path not in self.problem.named and shared[self._inputs.get(path, b"")] > 1:
                yield path


def _last_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of layers without those of the blocks that hold them."""
    return tuple(path.rpartition(".")[2] for path in paths)


def _block(path: str) -> tuple[str, ...]:
    """Return the numbers of the blocks that hold a layer, of lists in lists."""
    return tuple(part for part in path.split(".")[:-1] if part.isdigit())


def _patterns(paths: Sequence[str]) -> tuple[str, ...]:
    """Return paths without the numbers of blocks."""
    return tuple(".".join("#" if part.isdigit() else part for part in path.split(".")) for path in paths)


def _fewer(groups: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return the pairs of all groups but the largest; of the later ones, if two are as large."""
    most = max(groups, key=len)
    return [pair for group in groups if group is not most for pair in group]


def _told_exchange(before: Assignment, after: Assignment, how: str) -> str:
    """Return a sentence on the layers that must be exchanged for all tensors to agree, and the map that says so."""
    changed = [path for path in after.partner if after.partner[path] != before.partner[path]]
    fusions = [(a, b) for a, b in zip(before.fusions, after.fusions, strict=True) if str(a) != str(b)]
    moved = [" and ".join(cycle) for cycle in _cycles(before.partner, after.partner)]
    for one, two in fusions:
        moved.append(" and ".join(a.path for a, b in zip(one.parts, two.parts, strict=True) if a.path != b.path))
    rows = [*_rows(after.partner, changed), *(fusion.map_row() for _, fusion in fusions)]
    words = [*(f"{path} = {after.partner[path]}" for path in changed), *(str(fusion) for _, fusion in fusions)]
    return (
        f"{_few(moved)} are exchanged: with {_few(words)}, {how}, all tensors agree; if that is intended, "
        f"pass --map with {_map_text(rows)}"
    )


def _few(words: Sequence[str]) -> str:
    """Join the first words, and say how many more there are."""
    rest = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + rest


def _key_of(assignment: Assignment) -> str:
    """Return a text that is equal for equal assignments."""
    partner, ways = sorted(assignment.partner.items()), sorted(assignment.ways.items())
    return repr((partner, list(map(str, assignment.fusions)), ways))


def _cycles(before: Mapping[str, str], after: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of paths whose partners were exchanged among them."""
    back, found = {other: path for path, other in before.items()}, list[list[str]]()
    for path in before:
        if before[path] == after[path] or any(path in cycle for cycle in found):
            continue
        found.append([path])
        while (following := back[after[found[-1][-1]]]) != path:
            found[-1].append(following)
    return found


def _path_of(fusion: Fusion, side: str) -> str:
    """Return the path of a fused layer on a side, or there of its first part."""
    return fusion.whole.path if fusion.side == side else fusion.parts[0].path


def _is_spelled(fusion: Fusion) -> bool:
    """Whether the name of a fused layer says in which order it has its parts."""
    return spelled_order(fusion.whole, fusion.parts) is not None


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
