"""`vgg-parity convert`: convert weights between the formats of this project, Paddle, PyTorch and PaddlePaddle v2."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from parity.arrays import Array
from parity.backend.child_process import WorkerFailed
from parity.backend.worker import Worker
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    argument,
    choice,
    command,
    option,
)
from parity.cli.options import NETWORKS
from parity.errors import InputError
from parity.files import atomic
from parity.files.digest import KEY, is_in_state_dict, say_unverified
from parity.files.file_kinds import check_kind
from parity.network import articles
from parity.network.network import Network
from parity.pairs import state_dict_files as pair_files
from parity.pairs.map_files import check_whole, read_map
from parity.progress import Console, Phases
from parity.training.run_folder import about
from parity.weights import canonical_state, state_dict_names, v2_tar
from parity.weights.canonical_state import State
from parity.weights.half_precision import HALVES, check_range
from parity.weights.identify import Fit, identify
from parity.weights.state_dict_content import FRAMEWORK, SAYS_REMEDY, read_safetensors, suffix_of
from parity.weights.state_dict_names import from_any_framework

SUFFIXES = (".safetensors", ".tar", *FRAMEWORK)

DTYPES = ("float32", "float64", *HALVES)

ROOM = 2**20
"""Bytes that a file may have besides its numbers; each array may have 4096 more."""


class _Weights(NamedTuple):
    network: Network
    state: State
    metadata: dict[str, str]
    verified: bool
    notes: list[str]


@command(
    "convert",
    "Convert weights, bit for bit, between .safetensors (this project), .pdparams (Paddle), .pt (PyTorch) and .tar (PaddlePaddle v2).\n\n"
    "SRC is such a file, or a run folder. The suffix of DST chooses the format to write.",
    (
        "params_pass_199.tar vgg.safetensors",
        "runs/RUN vgg.pdparams   (for paddle.load and set_state_dict)",
        "vgg.pdparams vgg.pt   (for torch.load and load_state_dict)",
        "--network my_vgg.json torchvision_vgg.pt my_vgg.tar",
        "--names torchvision --dtype bfloat16 vgg_d.safetensors vgg16.pth",
        "--map map.json my_net.pdparams my_net.pt   (your own model, with the map of vgg-parity compare --save-map)",
    ),
)
@argument("source", type=PATH, metavar="SRC")
@argument("destination", type=PATH, metavar="DST")
@option(
    "--network",
    metavar="NAME",
    help=f"the network of the weights: {NETWORKS}, NAME@WIDTH or a JSON file (default: the network that SRC names, or the known one that "
    "fits)",
)
@option(
    "--dtype",
    type=choice(DTYPES),
    help="the dtype to write; .tar holds float32 only (default: float32, or float64 if SRC holds it)",
)
@option(
    "--names",
    type=choice(state_dict_names.CONVENTIONS),
    help="write a VGG or ResNet with the names of this library, for load_state_dict or set_state_dict (default: this project's names)",
)
@option(
    "--map",
    type=PATH,
    metavar="FILE",
    help="convert a state dict of your own model with the map that vgg-parity compare --save-map wrote",
)
def main(options: Options, console: Console) -> dict[str, Any]:
    """Convert one file."""
    source, destination = options.source, options.destination
    if options.map:
        return _by_map(options, console)
    if os.path.isdir(source):  # noqa: PTH112 - never raises
        source = source / "last.safetensors"
    _check_places(source, destination)
    asked = articles.get_network(options.network) if options.network else None
    try:
        with Phases(2) as phases:
            phases.begin(f"reading {source.name}")
            found = _read(source, asked)
            phases.begin(f"writing {destination.name}")
            kept, left_out, dtype = _write(destination, found, options.dtype, options.names)
    except WorkerFailed as error:
        raise Failed(str(error)) from None
    if not found.verified:
        say_unverified(source)
    for note in found.notes:
        console.say(f"{source}: {note}")
    count = sum(array.size for array in kept.values())
    console.say(f"Wrote {destination}: {found.network.name}, {len(kept)} arrays of {count:,} numbers, {dtype}")
    if left_out:
        console.say(f"Left out {left_out} arrays of the optimizer: a {destination.suffix} file holds only weights")
    return {
        "source": str(source),
        "destination": str(destination),
        "network": found.network.name,
        "arrays": len(kept),
        "numbers": count,
        "dtypes": dtype.split(", "),
        "left_out": left_out,
    }


def _by_map(options: Options, console: Console) -> dict[str, Any]:
    """Convert a state dict of one of two models to the other one."""
    for option_, value in (("--network", options.network), ("--names", options.names)):
        if value:
            raise InputError(f"{option_} and --map exclude each other: a map belongs to two models of your own")
    try:
        found = read_map(options.map)
        with about(options.map, "write it again with vgg-parity compare --save-map"):
            check_whole(found)
        made = pair_files.convert(options.source, options.destination, found, options.dtype)
    except WorkerFailed as error:
        raise Failed(str(error)) from None
    count = sum(array.size for array in made.values())
    console.say(f"Wrote {options.destination}: {len(made)} arrays of {count:,} numbers, with the map {options.map}")
    return {
        "source": str(options.source),
        "destination": str(options.destination),
        "map": str(options.map),
        "arrays": len(made),
        "numbers": count,
        "dtypes": [options.dtype] if options.dtype else sorted({str(array.dtype) for array in made.values()}),
    }


def _check_places(source: Path, destination: Path) -> None:
    for path in (source, destination):
        if suffix_of(path) not in SUFFIXES:
            raise InputError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if not os.path.isfile(source):  # noqa: PTH113 - never raises
        raise InputError(f"{source} is not a file: give a run folder that has a checkpoint, or a file of weights")
    if os.path.realpath(source) == os.path.realpath(destination):
        raise InputError(f"{destination} is the source file: choose another DST")


def _read(path: Path, asked: Network | None) -> _Weights:
    """Read `path`. Its network is the one that it names, `asked`, or the only known one that fits."""
    candidates = [asked] if asked else list(articles.NETWORKS.values())
    check_kind(path, suffix_of(path))
    with about(path, "take another copy", unless=SAYS_REMEDY):
        metadata = _metadata(path) if path.suffix == ".safetensors" else {}
        if "network" in metadata:
            candidates = [Network.from_json(metadata["network"])]
            if asked and asked != candidates[0]:
                raise InputError(f"{path} holds network {candidates[0].name}, not {asked.name}: leave out --network")
        arrays, fit, verified, notes = _arrays(path, _most_bytes(candidates), bool(metadata.get("network")))
    with about(path, f"give weights of {asked.name}, or another --network" if asked else "", unless=SAYS_REMEDY):
        network, state, more = identify(candidates, arrays, fit)
        return _Weights(network, state, metadata, verified, notes + more)


def _metadata(path: Path) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file, and nothing else."""
    try:
        with safetensors.safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a complete safetensors file ({error})") from None


def _most_bytes(candidates: Sequence[Network]) -> int:
    """Return the largest size in bytes of a file with weights of one of the `candidates` and two optimizer slots, in float64."""
    arrays = [network.parameters.values() for network in candidates]
    return ROOM + max(sum(24 * math.prod(p.shape) + 4096 for p in parameters) for parameters in arrays)


def _arrays(path: Path, most: int, ours: bool) -> tuple[State, Fit, bool, list[str]]:
    """Return the arrays of a file, the function that makes a canonical state of them, whether a digest verified them, and notes.

    `ours` says that a safetensors file names its network, so that its arrays have canonical names.
    """
    try:
        if (size := path.stat().st_size) > most:
            raise InputError(f"it has {size:,} bytes, more than its network needs")
        if suffix_of(path) in FRAMEWORK:
            with Worker(FRAMEWORK[suffix_of(path)]) as worker:
                arrays, notes = worker.read_file(path)
                return arrays, state_dict_names.fit, is_in_state_dict(path), notes
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if suffix_of(path) == ".tar":
        return v2_tar.read(data), v2_tar.fit, v2_tar.has_digest(data), []
    arrays, metadata = canonical_state.decode(data, str(path))
    if ours or any(name.endswith((".gamma", ".beta")) or name.startswith("optimizer.") for name in arrays):
        return arrays, _checked, KEY in metadata, []
    found, notes, verified = read_safetensors(data, str(path))
    return from_any_framework(found), state_dict_names.fit_either_way, verified, notes


def _checked(network: Network, arrays: Mapping[str, Array]) -> State:
    """Check `arrays`, which have canonical names and may hold optimizer slots, and return them."""
    slots = {name.split(".")[1] for name in arrays if name.startswith("optimizer.")}
    canonical_state.check(network, arrays, sorted(slots))
    return dict(arrays)


def _write(path: Path, found: _Weights, dtype: str | None, names: str | None) -> tuple[State, int, str]:
    """Write what the format of `path` can hold. Return that, how many arrays of the optimizer are left out, and the dtype in the file."""
    network, state = found.network, found.state
    kept = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
    for name, array in kept.items():
        check_range(name, array, dtype or "")
    if suffix_of(path) == ".tar":
        if names or dtype not in (None, "float32"):
            raise InputError(
                f"{path}: a .tar of PaddlePaddle v2 has names of its own and holds float32: leave out --names and --dtype"
            )
        atomic.write_atomically(path, v2_tar.encode(network, kept))
        return kept, len(state) - len(kept), "float32"
    held = ", ".join(sorted({str(array.dtype) for array in kept.values()}))
    stored = dtype or held
    spelled = state_dict_names.spell(network, kept, names) if names else kept
    if path.suffix == ".safetensors":
        if names:
            atomic.write_atomically(path, canonical_state.encode(spelled, {}, dtype))
            return kept, len(state) - len(kept), stored
        canonical_state.save(path, network, state, found.metadata, dtype)
        return state, 0, stored
    framework = FRAMEWORK[suffix_of(path)]
    if names and (names == "paddle.vision") != (framework == "paddle"):
        raise InputError(
            f"{path} is a file of {framework}, whose models do not have the names of {names}: choose another suffix"
        )
    held = _dtype(kept, path.suffix)
    with Worker(framework) as worker:
        if names:
            worker.write_arrays(path, spelled, stored)
        else:
            worker.write_file(path, network, kept, held, stored)
    return kept, len(state) - len(kept), stored


def _dtype(state: State, suffix: str) -> str:
    """Return the dtype of all arrays, float32 or float64. `InputError` if they differ."""
    first = next(iter(state.values())).dtype if state else np.dtype("float32")
    for name, array in state.items():
        if array.dtype not in ("float32", "float64") or array.dtype != first:
            raise InputError(
                f"{name} holds {array.dtype}: a {suffix} file needs all weights in float32, or all in float64"
            )
    return str(first)
