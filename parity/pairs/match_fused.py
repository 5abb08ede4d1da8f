"""Fused layers: one layer whose outputs are those of several layers on the other side, such as qkv for query, key and value.

The parts of the fused layer become units, as if it were several layers. `parity.pairs.match_runs` changes runs in the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.arrays import Array
from parity.modules.description import Unit
from parity.modules.layer_kinds import OTHER_SIDE, SIDES, Spelling, name_in, parse_spelling
from parity.pairs import match_names

CHANNELS = {"Linear": -1, "Conv1d": 1, "Conv2d": 1, "Conv3d": 1}
"""Kinds of layers that may be fused -> the axis of their outputs that is divided."""

MOST_PARTS = 8
"""A fused layer has at most this many parts."""


@dataclass(frozen=True)
class Fusion:
    """A fused layer `whole` of one side, and the layers of the other side in the order of its outputs.

    With `heads` above 1, each of so many equal groups of outputs holds all parts, one after the other.
    """

    side: str
    whole: Unit
    parts: tuple[Unit, ...]
    heads: int = 1

    def __str__(self) -> str:
        heads = f" in {self.heads} heads" if self.heads > 1 else ""
        return f"{self.whole.path or '(the model itself)'} = {' + '.join(part.path for part in self.parts)}{heads}"

    def map_row(self) -> dict[str, Any]:
        """Return the row of a map file that says the same."""
        parts = " + ".join(part.path for part in self.parts)
        names = (self.whole.path, parts) if self.side == SIDES[0] else (parts, self.whole.path)
        return dict(zip(SIDES, names, strict=True)) | ({"heads": self.heads} if self.heads > 1 else {})

    def units(self) -> list[Unit]:
        """Return the parts of the fused layer as units, in the order of its outputs."""
        return [
            dataclasses.replace(
                self.whole,
                path=path,
                layer=self.whole.path,
                spellings={name: str(self._spelling(name, number)) for name in self.whole.arrays},
            )
            for number, path in enumerate(self.paths())
        ]

    def paths(self) -> list[str]:
        """Return the paths of the parts: qkv[q], qkv[k] and qkv[v], or qkv[0] to qkv[2] where the names do not differ."""
        last = [part.path.rpartition(".")[2] for part in self.parts]
        labels = last if len(set(last)) == len(last) and all(last) else [str(i) for i in range(len(last))]
        return [f"{self.whole.path}[{label}]" for label in labels]

    def outputs(self, array: Array) -> list[Array]:
        """Return the parts of an output of the fused layer, or of its gradient."""
        axis = 1 if self.whole.pointwise else CHANNELS[self.whole.kind] % array.ndim
        before = (slice(None),) * axis
        return [array[(*before, self._place(number).index(array.shape[axis]))] for number, _ in enumerate(self.parts)]

    def pairs(self) -> list[tuple[Unit, Unit]]:
        """Return the pairs of units (torch, paddle)."""
        pairs = zip(self.units(), self.parts, strict=True)
        return [(a, b) if self.side == SIDES[0] else (b, a) for a, b in pairs]

    def _place(self, number: int) -> Spelling:
        sizes = [outputs_of(part) for part in self.parts]
        if len(set(sizes)) == 1:
            return Spelling("", part=number, parts=len(sizes), groups=self.heads)
        sizes = [size // self.heads for size in sizes]
        return Spelling("", rows=(sum(sizes[:number]), sum(sizes[: number + 1])), groups=self.heads)

    def _spelling(self, name: str, number: int) -> Spelling:
        own, place = parse_spelling(self.whole.spellings[name]), self._place(number)
        return dataclasses.replace(
            place, name=own.name, transposed=own.transposed, axis=int(own.transposed), reshaped=own.reshaped
        )


def outputs_of(unit: Unit) -> int:
    """Return the number of output channels of a layer with a weight."""
    return int(unit.signature[1][0])


def may_be_fused(unit: Unit) -> bool:
    """Whether a layer may be a part of a fused layer, or one if it is a layer of its own."""
    own = unit.spellings.get("weight")
    return unit.kind in CHANNELS and own is not None and _groups(unit) == 1


def _groups(unit: Unit) -> Any:
    return unit.settings.get("groups") or 1


def find_fusions(
    owners: Mapping[str, Sequence[Unit]],
    surplus: Mapping[str, Counter[Any]],
    inputs: Mapping[str, Mapping[str, object]],
) -> list[Fusion]:
    """Return the fused layers of either side that the other side has as several layers with the same input.

    `owners`: side -> units in the order of execution. `surplus`: side -> signature -> the number of units without a partner.
    """
    found: list[Fusion] = []
    for side, other in OTHER_SIDE.items():
        left, wholes = Counter(surplus[other]), Counter(surplus[side])
        used: set[str] = set()
        at_place = in_both_orders(owners[side], owners[other])
        for whole in sorted(owners[side], key=lambda unit: (not unit.leaf, unit.path in at_place)):
            if not may_be_fused(whole) or whole.layer is not None or wholes[whole.signature] < 1:
                continue
            free = [u for u in owners[other] if may_be_fused(u) and left[u.signature] > 0 and u.path not in used]
            parts = next(_fitting(whole, free, inputs[other], left), None)
            if parts:
                used |= {part.path for part in parts}
                wholes[whole.signature] -= 1
                left.subtract(part.signature for part in parts)
                found.append(Fusion(side, whole, parts))
    return found


def in_both_orders(units: Sequence[Unit], others: Sequence[Unit]) -> set[str]:
    """Return the paths of units that have one of the same kind and shape at their place in the other side's order of execution."""
    matcher = difflib.SequenceMatcher(None, [u.signature for u in units], [u.signature for u in others], autojunk=False)
    return {unit.path for block in matcher.get_matching_blocks() for unit in units[block.a :][: block.size]}


def _fitting(
    whole: Unit, free: Sequence[Unit], inputs: Mapping[str, object], left: Counter[Any]
) -> Iterator[tuple[Unit, ...]]:
    """Yield the layers that together have the outputs of `whole`, best first: those whose names its own name spells, then any others."""
    groups: dict[object, list[Unit]] = {}
    beside: dict[str, list[Unit]] = {}
    size, shape = outputs_of(whole), whole.signature[1][1:]
    alike = [unit for unit in free if unit.kind == whole.kind and unit.signature[1][1:] == shape]
    for unit in alike:
        groups.setdefault(inputs.get(unit.path, unit.layer or unit.path.rpartition(".")[0]), []).append(unit)
    if any(unit.holder not in inputs for unit in free):  # a part may not be called
        for unit in alike:
            beside.setdefault(unit.holder.rpartition(".")[0], []).append(unit)
    windows = [
        tuple(group[first : first + count])
        for group in [*groups.values(), *beside.values()]
        for first in range(len(group))
        for count in range(2, MOST_PARTS + 1)
        if sum(outputs_of(unit) for unit in group[first : first + count]) == size
    ]
    enough = [w for w in windows if not Counter(u.signature for u in w) - left]
    spelled = []
    for window in enough:
        order = spelled_order(whole, window)
        if order:
            spelled.append(tuple(window[i] for i in order))
    yield from spelled
    for window in enough:
        yield tuple(window[i] for i in match_names.usual_order([unit.path for unit in window]))


def spelled_order(whole: Unit, parts: Sequence[Unit]) -> list[int] | None:
    """Return the order of the parts if the path of a fused layer, or the own name of its weight, spells it; else None."""
    paths = [part.path for part in parts]
    names = whole.path, name_in(whole.spellings["weight"])
    return next(filter(None, (match_names.order_of_parts(name, paths) for name in names)), None)


def as_linear(unit: Unit, transposed: bool) -> Unit | None:
    """Return a layer of an own class as a Linear, if it holds one matrix and perhaps a vector of as many numbers as it has outputs.

    A container may be one, too: its function calls use the matrix, and its outputs are not those of the Linear.
    """
    matrices = [name for name, array in unit.arrays.items() if len(array.shape) == 2]
    vectors = [name for name, array in unit.arrays.items() if len(array.shape) == 1]
    if len(matrices) != 1 or len(vectors) > 1 or len(unit.arrays) != 1 + len(vectors):
        return None
    outputs = unit.arrays[matrices[0]].shape[1 if transposed else 0]
    if vectors and unit.arrays[vectors[0]].shape != (outputs,):
        return None
    names = {"weight": matrices[0]} | ({"bias": vectors[0]} if vectors else {})
    spellings = {name: unit.spellings[own] for name, own in names.items()}
    if transposed:
        spellings["weight"] += ".T"
    return dataclasses.replace(
        unit, kind="Linear", arrays={name: unit.arrays[own] for name, own in names.items()}, spellings=spellings
    )


ATTENTION = "MultiheadAttention"
"""The kind of layer that may be opened: its projections become units where the other side has them as layers."""


def open_attention(unit: Unit) -> list[Unit]:
    """Return the projections of an attention layer as units; the layer itself if its arrays are not those of projections only."""
    if unit.kind != ATTENTION or not all("." in name for name in unit.arrays):
        return [unit]
    found = []
    for label in dict.fromkeys(name.partition(".")[0] for name in unit.arrays):
        own = {name.partition(".")[2]: name for name in unit.arrays if name.startswith(f"{label}.")}
        found.append(
            dataclasses.replace(
                unit,
                path=f"{unit.path}[{label}]",
                layer=unit.path,
                kind="Linear",
                arrays={name: unit.arrays[whole] for name, whole in own.items()},
                spellings={name: unit.spellings[whole] for name, whole in own.items()},
                settings={},
                note="",
            )
        )
    return found
