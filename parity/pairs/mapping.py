"""Match the layers of two models by name, or else by order of execution; kinds and shapes must agree.

An ambiguous match is an error that names the candidates. A map file resolves it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.modules import layer_kinds
from parity.modules.description import Unit, below, units_of
from parity.modules.layer_kinds import KINDS, SIDES, Kinds, name_in, parse_spelling
from parity.short_repr import ShortRepr

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^_+", ""),
    (r"(?<=[a-z0-9])([A-Z])", r"_\1"),
    (r"^(conv|norm|bn|fc|linear|drop|pool|layer|block|stage)_(\d+)$", r"\1\2"),
    (r"^batch_?norm", "bn"),
    (r"^(linear|dense|fully_connected)$", "fc"),
)
"""Regular expression -> replacement, for every part of a path between dots, before names are compared in small letters."""


class ModelsDiffer(InputError):
    """The two models have different architectures. The message says where they diverge; `at` holds the units there, by side."""

    def __init__(self, message: str, at: Mapping[str, Unit | None]) -> None:
        super().__init__(message)
        self.at = dict(at)


@dataclass(frozen=True, repr=False)
class ModelDescription(ShortRepr):
    """One side: its units, and the paths of the layers in the order of their first call, in inference and then in training."""

    side: str
    units: Sequence[Unit]
    order: Sequence[str] = ()
    inference: frozenset[str] = frozenset()

    @staticmethod
    def of(
        side: str,
        modules: Sequence[Mapping[str, Any]],
        order: Sequence[str] = (),
        inference: Sequence[str] = (),
        kinds: Kinds = KINDS,
    ) -> ModelDescription:
        """Build it from the modules that a worker described and the calls that it recorded; `kinds` are the known layer kinds."""
        return ModelDescription(side, units_of(side, modules, kinds), order, frozenset(inference))

    def unit(self, path: str) -> Unit:
        """The unit of a path; `InputError` where there is none."""
        for unit in self.units:
            if unit.path == path:
                return unit
        raise InputError(f"the {self.side} model has no layer {path!r} to match")

    def shapes(self) -> dict[str, list[int]]:
        """The shape of every array of the units, by its own name."""
        return {
            below(unit.path, name_in(unit.spellings[name])): list(array.shape)
            for unit in self.units
            for name, array in unit.arrays.items()
        }

    def owners(self) -> list[Unit]:
        """Return the units that own arrays, in the order of execution; units that are never called come last."""
        place = {path: i for i, path in enumerate(self.order)}
        holding = [unit for unit in self.units if unit.owns]
        return sorted(holding, key=lambda unit: place.get(unit.path, len(place)))


@dataclass(repr=False)
class Pairing(ShortRepr):
    """Pairs of units (torch, paddle), units without a partner by side, how the pairs were found, and where every array is stored.

    `arrays`: canonical name (torch's path and the kind's name) -> side -> spelling below the root of the model.
    `single`: arrays that only one side of a pair has, by side. `shapes`: the shape of every array of either model, by side and own name.
    """

    pairs: list[tuple[Unit, Unit]]
    how: str
    alone: dict[str, list[Unit]] = field(default_factory=lambda: {side: [] for side in SIDES})
    arrays: dict[str, dict[str, str]] = field(default_factory=dict)
    single: dict[str, list[str]] = field(default_factory=lambda: {side: [] for side in SIDES})
    shapes: dict[str, dict[str, list[int]]] = field(default_factory=lambda: {side: {} for side in SIDES})

    def partner(self, side: str) -> dict[str, str]:
        """Path on `side` -> path on the other."""
        here, there = (0, 1) if side == SIDES[0] else (1, 0)
        return {pair[here].path: pair[there].path for pair in self.pairs}


def match(torch: ModelDescription, paddle: ModelDescription, given: Mapping[str, Any] | None = None) -> Pairing:
    """Match two models. `given`, the content of a map file, takes precedence. `InputError` where they cannot be matched."""
    fixed = [(torch.unit(row["torch"]), paddle.unit(row["paddle"])) for row in (given or {}).get("layers", [])]
    _check_fixed(fixed)
    left = [unit for unit in torch.owners() if unit.path not in {a.path for a, _ in fixed}]
    right = [unit for unit in paddle.owners() if unit.path not in {b.path for _, b in fixed}]
    pairs, how = _pairs(torch, paddle, left, right)
    chosen = fixed + pairs
    if fixed:
        how = f"a map for {len(fixed)} layers" + (f", {how} for the rest" if pairs else "")
    mapping = Pairing(chosen, how)
    matched = {side: {pair[i].path for pair in chosen} for i, side in enumerate(SIDES)}
    for model in (torch, paddle):
        mapping.alone[model.side] = [unit for unit in model.owners() if unit.path not in matched[model.side]]
        mapping.shapes[model.side] = model.shapes()
    rows = (given or {}).get("arrays", {})
    _arrays(mapping, rows)
    _check_arrays(mapping, rows)
    return mapping


def _check_arrays(mapping: Pairing, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """`InputError` unless a map names the arrays of the models, each once and in the right shape."""
    for name, row in rows.items():
        if name not in mapping.arrays:
            near = difflib.get_close_matches(name, mapping.arrays, 1)
            hint = f": do you mean {near[0]!r}?" if near else ": write one with --save-map to see their names"
            raise InputError(f"the map names the array {name!r}, which no matched layer has{hint}")
        shapes = []
        for side in SIDES:
            spelling = parse_spelling(row[side])
            own = mapping.shapes[side].get(spelling.name)
            if own is None:
                near = difflib.get_close_matches(spelling.name, mapping.shapes[side], 1)
                hint = f": do you mean {near[0]!r}?" if near else ""
                raise InputError(
                    f"the map names {row[side]!r} for {name}, but the {side} model has no such array{hint}"
                )
            stated = row.get("shapes", {}).get(side, own)
            if list(stated) != own:
                raise InputError(f"{name} has shape {own} in the {side} model, the map says {list(stated)}")
            try:
                shapes.append(list(spelling.shape(own)))
            except InputError as error:
                raise InputError(f"the map does not fit the {side} model: {error}") from None
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the map gives {name} shape {shapes[0]} in PyTorch and {shapes[1]} in Paddle: both must be equal"
            )
    if rows:
        for side in SIDES:
            try:
                layer_kinds.check_each_once(where[side] for where in mapping.arrays.values())
            except InputError as error:
                raise InputError(f"the map does not fit the {side} model: {error}") from None


def _check_fixed(fixed: Sequence[tuple[Unit, Unit]]) -> None:
    for i, side in enumerate(SIDES):
        twice = [path for path, count in Counter(pair[i].path for pair in fixed).items() if count > 1]
        if twice:
            raise InputError(f"the map names the {side} layer {twice[0]!r} twice")
    for a, b in fixed:
        if a.signature != b.signature and a.kind == b.kind:
            raise InputError(f"the map pairs {a} with {b}, whose shapes differ")


def normal(path: str) -> str:
    """Return a path without the known differences in naming."""
    parts = []
    for part in path.split("."):
        known = part
        for pattern, instead in RENAMES:
            known = re.sub(pattern, instead, known)
        parts.append(known.lower())
    return ".".join(parts)


Pairs = list[tuple[Unit, Unit]]


def _pairs(torch: ModelDescription, paddle: ModelDescription, left: list[Unit], right: list[Unit]) -> tuple[Pairs, str]:
    by_name = _by_name(left, right)
    if len(by_name) == len(left) == len(right):
        return by_name, "names"
    if [a.signature for a in left] == [b.signature for b in right]:
        return list(zip(left, right, strict=True)), "order of execution"
    return _mixed(torch, paddle, left, right, by_name)


def _by_name(left: Sequence[Unit], right: Sequence[Unit]) -> Pairs:
    """Match units of the same name, kind and shape, where the name is unique on both sides."""
    names = Counter(normal(unit.path) for unit in right), Counter(normal(unit.path) for unit in left)
    there = {normal(unit.path): unit for unit in right}
    found = []
    for unit in left:
        name = normal(unit.path)
        if names[0][name] == names[1][name] == 1 and there[name].signature == unit.signature:
            found.append((unit, there[name]))
    return found


def _mixed(
    torch: ModelDescription, paddle: ModelDescription, left: list[Unit], right: list[Unit], by_name: Pairs
) -> tuple[Pairs, str]:
    """Match by order and names together: first runs of layers in the same order, then unique signatures, then names."""
    matcher = difflib.SequenceMatcher(None, [u.signature for u in left], [u.signature for u in right], autojunk=False)
    pairs = []
    for block in matcher.get_matching_blocks():
        run = list(zip(left[block.a :][: block.size], right[block.b :][: block.size], strict=True))
        # Equal layers in sequence may be branches, whose order is arbitrary.
        if len(run) < 2 or len({a.signature for a, _ in run}) > 1:
            pairs += run
    free = [u for u in left if u not in [a for a, _ in pairs]], [u for u in right if u not in [b for _, b in pairs]]
    moved = []
    for signature in {unit.signature: None for unit in free[0]}:
        here, there = ([u for u in side if u.signature == signature] for side in free)
        if len(here) == len(there) == 1:
            moved.append((here[0], there[0]))
        elif here and there:
            named = [pair for pair in by_name if pair[0] in here and pair[1] in there]
            if len(named) != max(len(here), len(there)):
                raise _ambiguous(here, there)
            moved += named
    done = {u.path for u, _ in pairs + moved}, {u.path for _, u in pairs + moved}
    rest = [u for u in left if u.path not in done[0]], [u for u in right if u.path not in done[1]]
    for model, alone in zip((torch, paddle), rest, strict=True):
        if called := [unit for unit in alone if unit.path in model.inference or not model.order]:
            raise _models_differ(left, right, model.side, called[0], pairs + moved)
    return pairs + moved, "order of execution" + (", names and shapes" if moved else "")


def _ambiguous(here: Sequence[Unit], there: Sequence[Unit]) -> InputError:
    names = [", ".join(map(str, units)) for units in (here, there)]
    return InputError(
        f"these layers cannot be matched without a map: in PyTorch {names[0]}; in Paddle {names[1]}. Write the pairs to a JSON file, "
        f'{{"layers": [{{"torch": "{here[0].path}", "paddle": "{there[0].path}"}}, ...]}}, and pass it with --map'
    )


def _models_differ(left: Sequence[Unit], right: Sequence[Unit], side: str, unit: Unit, pairs: Pairs) -> ModelsDiffer:
    """Say where two architectures diverge: the first unit without a partner, and what the other side has there."""
    own, other = (left, right) if side == "torch" else (right, left)
    partner = {a.path: b for a, b in pairs} if side == "torch" else {b.path: a for a, b in pairs}
    before = [u for u in own[: own.index(unit)] if u.path in partner]
    after = other[other.index(partner[before[-1].path]) + 1 :] if before else list(other)
    beside = after[0] if after else None
    there = {"torch": "paddle", "paddle": "torch"}[side]
    after_pair = f"after {before[-1]} = {partner[before[-1].path]}" if before else "at the beginning"
    message = (
        f"the models have different architectures: they diverge {after_pair}, where {NAMES[side]} has {unit} and {NAMES[there]} has "
        f"{beside or 'nothing more'}; {len(left)} and {len(right)} layers with weights, {len(pairs)} matched"
    )
    return ModelsDiffer(message, {side: unit, there: beside})


def _arrays(mapping: Pairing, given: Mapping[str, Mapping[str, str]]) -> None:
    """Fill in where every array is stored on both sides."""
    for a, b in mapping.pairs:
        units = dict(zip(SIDES, (a, b), strict=True))
        for name in {**a.spellings, **b.spellings}:
            canonical = below(a.path, name)
            spelled = {side: below(u.path, u.spellings[name]) for side, u in units.items() if name in u.spellings}
            if canonical in given:
                spelled = {side: given[canonical][side] for side in SIDES}
            if len(spelled) == 2:
                mapping.arrays[canonical] = spelled
            else:
                (side,) = spelled
                mapping.single[side].append(spelled[side])


def canonical(mapping: Pairing, side: str, arrays: Mapping[str, Array], names: Iterable[str] | None = None) -> Record:
    """Return arrays of one side in canonical names and layout: those of `names`, or all, as far as `arrays` holds them."""
    chosen = {name: mapping.arrays[name][side] for name in names or mapping.arrays}
    return {
        name: layer_kinds.read(where, arrays) for name, where in chosen.items() if layer_kinds.name_in(where) in arrays
    }


def spelled(mapping: Pairing, side: str, state: Mapping[str, Array], shapes: Mapping[str, Sequence[int]]) -> Record:
    """Return canonical arrays in the names and layout of one side, whose own arrays have `shapes`."""
    found: Record = {}
    for name, where in mapping.arrays.items():
        own = layer_kinds.name_in(where[side])
        if name in state and own in shapes:
            layer_kinds.write(where[side], found, state[name], shapes[own])
    return found


def to_json(mapping: Pairing) -> str:
    """Return the text of a map file: the pairs of layers, where every array is stored, and the arrays of both models."""
    layers = [{"torch": a.path, "paddle": b.path, "kind": a.kind} for a, b in mapping.pairs]
    arrays = {
        name: dict(where) | {"shapes": {side: mapping.shapes[side][name_in(where[side])] for side in SIDES}}
        for name, where in mapping.arrays.items()
    }
    named = {side: {name_in(where[side]) for where in mapping.arrays.values()} for side in SIDES}
    for side in SIDES:
        named[side] |= {name_in(spelling) for spelling in mapping.single[side]}
        for unit in mapping.alone[side]:
            named[side] |= {below(unit.path, name_in(spelling)) for spelling in unit.spellings.values()}
    models = {side: {name: mapping.shapes[side][name] for name in sorted(named[side])} for side in SIDES}
    return json.dumps({"how": mapping.how, "layers": layers, "arrays": arrays, "models": models}, indent=1)


def save(path: Path, mapping: Pairing) -> None:
    """Write the map file atomically."""
    write_atomically(path, to_json(mapping).encode())
