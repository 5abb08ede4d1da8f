"""The TensorFlow twin's timing (first article): forward, and forward and backward, of its VGG16, in seconds per batch.

The objective of the backward pass is `l2_loss` of the network's output, sum(x ** 2) / 2; no weight is updated. The forward kind is
inference; the other kind has dropout, with masks that the framework draws. One batch of distorted CIFAR-10 images is ready in memory, so
loading is not timed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.data.batches import Batches, preprocess
from parity.errors import InputError
from parity.experiments import pictures
from parity.experiments.remote import Crew
from parity.experiments.study import Report
from parity.experiments.tables import table
from parity.files.atomic import write_atomically
from parity.files.strict_json import parse_json
from parity.network import articles
from parity.progress import bar, duration
from parity.recipe import presets
from parity.short_repr import counted
from parity.training.run_folder import about
from parity.weights.canonical_state import initialise

TURN = 5
"""Timed steps after which the progress bar moves and the results are saved."""

KINDS = {"forward": "predict", "forward-backward": "l2_gradients"}
"""Kind of step -> the method of a worker."""

FILE = "seconds.json"

Times = dict[str, dict[str, list[float]]]
"""By framework and kind: the seconds of every timed step."""


@dataclass(frozen=True)
class Timing:
    """What is timed: `network` on images of `recipe` in batches of `batch_size`. `burn_in` steps come first and do not count."""

    name: str
    about: str
    network: str
    recipe: str
    batch_size: int
    burn_in: int
    steps: int


TIMING = Timing(
    "timing",
    "first article's TensorFlow twin (2017): VGG16 on 24x24 images, forward and forward-backward, 10 burn-in steps and 200 timed ones",
    "tf_vgg16",
    "distorted",
    batch_size=32,
    burn_in=10,
    steps=200,
)


def batch(timing: Timing, dataset: Dataset, size: int) -> Array:
    """Return the first `size` training images of `dataset`, distorted and preprocessed: float32 [size,C,H,W].

    Raise `InputError` if there are too few.
    """
    recipe, network = presets.get_recipe(timing.recipe), articles.get_network(timing.network)
    if recipe.seen(dataset.train_images.shape[1:]) != network.input_shape:
        raise InputError(f"{network.name} does not take the images of {dataset.name}: choose another --data")
    some = dataset.limit(size, None)
    images, _ = next(Batches(some.train_images, some.train_labels, size, recipe.augmentation, 0).epoch(0))
    return preprocess(images, recipe.preprocessing)


def measure(
    timing: Timing,
    frameworks: list[str],
    images: Array,
    steps: int,
    folder: Path,
    crew: Crew,
    say: Callable[[str], None],
) -> Times:
    """Return seconds by framework and kind, `steps` each.

    Results of the same setting in `folder` are kept; every `TURN` steps, new ones are added. Raise `InputError` where they are of another
    setting.
    """
    network = articles.get_network(timing.network)
    settings = {
        framework: {
            "network": network.name,
            "batch_size": len(images),
            "threads": crew.threads,
            "device": crew.device,
            "machine": machine.describe(),
            "versions": crew.versions(framework),
        }
        for framework in frameworks
    }
    kept = _kept(folder / FILE, settings)
    for framework in frameworks:
        worker = crew.worker(framework)
        kinds = kept.setdefault(framework, {"setting": settings[framework], "seconds": {}})["seconds"]
        worker.start(network, presets.get_recipe(timing.recipe).optimizer, initialise(network, 0), "float32")
        for kind, method in KINDS.items():
            seconds = kinds.setdefault(kind, [])
            left = steps - len(seconds)
            if left > 0:
                burnt = worker.seconds(method, images, timing.burn_in)
                time = duration(left * float(np.median(burnt)))
                say(f"{FRAMEWORKS[framework]}, {kind}: {counted(left, 'step')}, about {time} (fewer with --steps)")
            for first in bar(range(0, left, TURN), f"{framework}, {kind}"):
                seconds += worker.seconds(method, images, min(TURN, left - first))
                write_atomically(folder / FILE, (json.dumps(kept) + "\n").encode())
    return {framework: kept[framework]["seconds"] for framework in frameworks}


def _kept(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return earlier results by framework: its setting, which must equal that of `settings`, and the seconds."""
    if not file.exists():
        return {}
    with about(file, "choose another --output"):
        kept = parse_json(file.read_text(errors="replace"), "timing")
        for framework, setting in settings.items():
            found = kept.get(framework, {"setting": setting})
            if not isinstance(found, dict) or found.get("setting") != setting:
                raise InputError(f"{framework} was timed in another setting (batch size, threads, versions, machine)")
            if framework in kept and not _seconds(found.get("seconds")):
                raise InputError(f"{framework} has no seconds")
    return kept


def _seconds(kinds: Any) -> bool:
    """Return whether `kinds` has positive numbers for some of `KINDS`."""
    return isinstance(kinds, dict) and all(
        kind in KINDS and isinstance(times, list) and all(isinstance(t, float) and 0 < t < math.inf for t in times)
        for kind, times in kinds.items()
    )


def report(timing: Timing, found: Times, images: int) -> Report:
    """Return mean and standard deviation of the seconds per batch."""
    rows, cells = [], []
    for framework, kinds in found.items():
        for kind, seconds in kinds.items():
            mean, deviation, middle = float(np.mean(seconds)), float(np.std(seconds)), float(np.median(seconds))
            row = {"framework": framework, "kind": kind, "mean": mean, "std": deviation, "median": middle}
            rows.append(row | {"steps": len(seconds), "images_per_second": images / mean})
            numbers = (f"{mean:.4f} ± {deviation:.4f}", f"{middle:.4f}", f"{images / mean:.1f}", str(len(seconds)))
            cells.append((FRAMEWORKS[framework], kind, *numbers))
    lines = table(("framework", "kind", "seconds per batch, mean ± std", "median", "images/s", "steps"), cells, 2)
    title = f"{timing.network}, batches of {images} images"
    return Report("\n".join(lines), {"timing.png": pictures.times(found, title)}, {"times": rows, "seconds": found})
