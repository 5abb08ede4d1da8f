"""The client of a process that holds anybody's model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.recipe.optimizer import Optimizer


@dataclass(frozen=True)
class ModelRun:
    """What a run noted: `outputs` by place, `calls` {path, inputs, outputs} whose arrays are in `arrays`, `dropouts`, `random`."""

    outputs: Record
    arrays: Record
    calls: list[dict[str, Any]]
    dropouts: list[dict[str, Any]]
    random: list[str]


class ModelWorker(Worker):
    """A model of `framework` in a process of its own, which writes nothing beside the user's files. See `parity.backend.worker.Worker`."""

    program = "parity.pairs.model_server"
    surroundings = {"PYTHONDONTWRITEBYTECODE": "1"}  # noqa: RUF012 - never changed

    def open(
        self,
        factory: str,
        dtype: str,
        settings: Optimizer,
        seed: int = 0,
        folder: str | None = None,
        changes: Sequence[tuple[str, str, Any]] = (),
    ) -> dict[str, Any]:
        """Makes the model of `factory`; returns its `modules` and the `versions` of what it runs on.

        `changes` are set in it: layer (a path, or a class for all of it), attribute, value.
        """
        fields = dataclasses.asdict(settings)
        where = os.path.abspath(folder or os.getcwd())  # noqa: PTH100, PTH109
        found = self.call(
            "open", factory=factory, folder=where, dtype=dtype, settings=fields, seed=seed, changes=changes
        )
        made: dict[str, Any] = found[1]
        return made

    def kernel_variance(self) -> str:
        """Which variance of a batch the framework's kernel adds to the running one: "biased" or "unbiased"."""
        return str(self.call("kernel_variance")[1])

    def agree(self, variance: str) -> None:
        """From now on the running variances are moved by this convention, where that can be chosen."""
        self.call("agree", variance=variance)

    def tensors(self, names: Sequence[str]) -> Record:
        """Tensors by the model's own names."""
        return self.call("tensors", names=list(names))[0]

    def gradients(self, names: Sequence[str]) -> Record:
        """Gradients of the last backward, of those of the named tensors that have one."""
        return self.call("gradients", names=list(names))[0]

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrites the named tensors and starts a fresh optimizer."""
        self.call("load", arrays)

    def run(
        self,
        inputs: Sequence[np.ndarray],
        train: bool,
        wanted: Sequence[str] = (),
        seed: int = 0,
        keys: Mapping[int, str] | None = None,
        randomness: bool = False,
        path: str = "",
    ) -> ModelRun:
        """Forward. `wanted` are the layers to note, `keys` the streams of dropouts, `randomness` notes who draws random numbers."""
        named = {str(n): key for n, key in (keys or {}).items()}
        given = {str(i): x for i, x in enumerate(inputs)}
        arrays, notes = self.call(
            "run", given, train=train, wanted=list(wanted), seed=seed, keys=named, randomness=randomness, path=path
        )
        outputs = {name.removeprefix("output/"): a for name, a in arrays.items() if name.startswith("output/")}
        return ModelRun(outputs, {n: a for n, a in arrays.items() if not n.startswith("output/")}, **notes)

    def backward(self, gradients: Mapping[str, np.ndarray]) -> Record:
        """Backward from the gradients of the outputs; returns those of inputs (`input/I`) and noted outputs (`backward/KEY`)."""
        return self.call("backward", gradients)[0]

    def update(self, kept: Mapping[str, np.ndarray]) -> None:
        """One step of the optimizer; gradients named in `kept` are first multiplied by its 0/1 arrays."""
        self.call("update", kept)

    def read_arrays(self, path: Path) -> Record:
        """The arrays of floats in a state dict's file of the framework, as they are there."""
        return self.call("read_arrays", path=str(path.absolute()))[0]

    def write_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes them as the file of a state dict."""
        self.call("write_arrays", arrays, path=str(path.absolute()))
