#!/usr/bin/env python3
"""Measure what parity.record costs a training step: time, interleaved with the same step without it, and peak memory.

    python scripts/measure_recording.py [--framework torch] [--network vgg_mini@0.5] [--batch-size 64] [--steps 12] [--layers]

Each memory is the peak of a process of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import parity
from parity import machine
from parity.backend.registry import implementation

WARM_UP = 2


def make_step(framework: str, network: str, batch_size: int, device: str) -> tuple[Any, Any, Callable[[], None]]:
    """Return a model, its optimizer, and a function that takes one step of training."""
    runtime = implementation(framework, "runtime")
    runtime.start(device, 1 if device == "cpu" else None)
    module: Any = importlib.import_module(framework)
    model = parity.build(network, framework)
    size = parity.get_network(network).input_shape
    images = np.random.default_rng(0).standard_normal((batch_size, *size)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 10, batch_size)
    if framework == "torch":
        place = "cuda" if device == "gpu" else "cpu"
        model = model.to(place)
        optimizer = module.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        x, y = module.tensor(images, device=place), module.tensor(labels, device=place)
    else:
        optimizer = module.optimizer.Momentum(0.01, 0.9, [p for p in model.parameters() if not p.stop_gradient])
        x, y = module.to_tensor(images), module.to_tensor(labels)

    def step() -> None:
        loss = module.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad() if framework == "torch" else optimizer.clear_grad()
        runtime.wait(device)

    return model, optimizer, step


def measure_time(options: argparse.Namespace, layers: tuple[str, ...] | None) -> tuple[list[float], list[float]]:
    """Return the seconds of each step without and with recording, taken in turn."""
    arguments = (options.framework, options.network, options.batch_size, options.device)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        model, optimizer, recorded = make_step(*arguments)
        _, _, plain = make_step(*arguments)
        stack.enter_context(parity.record(model, optimizer, folder / "run", options.steps + WARM_UP, layers=layers))
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(options.steps + WARM_UP):
            for step, found in zip((plain, recorded), seconds, strict=True):
                started = time.perf_counter()
                step()
                if turn >= WARM_UP:
                    found.append(time.perf_counter() - started)
    return seconds


def measure_memory(options: argparse.Namespace, what: str) -> int:
    """Return the peak memory, in bytes, of a process that trains and records `what`."""
    words = [sys.executable, __file__, "--only", what, "--framework", options.framework, "--network", options.network]
    words += ["--batch-size", str(options.batch_size), "--steps", "4", "--device", options.device]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def train_once(options: argparse.Namespace) -> None:
    """Train some steps, and print the peak memory."""
    model, optimizer, step = make_step(options.framework, options.network, options.batch_size, options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, ExitStack() as stack:
        if options.only != "nothing":
            layers = None if options.only == "layers" else ()
            stack.enter_context(parity.record(model, optimizer, Path(folder) / "run", options.steps, layers=layers))
        for _ in range(options.steps):
            step()
    print(implementation(options.framework, "runtime").peak_memory(options.device))


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--network", default="vgg_mini@0.5")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--folder", help="where recordings are written (default: the system's temporary folder)")
    parser.add_argument("--only", choices=("nothing", "weights", "layers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        train_once(options)
        return
    found: dict[str, Any] = {"machine": machine.describe(), **vars(options)}
    for what, layers in (("weights", ()), ("layers", None)):
        plain, recorded = map(statistics.median, measure_time(options, layers))
        print(f"{what}: {plain:.3f} s without, {recorded:.3f} s with recording: {recorded / plain - 1:+.1%}")
        found[what] = {"without_s": plain, "with_s": recorded, "time": recorded / plain}
    base = measure_memory(options, "nothing")
    for what in ("weights", "layers"):
        peak = measure_memory(options, what)
        print(
            f"{what}: peak memory {base / 2**20:.0f} MiB without, {peak / 2**20:.0f} MiB with recording: {peak / base:.2f} times"
        )
        found[what] |= {"without_bytes": base, "with_bytes": peak, "memory": peak / base}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
