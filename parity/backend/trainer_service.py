"""A trainer as a service: one trainer at a time, in this process or in a child process (`parity.backend.worker.Worker`)."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.backend import lookahead, model_state
from parity.backend.child_process import CallFailed, Record
from parity.backend.registry import implementation, make_backend, make_trainer
from parity.backend.remote import Service, at_caller, serve_service
from parity.backend.timing import Bench, LayersAlone
from parity.backend.trainer import Trainer
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer
from parity.recipe.precision import DTYPES
from parity.recipe.recipe import Recipe
from parity.weights.canonical_state import State, initialise


class TrainerService(Service):
    """Holds a `parity.backend.trainer.Trainer` of `framework`. The framework is set for exactness until `bench` is called."""

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        self._runtime = implementation(framework, "runtime", threads)
        super().__init__(framework, threads, self._runtime.start(device, threads))
        self._runtime.be_exact()
        self._trainer: Trainer
        self._timed: Bench
        self._alone: LayersAlone
        self._slow: State
        self._patches: list[tuple[str, ...]] = []

    def versions(self) -> dict[str, str]:
        """Versions of the framework and of Python."""
        own: dict[str, str] = self._runtime.versions()
        return own | {"python": sys.version.split()[0], "numpy": np.__version__}

    def start(
        self, network: Network, settings: Optimizer, state: State, dtype: str = "float64", slow: bool = False
    ) -> None:
        """Build the network with the weights `state` and a fresh optimizer. With `slow`, `state` also becomes the slow weights.

        `dtype` is float64, float32, or bfloat16: float32 with mixed precision.
        """
        self._make_room()
        self._patches = []
        amp = next((amp for amp, name in DTYPES.items() if name == dtype), "off")
        stored = dtype if amp == "off" else "float32"
        self._trainer = make_trainer(self.framework, network, settings, state, stored, self.device, amp=amp)
        self._slow = state if slow else {}

    def fresh_weights(self, network: Network, seed: int) -> State:
        """The canonical float32 weights and statistics with which this side builds `network` from `seed`."""
        backend = make_backend(self.framework)
        return model_state.get_weights(backend, model_state.build(backend, network, seed))

    def resume(self, updates: int) -> tuple[State, State]:
        """Save the state reached after `updates` updates, rebuild everything and load the state, as a resumed run does.

        Return the arrays that differ afterwards: as they were saved, and as they are now.
        """
        old, saved = self._trainer, self._trainer.state()
        network, settings, how, patches = old.model.network, old.settings, (old.dtype, old.amp), self._patches
        del old, self._trainer
        self._patches = []
        self._trainer = make_trainer(self.framework, network, settings, 0, how[0], self.device, amp=how[1])
        for place, *arguments in patches:
            self.patch(place, *arguments)
        self._trainer.load(saved, updates)
        loaded = self._trainer.state()
        other = [name for name, array in saved.items() if not np.array_equal(array, loaded[name], equal_nan=True)]
        return {name: saved[name] for name in other}, {name: loaded[name] for name in other}

    def use_threads(self, least: int) -> None:
        """Use the number of CPU threads that the service was started with from now on, but at least `least`."""
        if self.threads:
            self._runtime.use_threads(max(self.threads, least))

    def _make_room(self) -> None:
        """Drop the last trainer before the next one is made, so that memory never holds both."""
        for name in ("_trainer", "_timed", "_alone", "_slow"):
            vars(self).pop(name, None)

    @at_caller
    def step(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
        record: Iterable[str] = (),
    ) -> tuple[Record, float, int]:
        """Do one update. Return what was recorded, the summed cross-entropy and the number of wrong images.

        `record` names the phases to record: forward, loss, backward, gradient, and update (the canonical state after the step).
        """
        wanted = list(record)
        found, cross_entropy, wrong = self.step_alone(images, labels, masks, rate, divisor, wanted)
        if "update" in wanted:  # in a second message: a worker holds a whole message in memory while it sends it
            found |= {f"update/{name}": array for name, array in self.state().items()}
        return found, cross_entropy, wrong

    def step_alone(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
        record: list[str],
    ) -> tuple[Record, float, int]:
        """Do `step` without the phase update."""
        found: Record | None = {} if record else None

        def wanted() -> Record:
            return {name: array for name, array in (found or {}).items() if name.partition("/")[0] in record}

        try:
            watched = any(phase in record for phase in ("forward", "backward"))
            cross_entropy, wrong = self._trainer.step(images, labels, masks, rate, divisor, found, watched)
        except Exception as error:
            raise CallFailed(error, wanted()) from error
        return wanted(), cross_entropy, wrong

    def predict(self, images: Array, record: bool = False) -> Record:
        """The `logits` of inference, and `eval/LAYER` for every layer if `record`."""
        found: Record | None = {} if record else None
        try:
            logits = self._trainer.predict(images, found)
        except Exception as error:
            raise CallFailed(error, found or {}) from error
        return {"logits": logits} | (found or {})

    def l2_gradients(self, images: Array, masks: Mapping[str, Array]) -> tuple[Record, float]:
        """The gradients of sum(logits ** 2) / 2 as `gradient/PARAMETER`, and that value, without an update."""
        found: Record = {}
        loss = self._trainer.l2_gradients(images, masks, found)
        return found, loss

    def seconds(self, what: str, images: Array, steps: int) -> list[float]:
        """The duration of each of `steps` calls of `predict`, or of `l2_gradients` with masks that the framework draws, in seconds."""
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            if what == "predict":
                self._trainer.predict(images)
            else:
                self._trainer.l2_gradients(images, {})
            seconds.append(time.perf_counter() - started)
        return seconds

    def isolate(
        self, layer: str, inputs: Sequence[Array], inference: Sequence[Array], mask: Array | None, gradient: Array
    ) -> Record:
        """Run one layer alone, forward and backward, see `Trainer.isolate`."""
        return self._trainer.isolate(layer, inputs, inference, mask, gradient)

    def scale_velocity(self, factor: float) -> None:
        """Multiply the momentum buffers by `factor`."""
        self._trainer.scale_velocity(factor)

    def look_ahead(self, keep: float, updates: int) -> None:
        """Pull the weights reached after `updates` updates back to the slow ones, see `parity.backend.lookahead`."""
        self._slow = lookahead.mix_slow_weights(self._trainer, self._slow, keep, updates)

    def patch(self, place: str, *arguments: str) -> None:
        """Change the trainer by calling the function at `place` (MODULE:FUNCTION) with it and the `arguments`."""
        module, _, function = place.partition(":")
        getattr(importlib.import_module(module), function)(self._trainer, *arguments)
        self._patches.append((place, *arguments))

    def state(self) -> State:
        """The canonical state with optimizer slots."""
        return self._trainer.state()

    def load(self, state: State, updates: int) -> None:
        """Load a canonical state that was reached after `updates` updates."""
        self._trainer.load(state, updates)

    def bench(
        self,
        network: Network,
        recipe: Recipe,
        images: Array,
        labels: Array,
        amp: str = "off",
        layout: str | None = None,
        compiled: bool = False,
    ) -> None:
        """Prepare `bench_train` and `bench_infer`, in float32, on batches of uint8 `images` [N,C,H,W].

        From now on the framework is set for speed instead of exactness. `amp` and `layout` are those of
        `parity.backend.trainer.Trainer`. If `compiled`, the framework compiles what `bench_train` times.
        """
        self._runtime.be_fast(self.device)
        state = initialise(network, 0)
        self._trainer = make_trainer(
            self.framework, network, recipe.optimizer, state, "float32", self.device, amp=amp, layout=layout
        )
        if compiled:
            self._trainer.wrapped = make_backend(self.framework).compile(self._trainer.model)
        wait = partial(self._runtime.wait, self.device)
        self._timed = Bench(self._trainer, network, recipe, images, labels, wait)
        self._alone = LayersAlone(self._trainer, recipe.batch_size, wait)

    def bench_train(self, steps: int, fed: bool) -> float:
        """Images/s of `parity.backend.timing.Bench.train`."""
        return self._timed.train(steps, fed)

    def bench_layers(self, steps: int) -> float:
        """Images/s of `parity.backend.timing.LayersAlone.train`, with the batches of `bench`."""
        return self._alone.train(steps)

    def bench_infer(self, steps: int, count: int) -> float:
        """Images/s of `parity.backend.timing.Bench.infer`."""
        return self._timed.infer(steps, count)

    def memory(self) -> int:
        """The peak memory so far, in bytes: of the process, or, on a GPU, what the framework allocated on it."""
        return int(self._runtime.peak_memory(self.device))

    def multiply_peak(self, dtype: str = "float32") -> float:
        """GFLOP/s of the framework's matrix multiplication in `dtype`, measured now."""
        return float(self._runtime.multiply_peak(self.device, dtype))

    def export(self) -> bytes:
        """The inference graph as the framework's exporter writes it; `InputError` if a package that it needs is missing."""
        exported: bytes = implementation(self.framework, "export").to_onnx(self._trainer.model)
        return exported

    def read_file(self, path: Path) -> tuple[State, list[str]]:
        """The arrays of a state dict's file and what was taken off, as the framework's `state_dict_files.read_file` returns them."""
        found: tuple[State, list[str]] = implementation(self.framework, "state_dict_files").read_file(path)
        return found

    def write_file(self, path: Path, network: Network, state: State, dtype: str, stored: str | None = None) -> None:
        """Write the weights `state` in `dtype` as a file that the framework's own load reads, its numbers in `stored` (None: `dtype`)."""
        model = model_state.build(make_backend(self.framework), network, state, dtype)
        implementation(self.framework, "state_dict_files").write_file(path, model, stored)

    def write_arrays(self, path: Path, arrays: State, stored: str) -> None:
        """Write named arrays, in the framework's own layout, as a state dict's file in dtype `stored`."""
        implementation(self.framework, "state_dict_files").write_arrays(path, arrays, stored)


if __name__ == "__main__":
    serve_service(TrainerService, *sys.argv[1:])
