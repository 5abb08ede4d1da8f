"""`scripts/check_parity.py`: are the two implementations one network, and where do they part if not?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity import data, networks, recipes
from parity.commands.command import Failed, Parser, execute, natural, positive
from parity.errors import InputError
from parity.lockstep import Plan, lockstep
from parity.progress import Console
from parity.recipe import Experiment, changed
from parity.stages import STAGES, Verdicts
from parity.worker import Worker

ALL_STAGES = (*STAGES, "trajectory")


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; exit code 0 equal, 1 different, 2 bad usage."""
    options = parser().parse_args(arguments)
    console = Console(options.json)
    return execute(lambda: _command(options, console), options.json)


def parser() -> Parser:
    """The flags."""
    flags = Parser(
        "Train a network in Paddle and in PyTorch in lock-step, in float64, and compare every tensor of every step.",
        "  python scripts/check_parity.py --network vgg16_bn_drop --json\n"
        "  python scripts/check_parity.py --network vgg_mini@0.25 --recipe adam --steps 10\n"
        "  python scripts/check_parity.py --network vgg16_bn_drop --paddle-python ../paddle3/bin/python",
    )
    add = flags.add_argument
    add("--network", default="vgg16_bn_drop", metavar="NAME", help=f"{', '.join(networks.NETWORKS)}, NAME@WIDTH (default: vgg16_bn_drop)")
    add("--recipe", metavar="NAME", default="article", help=f"{', '.join(recipes.RECIPES)} (default: article)")
    add("--stages", default=",".join(ALL_STAGES), metavar="LIST", help=f"some of {','.join(ALL_STAGES)} (default: all)")
    add("--steps", type=positive, default=3, help="training steps (default: 3)")
    add("--batch-size", type=positive, default=8, help="images per step (default: 8)")
    add("--seed", type=natural, default=0)
    add("--data", default="auto", metavar="NAME", help="where the images come from (default: CIFAR-10 if it can be had)")
    add("--data-dir", type=Path, metavar="PATH")
    add("--threads", type=positive, default=1, help="CPU threads of each side (default: 1; both sides run at once)")
    for framework in ("paddle", "torch"):
        add(f"--{framework}-python", type=Path, metavar="EXE", help=f"the interpreter that has {framework} (default: this one)")
    return flags


def _command(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    started = time.perf_counter()
    stages = options.stages.split(",")
    if unknown := [stage for stage in stages if stage not in ALL_STAGES]:
        raise InputError(f"unknown stage {unknown[0]!r}; known: {', '.join(ALL_STAGES)}")
    if "trajectory" in stages and options.steps < 2:
        raise InputError("the stage trajectory needs --steps of at least 2")
    network, recipe = networks.get(options.network), recipes.get(options.recipe)
    dataset = _data(options, console.say)
    experiment = Experiment(network, changed(recipe, batch_size=options.batch_size), dataset.name, options.seed)
    phases = tuple(phase for stage, kept in STAGES.items() if stage in stages or "trajectory" in stages for phase in kept)
    plan = Plan(experiment, options.steps if "trajectory" in stages else 1, "float64", phases)
    verdicts = Verdicts(plan)
    pythons = {"torch": options.torch_python, "paddle": options.paddle_python}
    with Worker("torch", pythons["torch"], options.threads) as torch, Worker("paddle", pythons["paddle"], options.threads) as paddle:
        sides = {"torch": torch, "paddle": paddle}
        lanes = {name: worker.versions() for name, worker in sides.items()}
        console.say(f"{network.name}, recipe {recipe.name}: PyTorch {lanes['torch']['torch']} and Paddle {lanes['paddle']['paddle']} in float64")
        for step in lockstep(sides, plan, dataset):
            verdicts.add(step, "torch", "paddle")
            console.say(f"step {step.number}: " + ", ".join(f"{k} {v:.1e}" for k, v in verdicts.history[-1].items() if k != "step"))
    result = _result(options, verdicts, lanes, [stage for stage in ALL_STAGES if stage in stages])
    result["seconds"] = round(time.perf_counter() - started, 2)
    for name, stage in result["stages"].items():
        console.say(f"{name:10s} {stage['verdict']:9s} {stage['compared']:6d} tensors, worst {stage['max_error']:.2e} of {stage['bound']:.0e} at {stage['worst']}")
    if result["verdict"] == "different":
        assert verdicts.first
        raise Failed(f"the implementations differ, first at {verdicts.first.sentence()}", result)
    console.say(f"equal: {network.name} is one network in both frameworks ({result['seconds']:.0f} s)")
    return result


def _data(options: argparse.Namespace, say: Callable[[str], None]) -> data.Dataset:
    if options.data == "auto":
        return data.load_auto(options.data_dir, say)[0]
    return data.load(options.data, options.data_dir, say)


def _result(options: argparse.Namespace, verdicts: Verdicts, lanes: dict[str, Any], stages: list[str]) -> dict[str, Any]:
    found = {name: verdicts.stages[name].summary() for name in stages if name in verdicts.stages}
    if missing := [name for name in stages if name not in found]:
        raise Failed(f"stage {missing[0]} compared nothing")
    first = verdicts.first
    return {
        "network": verdicts.plan.experiment.network.name,
        "recipe": verdicts.plan.experiment.recipe.name,
        "dtype": verdicts.plan.dtype,
        "steps": verdicts.plan.steps,
        "batch_size": verdicts.plan.experiment.recipe.batch_size,
        "seed": options.seed,
        "lanes": lanes,
        "stages": found,
        "verdict": "different" if any(stage["verdict"] == "different" for stage in found.values()) else "equal",
        "first_divergence": first and vars(first),
    }
