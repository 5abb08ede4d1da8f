"""Fixtures: the data sets and one worker process per framework and test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parity.side import FRAMEWORKS
from parity.worker import Worker


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    """A worker of each framework. Both must be installed: a lane that cannot run fails."""
    made = {framework: Worker(framework, threads=1) for framework in FRAMEWORKS}
    yield made
    for worker in made.values():
        worker.close()


@pytest.fixture(params=list(FRAMEWORKS))
def framework(request: pytest.FixtureRequest) -> str:
    """Each framework in turn: one test id a framework."""
    return str(request.param)


@pytest.fixture
def worker(framework: str, workers: dict[str, Worker]) -> Worker:
    """The worker of the framework at hand."""
    return workers[framework]
