"""The stage init: fresh models of both sides for several seeds, their initialisers by name, and which arrays differ.

Each model is made as the user makes it, in its own dtype. `parity.compare.fresh_weights` decides what differs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import NAMES
from parity.compare.engine import Silent
from parity.compare.fresh_weights import (
    STATISTICS,
    Compared,
    Draws,
    compare_draws,
    fewest_seeds,
    measured,
)
from parity.compare.named_initialisers import GATES, Named, Place, fan_of, name_initialiser, number
from parity.compare.tolerances import SAME_NUMBER, statistic_level
from parity.compare.verdicts import DIFFERENT, EQUAL, INIT, Stage
from parity.errors import InputError
from parity.modules.description import both_paths
from parity.modules.layer_kinds import SIDES, parse_spelling
from parity.pairs.fresh_arrays import FreshArray
from parity.pairs.session import Session
from parity.short_repr import few

BINS = 24
"""Bins of a histogram."""


@dataclass
class Initialisation:
    """The result of the stage init.

    Attributes:
        seeds: How many fresh models each side made.
        first_seed: The seed of the first one; the others follow.
        level: The significance level of each test.
        stage: The counts of the stage.
        rows: A dict for each array: its layers, what was measured on both sides, the verdict and what differs.
        differences: A sentence for each kind of layer whose initialisation differs.
    """

    seeds: int
    first_seed: int
    level: float
    stage: Stage = field(default_factory=lambda: Stage(INIT))
    rows: list[dict[str, Any]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as dicts, lists, numbers and texts; `stage` is among the stages of the outcome."""
        return {name: value for name, value in vars(self).items() if name != "stage"}


def compare_initialisation(session: Session, seeds: int, say: Callable[[str], None] = Silent) -> Initialisation:
    """Make `seeds` fresh models of each side, and compare every array. The models of the session are released.

    `InputError` if there are too few seeds, or a factory gives the same numbers for every seed.
    """
    first_seed = session.pair.seed
    spelled = spellings(session)
    if seeds < (fewest := fewest_seeds(len(spelled))):
        raise InputError(
            f"--init-seeds {seeds} cannot show any difference in {len(spelled)} arrays: pass {fewest} or more"
        )
    draws = _draw(session, spelled, seeds, say)
    found = Initialisation(seeds, first_seed, statistic_level(len(spelled) * STATISTICS))
    reference, candidate = (draws[side] for side in SIDES)
    compared = {
        name: compare_draws(f"{INIT}/{name}", reference[name], candidate[name], len(spelled)) for name in spelled
    }
    _check_seeded(draws, compared)
    units = {a.path: (a, b) for a, b in session.pairing.pairs}
    for name, one in compared.items():
        found.stage.add(one.difference)
        paths = session.owners[name]
        pair = units.get(paths[0])
        kind = pair[0].kind if pair else ""
        groups = int((pair and pair[0].settings.get("groups")) or 1)
        places = {side: _place(session, spelled, name, side, kind, groups) for side in SIDES}
        found.rows.append(_row(name, paths, kind, one, {side: draws[side][name] for side in SIDES}, places))
    found.differences = describe_differences(found.rows)
    return found


def spellings(session: Session) -> dict[str, dict[str, str]]:
    """Return canonical name of each array -> side -> its spelling. An array that both sides share with an earlier one is left out."""
    found: dict[str, dict[str, str]] = {}
    known = set()
    for name, where in session.pairing.arrays.items():
        spelled = {}
        for side in SIDES:
            parsed = parse_spelling(where[side])
            spelled[side] = str(dataclasses.replace(parsed, name=session.aliases[side].get(parsed.name, parsed.name)))
        if tuple(spelled.values()) not in known:
            known.add(tuple(spelled.values()))
            found[name] = spelled
    return found


def _draw(
    session: Session, spelled: Mapping[str, Mapping[str, str]], seeds: int, say: Callable[[str], None]
) -> dict[str, dict[str, Draws]]:
    """Return side -> canonical name -> what the seeds gave. After the first two models, `say` how long all of them take."""
    pair = session.pair
    factory = {"torch": pair.torch, "paddle": pair.paddle}
    kept: dict[str, dict[str, list[FreshArray]]] = {side: {name: [] for name in spelled} for side in SIDES}
    started = time.monotonic()
    for count in range(seeds):

        def sample(side: str, seed: int = pair.seed + count, closely: bool = count < 2) -> Any:
            texts = [where[side] for where in spelled.values()]
            return session.workers[side].sample_fresh(factory[side], seed, texts, pair.folder, closely)

        for side, arrays in session.everywhere(sample, SIDES).items():
            for name, where in spelled.items():
                kept[side][name].append(arrays[where[side]])
        if count == 1:
            left = (seeds - 2) * (time.monotonic() - started) / 2
            say(f"init: {seeds} fresh models of each side, about {left:.0f} s")
    return {
        side: {name: _draws(found, _shape(session, spelled, name, side)) for name, found in arrays.items()}
        for side, arrays in kept.items()
    }


def _shape(session: Session, spelled: Mapping[str, Mapping[str, str]], name: str, side: str) -> tuple[int, ...]:
    parsed = parse_spelling(spelled[name][side])
    return parsed.shape(session.own_shapes[side][parsed.name])


def _draws(found: Sequence[FreshArray], shape: tuple[int, ...]) -> Draws:
    """Join what the seeds gave. A property that only one seed has is chance."""
    count = max(len(one.values) for one in found)
    values = np.stack([np.broadcast_to(one.values, (count,)) for one in found])
    close = found[:2]
    gains = [_common([one.gain for one in close]), _common([one.whole_gain for one in close])]
    rows = set(close[0].rows).intersection(*(one.rows for one in close))
    return Draws(values, shape, found[0].dtype, tuple(sorted(rows)), *gains)


def _common(gains: Sequence[float | None]) -> float | None:
    known = [gain for gain in gains if gain is not None]
    if len(known) < len(gains) or max(known) - min(known) > SAME_NUMBER * max(known):
        return None
    return known[0]


def _check_seeded(draws: Mapping[str, Mapping[str, Draws]], compared: Mapping[str, Compared]) -> None:
    """`InputError` if a seed changes nothing on one side, and this makes a difference."""
    for side, arrays in draws.items():
        still = [name for name, one in arrays.items() if one.is_fixed and not one.is_constant]
        if still and all(one.is_fixed for one in arrays.values()) and not all(compared[name].equal for name in still):
            raise InputError(
                f"the {side} side makes the same weights for every seed ({still[0]}): its factory seeds {NAMES[side]} itself, or loads "
                "weights. Take that out of the factory for the stage init"
            )


def _place(
    session: Session, spelled: Mapping[str, Mapping[str, str]], name: str, side: str, kind: str, groups: int = 1
) -> Place:
    """Return what an initialiser may ask of an array."""
    parsed = parse_spelling(spelled[name][side])
    own = tuple(session.own_shapes[side][parsed.name])
    canonical = parsed.shape(own)
    fan = fan_of(side, tuple(reversed(canonical)) if parsed.transposed else canonical)
    weight = None
    if name.endswith("bias") and (beside := f"{name[: -len('bias')]}weight") in spelled:
        weight = _place(session, spelled, beside, side, kind).fan
    fused = None if parsed.whole else fan_of(side, own)
    hidden = own[0] // GATES[kind] if kind in GATES else 0
    return Place(fan, fused, () if parsed.whole else own, weight, hidden, groups)


def _row(
    name: str,
    paths: tuple[str, str],
    kind: str,
    compared: Compared,
    draws: Mapping[str, Draws],
    places: Mapping[str, Place],
) -> dict[str, Any]:
    """Return what the report shows of one array."""
    named = _names(compared, draws, places)
    row: dict[str, Any] = {
        "layer": paths[0],
        "candidate_layer": paths[1],
        "kind": kind,
        "array": name.removeprefix(f"{paths[0]}.") if paths[0] else name,
        "shape": list(draws[SIDES[0]].shape),
        "verdict": EQUAL if compared.equal else DIFFERENT,
        "what": compared.what,
        "error": compared.difference.error,
        "bound": compared.difference.bound,
    }
    for side in SIDES:
        row[side] = {"family": named[side].family, "initialiser": named[side].name, **measured(draws[side])}
    if not compared.equal:
        row["histogram"] = histogram({side: draws[side].values for side in SIDES})
    return row


def _names(compared: Compared, draws: Mapping[str, Draws], places: Mapping[str, Place]) -> dict[str, Named]:
    """Name the initialisers. Equal ones have one name, by the numbers of both sides; different ones have two, or measured numbers."""
    if compared.equal:
        one, two = (draws[side] for side in SIDES)
        together = one
        if one.values.shape == two.values.shape:
            together = dataclasses.replace(one, values=np.concatenate([one.values, two.values]))
        return dict.fromkeys(SIDES, name_initialiser(together if not one.is_fixed else one, places[SIDES[0]]))
    named = {side: name_initialiser(draws[side], places[side]) for side in SIDES}
    if len({one.name for one in named.values()}) > 1:
        return named
    return {
        side: dataclasses.replace(one, name=f"{one.name}, std {number(draws[side].values.std())}")
        for side, one in named.items()
    }


def histogram(values: Mapping[str, Array]) -> dict[str, Any]:
    """Return the shares of the numbers of each side in `BINS` equal bins from the smallest number of both sides to the largest."""
    ends = [float(end(array)) for array in values.values() for end in (np.min, np.max)]
    low, high = min(ends), max(ends)
    if not np.isfinite([low, high]).all():
        return {}
    edges = np.linspace(low, high, BINS + 1)
    shares = {side: np.histogram(array, edges)[0] / array.size for side, array in values.items()}
    return {"low": low, "high": high} | {
        side: [round(float(one), 6) for one in share] for side, share in shares.items()
    }


def describe_differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for all layers of one kind that differ in the same way."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["verdict"] == DIFFERENT:
            layers.setdefault(row["layer"], []).append(row)
    groups: dict[tuple[str, ...], list[str]] = {}
    for layer, differing in layers.items():
        texts = tuple(_texts(differing, side) for side in SIDES)
        name = both_paths(layer, differing[0]["candidate_layer"])
        groups.setdefault((differing[0]["kind"], *texts), []).append(name)
    return [
        " ".join(filter(None, ("initialisation of", kind, few(names))))
        + ": "
        + "; ".join(f"{NAMES[side]} {text}" for side, text in zip(SIDES, texts, strict=True))
        for (kind, *texts), names in groups.items()
    ]


def _texts(rows: Sequence[Mapping[str, Any]], side: str) -> str:
    """Return the initialisers of a layer's arrays on one side; arrays that both sides initialise alike stand together."""
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row[one]["initialiser"] for one in SIDES), []).append(row)
    return ", ".join(_text(found, side) for found in alike.values())


def _text(rows: Sequence[Mapping[str, Any]], side: str) -> str:
    """Return the initialiser of arrays. A weight needs no name, if it is not constant."""
    found = rows[0][side]
    names = [str(row["array"]) for row in rows]
    if names == ["weight"] and found["family"] != "constant":
        return str(found["initialiser"])
    return f"{', '.join(names)} {found['initialiser']}"
