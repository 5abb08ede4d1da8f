"""The assignments of layers that names, kinds, shapes and the order of execution leave open, the likeliest first."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.backend.registry import NAMES
from parity.errors import InputError
from parity.modules.description import Unit, below, layer_in_words
from parity.modules.layer_kinds import OTHER_SIDE, SIDES, name_in, parse_spelling
from parity.pairs import match_names
from parity.pairs.match_arrays import Rows, loose_shape, loose_shapes, ways_of_pools, ways_of_units, with_one_shape
from parity.pairs.match_cells import with_cells
from parity.pairs.match_constants import find_constants, without_constants
from parity.pairs.match_fused import Fusion, as_linear, find_fusions, may_be_fused, outputs_of
from parity.pairs.match_models import ModelDescription, ModelsDiffer, Pairing
from parity.pairs.match_pointwise import with_pointwise
from parity.short_repr import few

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^_+", ""),
    (r"(?<=[a-z0-9])([A-Z])", r"_\1"),
    (r"^(conv|norm|bn|fc|linear|drop|pool|layer|block|stage)_(\d+)$", r"\1\2"),
    (r"^batch_?norm", "bn"),
    (r"^(linear|dense|fully_connected)$", "fc"),
)
"""Regular expression -> replacement, for every part of a path between dots, before names are compared in small letters."""

Pairs = list[tuple[Unit, Unit]]
Key = tuple[Any, ...]

BESIDE = 3
"""Among so many layers of the other side, one of the same kind without a partner is what a layer without one is compared with."""

NORM = "BatchNorm"
"""The kind of layer that may be folded into the one before it."""

POOL = ("", "")
"""The choice for the arrays of containers that have no partner as a whole."""


@dataclass(frozen=True)
class Assignment:
    """One way to match two models. `partner`: torch path -> Paddle path. `ways`: choice -> number of the way to match arrays."""

    partner: Mapping[str, str]
    fusions: tuple[Fusion, ...] = ()
    ways: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Problem:
    """Two models to match. `first` are the likeliest assignments; `pairing` turns one into pairs of layers and arrays.

    `named`: the torch paths whose partners their names decide. `exact`: all names agree. `keys`: path -> what must agree, by side.
    `ways`: choice -> in how many ways arrays can be matched there. `constants`: by side the arrays that need no partner.
    """

    def __init__(self, torch: ModelDescription, paddle: ModelDescription, given: Mapping[str, Any]) -> None:
        self.rows: Mapping[str, Mapping[str, Any]] = given.get("arrays", {})
        units = with_one_shape((torch.units, paddle.units), (torch.own, paddle.own))
        whole = {m.side: dataclasses.replace(m, units=u) for m, u in zip((torch, paddle), units, strict=True)}
        named = {side: {name_in(row[side]) for row in self.rows.values()} for side in SIDES}
        self.constants = find_constants(whole, named)
        self.models = with_cells(
            with_pointwise({side: without_constants(whole[side], self.constants[side]) for side in SIDES})
        )
        self.ways: dict[tuple[str, str], int] = {}
        self.pool_ways: list[Rows] = []
        self._known_ways: dict[tuple[str, str], list[Rows]] = {}
        self.fixed, self.fixed_fusions = _fixed(self.models, given.get("layers", []))
        self.owners = {side: model.owners(self.models[OTHER_SIDE[side]]) for side, model in self.models.items()}
        self.pool: dict[str, list[Unit]] = {side: [] for side in SIDES}
        self.named: set[str] = set()
        taken = {side: {pair[i].path for pair in self.fixed} for i, side in enumerate(SIDES)}
        for fusion in self.fixed_fusions:
            taken[fusion.side].add(fusion.whole.path)
            taken[OTHER_SIDE[fusion.side]] |= {part.path for part in fusion.parts}
        left = {side: [u for u in self.owners[side] if u.path not in taken[side]] for side in SIDES}
        self.exact = False
        exact = _by_name(*left.values())
        self.fusions: list[Fusion] = list(self.fixed_fusions)
        if len(exact) == len(left["torch"]) == len(left["paddle"]):
            self.exact, self.how, self.keys = True, "names", {}
            partners = [{a.path: b.path for a, b in exact}]
            self.named = set(partners[0])
        else:
            self._find_fusions(left)
            self.keys = self._keys(left)
            self._find_pool(left)
            partners = self._partners(left, exact)
        fixed = {a.path: b.path for a, b in self.fixed}
        self.first = [Assignment(fixed | partner, tuple(self.fusions)) for partner in partners]
        self.named |= set(fixed)
        if self.fixed or self.fixed_fusions:
            count = len(self.fixed) + sum(len(fusion.parts) for fusion in self.fixed_fusions)
            self.how = f"a map for {count} layers" + (f", {self.how} for the rest" if partners[0] else "")
        self._list_ways()

    def unit(self, side: str, path: str) -> Unit:
        """Return a unit as it is matched."""
        return next(unit for unit in self.owners[side] if unit.path == path)

    def pairing(self, assignment: Assignment) -> Pairing:
        """Return the pairs of layers and arrays of an assignment."""
        units = {side: {unit.path: unit for unit in self.owners[side]} for side in SIDES}
        pairs = [(units["torch"][a], units["paddle"][b]) for a, b in assignment.partner.items()]
        for fusion in assignment.fusions:
            pairs += fusion.pairs()
        order = {unit.path: i for i, unit in enumerate(self.owners["torch"])}
        fixed = {a.path for a, _ in self.fixed}
        pairs.sort(key=lambda pair: (pair[0].path not in fixed, order.get(pair[0].holder, len(order))))
        fused = [str(fusion) for fusion in assignment.fusions if fusion not in self.fixed_fusions]
        how = ", ".join([self.how, *fused[:2]]) + (f" and {len(fused) - 2} more" if len(fused) > 2 else "")
        found = Pairing(pairs, how, fusions=assignment.fusions, constants=self.constants)
        for side in SIDES:
            matched = {pair[SIDES.index(side)].path for pair in pairs} | {unit.path for unit in self.pool[side]}
            matched |= {fusion.whole.path for fusion in assignment.fusions if fusion.side == side}
            found.alone[side] = [unit for unit in self.owners[side] if unit.path not in matched]
            found.shapes[side] = self.models[side].shapes()
        for a, b in pairs:
            self._add_arrays(found, assignment, a, b)
        self._add_pool(found, assignment)
        self._add_left(found)
        return found

    def described(self, pairing: Pairing) -> dict[str, ModelDescription]:
        """Return the models with the units that are matched: a fused layer becomes its parts."""
        found = {}
        for side, model in self.models.items():
            parts = {fusion.whole.path: fusion.units() for fusion in pairing.fusions if fusion.side == side}
            own = {unit.path: unit for unit in self.owners[side]}
            units = [u for unit in model.units for u in parts.get(unit.path, [own.get(unit.path, unit)])]
            found[side] = dataclasses.replace(model, units=units)
        return found

    def _add_arrays(self, found: Pairing, assignment: Assignment, a: Unit, b: Unit) -> None:
        """Fill in where every array of two units is stored on both sides."""
        if self._is_open(a, b):
            ways = self._ways_of(a, b)
            rows = dict(ways[assignment.ways.get(choice_of(a, b), 0) % len(ways)]) if ways else {}
        else:
            rows = {name: b.spellings[name] for name in a.spellings if name in b.spellings}
        theirs = set(rows.values())
        for name, spelling in a.spellings.items():
            canonical = below(a.path, name)
            spelled = {"torch": below(a.holder, spelling)}
            if name in rows:
                spelled["paddle"] = below(b.holder, rows[name])
                if self._is_open(a, b) and canonical not in self.rows:
                    found.turned += _turned_square(a.arrays[name].shape, spelled)
            if canonical in self.rows:
                spelled = {side: self.rows[canonical][side] for side in SIDES}
            if len(spelled) == 2:
                found.arrays[canonical] = spelled
                found.owners[canonical] = (a.path, b.path)
                found.trained[canonical] = a.arrays[name].trained
            else:
                found.single["torch"].append(spelled["torch"])
        named = {_bare(spelling) for spelling in theirs}
        for name, spelling in b.spellings.items():
            if _bare(spelling) in named:
                continue
            canonical = below(a.path, name)
            if canonical in self.rows and canonical not in found.arrays:
                found.arrays[canonical] = {side: self.rows[canonical][side] for side in SIDES}
                found.owners[canonical] = (a.path, b.path)
            elif canonical not in found.arrays:
                found.single["paddle"].append(below(b.holder, spelling))

    def _add_pool(self, found: Pairing, assignment: Assignment) -> None:
        if not self.pool_ways:
            return
        rows = dict(self.pool_ways[assignment.ways.get(POOL, 0)])
        holders = {
            side: {_bare(below(u.holder, u.spellings[name])): (u, name) for u in self.pool[side] for name in u.arrays}
            for side in SIDES
        }
        rows |= {name: row["paddle"] for name, row in self.rows.items() if name in holders["torch"]}
        for name, spelling in rows.items():
            a, own = holders["torch"][name]
            # A map may name an unknown array, which is refused later.
            b = holders["paddle"].get(_bare(spelling), (a, ""))[0]
            stored = self.rows[name]["torch"] if name in self.rows else below(a.holder, a.spellings[own])
            found.arrays[name] = {"torch": stored, "paddle": spelling}
            if name not in self.rows:
                found.turned += _turned_square(a.arrays[own].shape, found.arrays[name])
            found.owners[name] = (a.path, b.path)
            found.trained[name] = a.arrays[own].trained
        found.how += f", {len(rows)} parameters of containers by names and shapes"
        named = {"torch": set(rows), "paddle": {_bare(spelling) for spelling in rows.values()}}
        for side in SIDES:
            found.single[side] += [name for name in holders[side] if name not in named[side]]

    def _add_left(self, found: Pairing) -> None:
        """Match arrays that layers of one side have alone with those that containers of the other side hold, where names say which.

        In BEiT, one model has a Linear for the query, and the other one a `q_bias` beside a fused `qkv`.
        """
        units = {
            side: {_bare(below(u.holder, s)): (u, n) for u in self.owners[side] for n, s in u.spellings.items()}
            for side in SIDES
        }
        left = {side: [name for name in found.single[side] if name in units[side]] for side in SIDES}
        shapes = {
            side: {name: units[side][name][0].arrays[units[side][name][1]].shape for name in left[side]}
            for side in SIDES
        }
        for shape in dict.fromkeys(shapes["torch"].values()):
            here, there = ([name for name in left[side] if shapes[side][name] == shape] for side in SIDES)
            pairs = match_names.bijection(here, there) or {}
            if not pairs or all(units["torch"][a][0].leaf and units["paddle"][b][0].leaf for a, b in pairs.items()):
                continue
            for one, two in pairs.items():
                a, own = units["torch"][one]
                canonical = below(a.path, own)
                found.arrays[canonical] = {"torch": one, "paddle": two}
                found.owners[canonical] = (a.path, units["paddle"][two][0].path)
                found.trained[canonical] = a.arrays[own].trained
            for side, matched in (("torch", pairs.keys()), ("paddle", pairs.values())):
                found.single[side] = [name for name in found.single[side] if name not in matched]
            found.how += f", {len(pairs)} arrays of layers and containers by names"

    def _is_open(self, a: Unit, b: Unit) -> bool:
        """Whether the arrays of two units may be matched in several ways: their kinds differ, or names or shapes of arrays do."""
        if a.kind != b.kind:
            return True
        arrays = [{name: array.shape for name, array in unit.arrays.items()} for unit in (a, b)]
        return a.kind in self.models["torch"].own and arrays[0] != arrays[1]

    def _find_fusions(self, left: dict[str, list[Unit]]) -> None:
        """Find fused layers, and take them and their parts out of `left`."""
        surplus = {side: _surplus(left[side], left[OTHER_SIDE[side]]) for side in SIDES}
        bare: dict[str, dict[str, Unit]] = {side: {} for side in SIDES}
        for side in SIDES:
            other = [
                u for u in left[OTHER_SIDE[side]] if may_be_fused(u) and surplus[OTHER_SIDE[side]][u.signature] > 0
            ]
            loose = {loose_shapes(unit) for unit in left[OTHER_SIDE[side]]}
            for i, unit in enumerate(left[side]):
                if unit.kind not in self.models[side].own or loose_shapes(unit) in loose:
                    continue
                for transposed in (True, False):
                    linear = as_linear(unit, transposed)
                    if linear and any(
                        u.signature[1][1:] == linear.signature[1][1:] and outputs_of(u) != outputs_of(linear)
                        for u in other
                    ):
                        left[side][i] = linear
                        bare[side][unit.path] = unit
                        break
        surplus = {side: _surplus(left[side], left[OTHER_SIDE[side]]) for side in SIDES}
        found = find_fusions(left, surplus, {side: model.inputs for side, model in self.models.items()})
        for fusion in found:
            parts = {part.path for part in fusion.parts}
            left[fusion.side] = [u for u in left[fusion.side] if u.path != fusion.whole.path]
            left[OTHER_SIDE[fusion.side]] = [u for u in left[OTHER_SIDE[fusion.side]] if u.path not in parts]
            self._replace(fusion.side, fusion.whole)
        for side, units in bare.items():
            left[side] = [u if u.leaf else units.get(u.path, u) for u in left[side]]
            for unit in left[side]:
                self._replace(side, unit)
        self.fusions += found

    def _replace(self, side: str, unit: Unit) -> None:
        """Let `unit` be the one of its path among the owners of arrays."""
        self.owners[side] = [unit if own.path == unit.path else own for own in self.owners[side]]

    def _keys(self, left: Mapping[str, Sequence[Unit]]) -> dict[str, dict[str, Key]]:
        """Return by side path -> what must agree: kind and shape, or for an own class the shapes of its arrays."""
        keys: dict[str, dict[str, Key]] = {}
        for side in SIDES:
            own = self.models[side].own
            keys[side] = {u.path: ("own", *loose_shapes(u)) if u.kind in own else u.signature for u in left[side]}
        for side in SIDES:  # a layer of an own class may be a known one on the other side
            there = OTHER_SIDE[side]
            more = Counter(keys[side].values()) - Counter(keys[there].values())
            free = Counter(keys[there].values()) - Counter(keys[side].values())
            for unit in reversed(left[side]):
                key = keys[side][unit.path]
                if key[0] != "own" or more[key] < 1:
                    continue
                for other in reversed(left[there]):
                    known = keys[there][other.path]
                    if known[0] != "own" and free[known] > 0 and loose_shapes(other) == loose_shapes(unit):
                        keys[side][unit.path] = known
                        free[known] -= 1
                        more[key] -= 1
                        break
        _join_parts(left, keys)
        return keys

    def _find_pool(self, left: dict[str, list[Unit]]) -> None:
        """Take units of own classes that have no partner as a whole out of `left`, if a container is among them."""
        counts = {side: Counter(self.keys[side].values()) for side in SIDES}
        pools = {}
        for side in SIDES:
            more = counts[side] - counts[OTHER_SIDE[side]]
            pools[side] = [
                u for u in left[side] if self.keys[side][u.path][0] == "own" and self.keys[side][u.path] in more
            ]
        for side in SIDES:  # what one model holds as a parameter of its own may be a known layer of the other
            pools[side] += self._known_in_pool(side, left[side], pools)
        if all(pools.values()) and any(not unit.leaf for units in pools.values() for unit in units):
            self.pool = pools
            for side in SIDES:
                left[side] = [unit for unit in left[side] if unit not in pools[side]]

    def _known_in_pool(self, side: str, left: Sequence[Unit], pools: Mapping[str, Sequence[Unit]]) -> list[Unit]:
        """Return layers of known kinds without a partner whose arrays the other side's pool has and this one lacks."""
        there = OTHER_SIDE[side]
        more = Counter(self.keys[side].values()) - Counter(self.keys[there].values())
        shapes = {s: Counter(shape for unit in units for shape in loose_shapes(unit)) for s, units in pools.items()}
        missing = shapes[there] - shapes[side]
        found = []
        for unit in left:
            key, own = self.keys[side][unit.path], Counter(loose_shapes(unit))
            if key[0] != "own" and more[key] > 0 and unit.layer is None and not own - missing:
                found.append(unit)
                missing -= own
                more[key] -= 1
        return found

    def _partners(self, left: Mapping[str, Sequence[Unit]], exact: Pairs) -> list[dict[str, str]]:
        """Return the likeliest partners; sets `how`."""
        keys = {side: [self.keys[side][unit.path] for unit in left[side]] for side in SIDES}
        if Counter(keys["torch"]) != Counter(keys["paddle"]):
            called = {
                side: [u for u in units if u.holder in self.models[side].inference] for side, units in left.items()
            }
            counts = [Counter(self.keys[side][unit.path] for unit in units) for side, units in called.items()]
            if counts[0] == counts[1] and counts[0].total():
                return self._with_uncalled(left, called, exact)
            return [{a.path: b.path for a, b in self._mixed(left, keys, exact)}]
        found: list[dict[str, str]] = [{}, {}]
        by_order = 0
        for key in dict.fromkeys(keys["torch"]):
            here, there = ([unit.path for unit in left[side] if self.keys[side][unit.path] == key] for side in SIDES)
            named = _by_normal_name(here, there) or match_names.pairs_by_words(here, there)
            if len(here) > 1:
                self.named |= set(named)
            here = [path for path in here if path not in named]
            there = [path for path in there if path not in named.values()]
            by_order += len(here) > 1
            registered = [
                [unit.path for unit in self.models[side].units if unit.path in set(paths)]
                for side, paths in (("torch", here), ("paddle", there))
            ]
            found[0] |= named | dict(zip(here, there, strict=True))
            found[1] |= named | dict(zip(*registered, strict=True))
        in_order = {a.path: b.path for a, b in zip(left["torch"], left["paddle"], strict=True)}
        if all(normal(one) == normal(other) for one, other in found[0].items()):
            self.how = "names"
        elif found[0] == in_order and not (self.named and not by_order):
            self.how = "order of execution"
        else:
            self.how = "order of execution, names and shapes" if by_order else "names and shapes"
        return found if found[0] != found[1] else found[:1]

    def _with_uncalled(
        self, left: Mapping[str, Sequence[Unit]], called: Mapping[str, Sequence[Unit]], exact: Pairs
    ) -> list[dict[str, str]]:
        """Return the likeliest partners of the layers that inference calls, which values decide, and those of all others by order."""
        rest = {side: [unit for unit in left[side] if unit not in called[side]] for side in SIDES}
        keys = {side: [self.keys[side][unit.path] for unit in rest[side]] for side in SIDES}
        more = {a.path: b.path for a, b in self._mixed(rest, keys, exact)}
        return [partners | more for partners in self._partners(called, exact)]

    def of_key(self, side: str, key: Key) -> list[str]:
        """Return the paths of the units with a key, in the order of execution."""
        return [path for path, own in self.keys.get(side, {}).items() if own == key]

    def _mixed(self, left: Mapping[str, Sequence[Unit]], keys: Mapping[str, Sequence[Key]], exact: Pairs) -> Pairs:
        """Match by order and names together: first runs of layers in the same order, then unique keys, then names."""
        torch, paddle = left["torch"], left["paddle"]
        matcher = difflib.SequenceMatcher(None, keys["torch"], keys["paddle"], autojunk=False)
        pairs: Pairs = []
        for block in matcher.get_matching_blocks():
            run = list(zip(torch[block.a :][: block.size], paddle[block.b :][: block.size], strict=True))
            # Equal layers in sequence may be branches, whose order is arbitrary.
            if len(run) < 2 or len({self.keys["torch"][a.path] for a, _ in run}) > 1:
                pairs += run
        done = {a.path for a, _ in pairs}, {b.path for _, b in pairs}
        moved: Pairs = []
        for key in dict.fromkeys(keys["torch"]):
            here = [u for u in torch if u.path not in done[0] and self.keys["torch"][u.path] == key]
            there = [u for u in paddle if u.path not in done[1] and self.keys["paddle"][u.path] == key]
            named = [pair for pair in exact if pair[0] in here and pair[1] in there]
            rest = (
                [u for u in here if u not in [a for a, _ in named]],
                [u for u in there if u not in [b for _, b in named]],
            )
            moved += [*named, *zip(*rest, strict=False)]
        self.how = "order of execution" + (", names and shapes" if moved else "")
        pairs += moved
        for i, side in enumerate(SIDES):
            pairs = _with_norms_behind(left[side], self.keys[side], pairs, i)
        done = {a.path for a, _ in pairs}, {b.path for _, b in pairs}
        for i, side in enumerate(SIDES):
            model = self.models[side]
            alone = [u for u in left[side] if u.path not in done[i]]
            if called := [unit for unit in alone if unit.holder in model.inference or not model.order]:
                raise _models_differ(left, side, called[0], pairs)
        return pairs

    def _list_ways(self) -> None:
        """List the ways to match arrays, for the pairs of units that are not of one known kind."""
        for assignment in self.first:
            for one, two in assignment.partner.items():
                a, b = self.unit("torch", one), self.unit("paddle", two)
                if self._is_open(a, b):
                    self.ways[choice_of(a, b)] = max(self.ways.get(choice_of(a, b), 0), len(self._ways_of(a, b)))
        if all(self.pool.values()):
            self.pool_ways = ways_of_pools(self.pool["torch"], self.pool["paddle"])
            self.ways[POOL] = len(self.pool_ways)

    def _ways_of(self, a: Unit, b: Unit) -> list[Rows]:
        """Return the ways to match the arrays of two units."""
        pair = a.path, b.path
        if pair not in self._known_ways:
            self._known_ways[pair] = ways_of_units(a, b, turn=a.leaf and b.leaf)
        return self._known_ways[pair]


def normal(path: str) -> str:
    """Return a path without the known differences in naming."""
    parts = []
    for part in path.split("."):
        known = part
        for pattern, instead in RENAMES:
            known = re.sub(pattern, instead, known)
        parts.append(known.lower())
    return ".".join(parts)


def choice_of(a: Unit, b: Unit) -> tuple[str, str]:
    """All pairs of two classes match their arrays in the same way."""
    return f"{a.classes[0]} {loose_shapes(a) if not a.leaf else ''}", b.classes[0]


def _turned_square(shape: Sequence[int], stored: Mapping[str, str]) -> list[str]:
    """Return a pair of square arrays if one is stored as the transpose of the other: values may say so, and no shape does."""
    spellings = [parse_spelling(stored[side]) for side in SIDES]
    if len(shape) != 2 or shape[0] != shape[1] or spellings[0].transposed == spellings[1].transposed:
        return []
    return [f"{spellings[0].name} = {spellings[1].name}"]


def _bare(spelling: str) -> str:
    """Return a spelling without the shape in which the array is read."""
    return str(dataclasses.replace(parse_spelling(spelling), transposed=False, reshaped=None))


def _join_parts(left: Mapping[str, Sequence[Unit]], keys: Mapping[str, dict[str, Key]]) -> None:
    """Give layers of own classes one key where one of them has lost some arrays of the other, such as a bias."""
    counts = {side: Counter(keys[side].values()) for side in SIDES}
    more = counts["torch"] - counts["paddle"]
    free = counts["paddle"] - counts["torch"]
    for a in left["torch"]:
        key, shapes = keys["torch"][a.path], Counter(loose_shapes(a))
        if key[0] != "own" or more[key] < 1 or not a.leaf:
            continue
        for b in sorted(left["paddle"], key=lambda unit: normal(unit.path) != normal(a.path)):
            other, theirs = keys["paddle"][b.path], Counter(loose_shapes(b))
            if other[0] == "own" and free[other] > 0 and b.leaf and (shapes <= theirs or theirs <= shapes):
                keys["paddle"][b.path] = key
                more[key] -= 1
                free[other] -= 1
                break


def _surplus(units: Sequence[Unit], others: Sequence[Unit]) -> Counter[Any]:
    return Counter(u.signature for u in units) - Counter(u.signature for u in others)


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


def _by_normal_name(here: Sequence[str], there: Sequence[str]) -> dict[str, str] | None:
    """Return path -> path if both sides have the same names, each once."""
    names = [normal(path) for path in there]
    if len(set(names)) < len(names) or sorted(normal(path) for path in here) != sorted(names):
        return None
    return {path: there[names.index(normal(path))] for path in here}


def _fixed(models: Mapping[str, ModelDescription], rows: Sequence[Mapping[str, Any]]) -> tuple[Pairs, list[Fusion]]:
    """Return the pairs and the fused layers of a map; `InputError` where it does not fit."""
    pairs: Pairs = []
    fusions: list[Fusion] = []
    for row in rows:
        paths = {side: [path.strip() for path in row[side].split(" + ")] for side in SIDES}
        units = {side: [models[side].unit(path) for path in paths[side]] for side in SIDES}
        if len(units["torch"]) == len(units["paddle"]) == 1:
            pairs.append((units["torch"][0], units["paddle"][0]))
            continue
        side = next((side for side in SIDES if len(units[side]) == 1), None)
        if side is None:
            raise InputError(f"the map joins several layers on both sides: {row['torch']!r} and {row['paddle']!r}")
        fusions.append(_given_fusion(models, side, units[side][0], units[OTHER_SIDE[side]], int(row.get("heads", 1))))
    _check_fixed(pairs, fusions, models[SIDES[0]].own)
    return pairs, fusions


def _given_fusion(
    models: Mapping[str, ModelDescription], side: str, whole: Unit, parts: Sequence[Unit], heads: int
) -> Fusion:
    if heads < 1:
        raise InputError(f"the map gives {whole.path} {heads} heads: write 1 or more")
    linear = [whole] if whole.kind not in models[side].own else [as_linear(whole, turned) for turned in (True, False)]
    for one in linear:
        if (
            one is None
            or one.layer is not None
            or not may_be_fused(one)
            or not all(may_be_fused(p) and p.kind == one.kind for p in parts)
        ):
            continue
        fits = all(part.signature[1][1:] == one.signature[1][1:] for part in parts)
        sizes = [outputs_of(part) for part in parts]
        if fits and sum(sizes) == outputs_of(one) and all(size % heads == 0 for size in sizes):
            return Fusion(side, one, tuple(parts), heads)
    raise InputError(
        f"the map joins {' + '.join(map(str, parts))}, whose outputs are not those of {whole}"
        + (f" in {heads} heads" if heads > 1 else "")
    )


def _check_fixed(pairs: Pairs, fusions: Sequence[Fusion], own: Collection[str]) -> None:
    for i, side in enumerate(SIDES):
        paths = [pair[i].path for pair in pairs]
        for fusion in fusions:
            paths += [fusion.whole.path] if fusion.side == side else [part.path for part in fusion.parts]
        twice = [path for path, count in Counter(paths).items() if count > 1]
        if twice:
            raise InputError(f"the map names the {side} layer {twice[0]!r} twice")
    for a, b in pairs:
        # A class of the user may hold a matrix transposed on one side.
        shapes = [tuple(map(loose_shape, unit.signature[1:])) if a.kind in own else unit.signature for unit in (a, b)]
        if shapes[0] != shapes[1] and a.kind == b.kind:
            raise InputError(f"the map pairs {a} with {b}, whose shapes differ")


def _with_norms_behind(units: Sequence[Unit], keys: Mapping[str, Key], pairs: Pairs, i: int) -> Pairs:
    """Let a run of units without a partner on side `i` end with a batch norm rather than begin with one: it belongs to the layer before."""
    matched = {pair[i].path: pair for pair in pairs}
    for start, unit in enumerate(units):
        rest = [n for n in range(start + 1, len(units)) if units[n].path in matched]
        if unit.kind != NORM or unit.path in matched or not rest or rest[0] == start + 1:
            continue
        last = units[rest[0]]
        if keys[last.path] == keys[unit.path]:
            a, b = matched.pop(last.path)
            matched[unit.path] = (unit, b) if i == 0 else (a, unit)
    return list(matched.values())


def _models_differ(left: Mapping[str, Sequence[Unit]], side: str, unit: Unit, pairs: Pairs) -> ModelsDiffer:
    """Say where two architectures diverge: the first unit without a partner, and what the other side has there."""
    there = OTHER_SIDE[side]
    own, other = left[side], left[there]
    partner = {a.path: b for a, b in pairs} if side == "torch" else {b.path: a for a, b in pairs}
    before = [u for u in own[: own.index(unit)] if u.path in partner]
    after = other[other.index(partner[before[-1].path]) + 1 :] if before else list(other)
    taken = {u.path for pair in pairs for u in pair if u.side == there}
    free = [u for u in other if u.path not in taken]
    alike = [u for u in free if normal(u.path) == normal(unit.path)] or [
        u for u in free if u in after[:BESIDE] and u.kind == unit.kind
    ]
    beside = next(iter(alike or [u for u in after if u in free]), "nothing like it" if after else "nothing more")
    after_pair = f"after {before[-1]} = {partner[before[-1].path]}" if before else "at the beginning"
    message = (
        f"the models have different architectures: they diverge {after_pair}, where {NAMES[side]} has {_in_words(unit)} and "
        f"{NAMES[there]} has {beside}{_lacking(left, pairs)}; {len(left['torch'])} and {len(left['paddle'])} layers with weights, "
        f"{len(pairs)} matched"
    )
    remedy = _remedy(side, unit, free) or _untied(unit, own, NAMES[there])
    return ModelsDiffer(message + remedy, {side: unit, there: beside if isinstance(beside, Unit) else None})


def _in_words(unit: Unit) -> str:
    """Return a unit with its kind; a container with the arrays that it holds itself."""
    if unit.leaf:
        return str(unit)
    return f"{layer_in_words(unit.path)} with {few([f'{n} {list(a.shape)}' for n, a in unit.arrays.items()])}"


def _lacking(left: Mapping[str, Sequence[Unit]], pairs: Pairs) -> str:
    """List the units of the side that alone has units without a partner, if there are several."""
    matched = {side: {pair[i].path for pair in pairs} for i, side in enumerate(SIDES)}
    alone = {side: [str(u) for u in left[side] if u.path not in matched[side]] for side in SIDES}
    said = [f"; only {NAMES[side]} has {few(alone[side])}" for side in SIDES if alone[side]]
    return said[0] if len(said) == 1 and any(len(units) > 1 for units in alone.values()) else ""


def _remedy(side: str, unit: Unit, free: Sequence[Unit]) -> str:
    """Return what to do: the line of a map if layers without a partner could be its parts, or to fold a batch norm."""
    if unit.kind == NORM:
        return (
            ". If the other side has it folded into a convolution, fold it here, too, as torch.nn.utils.fusion.fuse_conv_bn_eval does, and "
            "compare inference only (--stages eval)"
        )
    parts: list[Unit] = []
    if may_be_fused(unit) and unit.layer is None:
        for one in free:
            same = may_be_fused(one) and one.kind == unit.kind and one.signature[1][1:] == unit.signature[1][1:]
            if same and sum(map(outputs_of, [*parts, one])) <= outputs_of(unit):
                parts.append(one)
    if len(parts) < 2 or sum(map(outputs_of, parts)) != outputs_of(unit):
        return ""
    row = json.dumps({"layers": [Fusion(side, unit, tuple(parts)).map_row()]})
    return f". If {unit.path} is fused, say so in a file for --map: {row}"


def _untied(unit: Unit, own: Sequence[Unit], there: str) -> str:
    """Return what to do if the other side may compute a head with the weight of an embedding."""
    shared = [u.path for u in own if u.kind == "Embedding" and u.signature[1] == unit.signature[1]]
    if unit.kind != "Linear" or not shared:
        return ""
    return f". If {there} uses the weight of {shared[0]} as its head, tie the weight of {unit.path} to it, too"


def neighbours(problem: Problem, assignment: Assignment) -> list[tuple[str, str]]:
    """Return pairs of torch paths that may be exchanged: their units have the same key, and their names do not decide."""
    found = []
    for key in dict.fromkeys(problem.keys.get("torch", {}).values()):
        paths = [p for p in problem.of_key("torch", key) if p in assignment.partner and p not in problem.named]
        found += list(itertools.combinations(paths, 2))
    return found
