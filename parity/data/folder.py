"""`--data folder:DIR`: an image folder with one sub-folder per class. It may have any size: pictures are read when they are needed.

DIR may hold `train` and one of `val`, `validation` and `test` (the first that exists is used), with the classes in them. Otherwise DIR
holds the classes, and every fifth picture of a class, sorted by name, is for testing. The pictures are shuffled, in the same order on
every machine, so that the first N of them are a fair sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.data import fetch
from parity.data.dataset import Dataset
from parity.data.lazy_images import Pictures
from parity.data.picture_folders import Entries, LeftOut, describe_empty, list_folder
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.standard_streams import Say, say_on_stderr

PREFIX = "folder:"

TRAIN, TESTS = "train", ("val", "validation", "test")
"""Names of the sub-folders for training and testing."""

EVERY = 5
"""Without such sub-folders, one of `EVERY` pictures of a class is for testing."""

Listing = dict[str, list[str]]
"""Class -> sorted names of its pictures."""


def load(name: str, data_dir: Path | None = None, say: Say = say_on_stderr) -> Dataset:
    """Load the data set `name`, which is `folder:DIR`. `data_dir` is the folder if it was moved (None: DIR). `InputError` in one line.

    `say` gets one line if something in the folder is left out. The images are `Pictures`. Until they are fitted to a network, they have the
    size of the first picture.
    """
    given = name.removeprefix(PREFIX)
    if not given:
        raise InputError(f"{PREFIX} names no folder: give {PREFIX}DIR, a folder with one sub-folder per class")
    folder = fetch.expand(data_dir or given).absolute()
    entries, left = _list(folder), LeftOut()
    tests = [part for part in TESTS if part in entries.folders]
    if TRAIN in entries.folders and tests:
        names = {"train": TRAIN, "test": tests[0]}
        parts = {part: _classes(folder, name, left) for part, name in names.items()}
        left.others.extend(entries.others)
        left.folders.extend(name for name in entries.folders if name not in names.values())
        left.beside.extend(entries.pictures)
        roots, rule = {part: folder / name for part, name in names.items()}, f"in {TRAIN}/ and {tests[0]}/"
    else:
        listed = _classes(folder, "", left)
        parts = {
            "train": {label: [f for i, f in enumerate(files, 1) if i % EVERY] for label, files in listed.items()},
            "test": {label: files[EVERY - 1 :: EVERY] for label, files in listed.items()},
        }
        roots, rule = dict.fromkeys(parts, folder), "every fifth of a class for testing"
        if not any(parts["test"].values()):
            raise InputError(
                f"{folder} has fewer than {EVERY} pictures of every class, so none for testing: add some, or make {TRAIN}/ and {TESTS[0]}/"
            )
    dataset = _dataset(name if data_dir else f"{PREFIX}{folder}", parts, roots, rule)
    left.tell(folder, say)
    return dataset


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


def _classes(root: Path, part: str, left: LeftOut) -> Listing:
    """Return the classes in the folder `part` of `root` with their pictures. `InputError` if a class has none.

    The names of what is left out, relative to `root`, are added to `left`.
    """
    folder = root / part
    entries = _list(folder)
    if not entries.folders:
        raise InputError(f"{folder} holds no sub-folders: make one for each class, with its pictures")
    left.others.extend(str(Path(part, name)) for name in entries.others)
    left.beside.extend(str(Path(part, name)) for name in entries.pictures)
    found = {}
    for label in entries.folders:
        inside = _list(folder / label)
        if not label.isprintable():
            raise InputError(f"{folder} holds a sub-folder whose name is not printable ({label!r}): rename it")
        if not inside.pictures:
            raise InputError(f"{describe_empty(folder / label, inside)}: fill it or remove it")
        left.others.extend(str(Path(part, label, name)) for name in inside.others)
        left.folders.extend(str(Path(part, label, name)) for name in inside.folders)
        found[label] = inside.pictures
    return found


def _list(folder: Path) -> Entries:
    """Return what is in `folder`. `InputError` if it cannot be read."""
    try:
        return list_folder(folder)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot read {folder}: {reason}; give {PREFIX}DIR, a folder with one sub-folder per class"
        ) from None
