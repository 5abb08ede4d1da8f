"""A mistake or an innocent change in one model of a pair, and the comparison of the pair with it.

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
from parity.modules.description import is_below
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import run_pair
from parity.pairs.inputs import drawn
from parity.pairs.match_models import ModelsDiffer
from parity.pairs.model_server import ModelService
from parity.pairs.outcome import PairOutcome
from parity.pairs.session import Pair
from parity.selftest.file_edit import ROOT, FileEdit

BATCH, LENGTH, WORDS = 3, 9, 50
"""The shape of the inputs, and the number of words."""

TRANSFORMER = {side: f"{ROOT}/{side}_impl/transformer.py:Transformer" for side in SIDES}
"""The factories of the pair."""


@dataclass(frozen=True)
class ModelEdit(FileEdit):
    """A change of the model of one framework.

    A mistake must be found at one of the `layers`, inside it, or with a cause that names it. An innocent change has none. `refused`: the
    layers of the two models cannot be matched, and the message names the layer. The cause, or the message, must contain `cause`.

    `padding` says at which end sequences are padded: at the "left", the first queries see no key.
    """

    layers: tuple[str, ...] = ()
    refused: bool = False
    cause: str = ""
    padding: str = "right"

    @property
    def is_innocent(self) -> bool:
        """Whether the change must not change the verdict."""
        return not self.layers

    def file(self, side: str) -> Path:
        """Return the file of the model of one framework."""
        return ROOT / f"{side}_impl" / "transformer.py"

    def compare(self, side: str, workers: Mapping[str, ModelService], folder: Path) -> PairOutcome | ModelsDiffer:
        """Compare the pair with the change in the model of `side`, see `FileEdit.compare`."""
        factory = TRANSFORMER | {side: f"{self.write(side, folder)}:Transformer"}
        try:
            return run_pair(Pair(factory["torch"], factory["paddle"], inputs(self.padding), steps=2), workers)
        except ModelsDiffer as error:
            return error

    def complaint(self, side: str, found: PairOutcome | ModelsDiffer) -> str:
        """Return what is wrong with what was `found` with the change on `side`; empty if nothing is."""
        if isinstance(found, ModelsDiffer):
            named = any(f"{NAMES[side]} has {layer} (" in str(found) for layer in self.layers)
            right = self.refused and named and self.cause in str(found)
            return "" if right else f"{self.name} should not be refused so: {found}"
        if self.is_innocent:
            return "" if found.verdict == "equal" else f"{self.name} changes nothing; it was {found.sentence()}"
        if found.first is None or self.refused:
            return f"{self.name} was not caught"
        cause = found.first.cause or ""
        if not any(is_below(found.first.layer, layer) or layer in cause.split() for layer in self.layers):
            return f"{self.name} should be found at {' or '.join(self.layers)}; it was {found.first.sentence()}"
        if self.cause not in cause:
            return f"{self.name} should be explained by {self.cause!r}; it was {found.first.sentence()}"
        return ""


def inputs(padding: str) -> Sequence[Array]:
    """Return tokens and mask, both whole numbers [BATCH, LENGTH]; the first sequence has no padding, each later one two more."""
    mask = (np.arange(LENGTH) < LENGTH - 2 * np.arange(BATCH)[:, None]).astype(np.int64)
    return [
        drawn(f"{BATCH},{LENGTH}:{WORDS}", 0, 0),
        mask if padding == "right" else np.ascontiguousarray(mask[:, ::-1]),
    ]
