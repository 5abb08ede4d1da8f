"""Slow weights that draw the trained ones back: `parity.recipe.recipe.Lookahead`, on canonical states, the same for both frameworks."""

from __future__ import annotations

from typing import Any

from parity.arrays import Array
from parity.backend.protocol import TrainerLike
from parity.weights.canonical_state import State


def mix_slow_weights(trainer: TrainerLike, slow: State, keep: float, updates: int) -> State:
    """The weights and statistics of `trainer`, reached after `updates` updates, become `keep` * `slow` + (1 - `keep`) * themselves.

    Returns them: they are the slow ones from now on. Slots of an optimizer stay as they are, and in `slow` do not count.
    """
    state = trainer.state()
    mixed = {n: _between(slow[n], array, keep) for n, array in state.items() if not n.startswith("optimizer.")}
    trainer.load(state | mixed, updates)
    return mixed


def _between(slow: Array, fast: Array, keep: float) -> Array:
    share: Any = fast.dtype.type(keep)
    made: Array = fast + share * (slow.astype(fast.dtype, copy=False) - fast)
    return made
