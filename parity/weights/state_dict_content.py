"""What people save beside or around a state dict: wrappers, prefixes of names, counters, optimizers, whole models."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.files.digest import KEY
from parity.weights import canonical_state
from parity.weights.canonical_state import State
from parity.weights.half_precision import SAFETENSORS, note_halves, stored_dtypes

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
"""The usual keys of a state dict inside another dict, the best one first. A dict with one state dict may use any key."""

FRAMEWORK = {".pdparams": "paddle", ".pt": "torch", ".pth": "torch", ".ckpt": "torch", ".bin": "torch"}
"""Suffix of a state dict's file -> its framework. A name may also end in `.pth.tar`, as in PyTorch's ImageNet example."""

INFERENCE = (".pdiparams", ".pdmodel", ".pdopt")
"""Suffixes of Paddle's inference models and optimizers, which hold no state dict."""


def suffix_of(path: Path) -> str:
    """Return the suffix of `path` that says what it is; `InputError` for Paddle's files that hold no state dict."""
    if path.suffix in INFERENCE:
        raise InputError(
            f"{path} is not a file of a state dict: save paddle.save(model.state_dict(), 'model.pdparams')"
        )
    return ".pth" if path.name.endswith((".pth.tar", ".pt.tar")) else path.suffix


INSIDE = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod|_layers)\.")
"""What DataParallel, torch.compile and paddle.DataParallel put into names: in front of all, or in front of the part that they wrap."""

SAYS_REMEDY = "state_dict()"
"""What every message has that already says what to save: "take another copy" would mislead."""

REMEDY = "load it where you trust it, and save only model.state_dict()"

ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter)"
    r"|torch(\.storage)? \w*Storage"
    r"|torch (device|Size|\w+\d+\w*|half|float|double|bool|int|long)"
    r"|_codecs encode"
    r"|torch\.serialization _get_layout"
)
"""The globals that a file of plain tensors may name, as `MODULE NAME`."""

IsArray = Callable[[Any], bool]


def find_state_dict(content: Any, is_array: IsArray) -> tuple[dict[str, Any], list[str]]:
    """Return the state dict in a file's `content`, without counters, and one line for each thing that was taken off or left out.

    `InputError` that names what the file holds if that is no state dict.
    """
    notes: list[str] = []
    while True:
        if not isinstance(content, Mapping):
            raise InputError(f"it holds a {type(content).__name__}, not a state dict: {REMEDY}")
        if {"state", "param_groups"} <= content.keys():
            raise InputError("it is the state of an optimizer, not of a model: save model.state_dict()")
        if any(is_array(value) for value in content.values()):
            break
        inner = [key for key, value in content.items() if _holds_arrays(value, is_array)]
        if not inner:
            raise InputError(f"it holds no tensors under names, but {_kinds(content)}: {REMEDY}")
        best = min(inner, key=lambda key: WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS))
        others = [str(key) for key in content if key != best]
        notes.append(f"took {best!r} of the file" + (f" and left out {', '.join(map(repr, others))}" if others else ""))
        content = content[best]
    found = dict(content)
    if "n_averaged" in found:
        del found["n_averaged"]
        notes.append("the weights are an average of several models (n_averaged)")
    return {name: value for name, value in found.items() if not str(name).endswith("num_batches_tracked")}, notes


def _holds_arrays(value: Any, is_array: IsArray) -> bool:
    if not isinstance(value, Mapping) or {"state", "param_groups"} <= value.keys():
        return False
    return any(is_array(inner) or _holds_arrays(inner, is_array) for inner in value.values())


def _kinds(content: Mapping[Any, Any]) -> str:
    listed = [f"{key!r} ({type(value).__name__})" for key, value in list(content.items())[:4]]
    return ", ".join(listed) + (" and more" if len(content) > 4 else "") if listed else "nothing"


def read_safetensors(data: bytes, what: str) -> tuple[State, list[str], bool]:
    """Return the arrays of a safetensors file by the names in it, what was taken off, and whether a digest verified them.

    `data` is the whole file; `InputError`, naming `what`, if it is damaged or holds no arrays.
    """
    arrays, metadata = canonical_state.decode(data, what)
    found, notes = find_state_dict(arrays, lambda value: isinstance(value, np.ndarray))
    notes += note_halves([SAFETENSORS[dtype] for dtype in stored_dtypes(data) if dtype in SAFETENSORS])
    return found, notes, KEY in metadata


def name_variants(arrays: Mapping[str, Array]) -> Iterator[tuple[dict[str, Array], str]]:
    """Yield `arrays` as they are, then without the prefixes of wrappers in their names; with what was taken off ("" at first)."""
    found, taken = dict(arrays), list[str]()
    yield found, ""
    if any(INSIDE.search(name) for name in found):
        taken += sorted({match for name in found for match in INSIDE.findall(name)})
        found = _renamed(found, lambda name: INSIDE.sub("", name))
        yield found, _say(taken)
    while (
        found and len(first := {name.partition(".")[0] for name in found}) == 1 and all("." in name for name in found)
    ):
        prefix = f"{first.pop()}."
        taken.append(prefix)
        found = _renamed(found, lambda name, prefix=prefix: name.removeprefix(prefix))  # type: ignore[misc]
        yield found, _say(taken)


def _renamed(arrays: Mapping[str, Array], rename: Callable[[str], str]) -> dict[str, Array]:
    names = {name: rename(name) for name in arrays}
    return {names[name]: array for name, array in arrays.items()} if len(set(names.values())) == len(names) else {}


def _say(taken: list[str]) -> str:
    return f"took the prefix {' and '.join(map(repr, taken))} off the names"


def check_globals(pickle: Any) -> None:
    """Raise `InputError` if a pickle of PyTorch names a class that plain tensors do not need. Nothing is built or called.

    `pickle` is a binary file, at the start of the pickle.
    """
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle):
        if isinstance(argument, str) and "UNICODE" in opcode.name:
            texts.append(argument)
        name = argument if opcode.name == "GLOBAL" else " ".join(texts[-2:]) if opcode.name == "STACK_GLOBAL" else None
        if name is None or ALLOWED.fullmatch(name):
            continue
        if re.fullmatch(r"numpy\._?core\.multiarray scalar", name):
            raise InputError(
                "it holds a number of numpy beside the tensors, maybe an accuracy: save model.state_dict()"
            )
        if name.startswith("numpy"):
            raise InputError(
                "its values are numpy arrays, not tensors: save {name: torch.from_numpy(array)} of model.state_dict()"
            )
        if name.startswith("torch._utils _rebuild"):
            kind = name.removeprefix("torch._utils _rebuild_").replace("_", " ")
            raise InputError(
                f"it holds a {kind}, not only dense tensors: convert these to dense tensors and save model.state_dict()"
            )
        raise InputError(f"it holds a pickled object of {name.replace(' ', '.')}, not only a state dict: {REMEDY}")
