"""The lines that training prints for people: ours, and those of PaddlePaddle v2 for the recipe that reproduces its output."""

from __future__ import annotations

from parity.recipe.recipe import Recipe
from parity.short_repr import counted
from parity.training.run_folder import Position

MOST_BATCHES = 100
"""Most batches from one line of the log to the next, and the number of the article's event handler."""


def is_printed_as_in_paddle_v2(recipe: Recipe) -> bool:
    """Whether training with `recipe` prints the lines of PaddlePaddle v2: passes and batches from 0, cost and error."""
    # The recipe `article` reproduces the program of the 2017 article. With the article's own lines, both logs can be compared.
    return recipe.name == "article"


def log_interval(recipe: Recipe, batches: int) -> int:
    """Return the number of batches from one line of the log to the next: a tenth of the `batches` of an epoch, at most `MOST_BATCHES`.

    It must not depend on the number of epochs: a run that gets more of them logs the same lines (`Recipe.lengthened`).
    """
    if is_printed_as_in_paddle_v2(recipe) and batches > MOST_BATCHES:
        return MOST_BATCHES
    return max(1, min(MOST_BATCHES, batches // 10))


def describe_batch(recipe: Recipe, position: Position, batches: int, loss: float, error: float) -> str:
    """Describe the batch that ends at `position`, one of the `batches` of an epoch, by its mean `loss` and its `error` (0 to 1)."""
    mean_loss, mean_error = position.cost / position.seen, position.wrong / position.seen
    if is_printed_as_in_paddle_v2(recipe):
        so_far = f"so far in this pass {mean_loss:.4f}, {mean_error:.4f}"
        return f"Pass {position.epoch}, Batch {position.batch - 1}, Cost {loss:.6f}, Error {error:.4f} ({so_far})"
    return (
        f"Epoch {position.epoch + 1}/{recipe.epochs}, batch {position.batch}/{batches}: "
        f"loss {loss:.4f}, accuracy {1 - error:.2%} (epoch so far: loss {mean_loss:.4f}, accuracy {1 - mean_error:.2%})"
    )


def describe_test(recipe: Recipe, epoch: int, loss: float, accuracy: float) -> str:
    """Describe the test after the epoch with the index `epoch`: mean `loss` and `accuracy` (0 to 1) on the test images."""
    if is_printed_as_in_paddle_v2(recipe):
        return f"Test with Pass {epoch}, Cost {loss:.6f}, Error {1 - accuracy:.4f}"
    return f"Epoch {epoch + 1}/{recipe.epochs}: test loss {loss:.4f}, test accuracy {accuracy:.2%}"


def describe_position(recipe: Recipe, position: Position, batches: int) -> str:
    """Say where a run is, as in "in epoch 3 of 5, after batch 100 of 391"; an epoch has `batches` batches."""
    if position.epoch == recipe.epochs:
        return "at its end: nothing is left to train"
    epoch = f"epoch {position.epoch + 1} of {recipe.epochs}"
    return f"in {epoch}, after batch {position.batch} of {batches}" if position.batch else f"at the start of {epoch}"


def describe_longer(recipe: Recipe, before: int, position: Position, images: int) -> str:
    """Say that a run at `position` got the epochs of `recipe` instead of `before`, and what its learning rate does from here."""
    total = recipe.epochs * images
    first = min(position.samples - position.seen + min(position.seen + recipe.batch_size, images), total)
    now, end = recipe.rate(first, total), recipe.rate(total, total)
    course = f"stays {now:g}" if now == end else f"goes on by its schedule, from {now:g} now to {end:g} at the end"
    return (
        f"Longer: {counted(recipe.epochs, 'epoch')} instead of {before}. The learning rate {course}, "
        "as in a run that was planned with as many epochs"
    )


def describe_rate(recipe: Recipe, before: Recipe, images: int) -> str:
    """Say which learning rate `recipe` has instead of the recipe `before`, and what its schedule and its groups make of it."""
    total = recipe.epochs * images
    first, end = (recipe.rate(min(samples, total), total) for samples in (recipe.batch_size, total))
    kind = recipe.schedule.kind
    course = "at every update" if kind == "constant" else f"schedule {kind}: {first:g} at first, {end:g} at the end"
    factors = [f"{group.names} {group.rate:g}" for group in recipe.optimizer.groups if group.rate != 1]
    groups = f"; groups multiply it: {', '.join(factors)}" if factors else ""
    return f"Learning rate: {recipe.optimizer.rate:g} instead of {before.optimizer.rate:g} ({course}{groups})"
