"""Every mistake in a user's training is found as what it is, and every other spelling of the training is equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.pairs.model_worker import ModelWorker
from parity.selftest.edited_training import NETWORK, TrainingEdit
from parity.selftest.of_programs import PROGRAMS, SPELLED

EDITS = {edit.name: edit for edit in (*PROGRAMS, *SPELLED)}
TRIALS = [(edit.name, side) for edit in EDITS.values() for side in edit.sides]

QUICK = {
    "loss_summed": "paddle", "padding_counts": "torch", "class_weights": "paddle", "softmax_twice": "torch", "smoothing_missing": "paddle",
    "clip_each": "torch", "clip_by_group": "paddle", "accumulated": "torch", "decay_coupled": "paddle", "decay_of_all": "torch",
    "eps_larger": "paddle", "beta2_default": "torch", "schedule_early": "paddle", "rate_of_a_group": "paddle", "nesterov": "torch",
    "momentum_lower": "paddle", "fused": "torch", "decay_in_groups": "paddle", "decay_of_parameters": "paddle",
    "rate_of_float32": "torch", "clip_by_hand": "torch", "constant_schedule": "paddle",
}  # fmt: skip
"""Change -> where it is made; `-m slow` makes all changes on both sides."""


@pytest.fixture(scope="module")
def workers(pair_workers: dict[str, ModelWorker]) -> dict[str, ModelWorker]:
    return pair_workers


def test_names_and_sentences_are_unique_and_every_text_is_in_the_file() -> None:
    assert len(EDITS) == len({edit.sentence for edit in EDITS.values()}) == len(PROGRAMS) + len(SPELLED)
    assert len(PROGRAMS) >= 25
    assert all(edit.phase and edit.cause for edit in PROGRAMS)
    assert not any(edit.phase for edit in SPELLED)
    for name, side in TRIALS:
        compile(EDITS[name].edited(side), name, "exec")


def test_a_text_that_is_not_in_the_file_is_an_error() -> None:
    with pytest.raises(ValueError, match="contains 'nowhere' 0 times"):
        TrainingEdit("name", "sentence", (("nowhere", ""),), (), NETWORK).edited("torch")


@pytest.mark.parametrize(("name", "side"), QUICK.items())
def test_a_mistake_is_found_as_what_it_is_and_another_spelling_is_equal(
    name: str, side: str, workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    assert not EDITS[name].complaint(side, EDITS[name].compare(side, workers, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), TRIALS)
def test_every_mistake_is_found_and_every_other_spelling_is_equal(
    name: str, side: str, workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    assert not EDITS[name].complaint(side, EDITS[name].compare(side, workers, tmp_path))
