"""The lines that training prints for people: ours, and those of PaddlePaddle v2 for the recipe that reproduces its output."""

from __future__ import annotations

from parity.recipe.recipe import Recipe
from parity.training.run_folder import Position


def is_printed_as_in_paddle_v2(recipe: Recipe) -> bool:
    """Whether training with `recipe` prints the lines of PaddlePaddle v2: passes and batches from 0, cost and error."""
    # The recipe `article` reproduces the program of the 2017 article. With the article's own lines, both logs can be compared.
    return recipe.name == "article"


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


def count_epochs(epochs: int) -> str:
    """Spell a number of epochs: 1 epoch, 2 epochs."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"
