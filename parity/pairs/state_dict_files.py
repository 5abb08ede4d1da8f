"""State dict files of either framework, and their conversion by a map."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.files.digest import is_in_state_dict, say_unverified
from parity.files.file_kinds import check_kind
from parity.modules import layer_kinds
from parity.pairs.map_files import MapFile, check_whole
from parity.pairs.model_server import ModelService
from parity.pairs.model_worker import ModelWorker
from parity.standard_streams import printable
from parity.training.run_folder import about
from parity.weights import canonical_state
from parity.weights.half_precision import check_range
from parity.weights.state_dict_content import FRAMEWORK, SAYS_REMEDY, name_variants, read_safetensors, suffix_of

SAFETENSORS = ".safetensors"


def side_of(path: Path) -> str:
    """Return the side whose state dict a file holds; `InputError` for another suffix."""
    if (suffix := suffix_of(path)) not in FRAMEWORK:
        raise InputError(f"{path} ends in {suffix or 'nothing'}: choose one of {', '.join(FRAMEWORK)}")
    return FRAMEWORK[suffix]


def read(path: Path, torch: ModelService, side: str | None = None) -> dict[str, Record]:
    """Read a state dict file: side -> its float arrays. `torch` reads PyTorch's files. A file without a digest gets a line on stderr.

    The suffix says which side's file it is. A safetensors file is that of `side`. `InputError` for the file of another side.
    """
    if side is None or path.suffix != SAFETENSORS:
        own = side_of(path)
        if side not in (None, own):
            raise InputError(f"{path} holds weights of {NAMES[own]}: pass it with --{own}-weights")
        side = own
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    check_kind(path, suffix_of(path))
    with about(path, "take another copy", unless=SAYS_REMEDY):
        arrays, notes, verified = _read_arrays(path, side, torch)
    if not verified:
        say_unverified(path)
    _say(path, notes)
    return {side: arrays}


def _say(path: Path, notes: Sequence[str]) -> None:
    for note in notes:
        print(printable(f"note: {path}: {note}"), file=sys.stderr, flush=True)


def convert(path: Path, destination: Path, found: MapFile, dtype: str | None = None) -> Record:
    """Convert a state dict file by the map `found`, bit for bit, and write it in `dtype` (None: as it is read); return the arrays.

    `InputError` where the file lacks an array of the map, has one in another shape, or has one that the map does not name.
    """
    here, there = _sides(path, destination)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    check_kind(path, suffix_of(path))
    with about(path, "pass weights of the model that the map describes", unless=SAYS_REMEDY):
        arrays, notes, verified = _read_arrays(path, here)
        made, note = _converted_by_name(arrays, here, there, found)
        for name, array in made.items():
            check_range(name, array, dtype or "")
    if destination.suffix == SAFETENSORS:
        write_atomically(destination, canonical_state.encode(made, {}, dtype))
    else:
        with ModelWorker(there) as worker:
            worker.write_arrays(destination, made, dtype)
    _say(path, [*notes, *filter(None, [note])])
    if not verified:
        say_unverified(path)
    return made


def _sides(path: Path, destination: Path) -> tuple[str, str]:
    """Return the sides of a conversion. A safetensors file does not say which it is: it is not that of the other file."""
    known = {file: None if file.suffix == SAFETENSORS else side_of(file) for file in (path, destination)}
    here, there = known[path], known[destination]
    if here == there:
        kind = f"{here} files" if here else "safetensors files"
        raise InputError(f"{path} and {destination} are both {kind}: a map converts from one framework to the other")
    opposite = {"torch": "paddle", "paddle": "torch"}
    return here or opposite[there or ""], there or opposite[here or ""]


def _read_arrays(path: Path, side: str, torch: ModelService | None = None) -> tuple[Record, list[str], bool]:
    """Return the arrays of a file of `side`, what was taken off, and whether a digest verified them. `torch` may read PyTorch's files."""
    if path.suffix == SAFETENSORS:
        return read_safetensors(path.read_bytes(), str(path))
    with contextlib.nullcontext(torch) if torch and side == "torch" else ModelWorker(side) as worker:
        arrays, notes = worker.read_arrays(path)
    return arrays, notes, is_in_state_dict(path)


def _converted_by_name(arrays: Mapping[str, Array], here: str, there: str, found: MapFile) -> tuple[Record, str]:
    """Return what `converted` makes of the first variant of the names that the map knows, and what was taken off the names."""
    check_whole(found)
    rows: Mapping[str, Mapping[str, Any]] = found["arrays"]
    known = {layer_kinds.name_in(row[here]) for row in rows.values()}
    variants = list(name_variants(arrays))
    best, note = next(((variant, note) for variant, note in variants if known == variant.keys()), variants[0])
    return converted(best, here, there, found), note


def converted(arrays: Mapping[str, Array], here: str, there: str, found: MapFile) -> Record:
    """Convert the arrays of side `here` to side `there`, by the arrays of a map."""
    check_whole(found)
    rows: Mapping[str, Mapping[str, Any]] = found["arrays"]
    known = {layer_kinds.name_in(row[here]) for row in rows.values()}
    if missing := sorted(known - set(arrays)):
        raise InputError(
            f"{missing[0]} is missing from the weights ({len(missing)} missing): they belong to another model"
        )
    if extra := sorted(set(arrays) - known):
        raise InputError(f"{extra[0]} is not in the map ({len(extra)} unknown): the weights belong to another model")
    made: Record = {}
    for name, row in rows.items():
        _check_shape(name, arrays[layer_kinds.name_in(row[here])].shape, row["shapes"][here])
        layer_kinds.write(row[there], made, layer_kinds.read(row[here], arrays), row["shapes"][there])
    return made


def _check_shape(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if list(shape) != list(wanted):
        raise InputError(f"{name} has shape {list(shape)}, the map needs {list(wanted)}")
