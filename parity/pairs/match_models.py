"""What is matched, and the result: the description of a model, and the pairs of layers and arrays of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parity.errors import InputError
from parity.modules.description import Unit, below, units_of
from parity.modules.layer_kinds import KINDS, SIDES, Kinds, name_in
from parity.pairs.match_fused import ATTENTION, Fusion, open_attention
from parity.short_repr import ShortRepr, counted


class ModelsDiffer(InputError):
    """The two models have different architectures. The message says where they diverge; `at` holds the units there, by side."""

    def __init__(self, message: str, at: Mapping[str, Unit | None]) -> None:
        super().__init__(message)
        self.at = dict(at)


@dataclass(frozen=True, repr=False)
class ModelDescription(ShortRepr):
    """One side: its units, and the paths of the layers in the order of their first call, in inference and then in training.

    `inputs`: path of a layer -> what its first call got, in a form that is equal for equal arrays. `own`: the kinds that no table lists.
    `heads`: the numbers of attention heads that the model's layers state.
    """

    side: str
    units: Sequence[Unit]
    order: Sequence[str] = ()
    inference: frozenset[str] = frozenset()
    inputs: Mapping[str, object] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    heads: Sequence[int] = ()

    @staticmethod
    def of(
        side: str,
        modules: Sequence[Mapping[str, Any]],
        order: Sequence[str] = (),
        inference: Sequence[str] = (),
        kinds: Kinds = KINDS,
        inputs: Mapping[str, object] | None = None,
        opened: bool = False,
    ) -> ModelDescription:
        """Build it from the modules that a worker described and the calls that it recorded; `kinds` are the known layer kinds.

        With `opened`, the projections of attention layers are units. Paddle's are layers inside, and PyTorch's are parts of its arrays.
        """
        if opened and side == SIDES[1] and ATTENTION in kinds:
            kinds = {**kinds, ATTENTION: replace(kinds[ATTENTION], whole=False, arrays={}, settings={})}
        units = units_of(side, modules, kinds)
        if opened and side == SIDES[0]:
            units = [part for unit in units for part in open_attention(unit)]
        own = frozenset(unit.kind for unit in units) - set(kinds)
        return ModelDescription(side, units, order, frozenset(inference), inputs or {}, own, _heads(modules))

    def unit(self, path: str) -> Unit:
        """The unit of a path; `InputError` where there is none."""
        for unit in self.units:
            if unit.path == path:
                return unit
        raise InputError(f"the {self.side} model has no layer {path!r} to match")

    def shapes(self) -> dict[str, list[int]]:
        """The shape of every array of the units, by its own name."""
        return {
            below(unit.holder, name_in(unit.spellings[name])): list(array.shape)
            for unit in self.units
            for name, array in unit.arrays.items()
        }

    def owners(self, other: ModelDescription) -> list[Unit]:
        """Return the units that own arrays, in the order of execution; units that are never called come last.

        A unit that shares all its arrays, such as a tied head, counts if the `other` model has its own arrays at this path.
        """
        place = {path: i for i, path in enumerate(self.order)}
        theirs = {unit.path: unit.signature for unit in other.units if unit.owns}
        holding = [u for u in self.units if u.owns or (u.arrays and theirs.get(u.path) == u.signature)]
        return sorted(holding, key=lambda unit: place.get(unit.holder, len(place)))


def _heads(modules: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the values of attributes such as `num_heads`."""
    found = {
        value: None
        for module in modules
        for name, value in module["attributes"].items()
        if "head" in name.lower() and type(value) is int and value > 1
    }
    return list(found)


@dataclass(repr=False)
class Pairing(ShortRepr):
    """Pairs of units (torch, paddle), units without a partner by side, how the pairs were found, and where every array is stored.

    `arrays`: canonical name (torch's path and the kind's name) -> side -> spelling below the root of the model.
    `single`: arrays that only one side of a pair has, by side. `shapes`: the shape of every array of either model, by side and own name.
    `owners`: canonical name -> the layers on both sides. `trained`: canonical name -> whether training changes the reference's array.
    `fusions`: fused layers whose parts are separate layers on the other side. `tried`: the number of assignments whose values were
    compared; 0 if no choice was left. `named`: names decide all pairs, and values none. `notes`: sentences on what values could not
    decide. `folded`: layers with batch norms that are folded on the other side. `constants`: by side the arrays that training does not
    change and that only this side stores. `turned`: pairs of square arrays of which one is stored as the transpose of the other, where no
    pair of known layers says so.
    """

    pairs: list[tuple[Unit, Unit]]
    how: str
    alone: dict[str, list[Unit]] = field(default_factory=lambda: {side: [] for side in SIDES})
    arrays: dict[str, dict[str, str]] = field(default_factory=dict)
    single: dict[str, list[str]] = field(default_factory=lambda: {side: [] for side in SIDES})
    shapes: dict[str, dict[str, list[int]]] = field(default_factory=lambda: {side: {} for side in SIDES})
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)
    trained: dict[str, bool] = field(default_factory=dict)
    fusions: Sequence[Fusion] = ()
    tried: int = 0
    confirmed: bool = False
    named: bool = False
    notes: list[str] = field(default_factory=list)
    folded: Sequence[str] = ()
    constants: Mapping[str, Sequence[str]] = field(default_factory=lambda: {side: [] for side in SIDES})
    turned: list[str] = field(default_factory=list)

    def partner(self, side: str) -> dict[str, str]:
        """Path on `side` -> path on the other."""
        here, there = (0, 1) if side == SIDES[0] else (1, 0)
        return {pair[here].path: pair[there].path for pair in self.pairs}

    def chunks(self) -> list[list[str]]:
        """Return the canonical names layer by layer: one layer's arrays are in memory at a time.

        All parts of an array stay together, such as those of an attention layer whose key and value are fused on the other side.
        """
        group: dict[str, list[str]] = {}
        for a, b in self.pairs:
            members = [a.path, *(f"{unit.side} {unit.layer}" for unit in (a, b) if unit.layer is not None)]
            joined = list(dict.fromkeys(path for member in members for path in group.get(member, [member])))
            group |= dict.fromkeys(joined, joined)
        named: dict[str, list[str]] = {}
        for name in self.arrays:
            owner = self.owners[name][0]
            named.setdefault(group.get(owner, [owner])[0], []).append(name)
        return list(named.values())

    def sentence(self) -> str:
        """Return how the pairs were found, and what their values said."""
        if not self.tried:
            return self.how
        count = f"{counted(self.tried, 'assignment')} tried"
        if self.named and not self.confirmed:
            return f"{self.how} ({count})"
        return f"{self.how}, {f'confirmed by values ({count})' if self.confirmed else f'not confirmed by values ({count})'}"
