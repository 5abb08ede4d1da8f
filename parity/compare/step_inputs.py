"""The inputs of one side of a lock-step run: the starting state, and batch, masks, learning rate and divisor of every step.

All sides get the same inputs, unless a planted fault changes one: every decision is a field that can be replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from parity.arrays import Array
from parity.compare.one_ulp_twin import move_one_ulp
from parity.data import Dataset
from parity.data.batches import Batches, dither, preprocess
from parity.data.random_streams import masks
from parity.network.network import Network
from parity.recipe import precision
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import Recipe
from parity.short_repr import ShortRepr
from parity.weights.canonical_state import State, initialise

Pixels = tuple[Array, Array]
"""Images float64 [N,C,H,W] from 0 to 255, dithered, and labels int64 [N]."""


@dataclass(frozen=True, repr=False)
class StepInput(ShortRepr):
    """The inputs of step `number`: `images` [N,C,H,W] in the dtype of the run, `labels` int64 [N], 0/1 `masks` by layer.

    `resumes`: before the step the side saves its state, builds everything anew and loads the state.
    """

    number: int
    images: Array
    labels: Array
    masks: Mapping[str, Array]
    rate: float
    divisor: int
    factor: float
    keep: float | None = None
    resumes: bool = False

    def record(self) -> dict[str, Array]:
        """Return the tensors of the phase `input`. Learning rate and divisor are not among them: the update shows them better."""
        return {"input/images": self.images, "input/labels": self.labels}


After = Callable[[State, State, StepInput], State]
"""(state before an update, state after it, step input) -> the state with which the side continues."""


@dataclass(frozen=True, repr=False)
class RunInputs(ShortRepr):
    """The inputs of one side of a run; `make_run_inputs` makes the right ones.

    - `dtype` is float64, float32 or bfloat16: mixed precision, whose weights and images are in float32.
    - `state` is the starting state, and `seed` the seed of the `fresh` weights.
    - `epoch(e)` yields the batches of an epoch, and `pixels` preprocesses them.
    - `masks(update, count)` draws dropout masks.
    - `rate(samples)` is the learning rate of the update that ends after `samples` images.
    - `divisor(count)` divides the summed loss.
    - `factor(old, new)` rescales the momentum buffers when the learning rate changes.
    - `keep(update, samples)` is the share that slow weights keep after an update, None if they are not drawn then. `keep` is None if
      there are no slow weights (`parity.backend.lookahead`).
    - Before step `resumed` (0: never) the side saves and loads its state.
    - `after` may change the state after an update.
    - `patches` are functions of `parity.selftest.worker_patches`, with their arguments, that change the side itself.
    """

    network: Network
    optimizer: Optimizer
    dtype: str
    state: State
    epoch: Callable[[int], Iterator[Pixels]]
    pixels: Callable[[Array], Array]
    masks: Callable[[int, int], Mapping[str, Array]]
    rate: Callable[[int], float]
    divisor: Callable[[int], int]
    factor: Callable[[float, float], float]
    keep: Callable[[int, int], float | None] | None = None
    resumed: int = 0
    seed: int = 0
    after: After | None = None
    patches: tuple[tuple[str, ...], ...] = ()

    def steps(self) -> Iterator[StepInput]:
        """Yield the inputs of step 1, 2, ..., without end."""
        samples, previous = 0, 0.0
        batches = itertools.chain.from_iterable(self.epoch(number) for number in itertools.count())
        for number, (images, labels) in enumerate(batches, start=1):
            count = len(labels)
            samples += count
            rate = self.rate(samples)
            factor = self.factor(previous, rate) if previous and rate else 1.0
            masks = self.masks(number, count)
            keep = self.keep(number, samples) if self.keep else None
            pixels, divisor = self.pixels(images), self.divisor(count)
            yield StepInput(number, pixels, labels, masks, rate, divisor, factor, keep, number == self.resumed)
            previous = rate


def stored_dtype(dtype: str) -> str:
    """Return the dtype of the arrays of a run in `dtype`: mixed precision keeps them in float32."""
    return "float32" if dtype in precision.DTYPES.values() else dtype


def make_run_inputs(
    network: Network, recipe: Recipe, dataset: Dataset, seed: int, dtype: str = "float64", total: int | None = None
) -> RunInputs:
    """Return the inputs for training `network` by `recipe` on `dataset`, as `parity.training.loop` trains.

    `total` is the number of samples of the run, for the schedule (None: the recipe's epochs).
    """
    images, labels, stored = dataset.train_images, dataset.train_labels, stored_dtype(dtype)
    batches = Batches(images, labels, recipe.batch_size, recipe.augmentation, seed)
    whole = total or recipe.epochs * len(labels)

    def keep(update: int, samples: int) -> float | None:
        due = recipe.lookahead.due((update - 1) % len(batches) + 1, len(batches))
        return recipe.lookahead.share(samples, whole) if due else None

    return RunInputs(
        network=network,
        optimizer=recipe.optimizer,
        dtype=dtype,
        state={name: array.astype(stored) for name, array in initialise(network, seed).items()},
        epoch=lambda number: dithered(batches, seed, number),
        pixels=lambda pixels: preprocess(pixels, recipe.preprocessing, stored),
        masks=lambda update, count: masks(seed, update, range(count), network.dropouts),
        rate=lambda samples: recipe.rate(samples, whole),
        divisor=recipe.loss_divisor,
        factor=lambda old, new: old / new if recipe.optimizer.velocity_holds_rate else 1.0,
        keep=keep if recipe.lookahead.every else None,
        seed=seed,
    )


def dithered(batches: Batches, seed: int, number: int) -> Iterator[Pixels]:
    """Yield the batches of epoch `number`, dithered."""
    for place, (images, labels) in enumerate(batches.epoch(number)):
        yield dither(images, seed, number, place), labels


def make_twin(original: RunInputs, seed: int = 0, inputs: bool = False) -> RunInputs:
    """Return the same run inputs with every weight moved by one unit in the last place of their dtype; with `inputs`, every pixel too."""

    def pixels(images: Array) -> Array:
        return move_one_ulp({"images": original.pixels(images)}, seed, original.dtype)["images"]

    moved = replace(original, state=move_one_ulp(original.state, seed, original.dtype))
    return replace(moved, pixels=pixels) if inputs else moved
