"""`--data folder:DIR`: an image folder with one sub-folder per class. It may have any size: pictures are read when they are needed.

DIR may hold `train` and one of `val`, `validation` and `test` (the first that exists is used), with the classes in them. Otherwise DIR
holds the classes, and every fifth picture of a class, sorted by name, is for testing. The pictures are shuffled, in the same order on
every machine, so that the first N of them are a fair sample.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.data import fetch
from parity.data.dataset import Dataset
from parity.data.lazy_images import Pictures
from parity.data.random_streams import stream
from parity.errors import InputError

PREFIX = "folder:"

TRAIN, TESTS = "train", ("val", "validation", "test")
"""Names of the sub-folders for training and testing."""

EVERY = 5
"""Without such sub-folders, one of `EVERY` pictures of a class is for testing."""

Listing = dict[str, list[str]]
"""Class -> sorted names of its pictures."""


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load the data set `name`, which is `folder:DIR`. `data_dir` is the folder if it was moved (None: DIR). `InputError` in one line.

    Its images are `Pictures`. Until they are fitted to a network, they have the size of the first picture.
    """

    given = name.removeprefix(PREFIX)
    if not given:
        raise InputError(f"{PREFIX} names no folder: give {PREFIX}DIR, a folder with one sub-folder per class")
    folder = fetch.expand(data_dir or given).absolute()
    entries = _folders(folder)
    tests = [part for part in TESTS if part in entries]
    if TRAIN in entries and tests:
        parts = {"train": _classes(folder / TRAIN), "test": _classes(folder / tests[0])}
        roots = {"train": folder / TRAIN, "test": folder / tests[0]}
        rule = f"in {TRAIN}/ and {tests[0]}/"
    else:
        listed = _classes(folder)
        parts = {
            "train": {label: [f for i, f in enumerate(files, 1) if i % EVERY] for label, files in listed.items()},
            "test": {label: files[EVERY - 1 :: EVERY] for label, files in listed.items()},
        }
        roots, rule = dict.fromkeys(parts, folder), "every fifth of a class for testing"
        if not any(parts["test"].values()):
            raise InputError(
                f"{folder} has fewer than {EVERY} pictures of every class, so none for testing: add some, or make {TRAIN}/ and {TESTS[0]}/"
            )
    return _dataset(name if data_dir else f"{PREFIX}{folder}", parts, roots, rule)


def _dataset(name: str, parts: dict[str, Listing], roots: dict[str, Path], rule: str) -> Dataset:
    from parity.data import image_files  # imports Pillow, only when pictures are read

    classes = tuple(parts["train"])
    if strange := [label for label in parts["test"] if label not in parts["train"]]:
        raise InputError(f"{roots['test']} has a class {strange[0]} that {roots['train']} lacks")
    if len(classes) < 2:
        raise InputError(
            f"{roots['train']} holds only one class, {classes[0]}: make a sub-folder for each of several classes"
        )
    files: dict[str, list[Path]] = {}
    labels: dict[str, Array] = {}
    for part, listed in parts.items():
        found = [(roots[part] / label / file, classes.index(label)) for label in listed for file in listed[label]]
        order = stream(0, "folder", part).permutation(len(found))
        files[part] = [found[i][0] for i in order]
        labels[part] = np.array([found[i][1] for i in order], np.int64)
    size = image_files.whole(files["train"][0], 3).shape
    pictures = {part: Pictures(tuple(found), size) for part, found in files.items()}
    counts = (
        f"{len(files['train']):,} training and {len(files['test']):,} test pictures of {len(classes)} classes, {rule}"
    )
    return Dataset(name, classes, pictures["train"], labels["train"], pictures["test"], labels["test"], counts)


def _classes(folder: Path) -> Listing:
    """Return the classes in `folder` with their pictures. `InputError` if a class has none."""
    from parity.data import image_files

    labels = _folders(folder)
    if not labels:
        raise InputError(f"{folder} holds no sub-folders: make one for each class, with its pictures")
    found = {label: _names(folder / label, pictures=True) for label in labels}
    for label, names in found.items():
        if not label.isprintable():
            raise InputError(f"{folder} holds a sub-folder whose name is not printable ({label!r}): rename it")
        if not names:
            kinds = " ".join(sorted(image_files.SUFFIXES))
            raise InputError(f"{folder / label} holds no pictures ({kinds}): fill it or remove it")
    return found


def _folders(folder: Path) -> list[str]:
    return _names(folder, pictures=False)


def _names(folder: Path, pictures: bool) -> list[str]:
    """Return the sorted names of the pictures, or of the sub-folders, in `folder`. Names that begin with a dot are ignored."""
    from parity.data import image_files

    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name[0] != "."
                and (
                    os.path.splitext(entry.name)[1].lower() in image_files.SUFFIXES and not entry.is_dir()  # noqa: PTH122 - a million times
                    if pictures
                    else entry.is_dir()
                )
            )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot read {folder}: {reason}; give {PREFIX}DIR, a folder with one sub-folder per class"
        ) from None
