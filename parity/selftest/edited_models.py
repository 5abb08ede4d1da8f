"""A mistake or an innocent change in one model of a pair, as other lines of its file, and the comparison of the pair with it.

The pair are `torch_impl/transformer.py` and `paddle_impl/transformer.py`: the same small transformer, once for each framework. It is
compared as a user's two models are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.backend.registry import NAMES
from parity.files.atomic import write_atomically
from parity.modules.description import is_below
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import run_pair
from parity.pairs.inputs import drawn
from parity.pairs.match_models import ModelsDiffer
from parity.pairs.model_server import ModelService
from parity.pairs.outcome import PairOutcome
from parity.pairs.session import Pair

ROOT = Path(__file__).parents[2]
"""The folder of this installation."""

BATCH, LENGTH, WORDS = 3, 9, 50
"""The shape of the inputs, and the number of words."""

WORKERS = {"torch": "torch", "paddle": "paddle", "twin": "torch"}
"""Worker -> framework, for `compare_edited`: both sides and a one-ULP twin."""

Lines = tuple[tuple[str, str], ...]
"""Texts of a file, each with the text that replaces it."""


@dataclass(frozen=True)
class Edit:
    """A change of the model of one framework.

    `torch` and `paddle` hold the replaced texts by framework; a framework without them cannot have this change.

    A mistake must be found at one of the `layers`, inside it, or with a cause that names it. An innocent change has none. `refused`: the
    layers of the two models cannot be matched, and the message names the layer. The cause, or the message, must contain `cause`.

    `padding` says at which end sequences are padded: at the "left", the first queries see no key.
    """

    name: str
    sentence: str
    torch: Lines
    paddle: Lines
    layers: tuple[str, ...] = ()
    refused: bool = False
    cause: str = ""
    padding: str = "right"

    @property
    def sides(self) -> list[str]:
        """The frameworks that can have this change."""
        return [side for side in SIDES if self.lines(side)]

    def lines(self, side: str) -> Lines:
        """Return the replaced texts of one framework."""
        return self.torch if side == "torch" else self.paddle


def edited(edit: Edit, side: str) -> str:
    """Return the file of `side` with the lines of `edit`; `ValueError` unless it contains each of the old texts exactly once."""
    text = _file(side).read_text(encoding="utf-8")
    for old, new in edit.lines(side):
        if text.count(old) != 1:
            raise ValueError(f"{edit.name}: {_file(side)} contains {old!r} {text.count(old)} times")
        text = text.replace(old, new)
    return text


def compare_edited(
    edit: Edit, side: str, workers: Mapping[str, ModelService], folder: Path
) -> PairOutcome | ModelsDiffer:
    """Compare the pair with `edit` in the model of `side`; return the outcome, or why the layers cannot be matched.

    `folder` takes the edited file. `workers` are named as in `WORKERS`.
    """
    file = folder / f"{edit.name}_{side}.py"
    write_atomically(file, edited(edit, side).encode())
    factory = {one: f"{file if one == side else _file(one)}:Transformer" for one in SIDES}
    try:
        return run_pair(Pair(factory["torch"], factory["paddle"], inputs(edit.padding), steps=2), workers)
    except ModelsDiffer as error:
        return error


def complaint(edit: Edit, side: str, found: PairOutcome | ModelsDiffer) -> str:
    """Return what is wrong with what was `found` with `edit` on `side`; empty if nothing is."""
    if isinstance(found, ModelsDiffer):
        named = any(f"{NAMES[side]} has {layer} (" in str(found) for layer in edit.layers)
        return (
            ""
            if edit.refused and named and edit.cause in str(found)
            else f"{edit.name} should not be refused so: {found}"
        )
    if not edit.layers:
        return "" if found.verdict == "equal" else f"{edit.name} changes nothing; it was {found.sentence()}"
    if found.first is None or edit.refused:
        return f"{edit.name} was not caught"
    cause = found.first.cause or ""
    if not any(is_below(found.first.layer, layer) or layer in cause.split() for layer in edit.layers):
        return f"{edit.name} should be found at {' or '.join(edit.layers)}; it was {found.first.sentence()}"
    if edit.cause not in cause:
        return f"{edit.name} should be explained by {edit.cause!r}; it was {found.first.sentence()}"
    return ""


def inputs(padding: str) -> Sequence[Array]:
    """Return tokens and mask, both whole numbers [BATCH, LENGTH]; the first sequence has no padding, each later one two more."""
    mask = (np.arange(LENGTH) < LENGTH - 2 * np.arange(BATCH)[:, None]).astype(np.int64)
    return [
        drawn(f"{BATCH},{LENGTH}:{WORDS}", 0, 0),
        mask if padding == "right" else np.ascontiguousarray(mask[:, ::-1]),
    ]


def _file(side: str) -> Path:
    return ROOT / f"{side}_impl" / "transformer.py"
