"""The places of the small models for the tests of pairs, and functions that run a pair of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from parity.pairs.outcome import PairOutcome

HERE = Path(__file__).parent
MODELS = {"torch": "pair_models_torch.py", "paddle": "pair_models_paddle.py"}

ComparePair = Callable[..., PairOutcome]
