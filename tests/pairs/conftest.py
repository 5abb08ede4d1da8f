"""A fixture of the tests of pairs: a call that compares two of the small models in the worker processes of the session."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.pair_models import HERE, MODELS, ComparePair
from parity.pairs.compare_models import run_pair
from parity.pairs.inputs import drawn
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.pairs.session import EXACT, Pair


@pytest.fixture(scope="session")
def compare_pair(pair_workers: dict[str, ModelWorker]) -> ComparePair:
    """Compares two factories of the small models, or of any modules, on random inputs of the shapes given."""

    def one(torch: str, paddle: str, *shapes: str, **more: Any) -> PairOutcome:
        workers = more.pop("workers", pair_workers)
        start, dtype, reproducer = more.pop("start", None), more.pop("dtype", "float64"), more.pop("reproducer", None)
        if dtype not in (None, "float64"):
            workers = {EXACT if name == "twin" else name: worker for name, worker in workers.items()}
        factories = [
            f"{MODELS[side]}:{text}" if ":" not in text else text
            for side, text in (("torch", torch), ("paddle", paddle))
        ]
        inputs = more.pop("inputs", None) or [drawn(shape, 0, i) for i, shape in enumerate(shapes)]
        pair = Pair(*factories, inputs, folder=str(HERE), **{"steps": 3, **more})
        return run_pair(pair, workers, dtype, start=start, reproducer=reproducer)

    return one
