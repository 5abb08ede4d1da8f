"""Convolutions with a kernel of size 1 where the other model has a Linear: both are matched as a Linear.

The weight [out, in, 1, 1] is read as [out, in], and the channels of inputs and outputs are moved to the last axis to be compared.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.modules.description import Unit
from parity.modules.layer_kinds import OTHER_SIDE, SIDES, parse_spelling
from parity.pairs.match_models import ModelDescription

_NEEDED: Mapping[str, tuple[Any, ...]] = {"stride": (1,), "padding": (0, "valid", "same"), "groups": (1,)}
"""Setting of a convolution -> the values with which a kernel of size 1 computes what a Linear does."""


def with_pointwise(models: Mapping[str, ModelDescription]) -> dict[str, ModelDescription]:
    """Return the models with pointwise convolutions as Linears, as far as one model has more of them and the other more Linears."""
    owners = {side: models[side].owners(models[OTHER_SIDE[side]]) for side in SIDES}
    counts = {side: Counter(unit.signature for unit in owners[side]) for side in SIDES}
    chosen = set()
    for side, other in OTHER_SIDE.items():
        inputs = {key[1][1:] for key in counts[other] - counts[side] if key[0] == "Linear"}
        more = counts[side] - counts[other]
        found = [as_pointwise(unit) for unit in owners[side] if unit.signature in more]
        chosen |= {unit.signature for unit in found if unit and unit.signature[1][1:] in inputs}
    return {
        side: dataclasses.replace(model, units=[_chosen(unit, chosen) for unit in model.units])
        for side, model in models.items()
    }


def _chosen(unit: Unit, signatures: set[tuple[Any, ...]]) -> Unit:
    found = as_pointwise(unit) if signatures else None
    return found if found and found.signature in signatures else unit


def as_pointwise(unit: Unit) -> Unit | None:
    """Return a convolution as a Linear; None if it is no convolution, or computes something else."""
    shape = unit.arrays["weight"].shape if "weight" in unit.arrays else ()
    if unit.kind not in ("Conv1d", "Conv2d", "Conv3d") or not shape or set(shape[2:]) != {1}:
        return None
    own = parse_spelling(unit.spellings["weight"])
    if not own.whole or own.transposed or not all(_fits(unit.settings.get(name), name) for name in _NEEDED):
        return None
    spelled = str(dataclasses.replace(own, reshaped=shape[:2]))
    spellings = {**unit.spellings, "weight": spelled}
    return dataclasses.replace(unit, kind="Linear", spellings=spellings, settings={}, pointwise=True)


def _fits(value: Any, name: str) -> bool:
    return (value.lower() if isinstance(value, str) else value) in _NEEDED[name]


def with_last_channels(unit: Unit, array: Array) -> Array:
    """Return an input or output of a layer, or its gradient, with the channels on the last axis if the layer is matched as a Linear."""
    return np.moveaxis(array, 1, -1) if unit.pointwise and array.ndim > 2 else array
