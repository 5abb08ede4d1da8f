"""Check that a network, a data set and a recipe fit together, and adapt them where that is possible."""

from __future__ import annotations

import math
import re
from contextlib import suppress

from parity import data
from parity.data import Dataset, folder
from parity.errors import InputError
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Shape
from parity.process_group import SINGLE_PROCESS, ProcessGroup
from parity.recipe import presets
from parity.recipe.recipe import Recipe, with_jitter


def make_compatible(
    network: Network, dataset: Dataset, recipe: Recipe, jitter: tuple[int, int] | None, process_group: ProcessGroup
) -> tuple[Network, Dataset, Recipe]:
    """Return network, data set and recipe as they are trained together.

    The network gets one score for each class of an image folder. The images get the size that the network takes. `jitter` replaces the
    recipe's scale jitter; None keeps it. `InputError` if the three do not fit together.
    """
    if dataset.name not in data.CLASSES:
        network = network.with_classes(len(dataset.classes))
    if jitter:
        recipe = with_jitter(recipe, jitter, min(network.input_shape[1:], default=0))
    dataset = dataset.sized(network.input_shape, recipe.augmentation.scales)
    check_compatible(network, dataset, recipe, process_group)
    return network, dataset, recipe


def check_compatible(
    network: Network,
    dataset: Dataset,
    recipe: Recipe | None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    trained: bool = True,
) -> None:
    """Raise `InputError` unless `network` can classify `dataset`, preprocessed by `recipe`, and can learn from it if it is `trained`.

    The processes of `process_group` share every batch.
    """
    shape = dataset.train_images.shape[1:]
    try:
        seen = recipe.seen(shape) if recipe else shape
    except InputError as error:
        raise InputError(f"{error}; {_what_fits(network, dataset, recipe, trained)}") from None
    if seen != network.input_shape or len(dataset.classes) != network.classes:
        cropped = f" (recipe {recipe.name} crops them to {seen})" if recipe and seen != shape else ""
        raise InputError(
            f"network {network.name} takes images {network.input_shape} of {network.classes} classes, "
            f"but {dataset.name} has images {shape}{cropped} of {len(dataset.classes)} classes; "
            + _what_fits(network, dataset, recipe, trained)
        )
    if recipe is None or not trained:
        return
    recipe.optimizer.by_muon(network)  # raises where Muon cannot train the network
    count = len(dataset.train_labels)
    parts = [
        process_group.smallest(size) for size in (min(recipe.batch_size, count), (count - 1) % recipe.batch_size + 1)
    ]
    shared = "" if process_group.size == 1 else f", shared by {process_group.size} processes,"
    if 0 in parts:
        raise InputError(
            f"{count} images in batches of {recipe.batch_size}{shared} leave a process without an image: "
            "choose another --batch-size or --train-limit, or fewer processes"
        )
    norms = [math.prod(layer.input[1:]) for layer in network.layers.values() if isinstance(layer.node, BatchNorm)]
    if 1 in norms and 1 in parts:
        raise InputError(
            f"{count} images in batches of {recipe.batch_size}{shared} leave a batch of one image, and the batch norm of "
            f"{network.name} cannot learn from one image: "
            f"choose another --batch-size or --train-limit{', or fewer processes' if shared else ''}"
        )


def _what_fits(network: Network, dataset: Dataset, recipe: Recipe | None, trained: bool) -> str:
    """Say which data sets fit `network` and `recipe`, and which network fits `dataset` if it is `trained`."""
    sets = [
        name
        for name, shape in data.SHAPES.items()
        if name != dataset.name and _fits(network, recipe, shape, len(data.CLASSES[name]))
    ]
    # Pictures of a folder are resized, and a network that is trained gets as many scores as there are classes.
    sets = sets or [f"{folder.PREFIX}DIR"] * _fits(network, recipe, network.input_shape, network.classes)
    ways = [f"--data {' or '.join(sets)}"] if sets else []
    if trained and (other := _network_for(dataset, network, recipe)):
        ways.append(f"--network {other}")
    return f"choose {', or '.join(ways or ['another --recipe'])}"


def _fits(network: Network, recipe: Recipe | None, shape: Shape, classes: int) -> bool:
    """Return whether `network` takes images of `shape` and of so many `classes`, preprocessed by `recipe`."""
    try:
        return network.input_shape == (recipe.seen(shape) if recipe else shape) and network.classes == classes
    except InputError:  # the recipe is for other images
        return False


def _network_for(dataset: Dataset, network: Network, recipe: Recipe | None) -> str | None:
    """Return the name of a network that fits `dataset`: a cousin of `network`, else one of another architecture; None if there is none."""
    shape, count = dataset.train_images.shape[1:], len(dataset.classes)
    base, _, width = re.split("[+x]", network.name)[0].partition("@")
    side = recipe.augmentation.crop or recipe.preprocessing.crop if recipe else 0
    cousin = f"{base}@{width or 1}x{side or shape[-1]}"
    own = [(name, recipe) for name in (f"{network.name}+classes{count}", cousin, f"{cousin}+classes{count}")]
    # Another network is trained with its own recipe, unless this one asks for another recipe only.
    others = [] if _fits(network, None, shape, count) else articles.NETWORKS
    for name, how in (*own, *((name, presets.recipe_for(articles.NETWORKS[name], "quick")) for name in others)):
        with suppress(InputError):
            if _fits(articles.get_network(name), how, shape, count):
                return name
    return None
