"""One process per framework: a worker that holds one `Trainer`, and the client that drives it over pipes.

Loading both frameworks into one process crashes with some versions and pins their dependencies to each other.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity.backend import lookahead, model_state
from parity.backend.child_process import Process, Record, serve
from parity.backend.registry import FRAMEWORKS, implementation, make_backend, make_trainer
from parity.backend.timing import Bench
from parity.backend.trainer import Trainer
from parity.errors import InputError
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer, read_optimizer
from parity.recipe.recipe import Recipe, read_recipe
from parity.weights.canonical_state import State, initialise


class Worker(Process):
    """A `Trainer` of `framework` in a process of its own, run by the interpreter `python` (None: this one).

    The other interpreter needs the framework, numpy and safetensors; this project's code is found for it. Methods are those of
    `parity.backend.trainer.Trainer`, on arrays of any dtype that safetensors knows, copied through the pipe. See `Process` for the rest.
    """

    program = "parity.backend.worker"
    """The module that is the worker's end."""

    surroundings: Mapping[str, str] = {}
    """What its process has besides this one's environment."""

    def __init__(
        self,
        framework: str,
        python: str | Path | None = None,
        threads: int | None = None,
        device: str = "cpu",
        own_session: bool = False,
    ) -> None:
        if framework not in FRAMEWORKS:
            raise InputError(f"unknown framework {framework!r}: {' or '.join(FRAMEWORKS)}")
        self.framework = framework
        arguments = (framework, str(threads or 0), device)
        super().__init__(f"{framework} worker", self.program, arguments, python, own_session, self.surroundings)

    def versions(self) -> dict[str, str]:
        """Versions of the framework and of Python."""
        versions: dict[str, str] = self.call("versions")[1]
        return versions

    def start(
        self, network: Network, settings: Optimizer, state: State, dtype: str = "float64", slow: bool = False
    ) -> None:
        """Builds the network with the weights `state` and a fresh optimizer; `slow` keeps them for `look_ahead`."""
        fields = dataclasses.asdict(settings)
        self.call("start", state, network=network.to_json(), settings=fields, dtype=dtype, slow=slow)

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        masks: Mapping[str, np.ndarray],
        rate: float,
        divisor: int,
        record: Iterable[str] = (),
    ) -> tuple[Record, float, int]:
        """One update. Returns what was recorded, the summed cross-entropy and the number of wrong images.

        `record` names the phases wanted: forward, loss, backward, gradient, and update for the canonical state after it.
        """
        arrays = {"images": images, "labels": labels} | {f"mask/{layer}": mask for layer, mask in masks.items()}
        wanted = list(record)
        found, (cost, wrong) = self.call("step", arrays, rate=rate, divisor=divisor, record=wanted)
        if "update" in wanted:  # in a message of its own: the worker holds either in memory while it is sent
            found |= {f"update/{name}": array for name, array in self.state().items()}
        return found, cost, wrong

    def predict(self, images: np.ndarray, record: bool = False) -> Record:
        """Inference: `logits`, and `eval/LAYER` for every layer if `record`."""
        return self.call("predict", {"images": images}, record=record)[0]

    def l2_gradients(self, images: np.ndarray, masks: Mapping[str, np.ndarray]) -> tuple[Record, float]:
        """Backward of sum(logits ** 2) / 2 without an update: `gradient/PARAMETER`, and that sum."""
        arrays = {"images": images} | {f"mask/{layer}": mask for layer, mask in masks.items()}
        return self.call("l2_gradients", arrays)

    def seconds(self, what: str, images: np.ndarray, steps: int) -> list[float]:
        """What each of `steps` calls took in the worker: `predict`, or `l2_gradients` with masks that the framework draws."""
        found: list[float] = self.call("seconds", {"images": images}, what=what, steps=steps)[1]
        return found

    def isolate(
        self, layer: str, x: np.ndarray, inference: np.ndarray, mask: np.ndarray | None, gradient: np.ndarray
    ) -> Record:
        """One layer alone, forward and backward."""
        arrays = {"x": x, "inference": inference, "gradient": gradient} | ({} if mask is None else {"mask": mask})
        return self.call("isolate", arrays, layer=layer)[0]

    def scale_velocity(self, factor: float) -> None:
        """Multiplies the momentum buffers."""
        self.call("scale_velocity", factor=factor)

    def look_ahead(self, keep: float, updates: int) -> None:
        """Draws the weights reached after `updates` updates back to the slow ones, see `parity.backend.lookahead`."""
        self.call("look_ahead", keep=keep, updates=updates)

    def patch(self, place: str, *arguments: str) -> None:
        """Changes the trainer itself by a function at `place`, MODULE:FUNCTION, which gets it and the `arguments`."""
        self.call("patch", place=place, words=list(arguments))

    def state(self) -> State:
        """The canonical state with optimizer slots."""
        return self.call("state")[0]

    def load(self, state: State, updates: int) -> None:
        """Takes a canonical state over."""
        self.call("load", state, updates=updates)

    def bench(self, network: Network, recipe: Recipe, images: np.ndarray, labels: np.ndarray, amp: str = "off") -> None:
        """Makes ready for `bench_train` and `bench_infer`, in float32, on batches of uint8 `images` [N,C,H,W].

        From now on the worker is set for speed, and no longer for exactness. `amp` is one of `parity.recipe.precision.PRECISIONS`.
        """
        arrays = initialise(network, 0) | {"bench/images": images, "bench/labels": labels}
        self.call("bench", arrays, network=network.to_json(), recipe=dataclasses.asdict(recipe), amp=amp)

    def bench_train(self, steps: int, fed: bool) -> float:
        """Images/s of `parity.backend.timing.Bench.train`."""
        return float(self.call("bench_train", steps=steps, fed=fed)[1])

    def bench_infer(self, steps: int, count: int) -> float:
        """Images/s of `parity.backend.timing.Bench.infer`."""
        return float(self.call("bench_infer", steps=steps, count=count)[1])

    def memory(self) -> int:
        """The peak memory so far, in bytes: of the process, or, on a GPU, of what the framework allocated there."""
        return int(self.call("memory")[1])

    def multiply_peak(self) -> float:
        """GFLOP/s of the framework's float32 matrix multiplication, measured now."""
        return float(self.call("multiply_peak")[1])

    def export(self) -> bytes:
        """The inference graph as the framework's exporter writes it; `InputError` where a package that it needs is missing."""
        return self.call("export")[0]["onnx"].tobytes()

    def read_file(self, path: Path) -> State:
        """The arrays of a state dict's file, as the framework's `state_dict_files.read_file` gives them."""
        return self.call("read_file", path=str(path.absolute()))[0]

    def write_file(self, path: Path, network: Network, state: State, dtype: str) -> None:
        """Writes the file of a state dict that the framework's own load reads, in `dtype`."""
        self.call("write_file", state, path=str(path.absolute()), network=network.to_json(), dtype=dtype)


def _masks(arrays: Record) -> Record:
    return {name.removeprefix("mask/"): array for name, array in arrays.items() if name.startswith("mask/")}


class _Server:
    """The worker's end: one method a call, (arrays, arguments) -> (arrays, result)."""

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        self.framework = framework
        self.runtime = implementation(framework, "runtime", threads)
        self.device = self.runtime.start(device, threads)
        self.runtime.be_exact()
        self.trainer: Trainer
        self.timed: Bench

    def versions(self, arrays: Record) -> tuple[Record, Any]:
        return {}, self.runtime.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}

    def start(
        self, arrays: Record, network: str, settings: dict[str, Any], dtype: str, slow: bool
    ) -> tuple[Record, Any]:
        for name in ("trainer", "timed", "slow"):
            vars(self).pop(name, None)  # makes room for the next one
        self.trainer = make_trainer(
            self.framework, Network.from_json(network), read_optimizer(settings), arrays, dtype, self.device
        )
        self.slow = arrays if slow else {}
        return {}, None

    def l2_gradients(self, arrays: Record) -> tuple[Record, Any]:
        found: Record = {}
        loss = self.trainer.l2_gradients(arrays["images"], _masks(arrays), found)
        return found, loss

    def seconds(self, arrays: Record, what: str, steps: int) -> tuple[Record, Any]:
        images, seconds = arrays["images"], []
        for _ in range(steps):
            started = time.perf_counter()
            if what == "predict":
                self.trainer.predict(images)
            else:
                self.trainer.l2_gradients(images, {})
            seconds.append(time.perf_counter() - started)
        return {}, seconds

    def step(self, arrays: Record, rate: float, divisor: int, record: list[str]) -> tuple[Record, Any]:
        found: Record | None = {} if record else None
        result = self.trainer.step(arrays["images"], arrays["labels"], _masks(arrays), rate, divisor, found)
        return {name: array for name, array in (found or {}).items() if name.partition("/")[0] in record}, result

    def predict(self, arrays: Record, record: bool) -> tuple[Record, Any]:
        found: Record | None = {} if record else None
        logits = self.trainer.predict(arrays["images"], found)
        return {"logits": logits} | (found or {}), None

    def isolate(self, arrays: Record, layer: str) -> tuple[Record, Any]:
        x, inference, gradient = (arrays[name] for name in ("x", "inference", "gradient"))
        return self.trainer.isolate(layer, x, inference, arrays.get("mask"), gradient), None

    def scale_velocity(self, arrays: Record, factor: float) -> tuple[Record, Any]:
        self.trainer.scale_velocity(factor)
        return {}, None

    def look_ahead(self, arrays: Record, keep: float, updates: int) -> tuple[Record, Any]:
        self.slow = lookahead.mix_slow_weights(self.trainer, self.slow, keep, updates)
        return {}, None

    def patch(self, arrays: Record, place: str, words: list[str]) -> tuple[Record, Any]:
        module, _, function = place.partition(":")
        getattr(importlib.import_module(module), function)(self.trainer, *words)
        return {}, None

    def state(self, arrays: Record) -> tuple[Record, Any]:
        return self.trainer.state(), None

    def load(self, arrays: Record, updates: int) -> tuple[Record, Any]:
        self.trainer.load(arrays, updates)
        return {}, None

    def bench(self, arrays: Record, network: str, recipe: dict[str, Any], amp: str) -> tuple[Record, Any]:
        self.runtime.be_fast(self.device)
        images, labels = arrays.pop("bench/images"), arrays.pop("bench/labels")
        how, net = read_recipe(recipe), Network.from_json(network)
        self.trainer = make_trainer(self.framework, net, how.optimizer, arrays, "float32", self.device, amp=amp)
        self.timed = Bench(self.trainer, net, how, images, labels, partial(self.runtime.wait, self.device))
        return {}, None

    def bench_train(self, arrays: Record, steps: int, fed: bool) -> tuple[Record, Any]:
        return {}, self.timed.train(steps, fed)

    def bench_infer(self, arrays: Record, steps: int, count: int) -> tuple[Record, Any]:
        return {}, self.timed.infer(steps, count)

    def memory(self, arrays: Record) -> tuple[Record, Any]:
        return {}, self.runtime.peak_memory(self.device)

    def multiply_peak(self, arrays: Record) -> tuple[Record, Any]:
        return {}, self.runtime.multiply_peak(self.device)

    def export(self, arrays: Record) -> tuple[Record, Any]:
        data = implementation(self.framework, "export").to_onnx(self.trainer.model)
        return {"onnx": np.frombuffer(data, np.uint8)}, None

    def read_file(self, arrays: Record, path: str) -> tuple[Record, Any]:
        return implementation(self.framework, "state_dict_files").read_file(Path(path)), None

    def write_file(self, arrays: Record, path: str, network: str, dtype: str) -> tuple[Record, Any]:
        model = model_state.build(make_backend(self.framework), Network.from_json(network), arrays, dtype)
        implementation(self.framework, "state_dict_files").write_file(Path(path), model)
        return {}, None


if __name__ == "__main__":
    serve(lambda: _Server(sys.argv[1], int(sys.argv[2]) or None, sys.argv[3]))
