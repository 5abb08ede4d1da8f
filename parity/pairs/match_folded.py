"""Batch norms that one model has folded into the layers before them, as `fuse_conv_bn` does, and the other model has not.

A layer with its batch norm is then one unit: its weight and bias are those of the folded layer, its outputs those of the batch norm. The
models themselves run as they are. Only inference can be equal: in training, a batch norm uses the statistics of the batch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.modules.description import Array as Described
from parity.modules.description import Unit, below
from parity.modules.layer_kinds import KINDS, OTHER_SIDE, SIDES, name_in, parse_spelling
from parity.pairs.match_fused import CHANNELS, in_both_orders, outputs_of
from parity.pairs.match_layers import NORM, normal
from parity.pairs.match_models import ModelDescription
from parity.pairs.match_values import digest
from parity.pairs.model_server import ModelRun


@dataclass(frozen=True)
class Fold:
    """A layer and the batch norm right behind it, which are one layer on the other side."""

    layer: Unit
    norm: Unit

    def __str__(self) -> str:
        return f"{self.layer.path} + {self.norm.path}"

    @property
    def unit(self) -> Unit:
        """The folded layer: the layer with a bias."""
        if "bias" in self.layer.arrays:
            return self.layer
        arrays = {**self.layer.arrays, "bias": Described((outputs_of(self.layer),), trained=True)}
        return dataclasses.replace(self.layer, arrays=arrays, spellings={**self.layer.spellings, "bias": "bias"})

    def own(self, name: str) -> str:
        """Return the model's own name of the layer's weight or bias."""
        return below(self.layer.path, name_in(self.unit.spellings[name]))

    def of_norm(self, name: str) -> str:
        """Return the model's own name of an array of the batch norm, "" if it has none."""
        return below(self.norm.path, name_in(self.norm.spellings[name])) if name in self.norm.spellings else ""

    @property
    def names(self) -> set[str]:
        """The model's own names of all arrays."""
        return {below(u.path, name_in(s)) for u in (self.layer, self.norm) for s in u.spellings.values()}

    def factors(self, arrays: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Return what the batch norm multiplies by, the mean that it takes off before, and what it adds after, in float64."""
        mean, variance = (arrays[self.of_norm(name)].astype(np.float64) for name in ("mean", "variance"))
        scale = arrays.get(self.of_norm("weight"), np.ones_like(mean)).astype(np.float64)
        eps = self.norm.settings["eps"]
        return (
            scale / np.sqrt(variance + eps),
            mean,
            arrays.get(self.of_norm("bias"), np.zeros_like(mean)).astype(np.float64),
        )

    def shaped(self, factor: Array, weight: Array) -> Array:
        """Return one number for each output channel, to multiply the stored weight with."""
        axis = int(parse_spelling(self.layer.spellings["weight"]).transposed)
        return factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


class Folds:
    """The folded layers of one side. `base` holds the arrays of their batch norms, which stay as they are."""

    def __init__(self, side: str, folds: Sequence[Fold], base: Record) -> None:
        self.side, self.folds, self.base = side, folds, base

    def sources(self, side: str, names: Sequence[str]) -> list[str]:
        """Return the own names of the arrays from which the named ones are computed."""
        found = set(names)
        for fold in self.folds if side == self.side else ():
            if found & {fold.own("weight"), fold.own("bias")}:
                found = (found - {fold.own("bias")}) | fold.names
        return sorted(found)

    def shapes(self, side: str, shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """Return the shapes of the arrays that `fold` returns, from those of the model."""
        found = dict(shapes)
        for fold in self.folds if side == self.side else ():
            gone = fold.names - {fold.own("weight")}
            found = {name: shape for name, shape in found.items() if name not in gone}
            found[fold.own("bias")] = [outputs_of(fold.layer)]
        return found

    def fold(self, side: str, arrays: Record) -> Record:
        """Return arrays of a model with the weights and biases of the folded layers, in float64, in the place of those they are made of."""
        found = dict(arrays)
        for fold in self.folds if side == self.side else ():
            if not fold.names <= arrays.keys():
                continue
            factor, mean, shift = fold.factors(arrays)
            weight, bias = arrays[fold.own("weight")], arrays.get(fold.own("bias"), 0.0)
            found |= {
                fold.own("weight"): weight * fold.shaped(factor, weight),
                fold.own("bias"): (bias - mean) * factor + shift,
            }
            for name in fold.names - {fold.own("weight"), fold.own("bias")}:
                del found[name]
        return found

    def unfold(self, side: str, arrays: Record) -> Record:
        """Return arrays for a model from those of `fold`: the batch norms get those of `base`."""
        found = dict(arrays)
        for fold in self.folds if side == self.side else ():
            if fold.own("weight") not in arrays:
                continue
            factor, mean, shift = fold.factors(self.base)
            weight, bias = found[fold.own("weight")], found.pop(fold.own("bias"), None)
            norm = {name: self.base[name] for name in fold.names if name in self.base}
            inverse = np.divide(1.0, factor, out=np.zeros_like(factor), where=factor != 0)
            if bias is None:  # the folded layer has lost it: the biases of `base` show that
                pass
            elif "bias" in fold.layer.spellings:
                norm[fold.own("bias")] = (bias.astype(np.float64) - shift) * inverse + mean
            else:
                norm[fold.of_norm("bias")] = bias.astype(np.float64) + mean * factor
            norm[fold.own("weight")] = weight * fold.shaped(inverse, weight)
            found |= {name: array.astype(weight.dtype) for name, array in norm.items()}
        return found

    def stored(self, side: str, name: str) -> str:
        """Return the model's own name of an array of the folded model: a bias that a layer lacks is that of its batch norm."""
        for fold in self.folds if side == self.side else ():
            if name == fold.own("bias") and "bias" not in fold.layer.spellings:
                return fold.of_norm("bias")
        return name

    def run(self, side: str, run: ModelRun) -> ModelRun:
        """Return a run in which the outputs of a folded layer are those of its batch norm."""
        if side != self.side or not self.folds:
            return run
        layers = {fold.norm.path: fold.layer.path for fold in self.folds}
        outputs = {layers[note["path"]]: note["outputs"] for note in run.calls if note["path"] in layers}
        calls = [
            note | {"outputs": outputs.get(note["path"], note["outputs"])}
            for note in run.calls
            if note["path"] not in layers
        ]
        return dataclasses.replace(run, calls=calls)

    def model(self, model: ModelDescription) -> ModelDescription:
        """Return the description of a model with folded layers."""
        if model.side != self.side or not self.folds:
            return model
        units = {fold.layer.path: fold.unit for fold in self.folds}
        gone = {fold.norm.path for fold in self.folds}
        return dataclasses.replace(
            model, units=[units.get(unit.path, unit) for unit in model.units if unit.path not in gone]
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.folds))


def find_folds(models: Mapping[str, ModelDescription], runs: Mapping[str, ModelRun]) -> tuple[str, list[Fold]]:
    """Return the side that has more batch norms than the other, and those that may be folded there and have no partner."""
    owners = {side: models[side].owners(models[OTHER_SIDE[side]]) for side in SIDES}
    norms = {side: [unit for unit in owners[side] if unit.kind == NORM] for side in SIDES}
    side = max(SIDES, key=lambda one: len(norms[one]))
    # A layer that the other side lacks has taken its batch norm with it: that one is not folded.
    more = Counter(u.signature for u in owners[side]) - Counter(u.signature for u in owners[OTHER_SIDE[side]])
    lost = sum(count for (kind, *_), count in more.items() if kind in CHANNELS)
    surplus = len(norms[side]) - len(norms[OTHER_SIDE[side]])
    if surplus <= lost:
        return side, []
    candidates = {fold.norm.path: fold for fold in _candidates(models[side], runs[side])}
    named = {normal(unit.path) for unit in norms[OTHER_SIDE[side]]}
    alone = [unit.path for unit in norms[side] if normal(unit.path) not in named]
    if len(alone) != surplus:
        kept = in_both_orders(owners[side], owners[OTHER_SIDE[side]])
        alone = [unit.path for unit in norms[side] if unit.path not in kept]
    own = Counter(shape for unit in owners[OTHER_SIDE[side]] for shape in _norm_shapes(unit))
    found = []
    for path in alone:
        shape = candidates[path].norm.arrays["mean"].shape if path in candidates else None
        if shape and own[shape]:
            own[shape] -= 1
        elif shape:
            found.append(candidates[path])
    return side, found


def _norm_shapes(unit: Unit) -> set[tuple[int, ...]]:
    """Return the shape that two arrays of a class of the user have, which may then be a batch norm."""
    counts = Counter(array.shape for array in unit.arrays.values() if len(array.shape) == 1)
    return set() if unit.kind in KINDS else {shape for shape, count in counts.items() if count > 1}


def _candidates(model: ModelDescription, run: ModelRun) -> list[Fold]:
    """Return the layers whose output is the input of a batch norm and of no other layer, each called once."""
    units = {unit.path: unit for unit in model.units}
    times = [note["path"] for note in run.calls]
    made, taken = dict[bytes, Unit](), list[bytes]()
    for note in run.calls:
        taken += [digest([run.arrays[key]]) for key in note["inputs"]]
        unit = units.get(note["path"])
        if unit and unit.kind in CHANNELS and "weight" in unit.spellings and len(note["outputs"]) == 1:
            made[digest([run.arrays[note["outputs"][0]]])] = unit
    found = []
    for note in run.calls:
        norm = units.get(note["path"])
        if norm is None or norm.kind != NORM or not note["inputs"] or "mean" not in norm.arrays:
            continue
        given = digest([run.arrays[note["inputs"][0]]])
        layer = made.get(given)
        if layer is None or taken.count(given) > 1 or times.count(norm.path) + times.count(layer.path) != 2:
            continue
        has_shift = "bias" in norm.arrays or "bias" in layer.arrays
        if norm.arrays["mean"].shape == (outputs_of(layer),) and has_shift and not norm.settings.get("activation"):
            found.append(Fold(layer, norm))
    return found
