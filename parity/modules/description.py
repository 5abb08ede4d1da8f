"""Description of a model: modules with kinds, settings and arrays, and the units that are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.modules.layer_kinds import KINDS, Kind, Kinds, kind_of, name_in, parse_spelling, setting


@dataclass(frozen=True)
class Array:
    """A parameter or buffer: its shape, whether it is trained, and the name of the earlier tensor that it shares, if any."""

    shape: tuple[int, ...]
    trained: bool
    same_as: str | None = None


@dataclass(frozen=True)
class Unit:
    """A layer that is matched as one: its `arrays` by canonical name; `spellings` say where they are stored below `path`.

    `leaf`: it is called as a whole, and is not only a container. `note` is that of its kind. `layer` is the path of the layer that holds
    the arrays where that is not `path`: the unit is then a part of a fused layer. `constants` are the attributes of a class of the user
    that hold a float. `pointwise`: a convolution with a kernel of size 1 that is matched as a Linear. Its channels are on axis 1.
    """

    side: str
    path: str
    kind: str
    arrays: Mapping[str, Array]
    spellings: Mapping[str, str]
    settings: Mapping[str, Any]
    leaf: bool
    classes: Sequence[str]
    note: str = ""
    layer: str | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    pointwise: bool = False

    @property
    def holder(self) -> str:
        """The path of the layer that holds the arrays."""
        return self.path if self.layer is None else self.layer

    @property
    def owns(self) -> bool:
        """Whether it holds an array that no earlier unit holds."""
        return any(array.same_as is None for array in self.arrays.values())

    @property
    def signature(self) -> tuple[Any, ...]:
        """What must agree in a pair of units: the kind, and the shape of the first array in canonical layout."""
        if not self.arrays:
            return (self.kind,)
        name = next(iter(self.arrays))
        return (self.kind, parse_spelling(self.spellings[name]).shape(self.arrays[name].shape))

    def __str__(self) -> str:
        shape = f" {list(self.signature[1])}" if self.arrays else ""
        return f"{self.path or '(the model itself)'} ({self.kind}{shape})"


def units_of(side: str, modules: Sequence[Mapping[str, Any]], kinds: Kinds = KINDS) -> list[Unit]:
    """Return the units of a model, whose layers are of these `kinds`, in the order of registration."""
    found, whole = [], None
    arrays = {name: Array(tuple(a["shape"]), a["trained"], a["same_as"]) for name, a in arrays_of(modules).items()}
    for module in modules:
        path = module["path"]
        if whole is not None and is_below(path, whole):
            continue
        kind = kind_of(side, module["classes"], kinds)
        whole = path if kind.whole else None
        if not (kind.whole or module["arrays"] or not module["inside"]):
            continue
        spellings = _spellings(side, kind, path, module["arrays"], arrays)
        found.append(
            Unit(
                side,
                path,
                kind.name,
                {name: arrays[below(path, name_in(spelled))] for name, spelled in spellings.items()},
                spellings,
                {name: setting(spelled[side], module["attributes"]) for name, spelled in kind.settings.items()},
                kind.whole or not module["inside"],
                module["classes"],
                kind.note,
                constants=_constants(module["attributes"]) if "*" in kind.arrays else {},
            )
        )
    return found


def _constants(attributes: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in attributes.items() if isinstance(value, float) and not name.startswith("_")}


def _spellings(side: str, kind: Kind, path: str, own: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return canonical name -> spelling of the layer's arrays; an array that its kind does not list keeps its name."""
    if "*" in kind.arrays:
        return {name: name for name in own}
    held = {
        name: [text for text in spelled[side].split("|") if below(path, name_in(text)) in arrays]
        for name, spelled in kind.arrays.items()
    }
    found = {name: texts[0] for name, texts in held.items() if texts}
    known = {name_in(spelling) for spelling in found.values()}
    return found | {name: name for name in own if name not in known}


def arrays_of(modules: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return what `modules` say of every parameter and buffer, by its name in the model."""
    return {below(module["path"], name): row for module in modules for name, row in module["arrays"].items()}


def is_below(path: str, other: str) -> bool:
    """Whether a module is another one or inside it, by their paths."""
    return path == other or path.startswith(f"{other}." if other else "")


def below(path: str, name: str) -> str:
    """Join a path, which is empty for the model itself, and a name."""
    return f"{path}.{name}" if path else name


def both_paths(torch: str, paddle: str) -> str:
    """Return how a sentence names a layer by its paths on both sides."""
    return torch if torch == paddle else f"{torch} (Paddle: {paddle})"


def layer_in_words(path: str) -> str:
    """Return how a sentence names the layer at a path."""
    return f"layer {path}" if path else "the model itself"
