"""Check that a network, a data set and a recipe fit together, and adapt them where that is possible."""

from __future__ import annotations

import math

from parity import data
from parity.data import Dataset
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import BatchNorm
from parity.process_group import SINGLE_PROCESS, ProcessGroup
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
    seen = recipe.seen(shape) if recipe else shape
    if seen != network.input_shape or len(dataset.classes) != network.classes:
        cropped = f" (recipe {recipe.name} crops them to {seen})" if recipe and seen != shape else ""
        raise InputError(
            f"network {network.name} takes images {network.input_shape} of {network.classes} classes, "
            f"but {dataset.name} has images {shape}{cropped} of {len(dataset.classes)} classes"
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
