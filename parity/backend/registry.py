"""The frameworks: their names, the modules of their implementations, and trainers in this process."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

from parity import machine
from parity.backend.protocol import Backend
from parity.backend.trainer import Trainer
from parity.errors import InputError, how_to_install, suggest
from parity.network.network import Network
from parity.process_group import SINGLE_PROCESS, ProcessGroup
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State

FRAMEWORKS = {"paddle": "PaddlePaddle", "torch": "PyTorch"}
"""The frameworks, by the name that their packages and scripts carry."""


NAMES = {"torch": "PyTorch", "paddle": "Paddle"}
"""The short names that sentences use."""


def spoken_name(side: str) -> str:
    """The name of the side `side` of a comparison in sentences: "torch" becomes PyTorch, "paddle (reference)" Paddle (reference)."""
    framework, _, rest = side.partition(" ")
    return " ".join(filter(None, (NAMES.get(framework, framework), rest)))


EXPORTERS = ("paddle2onnx", "onnxscript")
"""Packages that only an export to ONNX needs."""


def implementation(framework: str, part: str, threads: int | None = None) -> ModuleType:
    """The module `part` (runtime, backend, export, ...) of the implementation in `framework`.

    `threads` (None: all cores) has an effect only before the framework's first import. `InputError` if it is not installed.
    """
    if framework not in FRAMEWORKS:
        raise InputError(
            f"unknown framework {framework!r}{suggest(framework, FRAMEWORKS)}; known: {', '.join(FRAMEWORKS)}"
        )
    machine.set_threads(threads)
    try:
        with _own_handlers(), machine.paused_collector():
            return importlib.import_module(f"{framework}_impl.{part}")
    except ModuleNotFoundError as error:
        if error.name in EXPORTERS:
            raise InputError(f"{error.name} is not installed here: {how_to_install('cpu')}") from None
        if error.name != framework:
            raise
        raise InputError(f"{FRAMEWORKS[framework]} is not installed here: {how_to_install('cpu')}") from None


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep Python's handler of SIGTERM. Paddle replaces it early in its import, so restore it at each further import and at the end."""

    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            machine.restore_sigterm()

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)
        machine.restore_sigterm()


def installed() -> str:
    """The first framework of `FRAMEWORKS` that is installed here; `InputError` if none is."""
    found = next((name for name in FRAMEWORKS if importlib.util.find_spec(name)), None)
    if found is None:
        names = " nor ".join(FRAMEWORKS.values())
        raise InputError(f"neither {names} is installed here: {how_to_install('cpu')}")
    return found


def make_backend(framework: str) -> Backend:
    """The backend of `framework`; `InputError` if it is not installed."""
    backend: Backend = implementation(framework, "backend").Backend()
    return backend


def make_trainer(
    framework: str,
    network: Network,
    settings: Optimizer,
    state: State | int,
    dtype: str = "float32",
    device: str = "cpu",
    process_group: ProcessGroup = SINGLE_PROCESS,
    amp: str = "off",
    layout: str | None = None,
) -> Trainer:
    """Make a `Trainer` in this process, on a `device` that `runtime.start` chose, in a `process_group` that the backend joined."""
    return Trainer(make_backend(framework), network, settings, state, dtype, device, process_group, amp, layout)
