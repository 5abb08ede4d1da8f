"""Match the layers of two models. Names decide; else kinds and shapes, data flow and values.

`parity.pairs.match_layers` lists the assignments that remain, and `parity.pairs.match_values` decides between them. A map file takes
precedence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.modules import layer_kinds
from parity.modules.description import below
from parity.modules.layer_kinds import SIDES, name_in, parse_spelling
from parity.pairs.match_layers import Assignment, Problem
from parity.pairs.match_models import ModelDescription, Pairing


def match(torch: ModelDescription, paddle: ModelDescription, given: Mapping[str, Any] | None = None) -> Pairing:
    """Match two models by the likeliest assignment. `given` is the content of a map file. `InputError` where they cannot be matched."""
    problem = Problem(torch, paddle, given or {})
    return checked(problem, problem.first[0])


def checked(problem: Problem, assignment: Assignment) -> Pairing:
    """Return the pairing of an assignment; `InputError` unless the arrays that a map names fit it."""
    mapping = problem.pairing(assignment)
    _check_arrays(mapping, problem.rows)
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
                named = [where[side] for where in mapping.arrays.values()]
                layer_kinds.check_each_once([*named, *(s for s in mapping.single[side] if not parse_spelling(s).whole)])
            except InputError as error:
                raise InputError(f"the map does not fit the {side} model: {error}") from None


def canonical(mapping: Pairing, side: str, arrays: Mapping[str, Array], names: Iterable[str] | None = None) -> Record:
    """Return arrays of one side in canonical names and layout: those of `names`, or all, as far as `arrays` holds them."""
    chosen = {name: mapping.arrays[name][side] for name in names or mapping.arrays}
    return {
        name: layer_kinds.read(where, arrays) for name, where in chosen.items() if layer_kinds.name_in(where) in arrays
    }


def spelled(
    mapping: Pairing,
    side: str,
    state: Mapping[str, Array],
    shapes: Mapping[str, Sequence[int]],
    base: Mapping[str, Array] | None = None,
) -> Record:
    """Return canonical arrays in the names and layout of one side, whose own arrays have `shapes`.

    An array of which `state` has only some parts keeps the other parts of `base`.
    """
    found: Record = {}
    for name, where in mapping.arrays.items():
        own = layer_kinds.name_in(where[side])
        if name in state and own in shapes:
            if own not in found and base and own in base:
                found[own] = base[own].astype(state[name].dtype)
            layer_kinds.write(where[side], found, state[name], shapes[own])
    return found


def partly_named(mapping: Pairing, side: str) -> set[str]:
    """Return the own names of arrays of which only some parts have a partner."""
    found = {name_in(where[side]) for where in mapping.arrays.values()}
    return found & {name_in(spelling) for spelling in mapping.single[side]}


def to_json(mapping: Pairing) -> str:
    """Return the text of a map file: the pairs of layers, where every array is stored, and the arrays of both models."""
    parts = {pair[0].path for fusion in mapping.fusions for pair in fusion.pairs()}
    layers = [fusion.map_row() | {"kind": fusion.whole.kind} for fusion in mapping.fusions]
    layers += [{"torch": a.path, "paddle": b.path, "kind": a.kind} for a, b in mapping.pairs if a.path not in parts]
    arrays = {
        name: dict(where) | {"shapes": {side: mapping.shapes[side][name_in(where[side])] for side in SIDES}}
        for name, where in mapping.arrays.items()
    }
    named = {side: {name_in(where[side]) for where in mapping.arrays.values()} for side in SIDES}
    for side in SIDES:
        named[side] |= {name_in(spelling) for spelling in mapping.single[side]}
        for unit in mapping.alone[side]:
            named[side] |= {below(unit.holder, name_in(spelling)) for spelling in unit.spellings.values()}
    models = {side: {name: mapping.shapes[side][name] for name in sorted(named[side])} for side in SIDES}
    return json.dumps({"how": mapping.sentence(), "layers": layers, "arrays": arrays, "models": models}, indent=1)


def save(path: Path, mapping: Pairing) -> None:
    """Write the map file atomically; `InputError` where batch norms are folded, which a map cannot say."""
    if mapping.folded:
        raise InputError(
            f"{path} is not written: no map says that {mapping.folded[0]} is one layer on the other side; fold it in both models first"
        )
    write_atomically(path, to_json(mapping).encode())
