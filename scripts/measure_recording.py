#!/usr/bin/env python3
"""Measure what parity.record costs a training step: time, interleaved with the same step without it, and peak memory.

    python scripts/measure_recording.py --framework torch --steps 12 --update docs/recordings.md

Each memory is the peak of a process of its own. The last line is JSON. `--update` writes it to bench/recording/FRAMEWORK.json beside the
page, and the table of the logs of both frameworks into the page.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import parity
from parity import machine
from parity.backend.registry import NAMES, implementation
from parity.files import generated_block
from parity.files.atomic import write_atomically

WARM_UP = 2

MARK = "cost of recording"
"""The word in the marks of the generated block."""

PARTS = {"weights": "`layers=()`", "layers": "all layers"}
"""What is recorded -> its name in the table."""


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


def table(logs: dict[str, dict[str, Any]]) -> str:
    """Return the table of the logs by framework, and how they were measured."""
    columns = [f"{NAMES[name]} {log['versions'][name]}" for name, log in logs.items()]
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(logs)]
    for part, words in PARTS.items():
        costs = [log[part] for log in logs.values()]
        times = [f"{c['time'] - 1:+.1%} ({c['least'] - 1:+.1%} to {c['most'] - 1:+.1%})" for c in costs]
        lines.append(f"| time of a step, {words} | {' | '.join(times)} |")
    for part, words in PARTS.items():
        peaks = [f"{log[part]['memory']:.2f} times" for log in logs.values()]
        lines.append(f"| peak memory, {words} | {' | '.join(peaks)} |")
    notes = [
        f"- {NAMES[name]}: `{log['network']}`, batch {log['batch_size']}, {log['machine']}, 1 thread, {log['started']}, commit "
        f"{log['commit']}, load average before: {log['load_before']}. `{log['command']}`"
        for name, log in logs.items()
    ]
    spread = f"Time: the median of {min(log['steps'] for log in logs.values())} steps, each beside one without recording (the quartiles)."
    wrapped = [textwrap.fill(note, 116, subsequent_indent="  ", break_on_hyphens=False) for note in notes]
    return "\n".join([*lines, "", spread, "", *wrapped])


def update(page: Path, found: dict[str, Any]) -> None:
    """Write the log of a framework, and the block of the page."""
    folder = page.parent / "bench" / "recording"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{found['framework']}.json", (json.dumps(found, indent=1) + "\n").encode())
    paths = {name: folder / f"{name}.json" for name in NAMES}
    logs = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    generated_block.update(page, MARK, table(logs))


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=("torch", "paddle"), default="torch")
    parser.add_argument("--network", default="vgg_mini@0.5")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--folder", help="where recordings are written (default: the system's temporary folder)")
    parser.add_argument(
        "--update", type=Path, metavar="PAGE", help="write the log beside the page, and the table into it"
    )
    parser.add_argument("--only", choices=("nothing", "weights", "layers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        train_once(options)
        return
    if options.update:
        generated_block.around(options.update, MARK)  # before minutes of work
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "started": datetime.now().isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": machine.describe(),
        "load_before": machine.load_average(),
        "versions": implementation(options.framework, "runtime").versions(),
        **{name: getattr(options, name) for name in ("framework", "network", "batch_size", "steps", "device")},
    }
    for what, layers in (("weights", ()), ("layers", None)):
        seconds = measure_time(options, layers)
        plain, recorded = map(statistics.median, seconds)
        ratios = [one / other for other, one in zip(*seconds, strict=True)]
        least, ratio, most = statistics.quantiles(ratios)
        print(f"{what}: {plain:.3f} s without, {recorded:.3f} s with recording: {ratio - 1:+.1%}")
        found[what] = {"without_s": plain, "with_s": recorded, "time": ratio, "least": least, "most": most}
    base = measure_memory(options, "nothing")
    for what in ("weights", "layers"):
        peak = measure_memory(options, what)
        print(
            f"{what}: peak memory {base / 2**20:.0f} MiB without, {peak / 2**20:.0f} MiB with recording: {peak / base:.2f} times"
        )
        found[what] |= {"without_bytes": base, "with_bytes": peak, "memory": peak / base}
    if options.update:
        update(options.update, found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
