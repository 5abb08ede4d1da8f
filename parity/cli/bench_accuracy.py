"""`vgg-parity bench accuracy`: the training time of each framework until it reaches a test accuracy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.backend.registry import FRAMEWORKS
from parity.cli.bench_contestants import python_of, run_program
from parity.cli.bench_log import describe_conditions
from parity.cli.command import Failed, Options
from parity.errors import InputError
from parity.experiments.tables import conditions, counted
from parity.progress import bar
from parity.recipe import presets
from parity.training.run_folder import RunFolder

NETWORK, RECIPE = "vgg16_bn_drop@0.125", "quick"
"""The defaults: what a training script trains on a CPU."""


def to_accuracy(options: Options, frameworks: list[str]) -> dict[str, Any]:
    """Train in turns, `options.rounds` times with another seed each, one process at a time. Return the time of every run by framework.

    Seconds are of training, without evaluation, up to the end of the first epoch whose accuracy on the test images is at least
    `options.target`. Raise `Failed` where a run does not reach it.
    """
    if not 0 < options.target <= 1:
        raise InputError(f"--target {options.target:g} is not an accuracy between 0 and 1")
    recipe = presets.get_recipe(options.recipe or RECIPE)
    if options.against:
        raise InputError("--against times training steps: leave it out of accuracy")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in frameworks}
    versions: dict[str, Any] = {}
    for number in bar(range(options.rounds), "time to accuracy"):
        for name in frameworks if number % 2 == 0 else frameworks[::-1]:
            run, versions[name] = _one(options, name, number)
            found[name].append(run)
    rows = {}
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        rows[name] = {
            "seconds": float(np.median(seconds)),
            "least": min(seconds),
            "most": max(seconds),
            "runs": runs,
        }
    return {
        "what": "accuracy",
        "network": options.network or NETWORK,
        "recipe": recipe.name,
        "target": options.target,
        "threads": options.threads or machine.cores(),
        "versions": versions,
        "frameworks": rows,
    }


def _one(options: Options, framework: str, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the training command once, in a temporary folder. Return its figures, and the versions of its framework and packages."""
    chosen = {
        "network": options.network or NETWORK,
        "recipe": options.recipe or RECIPE,
        "epochs": options.epochs,
        "batch-size": options.batch_size,
        "data": options.data,
        "data-dir": options.data_dir,
        "threads": options.threads,
        "device": options.device,
        "seed": seed,
    }
    flags = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ("train", "--framework", framework, *flags, "--output", str(out))
        run_program("parity.cli.entry", words, python_of(options, framework))
        run = RunFolder.open(out)
        epochs = run.metrics("pass")
        versions = json.loads((out / "config.json").read_text())["versions"]
    reached = next((row for row in epochs if row["test_accuracy"] >= options.target), None)
    if reached is None:
        best = max(row["test_accuracy"] for row in epochs)
        raise Failed(
            f"{FRAMEWORKS[framework]} reached {best:.2%} in {counted(len(epochs), 'epoch')}, not {options.target:.2%}: "
            "try more --epochs"
        )
    figures = {
        "seconds": reached["seconds"],
        "passes": reached["epoch"] + 1,
        "test_accuracy": reached["test_accuracy"],
        "batch_size": run.experiment.recipe.batch_size,
    }
    return figures, versions


def markdown(result: dict[str, Any]) -> str:
    """Return the result as Markdown: a table, and the conditions of the measurement."""
    lines = [
        f"# Training time of {result['network']} to a test accuracy of {result['target']:.0%}",
        "",
        f"| until {result['target']:.0%} test accuracy | seconds of training, median (min to max) | epochs | runs |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["frameworks"].items():
        epochs = sorted({run["passes"] for run in row["runs"]})
        count = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        lines.append(
            f"| {name} | {row['seconds']:.0f} ({row['least']:.0f} to {row['most']:.0f}) | {count} | {len(row['runs'])} |"
        )
    rounds = len(next(iter(result["frameworks"].values()))["runs"])
    facts = {"Network": f"{result['network']}, recipe {result['recipe']}"} | describe_conditions(result, rounds)
    return "\n".join([*lines, "", *conditions(facts, result["command"])]) + "\n"
