"""State dicts' files of either framework, and their conversion by a map."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.errors import InputError
from parity.files.digest import is_in_state_dict, say_unverified
from parity.modules import layer_kinds
from parity.pairs.map_files import MapFile, check_whole
from parity.pairs.model_server import ModelService
from parity.pairs.model_worker import ModelWorker
from parity.training.run_folder import about

SUFFIXES = {".pdparams": "paddle", ".pt": "torch", ".pth": "torch"}
"""Suffix -> side."""


def side_of(path: Path) -> str:
    """The side whose state dict a file holds; `InputError` for another suffix."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: choose one of {', '.join(SUFFIXES)}")
    return SUFFIXES[path.suffix]


def read(path: Path, torch: ModelService) -> dict[str, Record]:
    """Side -> the arrays of floats in the file, by the names in it. `torch` reads PyTorch's. A file without a digest is named on stderr."""
    side = side_of(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with contextlib.nullcontext(torch) if side == "torch" else ModelWorker("paddle") as worker:
        arrays = worker.read_arrays(path)
    _name_unverified(path)
    return {side: arrays}


def _name_unverified(path: Path) -> None:
    if not is_in_state_dict(path):
        say_unverified(path)


def convert(path: Path, destination: Path, found: MapFile) -> Record:
    """Writes the arrays of a state dict's file for the other side of the map `found`, bit for bit; returns what was written.

    `InputError` where an array of the map is missing from the file, or shaped differently, or the file has one that the map does not know.
    """
    here, there = side_of(path), side_of(destination)
    if here == there:
        raise InputError(f"{path} and {destination} are both of {here}: a map leads from one framework to the other")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with about(path, "give the weights of the model that the map is of"):
        with ModelWorker(here) as worker:
            arrays = worker.read_arrays(path)
        made = converted(arrays, here, there, found)
    with ModelWorker(there) as worker:
        worker.write_arrays(destination, made)
    _name_unverified(path)
    return made


def converted(arrays: Mapping[str, Array], here: str, there: str, found: MapFile) -> Record:
    """The arrays of side `here` as side `there` holds them, by the arrays of a map."""
    check_whole(found)
    rows: Mapping[str, Mapping[str, Any]] = found["arrays"]
    known = {layer_kinds.name_in(row[here]) for row in rows.values()}
    if missing := sorted(known - set(arrays)):
        raise InputError(f"{missing[0]} is missing from the weights ({len(missing)} in all): they are of another model")
    if extra := sorted(set(arrays) - known):
        raise InputError(f"{extra[0]} is not in the map ({len(extra)} such in all): the weights are of another model")
    made: Record = {}
    for name, row in rows.items():
        _check_shape(name, arrays[layer_kinds.name_in(row[here])].shape, row["shapes"][here])
        layer_kinds.write(row[there], made, layer_kinds.read(row[here], arrays), row["shapes"][there])
    return made


def _check_shape(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if list(shape) != list(wanted):
        raise InputError(f"{name} has shape {list(shape)}, the map needs {list(wanted)}")
