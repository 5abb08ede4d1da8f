"""The training loop, the same for both frameworks: batches in, metrics and checkpoints out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.backend import lookahead
from parity.backend.protocol import TrainerLike
from parity.data import Dataset
from parity.data.batches import Batches, preprocess
from parity.data.random_streams import masks
from parity.progress import Console, Progress
from parity.recipe.recipe import Experiment, Preprocessing
from parity.training.interrupts import stop_request
from parity.training.run_folder import Position, RunFolder

EVERY = 100
"""Batches between two lines of the log, as in the article's event handler."""


class Diverged(Exception):
    """The cost is no longer a finite number: the run failed."""


class Stopped(Exception):
    """The user asked to stop; the run is saved."""


def train(
    trainer: TrainerLike,
    run: RunFolder,
    dataset: Dataset,
    position: Position,
    console: Console,
    checkpoint_seconds: float = 60.0,
    lost: str = "",
) -> None:
    """Trains from `position` to the end of the experiment, saving at least after every pass.

    `trainer` must hold the state that belongs to `position`. Raises `Stopped` after Ctrl-C or SIGTERM, with the run saved after the
    current batch (with slow weights: as it was when they and the trained ones were last the same), and `Diverged` if the cost is not
    finite; of several processes, all do so at the same batch. `lost` is the line that `parity.training.interrupts` ends a process with
    that waits for another one in vain.
    """
    experiment = run.experiment
    recipe = experiment.recipe
    batches = Batches(
        dataset.train_images, dataset.train_labels, recipe.batch_size, recipe.augmentation, experiment.seed
    )
    test_batches = len(dataset.test_labels) / recipe.batch_size / 3  # of training: a third of the work is forward
    progress = Progress(
        recipe.epochs * len(batches),
        position.update,
        recipe.epochs - position.epoch,
        test_batches,
        trainer.process_group.leads,
    )
    ahead, saved = recipe.lookahead, time.monotonic()
    # Where slow and trained weights are the same: a run goes on from there only.
    level = (trainer.state(), replace(position)) if ahead.every else None
    if not position.update:  # from now on a run folder without a checkpoint is a damaged one
        run.save(*(level or (trainer.state(), position)))
    with progress, stop_request(trainer.process_group, lost) as stop:
        while position.epoch < recipe.epochs:
            started, seconds = time.perf_counter(), position.seconds
            for images, labels in _timed(batches.epoch(position.epoch, position.batch), position):
                cost, error, stopping = _one_batch(
                    trainer, experiment, images, labels, position, recipe.epochs * len(batches.labels), stop
                )
                position.seconds = seconds + time.perf_counter() - started
                progress.advance()
                if (position.batch - 1) % EVERY == 0:
                    _log_batch(run, dataset, position, console, cost, error)
                if level and ahead.due(position.batch, len(batches)):
                    share = ahead.share(position.samples, recipe.epochs * len(batches.labels))
                    lookahead.mix_slow_weights(trainer, level[0], share, position.update)
                    level = trainer.state(), replace(position)
                if stopping or time.monotonic() - saved >= checkpoint_seconds:
                    run.save(*(level or (trainer.state(), position)))
                    saved = time.monotonic()
                if stopping:
                    raise Stopped
            _end_pass(trainer, run, dataset, position, console, progress)
            saved = time.monotonic()
            level = level and (trainer.state(), replace(position))


def _timed(batches: Iterator[tuple[Array, Array]], position: Position) -> Iterator[tuple[Array, Array]]:
    """Passes the batches on and adds the time that making them took to `position.feed_seconds`."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        position.feed_seconds += time.perf_counter() - started
        if batch is None:
            return
        yield batch


def _one_batch(
    trainer: TrainerLike,
    experiment: Experiment,
    images: Array,
    labels: Array,
    position: Position,
    total: int,
    stop: list[int],
) -> tuple[float, float, bool]:
    """One update by a global batch, counted in `position`.

    Returns the batch's mean cross-entropy and error, and whether any process was asked to `stop`.
    """
    recipe, count = experiment.recipe, len(labels)
    started = time.perf_counter()
    position.stream = hashlib.sha256(position.stream.encode() + images.tobytes() + labels.tobytes()).hexdigest()
    own = trainer.process_group.shard(count)
    part = slice(own.start, own.stop)
    pixels = preprocess(images[part], recipe.preprocessing)
    fed = time.perf_counter()
    position.update += 1
    position.samples += count
    dropped = masks(experiment.seed, position.update, own, experiment.network.dropouts)
    masked = time.perf_counter()
    rate = recipe.rate(position.samples, total)
    if recipe.optimizer.velocity_holds_rate and position.rate not in (0.0, rate) and rate:
        trainer.scale_velocity(position.rate / rate)
    summed = trainer.step(pixels, labels[part], dropped, rate, recipe.loss_divisor(count))
    cost, wrong, stopping = trainer.total(*summed, len(stop))
    if not math.isfinite(cost):
        raise Diverged(
            f"the cost became {cost} at update {position.update}: try a lower learning rate or another recipe"
        )
    position.rate = rate
    position.batch += 1
    position.cost += cost
    position.wrong += int(wrong)
    position.seen += count
    position.feed_seconds += fed - started
    position.mask_seconds += masked - fed
    position.step_seconds += time.perf_counter() - masked
    return cost / count, wrong / count, stopping > 0


def _log_batch(
    run: RunFolder, dataset: Dataset, position: Position, console: Console, cost: float, error: float
) -> None:
    mean_cost, mean_error = position.cost / position.seen, position.wrong / position.seen
    run.log(
        position,
        event="batch",
        epoch=position.epoch,
        batch=position.batch - 1,
        update=position.update,
        cost=cost,
        error=error,
        mean_cost=mean_cost,
        mean_error=mean_error,
        rate=position.rate,
        samples=position.samples,
        passes=position.epoch + position.seen / len(dataset.train_labels),
        seconds=round(position.seconds, 3),
    )
    so_far = f"so far in this pass {mean_cost:.4f}, {mean_error:.4f}"
    console.say(f"Pass {position.epoch}, Batch {position.batch - 1}, Cost {cost:.6f}, Error {error:.4f} ({so_far})")


def _end_pass(
    trainer: TrainerLike, run: RunFolder, dataset: Dataset, position: Position, console: Console, progress: Progress
) -> None:
    started = time.perf_counter()
    test_cost, test_accuracy = evaluate(trainer, dataset, run.experiment.recipe.preprocessing)
    progress.tested(time.perf_counter() - started)
    console.say(f"Test with Pass {position.epoch}, Cost {test_cost:.6f}, Error {1 - test_accuracy:.4f}")
    run.log(
        position,
        event="pass",
        epoch=position.epoch,
        update=position.update,
        samples=position.samples,
        passes=position.epoch + 1,
        cost=position.cost / position.seen,
        error=position.wrong / position.seen,
        test_cost=test_cost,
        test_error=1 - test_accuracy,
        test_accuracy=test_accuracy,
        rate=position.rate,
        seconds=round(position.seconds, 3),
        test_seconds=round(time.perf_counter() - started, 3),
        stream=position.stream,
    )
    state = trainer.state()
    if test_accuracy > position.best:
        position.best = test_accuracy
        run.save_best(state, test_accuracy)
    run.save_pass(state, position.epoch)
    position.epoch, position.batch = position.epoch + 1, 0
    position.cost, position.wrong, position.seen, position.stream = 0.0, 0, 0, ""
    run.save(state, position)


def evaluate(
    trainer: TrainerLike, dataset: Dataset, preprocessing: Preprocessing, batch_size: int = 250
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) on the test images, in inference mode. `Diverged` if the cost is not finite.

    Several processes take turns at the batches.
    """
    cost, right = 0.0, 0.0
    rank, size = trainer.process_group.rank, trainer.process_group.size
    for first in range(rank * batch_size, len(dataset.test_labels), size * batch_size):
        part = slice(first, first + batch_size)
        labels = dataset.test_labels[part]
        logits = trainer.predict(preprocess(dataset.test_images[part], preprocessing)).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite scores make the cost NaN, which is told below
            logits -= logits.max(axis=1, keepdims=True)
        cost += float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).sum())
        right += int((logits.argmax(axis=1) == labels).sum())
    cost, right = trainer.total(cost, right)
    if not math.isfinite(cost):
        raise Diverged(f"the cost on the test images is {cost}: the weights have diverged; try a lower learning rate")
    return cost / len(dataset.test_labels), right / len(dataset.test_labels)
