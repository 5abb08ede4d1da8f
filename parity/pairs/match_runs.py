"""Runs of models with fused layers: each call of a fused layer becomes one call for each of its parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from parity.backend.child_process import Record
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_fused import Fusion
from parity.pairs.match_models import Pairing
from parity.pairs.model_server import ModelRun

Splits = dict[str, list[tuple[str, Fusion, int]]]
"""Key of an output of a fused layer -> key of a part, fused layer, number of the part."""


def split_run(run: ModelRun, side: str, pairing: Pairing) -> tuple[ModelRun, Splits]:
    """Return a run in which each call of a fused layer of `side` is one call for each part, and how its outputs were split.

    A call of an opened attention layer becomes one of its last projection, whose inputs are unknown. A container with the weights of a
    fused layer stays as it is: its outputs are not those of the fused layer.
    """
    own = [fusion for fusion in pairing.fusions if fusion.side == side]
    containers = {fusion.whole.path for fusion in own if not fusion.whole.leaf}
    fused = {fusion.whole.path: fusion for fusion in own if fusion.whole.leaf}
    units = [pair[SIDES.index(side)] for pair in pairing.pairs]
    opened = {unit.layer for unit in units if unit.layer is not None} - set(fused) - containers
    splits: Splits = {}
    if not fused and not opened:
        return run, splits
    arrays, calls = dict(run.arrays), list[dict[str, Any]]()
    for note in run.calls:
        if note["path"] in opened:
            calls.append({"path": f"{note['path']}[out]", "inputs": [], "outputs": note["outputs"][:1]})
            continue
        fusion = fused.get(note["path"])
        if fusion is None:
            calls.append(note)
            continue
        parts = [{"path": path, "inputs": note["inputs"], "outputs": list[str]()} for path in fusion.paths()]
        for key in note["outputs"]:
            for number, array in enumerate(fusion.outputs(arrays[key])):
                part = f"{key} {parts[number]['path']}"
                arrays[part] = np.ascontiguousarray(array)
                parts[number]["outputs"].append(part)
                splits.setdefault(key, []).append((part, fusion, number))
        calls += parts
    return dataclasses.replace(run, arrays=arrays, calls=calls), splits


def split_gradients(gradients: Record, splits: Splits) -> Record:
    """Return the gradients of a backward pass with those of the parts of fused layers added."""
    found = dict(gradients)
    for key, parts in splits.items():
        whole = gradients.get(f"backward/{key}")
        if whole is not None:
            for part, fusion, number in parts:
                found[f"backward/{part}"] = np.ascontiguousarray(fusion.outputs(whole)[number])
    return found
