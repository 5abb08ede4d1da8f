"""Lookahead: slow weights that pull the trained weights back (`parity.recipe.recipe.Lookahead`), on canonical states."""

from __future__ import annotations

from typing import Any

from parity.arrays import Array
from parity.backend.protocol import TrainerLike
from parity.weights.canonical_state import State


def mix_slow_weights(trainer: TrainerLike, slow: State, keep: float, updates: int) -> State:
    """Set the weights and statistics of `trainer` to `keep` * `slow` + (1 - `keep`) * themselves, and return them.

    They are the new slow weights. `updates` is the number of updates so far. Optimizer slots stay as they are; those in `slow` are ignored.
    """
    state = trainer.state()
    mixed = {n: _between(slow[n], array, keep) for n, array in state.items() if not n.startswith("optimizer.")}
    trainer.load(state | mixed, updates)
    return mixed


def _between(slow: Array, fast: Array, keep: float) -> Array:
    share: Any = fast.dtype.type(keep)
    made: Array = fast + share * (slow.astype(fast.dtype, copy=False) - fast)
    return made
