"""A mistake or an innocent change in the file of one framework, as other texts in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.files.atomic import write_atomically
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_models import ModelsDiffer
from parity.pairs.model_server import ModelService
from parity.pairs.outcome import PairOutcome

ROOT = Path(__file__).parents[2]
"""The folder of this installation."""

WORKERS = {"torch": "torch", "paddle": "paddle", "twin": "torch"}
"""Worker -> framework, for `FileEdit.compare`: both sides and a one-ULP twin."""

Lines = tuple[tuple[str, str], ...]
"""Texts of a file, each with the text that replaces it."""


@dataclass(frozen=True)
class FileEdit(ABC):
    """A change of one framework's file, of which the other framework has the same.

    `torch` and `paddle` hold the replaced texts by framework; a framework without them cannot have this change.
    """

    name: str
    sentence: str
    torch: Lines
    paddle: Lines

    @property
    def sides(self) -> list[str]:
        """The frameworks that can have this change."""
        return [side for side in SIDES if self.lines(side)]

    @property
    @abstractmethod
    def is_innocent(self) -> bool:
        """Whether the change must not change the verdict."""

    def lines(self, side: str) -> Lines:
        """Return the replaced texts of one framework."""
        return self.torch if side == "torch" else self.paddle

    @abstractmethod
    def file(self, side: str) -> Path:
        """Return the file of one framework."""

    def edited(self, side: str) -> str:
        """Return the changed text of the file of `side`; `ValueError` unless the file contains each of the old texts exactly once."""
        text = self.file(side).read_text(encoding="utf-8")
        for old, new in self.lines(side):
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {self.file(side)} contains {old!r} {text.count(old)} times")
            text = text.replace(old, new)
        return text

    def write(self, side: str, folder: Path) -> Path:
        """Write the changed file of `side` into a folder, and return its place."""
        place = folder / f"{self.file(side).stem}_{self.name}_{side}.py"
        write_atomically(place, self.edited(side).encode())
        return place

    @abstractmethod
    def compare(self, side: str, workers: Mapping[str, ModelService], folder: Path) -> PairOutcome | ModelsDiffer:
        """Compare the pair with the change on `side`; return the outcome, or why the layers cannot be matched.

        `folder` takes the changed file. `workers` are named as in `WORKERS`.
        """

    @abstractmethod
    def complaint(self, side: str, found: PairOutcome | ModelsDiffer) -> str:
        """Return what is wrong with what was `found` with the change on `side`; empty if nothing is."""
