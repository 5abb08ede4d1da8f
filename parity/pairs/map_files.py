"""Map files: pairs of layers of two models, and where every array is stored on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from parity.errors import InputError
from parity.files.strict_json import MissingFile, check_type, parse_json, read_text
from parity.modules.layer_kinds import SIDES, check_each_once, parse_spelling


class Shapes(TypedDict):
    """The shape of an array on both sides."""

    torch: Sequence[int]
    paddle: Sequence[int]


class Models(TypedDict):
    """The shape of every array of both models, by its own name."""

    torch: Mapping[str, Sequence[int]]
    paddle: Mapping[str, Sequence[int]]


class LayerSides(TypedDict):
    """The paths of two matched layers. `q + k + v` joins the layers that are one fused layer on the other side, in its order."""

    torch: str
    paddle: str


class LayerRow(LayerSides, total=False):
    """A pair of layers. `kind` is for people only. `heads`: the outputs of a fused layer are grouped by so many heads."""

    kind: str
    heads: int


class ArraySides(TypedDict):
    """The spellings of an array on both sides, as `parity.modules.layer_kinds` explains them."""

    torch: str
    paddle: str


class ArrayRow(ArraySides, total=False):
    """Where an array is stored on both sides. `shapes` are those of the whole arrays."""

    shapes: Shapes


class MapFile(TypedDict, total=False):
    """The content of a map file. `arrays` has canonical names; `models` has the shape of every array of both models, by its own name."""

    how: str
    layers: Sequence[LayerRow]
    arrays: Mapping[str, ArrayRow]
    models: Models


def read_map(path: Path) -> MapFile:
    """Read a map file; `InputError` where a field has a wrong type, a key is unknown or an array is named twice."""
    try:
        found: MapFile = parse_json(read_text(path, "a map"), "map")  # type: ignore[assignment]
        check_type(found, MapFile, "the map")
        rows: list[tuple[Mapping[str, Any], type]] = [(found, MapFile)]
        rows += [(row, LayerRow) for row in found.get("layers", ())]
        rows += [(row, ArrayRow) for row in found.get("arrays", {}).values()]
        for row, fields in rows:
            if unknown := sorted(set(row) - set(fields.__annotations__) - set(SIDES)):
                raise InputError(f"unknown field {unknown[0]!r}")
        for side in SIDES:
            for row in found.get("arrays", {}).values():
                parse_spelling(row[side])  # type: ignore[literal-required]
    except MissingFile:
        raise
    except InputError as error:
        raise InputError(f"{path} is no map of layers ({error}): vgg-parity compare --save-map writes one") from None
    return found


def check_whole(found: MapFile) -> None:
    """`InputError` unless the map names every array of both models once, with shapes that agree.

    Older maps have no `models`: only their own arrays are compared.
    """
    rows = found.get("arrays")
    if not rows:
        raise InputError("the map names no arrays")
    known = {side: dict[str, list[int]]() for side in SIDES}
    for name, row in rows.items():
        if "shapes" not in row:
            raise InputError(f"the map has no shapes of {name}")
        canonical = []
        for side in SIDES:
            spelling, shape = parse_spelling(row[side]), list(row["shapes"][side])  # type: ignore[literal-required]
            if known[side].setdefault(spelling.name, shape) != shape:
                raise InputError(
                    f"the map gives {side} array {spelling.name} two shapes, {known[side][spelling.name]} and {shape}"
                )
            canonical.append(spelling.shape(shape))
        if canonical[0] != canonical[1]:
            raise InputError(
                f"the map gives {name} shape {list(canonical[0])} in PyTorch and {list(canonical[1])} in Paddle: both must be equal"
            )
    for side in SIDES:
        try:
            check_each_once((row[side] for row in rows.values()), known[side])  # type: ignore[literal-required]
            if "models" in found:
                _check_model(known[side], found["models"][side])  # type: ignore[literal-required]
        except InputError as error:
            raise InputError(f"the map does not fit the {side} model: {error}") from None


def _check_model(known: Mapping[str, Sequence[int]], model: Mapping[str, Sequence[int]]) -> None:
    if missing := sorted(set(model) - set(known)):
        raise InputError(f"it has no row for array {missing[0]!r} ({len(missing)} missing)")
    if extra := sorted(set(known) - set(model)):
        raise InputError(f"the model has no array {extra[0]!r} ({len(extra)} unknown)")
    for name, shape in known.items():
        if list(model[name]) != list(shape):
            raise InputError(f"array {name!r} has shape {list(model[name])}, not {list(shape)}")
