"""The lines that training prints: ours for every recipe but `article`, which prints those of PaddlePaddle v2."""

from __future__ import annotations

import pytest

from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.training.console_lines import describe_batch, describe_position, describe_test
from parity.training.run_folder import Position

ADAM, ARTICLE = (changed(presets.get_recipe(name), epochs=5) for name in ("adam", "article"))
FIRST = Position(epoch=0, batch=101, cost=25_634.3472, wrong=9805, seen=12_928)


def test_a_batch_is_told_by_epoch_loss_and_accuracy() -> None:
    line = "Epoch 1/5, batch 101/391: loss 1.7208, accuracy 35.94% (epoch so far: loss 1.9829, accuracy 24.16%)"
    assert describe_batch(ADAM, FIRST, 391, 1.720839, 0.640625) == line


def test_a_test_is_told_by_epoch_loss_and_accuracy() -> None:
    assert describe_test(ADAM, 4, 1.156256, 0.578125) == "Epoch 5/5: test loss 1.1563, test accuracy 57.81%"


def test_the_recipe_of_the_article_prints_the_lines_of_paddle_v2() -> None:
    batch = "Pass 0, Batch 100, Cost 1.720839, Error 0.6406 (so far in this pass 1.9829, 0.7584)"
    assert describe_batch(ARTICLE, FIRST, 391, 1.720839, 0.640625) == batch
    assert describe_test(ARTICLE, 0, 1.156256, 0.578125) == "Test with Pass 0, Cost 1.156256, Error 0.4219"


@pytest.mark.parametrize("recipe", [name for name in presets.RECIPES if name != "article"])
def test_every_other_recipe_speaks_of_epochs(recipe: str) -> None:
    assert describe_test(presets.get_recipe(recipe), 0, 1.0, 0.5).startswith("Epoch 1/")


@pytest.mark.parametrize(
    ("epoch", "batch", "text"),
    [
        (0, 0, "at the start of epoch 1 of 5"),
        (2, 100, "in epoch 3 of 5, after batch 100 of 391"),
        (5, 0, "at its end: nothing is left to train"),
    ],
)
def test_a_position_is_told_in_epochs_from_1(epoch: int, batch: int, text: str) -> None:
    assert describe_position(ADAM, Position(epoch=epoch, batch=batch), 391) == text
    assert describe_position(ARTICLE, Position(epoch=epoch, batch=batch), 391) == text
