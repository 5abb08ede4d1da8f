"""`vgg-parity check`: compare the training of one of our networks in Paddle and in PyTorch, and find the first divergence."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from parity import data, machine, report
from parity.backend.worker import Worker
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    command,
    command_line,
    failures,
    option,
    positive,
)
from parity.cli.compare import say_stages
from parity.cli.options import (
    DATA_SETS,
    NETWORKS,
    RECIPES,
    comparison_options,
    data_dir_option,
    device_option,
    python_options,
    stages_option,
    threads_option,
)
from parity.cli.reports import check_reports, reports_options, write_reports
from parity.compare.check import SHORT, Check, CheckOutcome, Plant, draw_start, plan_check, run_check, usual_twins
from parity.compare.default_inputs import STEPS, count_images
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, STAGES
from parity.data import Dataset
from parity.errors import InputError, suggest
from parity.network import articles
from parity.network.network import Network
from parity.onnx.comparison import MANY, compare_through_onnx
from parity.progress import Console, Phases
from parity.recipe import presets
from parity.recipe.precision import DTYPES, NONE_ON_CPUS
from parity.recipe.recipe import Augmentation, Recipe, changed
from parity.report.kept_results import read_results, write_results
from parity.selftest.changes import perturbed
from parity.training.run_folder import read_checkpoint

FEW_STEPS = 3
"""Default training steps of a `HUGE` network; `STEPS` is the default of all others."""

BATCH, FEW = 8, 2
"""Default images per step: `BATCH` if images are at most `MANY` pixels wide, else `FEW`."""

HUGE = 50_000_000
"""A network with more weights has no twin unless --twins asks for one: the twin is a third process with gigabytes of memory."""


@command(
    "check",
    "Train a network in Paddle and in PyTorch in lock-step and compare every tensor of every step.\n\n"
    "To compare two models of your own, see vgg-parity compare. For torchvision and paddle.vision, see vgg-parity pairs.",
    (
        "--network vgg16_bn_drop --json",
        "--network vgg_mini --recipe adam --steps 20 --report report",
        "--network all --stages forward,backward,update",
        "--network vgg_mini --perturb conv3_1:weight:1e-6",
        "--network vgg_mini --dtype bfloat16   (a step of mixed precision, as train --amp bf16)",
        "--network my_network.json --isolate",
        "--paddle-python paddle3/bin/python   (a Paddle from another environment)",
        "--against-paddle paddle3/bin/python   (two versions of Paddle)",
    ),
)
@option(
    "--network",
    default="vgg16_bn_drop",
    metavar="NAME",
    help=f"{NETWORKS}, NAME@WIDTH, NAME@WIDTHxSIZE, a JSON file, or all: a small cousin of each of these (default: vgg16_bn_drop)",
)
@option("--full", is_flag=True, help="with --network all: check the full networks instead of small cousins")
@option("--recipe", metavar="NAME", help=f"{RECIPES}, or a FILE.json (default: the network's own, else article)")
@stages_option(STAGES)
@comparison_options(
    None,
    f"default: {STEPS}; {FEW_STEPS} for more than {HUGE // 10**6} million weights",
    f"default: 1; 3 beyond {SHORT} steps or in float32; 0 for more than {HUGE // 10**6} million weights",
    ("bfloat16",),
)
@option(
    "--batch-size",
    type=positive,
    help=f"images per step (default: {BATCH}; {FEW} for images wider than {MANY} pixels)",
)
@option("--weights", type=PATH, metavar="RUN|FILE", help="start from these weights (default: fresh weights)")
@option(
    "--data",
    default="auto",
    metavar="NAME",
    help=f"{DATA_SETS}; images are resized to the network's input (default: CIFAR-10, or MNIST for one channel, if available)",
)
@data_dir_option
@option(
    "--plain",
    is_flag=True,
    help="start from fresh weights and use the recipe unchanged: add no crops, parameter groups, hard image or resumption",
)
@option("--augment", is_flag=True, help="with --plain: crop and flip the images even if the recipe does not")
@option(
    "--perturb",
    metavar="LAYER:TENSOR:EPS",
    help="plant a relative error of EPS in a tensor of Paddle (weight, bias, ..., or output); the check must find it",
)
@reports_options
@option(
    "--resume",
    type=PATH,
    metavar="FILE",
    help="with --network all: write each result into FILE, and skip networks that FILE already holds; remove FILE if the code changes",
)
@device_option()
@threads_option("CPU threads of each side; both sides run at the same time", 1)
@python_options
@option(
    "--against-paddle", type=PATH, metavar="EXE", help="compare with the Paddle of this interpreter instead of PyTorch"
)
def main(options: Options, console: Console) -> dict[str, Any]:
    """Check networks; `Failed` if one differs."""
    check_reports(options)
    checks = _checks(options, console.say)
    plant = perturbed(options.perturb, checks[0].network) if options.perturb else None
    results = _kept(options.resume, checks, options) if options.resume else []
    if results:
        console.say(f"{options.resume} holds {len(results)} of {len(checks)} results")
    rest = checks[len(results) :]
    with failures(), Phases(sum(_phases(check) for check in rest), "starting the frameworks") as phases:
        for some in _together(rest):
            for result in _of(options, some, plant, console, results, phases):
                results.append(result)
                if options.resume:
                    write_results(options.resume, results)
    verdict = max((result["verdict"] for result in results), key=[EQUAL, CHAOTIC, DIFFERENT].index)
    whole = results[0] if len(results) == 1 else {"verdict": verdict, "results": results}
    shown = report.plain(whole)
    write_reports(options, whole, shown, console)
    if verdict == DIFFERENT:
        named = [f"{r['network']} at {r['first_divergence']['sentence']}" for r in results if r["first_divergence"]]
        raise Failed(f"the implementations differ: {'; '.join(named)}", shown)
    return dict(shown)


def _together(checks: list[Check]) -> Iterator[list[Check]]:
    """Yield groups of checks that share workers: consecutive checks, but each `HUGE` network alone.

    Frameworks do not free all memory of earlier networks: Paddle 2.6.2 keeps the weights of every model that it has exported.
    """
    for alone, some in itertools.groupby(checks, _huge):
        row = list(some)
        yield from [[check] for check in row] if alone else [row]


def _phases(check: Check) -> int:
    """Count the phases of the progress bar: every step, and the ONNX stage."""
    return check.length + ("onnx" in check.stages)


def _of(
    options: Options,
    checks: list[Check],
    plant: Plant | None,
    console: Console,
    kept: list[dict[str, Any]],
    phases: Phases,
) -> Iterator[dict[str, Any]]:
    """Yield the results of `checks`, from workers of their own. `InputError` if the results `kept` come from other versions."""
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(worker) for name, worker in _workers(options, checks)}
        lanes = {name: worker.versions() for name, worker in list(workers.items())[:2]}
        if any(result.get("lanes") != lanes for result in kept):
            raise InputError(f"{options.resume} holds results of other versions: remove it to start afresh")
        for check in checks:
            yield _one(options, draw_start(check), workers, lanes, plant, console, phases)


def _kept(file: Path, checks: list[Check], options: Options) -> list[dict[str, Any]]:
    """Read the results in `file`, if it exists. They belong to the first of `checks`; `InputError` if they belong to others."""
    results = read_results(file)
    found = [tuple(one[name] for name in ALIKE) for one in results]
    wanted = [_alike(options, check) for check in checks]
    if found != wanted[: len(found)]:
        raise InputError(
            f"{file} holds results of another command: name another --resume, or remove it to start afresh"
        )
    return results


ALIKE = ("network", "recipe", "data", "dtype", "steps", "batch_size", "seed", "device", "asked")
"""Fields that must be the same in a kept result and in its check."""

ASKED = ("stages", "plain", "augment", "twins", "isolate", "torch_python", "paddle_python", "against_paddle")
"""Flags that a result records only here."""


def _alike(options: Options, check: Check) -> tuple[Any, ...]:
    asked = {name: value if value is None else str(value) for name, value in vars(options).items() if name in ASKED}
    asked["recipe"] = hashlib.sha256(json.dumps(asdict(check.recipe)).encode()).hexdigest()  # a file may have changed
    how = (check.dtype, check.length, check.recipe.batch_size, check.seed, options.device)
    names = (check.network.name, check.recipe.name, check.dataset.name)
    return (*names, *how, asked)


def _workers(options: Options, checks: list[Check]) -> list[tuple[str, Worker]]:
    """Return the workers of the reference, the candidate, and the reference's twins, with their names."""
    pythons = {"torch": options.torch_python, "paddle": options.paddle_python}
    reference, python = ("paddle", options.against_paddle) if options.against_paddle else ("torch", pythons["torch"])
    name = "paddle (reference)" if options.against_paddle else "torch"
    rest = (options.threads, options.device)
    twins = 0 if all(_alone(check) for check in checks) else usual_twins(checks[0].length, checks[0].dtype)
    twins = min(twins, 1) if any(_huge(check) for check in checks) else twins  # each takes gigabytes
    twins = twins if options.twins is None else options.twins
    return [
        (name, Worker(reference, python, *rest)),
        ("paddle", Worker("paddle", pythons["paddle"], *rest)),
        *((f"twin {number}", Worker(reference, python, *rest)) for number in range(1, twins + 1)),
    ]


def _checks(options: Options, say: Callable[[str], None]) -> list[Check]:
    """Return one check for each network, without its start. Raises `InputError` before any worker starts."""
    stages = tuple(stage.strip() for stage in options.stages.split(","))
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"unknown stage {unknown[0]!r}{suggest(unknown[0], STAGES)}; known: {', '.join(STAGES)}")
    if "trajectory" in stages and options.steps is not None and options.steps < 2:
        raise InputError(
            "the stage trajectory needs --steps of at least 2: raise --steps, or leave the stage out of --stages"
        )
    if options.batch_size == 1:
        raise InputError("--batch-size must be at least 2: a batch norm learns nothing from one image")
    if options.network == "all" and (options.weights or options.perturb):
        raise InputError("--weights and --perturb are for one network: name it with --network")
    if options.resume and options.network != "all":
        raise InputError("--resume is for --network all: the check of one network always starts afresh")
    if options.full and options.network != "all":
        raise InputError("--full is for --network all: a named network is always checked in full size")
    chosen = [articles.get_network(options.network)] if options.network != "all" else list(articles.NETWORKS.values())
    if options.network == "all" and not options.full:
        chosen = [articles.small(network) for network in chosen]
    state = None
    if options.weights:
        _, network, state, _ = read_checkpoint(options.weights)
        if network != chosen[0]:
            raise InputError(
                f"{options.weights} holds network {network.name}, not {chosen[0].name}: name it with --network"
            )
    named = presets.get_recipe(options.recipe) if options.recipe else None
    load = functools.cache(lambda channels: _data(options, channels, say))
    checks = []
    for network in chosen:
        batch_size = options.batch_size or (BATCH if max(network.input_shape[1:], default=0) <= MANY else FEW)
        recipe = changed(named or presets.recipe_for(network), batch_size=batch_size)
        steps = options.steps or (FEW_STEPS if network.trainable_count > HUGE else STEPS)
        if options.augment and recipe.augmentation == Augmentation():
            recipe = changed(recipe, augmentation=presets.CROP_AND_FLIP)
        few = count_images(steps, batch_size)
        dataset = load(network.input_shape[0])
        fitting = _fitting(network, dataset.limit(min(few, len(dataset.train_labels)), 1), recipe, say)
        recipe.optimizer.by_muon(network)  # refuses what Muon cannot train
        fields = {"steps": steps, "dtype": options.dtype, "seed": options.seed, "stages": stages, "state": state}
        checks.append(plan_check(network, recipe, fitting, options.plain, **fields))
    return checks


def _data(options: Options, channels: int, say: Callable[[str], None]) -> Dataset:
    if options.data == "auto":
        return data.load_auto(options.data_dir, say, channels)[0]
    return data.load(options.data, options.data_dir, say)


def _fitting(network: Network, dataset: Dataset, recipe: Recipe, say: Callable[[str], None]) -> Dataset:
    """Return the data set with its images resized to the network's input."""
    if len(dataset.classes) > network.classes or len(network.input_shape) != 3:
        raise InputError(
            f"network {network.name} maps {network.input_shape} to {network.classes} classes, but {dataset.name} has "
            f"images of {len(dataset.classes)} classes: choose another --data"
        )
    shape = dataset.train_images.shape[1:]
    size = shape[1:] if recipe.preprocessing.crop and not recipe.augmentation.rescales else network.input_shape[1:]
    target = (network.input_shape[0], *size)
    if recipe.seen(target) != network.input_shape:
        raise InputError(
            f"recipe {recipe.name} crops {recipe.preprocessing.crop} by {recipe.preprocessing.crop} pixels, but network "
            f"{network.name} takes {network.input_shape}: choose another --recipe"
        )
    if target == shape:
        return dataset
    say(f"{network.name}: images of {dataset.name} resized to {' x '.join(map(str, target))}")
    return dataset.fitted(target)


def _huge(check: Check) -> bool:
    return check.network.trainable_count > HUGE


def _alone(check: Check) -> bool:
    """Whether a check has no twins by default. In float32 every check has twins, since they set the tolerance."""
    return check.dtype == "float64" and _huge(check)


def _one(
    options: Options,
    check: Check,
    workers: dict[str, Worker],
    lanes: dict[str, dict[str, str]],
    plant: Plant | None,
    console: Console,
    phases: Phases,
) -> dict[str, Any]:
    versions = " and ".join(f"{name} {lane.get(name.split()[0], '?')}" for name, lane in lanes.items())
    console.say(f"{check.network.name}, recipe {check.recipe.name}, {versions}, {check.dtype}")
    if check.added:
        console.say(f"  added to the recipe: {'; '.join(check.added)} (--plain adds nothing)")
    started = datetime.now().isoformat(timespec="seconds")
    coming = iter([*(f"step {number}" for number in range(2, check.length + 1)), *["ONNX"][: "onnx" in check.stages]])

    def say(line: str) -> None:
        console.say(line)
        if name := next(coming, ""):
            phases.begin(f"{check.network.name}, {name}")

    phases.begin(f"{check.network.name}, step 1")
    outcome = run_check(check, workers, plant, isolated=options.isolate, say=say, onnx=compare_through_onnx)
    for name in lanes if check.dtype in DTYPES.values() and options.device == "cpu" else ():
        if said := NONE_ON_CPUS.get(name.split()[0]):
            outcome.explained.append(f"{said}; here it computes in float32")
    say_stages(outcome, console)
    for sentence in outcome.explained:
        console.say(f"  {sentence}")
    for row in outcome.isolated or []:
        if row["verdict"] == DIFFERENT:
            console.say(
                f"  {row['layer']} differs in isolation: forward {row['forward']:.1e}, backward {row['backward']:.1e}"
            )
    if outcome.verdict == DIFFERENT and outcome.isolated and all(row["verdict"] == EQUAL for row in outcome.isolated):
        console.say("  every isolated layer is equal: the difference is in inputs, weights, loss or update")
    console.say(f"  {outcome.verdict} ({outcome.seconds:.1f} s)", outcome.verdict)
    kept = {"asked": _alike(options, check)[-1]} if options.resume else {}
    # So far: with --network all, of all networks that these processes have checked. An export may have killed a worker.
    alive = {name: worker for name, worker in workers.items() if worker.exit_code is None}
    memory = {"command": machine.peak_memory()} | {name: worker.memory() for name, worker in alive.items()}
    return describe(options, outcome) | {"lanes": lanes, "started": started, "peak_memory_bytes": memory} | kept


def describe(options: Options, outcome: CheckOutcome) -> dict[str, Any]:
    """Return the outcome as JSON: what `--json` prints and the report shows."""
    check = outcome.check
    return outcome.to_json() | {
        "command": command_line("check", options),
        "network": check.network.name,
        "recipe": check.recipe.name,
        "added": list(check.added),
        "data": check.dataset.name,
        "steps": check.length,
        "batch_size": check.recipe.batch_size,
        "seed": check.seed,
        "device": options.device,
        "threads": options.threads,
        "machine": machine.describe(),
    }
