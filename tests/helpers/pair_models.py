"""The places of the small models for the tests of pairs, and functions that run a pair of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.selftest.file_edit import WORKERS

HERE = Path(__file__).parent
MODELS = {"torch": "pair_models_torch.py", "paddle": "pair_models_paddle.py"}

ComparePair = Callable[..., PairOutcome]


def open_workers() -> Iterator[dict[str, ModelWorker]]:
    """Yield worker processes of both sides and of a one-ULP twin, and close them."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(ModelWorker(framework, threads=1)) for name, framework in WORKERS.items()}
