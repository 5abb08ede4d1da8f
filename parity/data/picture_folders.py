"""What is in a folder of pictures, and what of it is left out. No picture is opened here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parity.standard_streams import Say

SUFFIXES = frozenset({".bmp", ".gif", ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".webp"})
"""Suffixes of pictures in a folder."""

FIRST = 3
"""Number of names of each kind that a message gives."""


@dataclass(frozen=True)
class Entries:
    """The names in a folder, each kind sorted: `pictures` by their suffix, `others` (all other files) and `folders`."""

    pictures: list[str]
    others: list[str]
    folders: list[str]


def list_folder(folder: Path) -> Entries:
    """Return what is in `folder`. Names that begin with a dot are ignored. `OSError` and `ValueError` (of the name) are not caught."""
    found = Entries([], [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] != ".":
                is_picture = os.path.splitext(entry.name)[1].lower() in SUFFIXES  # noqa: PTH122 - a million times
                (found.folders if entry.is_dir() else found.pictures if is_picture else found.others).append(entry.name)
    return Entries(sorted(found.pictures), sorted(found.others), sorted(found.folders))


def describe_empty(folder: Path, entries: Entries) -> str:
    """Say that `folder`, which has these `entries`, holds no pictures, and what it holds instead."""
    left = LeftOut(entries.others, entries.folders).describe()
    return f"{folder} holds no pictures ({' '.join(sorted(SUFFIXES))}){left and f', only {left}'}"


@dataclass(frozen=True)
class LeftOut:
    """Names that are left out of a folder: files of other formats, sub-folders, pictures beside the folders of classes."""

    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Count the names of each kind, and give the first ones: "2 files of other formats (a.tif, b.avif), 1 sub-folder (more)"."""
        kinds = (
            _counted(self.others, "file of another format", "files of other formats"),
            _counted(self.folders, "sub-folder", "sub-folders"),
            _counted(self.beside, "picture outside the classes", "pictures outside the classes"),
        )
        return ", ".join(filter(None, kinds))

    def tell(self, folder: Path, say: Say) -> None:
        """Tell `say` in one line what is left out of `folder`, and what is not; nothing if nothing is left out."""
        if left := self.describe():
            say(f"note: left out of {folder}: {left}; pictures are {' '.join(sorted(SUFFIXES))}")


def _counted(names: Sequence[str], one: str, several: str) -> str:
    first = ", ".join([*names[:FIRST], *["..."] * (len(names) > FIRST)])
    return f"{len(names):,} {one if len(names) == 1 else several} ({first})" if names else ""
