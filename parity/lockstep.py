"""Drives several workers through the same training run, step by step, and compares what they record.

All sides get the same canonical state, batches, dropout masks and hyper-parameters. Nothing is kept from one step to the next, so a thousand
steps need no more memory than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from parity.data import Dataset
from parity.data.batches import Batches, preprocess
from parity.network import Network
from parity.randomness import masks
from parity.recipe import Experiment
from parity.weights import State, initialise
from parity.worker import Record, Worker

PHASES = ("eval", "forward", "loss", "backward", "gradient", "update")
"""What one step records, in the order in which it happens. `eval` is inference before the update."""


@dataclass(frozen=True)
class Plan:
    """What to run: an experiment for some `steps`, in `dtype`, recording `phases`."""

    experiment: Experiment
    steps: int = 3
    dtype: str = "float64"
    phases: tuple[str, ...] = PHASES


@dataclass
class Step:
    """One step on every side: what each recorded, by phase and name, with the inputs that all were given."""

    number: int
    rate: float
    images: np.ndarray
    labels: np.ndarray
    records: dict[str, Record] = field(default_factory=dict)


def lockstep(
    sides: Mapping[str, Worker], plan: Plan, dataset: Dataset, states: Mapping[str, State] | None = None
) -> Iterator[Step]:
    """Yields every step with the records of all `sides`, which run at the same time.

    `states` gives a side a starting state of its own (a one-ULP twin); the others start from the experiment's seed. A record's names are
    PHASE/LAYER or PHASE/PARAMETER, `loss/loss`, `loss/wrong`, and `update/rate`.
    """
    experiment, network, recipe = plan.experiment, plan.experiment.network, plan.experiment.recipe
    fresh = initialise(network, experiment.seed)
    with ThreadPoolExecutor(len(sides)) as pool:

        def everywhere(work: dict[str, tuple[object, ...]]) -> dict[str, Record]:
            jobs = {name: pool.submit(*call) for name, call in work.items()}  # type: ignore[arg-type]
            return {name: job.result() for name, job in jobs.items()}

        starts = {name: (states or {}).get(name, fresh) for name in sides}
        everywhere({n: (w.start, network, recipe.optimizer, starts[n], plan.dtype) for n, w in sides.items()})
        samples, previous = 0, 0.0
        for number, (pixels, labels) in zip(range(1, plan.steps + 1), _endless(experiment, dataset), strict=False):
            samples += len(labels)
            rate = recipe.rate(samples, recipe.epochs * len(dataset.train_labels))
            factor = previous / rate if recipe.optimizer.velocity_holds_rate and previous not in (0.0, rate) else 1.0
            step = Step(number, rate, preprocess(pixels, recipe.preprocessing, plan.dtype), labels)
            dropped = masks(experiment.seed, number, range(len(labels)), network.dropouts)
            divisor = recipe.loss_divisor(len(labels))
            step.records = everywhere(
                {name: (one_step, worker, plan, step, dropped, divisor, factor) for name, worker in sides.items()}
            )
            previous = rate
            yield step


def one_step(
    worker: Worker, plan: Plan, step: Step, dropped: Mapping[str, np.ndarray], divisor: int, factor: float
) -> Record:
    """One side's step: the momentum buffers rescaled by `factor`, inference where it is recorded, the update."""
    if factor != 1.0:
        worker.scale_velocity(factor)
    record: Record = {}
    if "eval" in plan.phases:
        record |= {n: a for n, a in worker.predict(step.images, record=True).items() if n != "logits"}
    found, cost, wrong = worker.step(step.images, step.labels, dropped, step.rate, divisor, plan.phases)
    if "loss" in plan.phases:
        loss = found.pop("loss")
        record |= {"loss/loss": loss.reshape(1), "loss/cost": np.array([cost]), "loss/wrong": np.array([float(wrong)])}
    return record | found


def _endless(experiment: Experiment, dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    recipe = experiment.recipe
    images, labels = dataset.train_images, dataset.train_labels
    batches = Batches(images, labels, recipe.batch_size, recipe.augmentation, experiment.seed)
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def in_order(network: Network, names: list[str]) -> list[str]:
    """Record names in the order in which a step computes them: forward along the layers, backward against them."""
    layers = list(network.shapes)
    place = {layer: i for i, layer in enumerate(layers)}
    last = len(layers)

    def key(name: str) -> tuple[int, int, int]:
        phase, _, rest = name.partition("/")
        layer = rest.removeprefix("optimizer.").split(".")
        owner = place.get(layer[1] if rest.startswith("optimizer.") else layer[0], last)
        # A layer's parameter gradients come with the gradient of its input, right after the gradient of its output.
        if phase in ("backward", "gradient"):
            return (PHASES.index("backward"), last - owner, phase == "gradient")
        return (PHASES.index(phase), owner, rest.startswith("optimizer."))

    return sorted(names, key=key)
