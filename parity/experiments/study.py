"""A study: networks of an article, trained alike in both frameworks and over seeds, as data; and the loop that trains the missing runs.

Every network, framework and seed has its own run folder below the study's folder (see `parity.training.run_folder`), written by the one
training loop. So a study that was stopped or killed continues, and a study that is complete is only reported again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.backend.registry import FRAMEWORKS
from parity.backend.timing import Bench
from parity.backend.worker import Worker
from parity.data import Dataset
from parity.data.batches import preprocess
from parity.errors import InputError
from parity.experiments.remote import Crew, Remote
from parity.experiments.tables import Rows, counted
from parity.files.atomic import write_atomically
from parity.files.strict_json import parse_json
from parity.network.network import Network
from parity.progress import Console
from parity.recipe.recipe import Experiment, Recipe, changed
from parity.training.loop import train
from parity.training.run_folder import Position, RunFolder, about
from parity.version import __version__
from parity.weights.canonical_state import initialise

TIMED, QUICK = 10, 0.2
"""An estimate times `TIMED` steps, or one step if that takes longer than `QUICK` seconds."""


@dataclass(frozen=True)
class Extent:
    """How much is trained: data set, epochs, and the number of training and test images, the first ones (None: all).

    With `hold_out`, so many training images are tested instead of the test images. The network has `width` times its channels, see
    `Network.shrink`.
    """

    data: str
    epochs: int
    train: int | None = None
    test: int | None = None
    width: float = 1.0
    hold_out: int = 0


@dataclass(frozen=True)
class Entry:
    """One network of a study. `article` is the extent of the article's training, `usual` the extent of ours without `--full`."""

    name: str
    network: Network
    recipe: Recipe
    article: Extent
    usual: Extent


@dataclass(frozen=True)
class Trial:
    """One training run of a study: `entry` in `framework`."""

    framework: str
    entry: Entry
    experiment: Experiment

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        return f"{self.framework}-{self.entry.name}-{self.experiment.seed}"

    def description(self) -> str:
        """Return its description for messages."""
        return f"{FRAMEWORKS[self.framework]}, {self.entry.name}, seed {self.experiment.seed}"


@dataclass(frozen=True)
class Report:
    """A study's result: `text` in Markdown, `pictures` (PNG) by file name, `found` for JSON. `failed` says what did not hold, or is ""."""

    text: str
    pictures: dict[str, bytes]
    found: dict[str, Any]
    failed: str = ""


@dataclass(frozen=True)
class Study:
    """Networks to compare. `split` makes the data of a seed; a worker has `threads` (None: all cores).

    The study fails if training of one of the entries `needed` (None: all) explodes; other entries may explode. Without `--full` it is
    shorter than `against`. With `predicts`, every row has the labels that the trained network predicts for the test images.
    `report(rows, datasets by seed, whole)` makes tables and pictures; `whole` says that nothing is shortened against the usual extent.
    """

    name: str
    about: str
    entries: tuple[Entry, ...]
    report: Callable[[Rows, Mapping[int, Dataset], bool], Report]
    seeds: int = 1
    threads: int | None = None
    predicts: bool = False
    split: Callable[[Dataset, int], Dataset] = lambda dataset, seed: dataset
    needed: tuple[str, ...] | None = None
    against: str = "the article"


def shortened(entries: Sequence[Entry], chosen: Mapping[str, Extent]) -> list[str]:
    """Return how the `chosen` extents differ from the article's, a line for each group of entries that differ alike."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        own, theirs = chosen[entry.name], entry.article
        said = [f"data set {own.data} instead of {theirs.data}"] if own.data != theirs.data else []
        if own.epochs != theirs.epochs:
            said.append(f"{counted(own.epochs, 'epoch')} instead of {theirs.epochs}")
        if own.train != theirs.train:
            said.append(f"the first {own.train:,} training images instead of all")
        if own.test != theirs.test:
            said.append(f"the first {own.test:,} test images instead of all")
        if own.hold_out:
            said.append(f"tested on {own.hold_out:,} training images, which train nothing")
        if own.width != theirs.width:
            said.append(f"{own.width:g} times the channels")
        if said:
            names.setdefault(", ".join(said), []).append(entry.name)
    return [f"{'all runs' if len(who) == len(entries) else ', '.join(who)}: {said}" for said, who in names.items()]


def trials(
    study: Study, chosen: Mapping[str, Extent], frameworks: Sequence[str], datasets: Mapping[int, Dataset]
) -> list[Trial]:
    """Return all runs of `study`, seed by seed. A recipe that permutes the pixels has another permutation for each seed."""
    found = []
    for seed, dataset in datasets.items():
        for entry in study.entries:
            extent, recipe = chosen[entry.name], changed(entry.recipe, epochs=chosen[entry.name].epochs)
            if (first := recipe.preprocessing.permutation) is not None:
                permuted = dataclasses.replace(recipe.preprocessing, permutation=first + seed)
                recipe = dataclasses.replace(recipe, preprocessing=permuted)
            network = entry.network if extent.width == 1 else entry.network.shrink(extent.width)
            limits = (extent.train, extent.test)
            experiment = Experiment(network, recipe, dataset.name, seed, *limits, hold_out=extent.hold_out)
            found += [Trial(framework, entry, experiment) for framework in frameworks]
    return found


def limited(trial: Trial, datasets: Mapping[int, Dataset]) -> Dataset:
    """Return what `trial` trains and tests on. Raise `InputError` where it does not fit its network."""
    experiment = trial.experiment
    whole = datasets[experiment.seed].hold_out(experiment.hold_out)
    dataset = whole.limit(experiment.train_limit, experiment.test_limit)
    seen = experiment.recipe.seen(dataset.train_images.shape[1:])
    if seen != experiment.network.input_shape or len(dataset.classes) != experiment.network.classes:
        raise InputError(f"{experiment.network.name} does not take the images of {dataset.name}: choose another --data")
    return dataset


def place(trial: Trial, folder: Path, images: int) -> Position:
    """Return the position of the run of `trial` below `folder`, or the start. Raise `InputError` if its folder holds another run."""
    run = _existing(trial, folder)
    return run.restore(images)[1] if run else Position()


def _existing(trial: Trial, folder: Path) -> RunFolder | None:
    if not (folder / trial.name / "config.json").exists():
        return None
    run = RunFolder.open(folder / trial.name)
    if run.experiment != trial.experiment:
        raise InputError(
            f"{run.folder} is a run of another experiment (other limits, epochs or data): choose another --output"
        )
    return run


def estimate(left: Sequence[tuple[Trial, Position, Dataset]], crew: Crew) -> float:
    """Return the estimated seconds of the trials in `left`, from a few steps of each network in each framework."""
    speeds: dict[tuple[str, str], float] = {}
    total = 0.0
    for trial, position, dataset in left:
        key, experiment = (trial.framework, trial.entry.name), trial.experiment
        if key not in speeds:
            speeds[key] = _speed(crew.worker(trial.framework), experiment, dataset)
        epochs = experiment.recipe.epochs - position.epoch
        forward_only = epochs * len(dataset.test_labels) / 3
        total += (epochs * len(dataset.train_labels) - position.seen + forward_only) / speeds[key]
    return total


def _speed(worker: Worker, experiment: Experiment, dataset: Dataset) -> float:
    """Measure images/s of training. The first step, in which frameworks allocate and compile, does not count."""
    recipe = experiment.recipe
    worker.start(experiment.network, recipe.optimizer, initialise(experiment.network, 0), "float32")
    trainer = Remote(worker)
    timed = Bench(trainer, experiment.network, recipe, dataset.train_images[:], dataset.train_labels)
    timed.train(1, fed=False)
    speed = timed.train(1, fed=True)
    return timed.train(TIMED, fed=True) if recipe.batch_size / speed < QUICK else speed


def run_trial(
    trial: Trial, dataset: Dataset, folder: Path, crew: Crew, say: Callable[[str], None] | None = None
) -> None:
    """Train `trial` in its folder below `folder` to its end, from its last checkpoint. `say` gets a line for each epoch.

    Raise `parity.training.loop.Stopped` and `Diverged`.
    """
    worker, versions = crew.worker(trial.framework), crew.versions(trial.framework)
    own = {
        "framework": trial.framework,
        "versions": versions | {"vgg-parity": __version__},
        "machine": machine.describe(),
        "device": crew.device,
        "threads": crew.threads,
    }
    experiment = trial.experiment
    run = _existing(trial, folder) or RunFolder.create(folder / trial.name, experiment, own)
    state, position = run.restore(len(dataset.train_labels))
    state = state or initialise(experiment.network, experiment.seed)
    start = {name: state[name] for name in experiment.network.parameters}
    worker.start(experiment.network, experiment.recipe.optimizer, start, "float32")
    if state.keys() != start.keys():
        worker.load(state, position.update)
    if say:
        run.watchers.append(lambda line: _say_epoch(line, trial, say))
    train(Remote(worker), run, dataset, position, Console(silent=True))


def _say_epoch(line: dict[str, Any], trial: Trial, say: Callable[[str], None]) -> None:
    if line["event"] == "pass":
        number = f"epoch {line['epoch'] + 1} of {trial.experiment.recipe.epochs}"
        say(f"{trial.description()}, {number}: loss {line['cost']:.4f}, test accuracy {line['test_accuracy']:.2%}")


def predicted(trial: Trial, dataset: Dataset, folder: Path, crew: Crew) -> list[int]:
    """Return the labels that the finished `trial` predicts for the test images. They are computed once and kept in its run folder."""
    run = RunFolder(folder / trial.name, trial.experiment)
    file = run.folder / "predicted.json"
    if not file.exists():
        state, _ = run.restore(len(dataset.train_labels))
        assert state, f"{run.folder} has no checkpoint"
        experiment, worker = trial.experiment, crew.worker(trial.framework)
        weights = {name: state[name] for name in experiment.network.parameters}
        worker.start(experiment.network, experiment.recipe.optimizer, weights, "float32")
        labels: list[int] = []
        for first in range(0, len(dataset.test_labels), 250):
            images = preprocess(dataset.test_images[first : first + 250], experiment.recipe.preprocessing)
            labels += worker.predict(images)["logits"].argmax(1).tolist()
        write_atomically(file, json.dumps({"labels": labels}).encode())
    with about(file, "remove it"):
        found = parse_json(file.read_text(), "predictions").get("labels")
        if not isinstance(found, list) or np.shape(found) != dataset.test_labels.shape:
            raise InputError(f"it does not have a label for each of the {len(dataset.test_labels)} test images")
    return found


def row(trial: Trial, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Return the result of the finished `trial`: accuracies and errors (0 to 1) and losses (nats) of each epoch, and where it was measured.

    Training losses and errors are means over the epoch, in training mode, while the weights change.
    """
    run = RunFolder.open(folder / trial.name)
    epochs, experiment = run.metrics("pass"), trial.experiment
    if len(epochs) < experiment.recipe.epochs:
        raise InputError(
            f"{run.metrics_file} has lines of {len(epochs)} epochs, not {experiment.recipe.epochs}: put the whole file back"
        )
    config = json.loads((run.folder / "config.json").read_text())
    return {
        "framework": trial.framework,
        "entry": trial.entry.name,
        "network": experiment.network.name,
        "recipe": experiment.recipe.name,
        "seed": experiment.seed,
        "permutation": experiment.recipe.preprocessing.permutation,
        "data": dataset.name,
        "train_images": len(dataset.train_labels),
        "test_images": len(dataset.test_labels),
        "hold_out": experiment.hold_out,
        "epochs": experiment.recipe.epochs,
        "test_accuracy": epochs[-1]["test_accuracy"],
        "test_accuracies": [line["test_accuracy"] for line in epochs],
        "test_costs": [line["test_cost"] for line in epochs],
        "train_costs": [line["cost"] for line in epochs],
        "train_errors": [line["error"] for line in epochs],
        "seconds": epochs[-1]["seconds"],
        "images_per_second": round(epochs[-1]["samples"] / max(epochs[-1]["seconds"], 1e-9), 2),
        "threads": config.get("threads"),
        "machine": config.get("machine"),
        "versions": config.get("versions"),
    }
