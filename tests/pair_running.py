"""Runs pairs of the small models for tests, in worker processes that all tests of a session share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.pairs.check import run_pair
from parity.pairs.float32 import run_float32
from parity.pairs.inputs import drawn
from parity.pairs.model_worker import ModelWorker
from parity.pairs.outcome import PairOutcome
from parity.pairs.session import Pair

HERE = Path(__file__).parent
MODELS = {"torch": "pair_models_torch.py", "paddle": "pair_models_paddle.py"}

Compare = Callable[..., PairOutcome]


@pytest.fixture(scope="module")
def pair_workers() -> Iterator[dict[str, ModelWorker]]:
    names = {"torch": "torch", "paddle": "paddle", "twin": "torch"}
    made = {name: ModelWorker(framework, threads=1) for name, framework in names.items()}
    yield made
    for worker in made.values():
        worker.close()


@pytest.fixture(scope="module")
def compare(pair_workers: dict[str, ModelWorker]) -> Compare:
    """Compares two factories of the small models, or of any modules, on random inputs of the shapes given."""

    def one(torch: str, paddle: str, *shapes: str, **more: Any) -> PairOutcome:
        workers = more.pop("workers", pair_workers)
        start, how = more.pop("start", None), run_float32 if more.pop("dtype", "float64") == "float32" else run_pair
        factories = [
            f"{MODELS[side]}:{text}" if ":" not in text else text
            for side, text in (("torch", torch), ("paddle", paddle))
        ]
        inputs = more.pop("inputs", None) or [drawn(shape, 0, i) for i, shape in enumerate(shapes)]
        pair = Pair(*factories, inputs, folder=str(HERE), **{"steps": 3, **more})
        return how(pair, workers, start=start)

    return one
