"""The training loop, the same for both frameworks: it takes batches, and writes metrics and checkpoints."""

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
from parity.training.console_lines import describe_batch, describe_test, log_interval
from parity.training.interrupts import stop_request
from parity.training.run_folder import Position, RunFolder


class Diverged(Exception):
    """The loss is not a finite number any more: the run failed."""


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
    """Train from `position` to the end of the experiment, and save at least after every epoch.

    `trainer` must hold the state that belongs to `position`. After Ctrl-C or SIGTERM the run is saved after the current batch, and
    `Stopped` is raised. With slow weights, the saved state is that of the last batch after which they equalled the trained weights.
    Raises `Diverged` if the loss is not finite. With several processes, all of them raise after the same batch. A process that waits for
    a lost process prints the line `lost` and ends (see `parity.training.interrupts`).
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
    every = log_interval(recipe, len(batches))
    ahead, saved = recipe.lookahead, time.monotonic()
    # The last state in which slow and trained weights are equal: a run can be resumed only from there.
    level = (trainer.state(), replace(position)) if ahead.every else None
    if not position.update:  # from now on, a run folder without a checkpoint is damaged
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
                if (position.batch - 1) % every == 0:
                    _log_batch(run, dataset, position, console, cost, error, len(batches))
                if level and ahead.due(position.batch, len(batches)):
                    share = ahead.share(position.samples, recipe.epochs * len(batches.labels))
                    lookahead.mix_slow_weights(trainer, level[0], share, position.update)
                    level = trainer.state(), replace(position)
                if stopping or time.monotonic() - saved >= checkpoint_seconds:
                    run.save(*(level or (trainer.state(), position)))
                    saved = time.monotonic()
                if stopping:
                    raise Stopped
            _end_epoch(trainer, run, dataset, position, console, progress)
            saved = time.monotonic()
            level = level and (trainer.state(), replace(position))


def _timed(batches: Iterator[tuple[Array, Array]], position: Position) -> Iterator[tuple[Array, Array]]:
    """Yield the `batches`, and add the time that it took to make them to `position.feed_seconds`."""
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
    """Make one update with a global batch, and count it in `position`.

    Returns the batch's mean cross-entropy, its error (0 to 1), and whether any process is asked to stop by `stop`.
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
            f"the loss became {cost} at update {position.update}: try a lower --learning-rate or another recipe"
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
    run: RunFolder, dataset: Dataset, position: Position, console: Console, cost: float, error: float, batches: int
) -> None:
    run.log(
        position,
        event="batch",
        epoch=position.epoch,
        batch=position.batch - 1,
        update=position.update,
        cost=cost,
        error=error,
        mean_cost=position.cost / position.seen,
        mean_error=position.wrong / position.seen,
        rate=position.rate,
        samples=position.samples,
        passes=position.epoch + position.seen / len(dataset.train_labels),
        seconds=round(position.seconds, 3),
    )
    console.say(describe_batch(run.experiment.recipe, position, batches, cost, error))


def _end_epoch(
    trainer: TrainerLike, run: RunFolder, dataset: Dataset, position: Position, console: Console, progress: Progress
) -> None:
    started = time.perf_counter()
    test_cost, test_accuracy = evaluate(trainer, dataset, run.experiment.recipe.preprocessing)
    progress.tested(time.perf_counter() - started)
    console.say(describe_test(run.experiment.recipe, position.epoch, test_cost, test_accuracy))
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
    run.save_v2_tar(state, position.epoch)
    position.epoch, position.batch = position.epoch + 1, 0
    position.cost, position.wrong, position.seen, position.stream = 0.0, 0, 0, ""
    run.save(state, position)


def evaluate(
    trainer: TrainerLike, dataset: Dataset, preprocessing: Preprocessing, batch_size: int = 250
) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy (0 to 1) on the test images, in inference mode.

    Several processes share the batches. Raises `Diverged` if the loss is not finite.
    """
    cost, right = 0.0, 0.0
    rank, size = trainer.process_group.rank, trainer.process_group.size
    for first in range(rank * batch_size, len(dataset.test_labels), size * batch_size):
        part = slice(first, first + batch_size)
        labels = dataset.test_labels[part]
        logits = trainer.predict(preprocess(dataset.test_images[part], preprocessing)).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite scores make the loss NaN, which is reported below
            logits -= logits.max(axis=1, keepdims=True)
        cost += float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).sum())
        right += int((logits.argmax(axis=1) == labels).sum())
    cost, right = trainer.total(cost, right)
    if not math.isfinite(cost):
        raise Diverged(f"the loss on the test images is {cost}: the weights have diverged; try a lower learning rate")
    return cost / len(dataset.test_labels), right / len(dataset.test_labels)
