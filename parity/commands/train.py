"""`scripts/train_paddle.py` and `scripts/train_torch.py`."""

from __future__ import annotations

import argparse
import math
import platform
import shlex
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from parity import __version__, data, machine, networks, plots, recipes, v2_tar
from parity.commands.command import Failed, Parser, execute, natural, positive
from parity.data import Dataset
from parity.errors import InputError
from parity.network import Network
from parity.nodes import BatchNorm
from parity.progress import Console, duration
from parity.recipe import Experiment, Preprocessing, Recipe, changed
from parity.run import Position, Run, check_free, read_checkpoint
from parity.side import FRAMEWORKS, implementation, trainer
from parity.train import Diverged, Stopped, evaluate, train
from parity.weights import initialise

CPU_NETWORK, GPU_NETWORK, RECIPE = "vgg16_bn_drop@0.125", "vgg16_bn_drop", "quick"
"""What a run without arguments trains."""

FIXED_ON_RESUME = (
    "network",
    "recipe",
    "data",
    "epochs",
    "batch_size",
    "seed",
    "train_limit",
    "test_limit",
    "out",
    "eval_only",
)
TRAINING_ONLY = ("epochs", "batch_size", "seed", "train_limit", "out", "tensorboard", "save_v2_tar")
"""Flags that mean nothing to --eval-only."""

KEPT_ON_RESUME = ("data_dir", "device", "threads", "checkpoint_every", "tensorboard", "save_v2_tar", "json")
"""Flags that config.json does not hold: the command that continues a run repeats them."""

MOST_THREADS = 1024


def main(framework: str, arguments: list[str] | None = None) -> int:
    """Trains, resumes or tests in `framework` ("paddle" or "torch"); returns the exit code."""
    options = parser(framework).parse_args(arguments)
    console = Console(options.json)
    return execute(lambda: _command(framework, options, console), options.json)


def parser(framework: str) -> Parser:
    """The flags, the same for both frameworks."""
    script = f"python scripts/train_{framework}.py"
    flags = Parser(
        f"Train a network of the articles in {FRAMEWORKS[framework]}. Without arguments: the best that this machine does in minutes.",
        f"  {script}\n"
        f"  {script} --network vgg_mini --recipe adam --data cifar10 --epochs 3 --json\n"
        f"  {script} --network vgg16_bn_drop --recipe article        (the article's 200 passes)\n"
        f"  {script} --resume runs/RUN\n"
        f"  {script} --eval-only runs/RUN",
    )
    add = flags.add_argument
    add(
        "--network",
        metavar="NAME",
        help=f"{', '.join(networks.NETWORKS)}, or NAME@WIDTH (default: {GPU_NETWORK}, on CPU @0.125)",
    )
    add("--recipe", metavar="NAME", help=f"{', '.join(recipes.RECIPES)} (default: the network's own, else {RECIPE})")
    add("--data", metavar="NAME", help=f"auto, {', '.join(data.DATASETS)} (default: auto, CIFAR-10 if it can be had)")
    add("--data-dir", type=Path, metavar="PATH", help="the data set's archive, its unpacked folder, or our cache")
    add("--epochs", type=positive, help="passes over the training images (default: the recipe's)")
    add("--batch-size", type=positive, help="images per update (default: the recipe's)")
    add("--seed", type=natural, help="start of all random numbers (default: 0)")
    add("--train-limit", type=positive, metavar="N", help="use the first N training images only")
    add("--test-limit", type=positive, metavar="N", help="use the first N test images only")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto")
    add("--threads", type=positive, help="CPU threads (default: all cores)")
    add("--out", type=Path, metavar="DIR", help="run folder (default: a new one under runs/)")
    add("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    add(
        "--eval-only",
        type=Path,
        metavar="RUN|FILE",
        help="test a run's last checkpoint, or a .safetensors file, and stop",
    )
    add(
        "--checkpoint-every",
        type=natural,
        default=60,
        metavar="SECONDS",
        help="at most this between checkpoints (default: 60)",
    )
    add("--tensorboard", action="store_true", help="also write TensorBoard events into the run folder")
    add(
        "--save-v2-tar",
        action="store_true",
        help="after each pass, also write Paddle v2's params_pass_N.tar, as the article does",
    )
    return flags


def _command(framework: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    started = time.perf_counter()
    _check_flags(options)
    if options.eval_only:
        return _evaluate_only(framework, options, console)
    if options.resume:
        run, dataset = _resume(options, console)
        state, position = run.restore(len(dataset.train_labels))
        runtime, device = _start(framework, options)
    else:
        run, dataset, runtime, device = _begin(framework, options, console)
        state, position = None, Position()
    experiment = run.experiment
    if options.tensorboard:
        run.watchers.append(plots.tensorboard(run.folder))
    if options.save_v2_tar:
        v2_tar.names(experiment.network)  # `InputError` now, not after the first pass
        run.keeps_passes = True
    side = trainer(
        framework,
        experiment.network,
        experiment.recipe.optimizer,
        initialise(experiment.network, experiment.seed),
        device=device,
    )
    if state is not None:
        side.load(state, position.update)
    if options.resume:
        place = f"pass {position.epoch}, batch {position.batch}"
        done = "its end: nothing is left to train" if position.epoch == experiment.recipe.epochs else place
        console.say(f"Resuming {run.folder} in {FRAMEWORKS[framework]} at {done}")
    again = _command_to_resume(framework, options, run)
    try:
        try:
            train(side, run, dataset, position, console, options.checkpoint_every)
        finally:
            plots.curves(run)
    except Stopped:
        raise KeyboardInterrupt(
            f"stopped at pass {position.epoch}, batch {position.batch}; continue with: {again}"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue from the last checkpoint with: {again}") from None
    except Diverged as error:
        raise Failed(str(error)) from None
    return _summary(
        framework, run, position, dataset, device, console, runtime.versions(), time.perf_counter() - started
    )


def _check_flags(options: argparse.Namespace) -> None:
    """`InputError` for flags that do not go together or that nothing here can serve."""
    modes = {
        "resume": (FIXED_ON_RESUME, "the run's config.json decides it"),
        "eval_only": (TRAINING_ONLY, "it only tests"),
    }
    for mode, (refused, why) in modes.items():
        for name in refused if getattr(options, mode) is not None else ():
            if getattr(options, name) is not None and getattr(options, name) is not False:
                raise InputError(f"{_flag(name)} cannot be given with {_flag(mode)}: {why}")
    if (options.threads or 1) > MOST_THREADS:
        raise InputError(f"--threads is at most {MOST_THREADS}; this machine has {machine.cores()} cores")
    if options.tensorboard:
        plots.check_tensorboard()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _command_to_resume(framework: str, options: argparse.Namespace, run: Run) -> str:
    """What continues `run` in the way that `options` ask for."""
    words, default = ["python", f"scripts/train_{framework}.py", "--resume", str(run.folder)], parser(framework)
    for name in KEPT_ON_RESUME:
        value = getattr(options, name)
        if value != default.get_default(name):
            words += [_flag(name)] if value is True else [_flag(name), str(value)]
    return shlex.join(words)


def _start(framework: str, options: argparse.Namespace) -> tuple[Any, str]:
    """The framework's runtime module, and the device to use. The import takes seconds, so bad input is found before."""
    runtime = implementation(framework, "runtime", options.threads)
    return runtime, runtime.start(options.device, options.threads or machine.cores())


def _begin(framework: str, options: argparse.Namespace, console: Console) -> tuple[Run, Dataset, Any, str]:
    """A new run: chooses what was not given, says so, and makes its folder; with the framework's runtime and the device."""
    asked = networks.get(options.network) if options.network else None
    chosen = recipes.fitting(asked, RECIPE) if asked and not options.recipe else recipes.get(options.recipe or RECIPE)
    recipe = changed(chosen, epochs=options.epochs, batch_size=options.batch_size)
    if options.out:
        check_free(options.out)
    dataset, reason = _data(options, console, asked)
    dataset = dataset.limit(options.train_limit, options.test_limit)
    if asked:
        _check_fit(asked, dataset, recipe)
    runtime, device = _start(framework, options)
    network = asked or networks.get(GPU_NETWORK if device == "gpu" else CPU_NETWORK)
    _check_fit(network, dataset, recipe)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = options.out or Path("runs") / f"{stamp}-{framework}-{network.name}-{recipe.name}"
    experiment = Experiment(network, recipe, dataset.name, options.seed or 0, options.train_limit, options.test_limit)
    context = {
        "framework": framework,
        "versions": runtime.versions()
        | {"vgg-parity": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": machine.describe(),
        "device": device,
        "threads": options.threads or machine.cores(),
        "command": " ".join(sys.argv),
    }
    run = Run.create(folder, experiment, context)
    console.say(
        f"{FRAMEWORKS[framework]} {runtime.versions()[framework]} on {device} ({machine.describe()}); run folder {folder}"
    )
    console.say(reason)
    console.say(
        f"Network: {network.name}, {network.trainable_count:,} parameters"
        + (_why(network, device) if not options.network else "")
    )
    count = len(dataset.train_labels)
    console.say(
        f"Recipe: {recipe.name}, {count_of(recipe.epochs)} of {count:,} images in batches of {recipe.batch_size}"
    )
    if not options.network and device == "cpu":
        console.say(_article(framework, dataset))
    return run, dataset, runtime, device


def count_of(passes: int) -> str:
    """For people: 1 pass, 2 passes."""
    return f"{passes} pass{'' if passes == 1 else 'es'}"


def _why(network: Network, device: str) -> str:
    if device == "gpu":
        return ""
    full = networks.get(GPU_NETWORK)
    share = full.multiply_adds / network.multiply_adds
    return (
        f": {GPU_NETWORK} with an eighth of the filters and of the dropout rates, "
        f"since this is a CPU (1/{share:.0f} of the multiply-adds)"
    )


def _article(framework: str, dataset: Dataset, count: int = 16) -> str:
    """What the article's 200 passes would take here, from two timed steps of its network."""
    network, recipe = networks.get(GPU_NETWORK), recipes.get("article")
    side = trainer(framework, network, recipe.optimizer, 0)
    images, labels = np.zeros((count, *network.input_shape), np.float32), dataset.train_labels[:count]
    for step in range(3):
        if step == 1:
            started = time.perf_counter()
        side.step(images, labels, {}, 0.0, recipe.batch_size)
    speed = 2 * count / (time.perf_counter() - started)
    total = recipe.epochs * 50_000 / speed
    return (
        f"The article's run (--network {network.name} --recipe article, {recipe.epochs} passes) would take about {duration(total)} here "
        f"({speed:.0f} images/s over 2 steps of {count}): python scripts/train_{framework}.py --network {network.name} --recipe article"
    )


def _data(options: argparse.Namespace, console: Console, network: Network | None) -> tuple[Dataset, str]:
    if options.data in (None, "auto"):
        return data.load_auto(options.data_dir, console.say, network.input_shape[0] if network else 3)
    dataset = data.load(options.data, options.data_dir, console.say)
    return dataset, f"Data: {dataset.name}{f' from {dataset.source}' if dataset.source else ''}, as asked."


def _check_fit(network: Network, dataset: Dataset, recipe: Recipe | None, trained: bool = True) -> None:
    """`InputError` unless `network` can classify `dataset` as `recipe` preprocesses it and, if it is `trained`, learn from it."""
    shape = dataset.train_images.shape[1:]
    seen = recipe.seen(shape) if recipe else shape
    if seen != network.input_shape or len(dataset.classes) != network.classes:
        cropped = f", of which recipe {recipe.name} takes {seen}" if recipe and seen != shape else ""
        raise InputError(
            f"network {network.name} maps {network.input_shape} to {network.classes} classes, "
            f"but {dataset.name} has images {shape} of {len(dataset.classes)} classes{cropped}"
        )
    norms = [math.prod(layer.input[1:]) for layer in network.layers.values() if isinstance(layer.node, BatchNorm)]
    count = len(dataset.train_labels)
    if recipe and trained and 1 in norms and 1 in (recipe.batch_size, count % recipe.batch_size or recipe.batch_size):
        raise InputError(
            f"{count} images in batches of {recipe.batch_size} make a batch of one image, from which the batch norm of "
            f"{network.name} learns nothing: choose another --batch-size or --train-limit"
        )


def _resume(options: argparse.Namespace, console: Console) -> tuple[Run, Dataset]:
    run = Run.open(options.resume)
    experiment = run.experiment
    dataset = data.load(experiment.data, options.data_dir, console.say)
    dataset = dataset.limit(experiment.train_limit, experiment.test_limit)
    _check_fit(experiment.network, dataset, experiment.recipe)
    return run, dataset


def _evaluate_only(framework: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    experiment, network, state = read_checkpoint(options.eval_only)
    if options.network and networks.get(options.network) != network:
        raise InputError(f"{options.eval_only} holds network {network.name}, not {options.network}")
    if options.data in (None, "auto") and experiment:
        dataset = data.load(experiment.data, options.data_dir, console.say)
    else:
        dataset, _ = _data(options, console, network)
    dataset = dataset.limit(None, options.test_limit or (experiment and experiment.test_limit) or None)
    recipe: Recipe | None = recipes.get(options.recipe) if options.recipe else experiment.recipe if experiment else None
    _check_fit(network, dataset, recipe, trained=False)
    _, device = _start(framework, options)
    side = trainer(framework, network, (recipe or recipes.get(RECIPE)).optimizer, state, device=device)
    started = time.perf_counter()
    try:
        cost, accuracy = evaluate(side, dataset, recipe.preprocessing if recipe else Preprocessing())
    except Diverged as error:
        raise Failed(f"{options.eval_only}: {error}") from None
    seconds = time.perf_counter() - started
    count = len(dataset.test_labels)
    console.say(
        f"Test accuracy {accuracy:.2%} on {count:,} {dataset.name} test images ({cost=:.4f}, {count / seconds:.0f} images/s)"
    )
    return {
        "framework": framework,
        "network": network.name,
        "recipe": recipe.name if recipe else None,
        "data": dataset.name,
        "device": device,
        "test_accuracy": accuracy,
        "test_cost": cost,
        "test_images": count,
        "seconds": round(seconds, 3),
        "images_per_second": round(count / seconds, 2),
        "parameters": network.trainable_count,
        "checkpoint": str(options.eval_only),
    }


def _summary(
    framework: str,
    run: Run,
    position: Position,
    dataset: Dataset,
    device: str,
    console: Console,
    versions: dict[str, str],
    wall: float,
) -> dict[str, Any]:
    passes, experiment = run.metrics("pass"), run.experiment
    speed = position.samples / position.seconds
    console.say(
        f"Trained {duration(position.seconds)} at {speed:.1f} images/s; data feeding took {position.feed_seconds / position.seconds:.1%} "
        f"and dropout masks {position.mask_seconds / position.seconds:.1%} of it; peak memory {machine.peak_memory() / 1e9:.2f} GB"
    )
    console.say(f"Curves, metrics and checkpoints: {run.folder}")
    accuracy, count = passes[-1]["test_accuracy"], len(dataset.test_labels)
    which = "all" if experiment.test_limit is None else "the first"
    console.say(
        f"Test accuracy {accuracy:.2%} on {which} {count:,} {dataset.name} test images after {count_of(experiment.recipe.epochs)}"
    )
    return {
        "framework": framework,
        "network": experiment.network.name,
        "recipe": experiment.recipe.name,
        "data": dataset.name,
        "device": device,
        "epochs": experiment.recipe.epochs,
        "seed": experiment.seed,
        "test_accuracy": accuracy,
        "best_accuracy": position.best,
        "test_cost": passes[-1]["test_cost"],
        "test_images": count,
        "train_images": len(dataset.train_labels),
        "seconds": round(position.seconds, 3),
        "wall_seconds": round(wall, 3),
        "images_per_second": round(speed, 2),
        "feed_share": round(position.feed_seconds / position.seconds, 5),
        "mask_share": round(position.mask_seconds / position.seconds, 5),
        "peak_memory_bytes": machine.peak_memory(),
        "parameters": experiment.network.trainable_count,
        "versions": versions,
        "run_dir": str(run.folder),
    }
