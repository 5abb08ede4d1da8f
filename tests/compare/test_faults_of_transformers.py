"""Every mistake in one of two transformers is found at its layer, and every other spelling of it is equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.pairs.model_worker import ModelWorker
from parity.selftest.edited_models import ModelEdit
from parity.selftest.of_transformers import ALIKE, TRANSFORMERS

EDITS = {edit.name: edit for edit in (*TRANSFORMERS, *ALIKE)}
TRIALS = [(edit.name, side) for edit in EDITS.values() for side in edit.sides]

QUICK = {
    "scale_by_size": "paddle", "mask_inverted": "torch", "mask_of_ten_thousand": "paddle", "rms_eps": "torch",
    "rotary_interleaved": "paddle", "head_untied": "torch", "gelu_tanh": "paddle", "post_norm": "torch",
    "places_offset": "paddle", "bias_of_value_lost": "torch", "kv_heads_tiled": "paddle", "last_norm_missing": "torch",
    "fused_attention": "torch", "mask_of_a_billion": "paddle", "fused_qkv": "torch", "einsum": "paddle", "rms_function": "torch",
    "gelu_layer": "paddle", "kv_heads_expanded": "torch", "head_tied": "torch", "words_by_function": "paddle",
}  # fmt: skip
"""Change -> where it is made; `-m slow` makes all changes on both sides."""


@pytest.fixture(scope="module")
def workers(pair_workers: dict[str, ModelWorker]) -> dict[str, ModelWorker]:
    return pair_workers


def test_names_and_sentences_are_unique_and_every_text_is_in_the_file() -> None:
    assert len(EDITS) == len({edit.sentence for edit in EDITS.values()}) == len(TRANSFORMERS) + len(ALIKE)
    assert len(TRANSFORMERS) >= 48
    assert len(ALIKE) >= 26
    for name, side in TRIALS:
        compile(EDITS[name].edited(side), name, "exec")


def test_a_text_that_is_not_in_the_file_is_an_error() -> None:
    with pytest.raises(ValueError, match="contains 'nowhere' 0 times"):
        ModelEdit("name", "sentence", (("nowhere", ""),), ()).edited("torch")


@pytest.mark.parametrize(("name", "side"), QUICK.items())
def test_a_mistake_is_found_at_its_layer_and_an_innocent_change_is_equal(
    name: str, side: str, workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    assert not EDITS[name].complaint(side, EDITS[name].compare(side, workers, tmp_path))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (
            "rotary_base",
            "power(10000) in PyTorch, power(1000) in Paddle, in blocks.0.attention returns different tensors",
        ),
        (
            "scale_of_width",
            "divide(2.0) in PyTorch, divide(4.0) in Paddle, in blocks.0.attention returns different tensors",
        ),
        (
            "rms_eps_outside",
            "cause: in blocks.0.norm1 PyTorch calls multiply, mean, add, rsqrt, multiply, multiply; Paddle",
        ),
    ],
)
def test_the_call_is_named_beside_masks_of_huge_numbers_and_small_errors(
    name: str, cause: str, workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    outcome = EDITS[name].compare("paddle", workers, tmp_path)
    assert outcome.first and cause in outcome.first.sentence()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), TRIALS)
def test_every_mistake_is_found_at_its_layer_and_every_innocent_change_is_equal(
    name: str, side: str, workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    assert not EDITS[name].complaint(side, EDITS[name].compare(side, workers, tmp_path))
