"""`vgg-parity train`: train, resume or test a network in one framework, in one or several processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from parity import data, machine
from parity.backend import distributed
from parity.backend.registry import FRAMEWORKS, implementation, installed, make_backend, make_trainer
from parity.backend.timing import time_steps
from parity.cli.command import Failed, Interrupted, Options, choice, command, option
from parity.cli.train_options import (
    CPU_NETWORK,
    GPU_NETWORK,
    RECIPE,
    check_flags,
    command_to_resume,
    command_to_train,
    train_options,
)
from parity.data import Dataset
from parity.errors import InputError
from parity.network import articles
from parity.network.network import Network
from parity.process_group import LOST, SINGLE_PROCESS, ProcessGroup, from_launcher, is_loss
from parity.progress import Console, duration
from parity.recipe import presets
from parity.recipe.precision import AUTO, GAIN, Arithmetic, check_device, find_obstacle
from parity.recipe.recipe import Experiment, Preprocessing, Recipe, changed
from parity.report import plots
from parity.short_repr import counted
from parity.training.compatibility import check_compatible, make_compatible
from parity.training.console_lines import describe_longer, describe_position, describe_rate
from parity.training.interrupts import give_up
from parity.training.loop import Diverged, Stopped, evaluate, train
from parity.training.run_folder import Follower, Position, RunFolder, check_free, read_checkpoint
from parity.version import __version__
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import State, initialise

TIMED = 4 * 10**10
"""Multiply-adds, forward, of a step that --amp auto times: 128 images of VGG16 at 32 by 32."""


@dataclass(frozen=True)
class _Job:
    """What to train, and where. `state` holds weights, and also optimizer slots if a run is resumed."""

    run: RunFolder
    dataset: Dataset
    state: State
    position: Position
    runtime: Any
    device: str


@command(
    "train",
    "Train, resume or test a network of the articles. Without options, it trains a network that takes minutes on this machine.",
    (
        "",
        "--framework torch --network vgg_mini --recipe adam --data cifar10 --epochs 3 --json",
        "--network vgg_a@0.25x64 --data folder:pictures --scale-jitter 72,128",
        "--network vgg16_bn_drop --recipe article   (the article's 200 epochs)",
        "--resume runs/RUN",
        "--eval-only runs/RUN",
    ),
)
@option(
    "--framework",
    type=choice(tuple(FRAMEWORKS)),
    help="the framework that trains (default: the one that is installed, paddle if both are). For several processes: torchrun "
    "scripts/train_torch.py, or python -m paddle.distributed.launch scripts/train_paddle.py",
)
@train_options
def main(options: Options, console: Console) -> dict[str, Any] | None:
    """Train, resume or test. Return the result in rank 0, and None in other ranks."""
    framework = options.framework or _framework_of(options.resume or options.eval_only) or installed()
    process_group = from_launcher(framework)
    started = time.perf_counter()
    console.silent = not process_group.leads
    with _told_once(process_group):
        check_flags(framework, options, process_group)
    if options.eval_only:
        return _evaluate_only(framework, options, process_group, console)
    lost = f"failed: {LOST}, and the training has not begun; see the output of that process for the cause"
    try:
        job = _prepare(framework, options, process_group, console)
        again = command_to_resume(framework, options, job.run, process_group)
        lost = f"failed: {LOST}; continue from the last checkpoint with: {again}"
        with _told_once(process_group):
            peak_memory = _train(framework, options, process_group, console, job, again, lost)
    except RuntimeError as error:
        if is_loss(process_group, error):
            give_up(lost)
        raise
    if process_group.size > 1:
        make_backend(framework).leave()
    if not process_group.leads:
        return None
    return _summary(framework, job, process_group, console, time.perf_counter() - started, peak_memory)


def _framework_of(run: Path | None) -> str | None:
    """Return the framework that config.json of the run folder `run` names, if it is installed; else None."""
    try:
        said = json.loads((run / "config.json").read_text())["framework"] if run else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # the code that reads the run reports what is wrong
    return said if said in FRAMEWORKS and importlib.util.find_spec(said) else None


@contextmanager
def _told_once(process_group: ProcessGroup) -> Iterator[None]:
    """Around code that all ranks run: if all of them raise an error, only rank 0 prints it."""
    try:
        yield
    except (InputError, Failed, KeyboardInterrupt) as error:
        if process_group.leads:
            raise
        raise SystemExit(2 if isinstance(error, InputError) else 1 if isinstance(error, Failed) else 130) from None


def _prepare(framework: str, options: Options, process_group: ProcessGroup, console: Console) -> _Job:
    """Return the job: rank 0 decides it, checks it and makes the run folder; the other ranks receive it."""
    if not process_group.leads:
        return _follow(framework, options, process_group, console)
    job = (
        _resume(framework, options, process_group, console)
        if options.resume
        else _begin(framework, options, process_group, console)
    )
    if process_group.size > 1:
        said = {
            "folder": str(job.run.folder),
            "experiment": job.run.experiment.to_json(),
            "arithmetic": json.dumps(dataclasses.asdict(job.run.arithmetic)),
            "position": json.dumps(dataclasses.asdict(job.position)),
        }
        distributed.from_first(make_backend(framework), canonical_state.encode(job.state, said), job.device)
    return job


def _follow(framework: str, options: Options, process_group: ProcessGroup, console: Console) -> _Job:
    """Receive the job from rank 0."""
    runtime, device = _start(framework, options, process_group)
    message = distributed.from_first(make_backend(framework), b"", device)
    state, said = canonical_state.decode(message, "the message of rank 0")
    arithmetic = Arithmetic(**json.loads(said["arithmetic"]))
    run = Follower(Path(said["folder"]), Experiment.from_json(said["experiment"]), arithmetic)
    return _Job(run, _data_of(run, options, console), state, Position(**json.loads(said["position"])), runtime, device)


def _train(
    framework: str, options: Options, process_group: ProcessGroup, console: Console, job: _Job, again: str, lost: str
) -> int:
    """Train to the end. Return the peak memory of all processes together, in bytes.

    If it is stopped, print `again`, the resume command; `lost` is for `parity.training.interrupts`.
    """
    run, position, experiment = job.run, job.position, job.run.experiment
    if options.tensorboard and process_group.leads:
        run.watchers.append(plots.tensorboard(run.folder))
    if options.save_v2_tar:
        v2_tar.names(experiment.network)  # raises `InputError` now, not after the first epoch
        run.saves_v2_tar = True
    start = {name: job.state[name] for name in experiment.network.parameters}
    settings, how = experiment.recipe.optimizer, dataclasses.astuple(run.arithmetic)
    trainer = make_trainer(framework, experiment.network, settings, start, "float32", job.device, process_group, *how)
    if job.state.keys() != start.keys():
        trainer.load(job.state, position.update)
    try:
        try:
            train(trainer, run, job.dataset, position, console, options.checkpoint_every, lost)
        finally:
            if process_group.leads:
                plots.curves(run)
        return int(trainer.total(machine.peak_memory())[0])
    except (Stopped, Diverged) as error:
        trainer.total(0.0)  # waits for all ranks: launchers kill rank 0 soon after another rank has ended
        if isinstance(error, Diverged):
            raise Failed(str(error)) from None
        place = describe_position(experiment.recipe, position, experiment.batches(len(job.dataset.train_labels)))
        raise Interrupted(f"stopped {place}; continue with: {again}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; continue from the last checkpoint with: {again}") from None


def _start(framework: str, options: Options, process_group: ProcessGroup) -> tuple[Any, str]:
    """Start the framework. Return its runtime module and the device. This takes seconds, so bad input is reported before."""
    threads = _threads(options, process_group)
    runtime = implementation(framework, "runtime", threads)
    device = runtime.start(options.device, threads)
    if options.amp != AUTO:
        check_device(options.amp or "off", framework, device)
    if process_group.size > 1:
        make_backend(framework).join(process_group, device)
    return runtime, device


def _threads(options: Options, process_group: ProcessGroup) -> int:
    return options.threads or max(1, machine.cores() // process_group.local_size)


def _begin(framework: str, options: Options, process_group: ProcessGroup, console: Console) -> _Job:
    """Begin a new run: choose what the options leave open, print the choices, and make the run folder."""
    options.network = options.network or presets.FOR.get(options.recipe)
    asked = articles.get_network(options.network) if options.network else None
    chosen = (
        presets.recipe_for(asked, RECIPE)
        if asked and not options.recipe
        else presets.get_recipe(options.recipe or RECIPE)
    )
    optimizer = replace(chosen.optimizer, rate=options.learning_rate) if options.learning_rate else None
    recipe = changed(chosen, epochs=options.epochs, batch_size=options.batch_size, optimizer=optimizer)
    if options.output:
        check_free(options.output)
    dataset, reason = _data(options, console, asked)
    dataset = dataset.hold_out(options.hold_out or 0).limit(options.train_limit, options.test_limit)
    if asked:
        make_compatible(asked, dataset, recipe, options.scale_jitter, process_group)
    runtime, device = _start(framework, options, process_group)
    network = asked or articles.get_network(GPU_NETWORK if device == "gpu" else CPU_NETWORK)
    network, dataset, recipe = make_compatible(network, dataset, recipe, options.scale_jitter, process_group)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    title = f"{stamp}-{framework}-{network.name}-{recipe.name}".replace("/", "-")  # names from JSON may contain a slash
    names = () if dataset.name in data.CLASSES else dataset.classes
    limits = (options.train_limit, options.test_limit)
    experiment = Experiment(network, recipe, dataset.name, options.seed or 0, *limits, names, options.hold_out or 0)
    arithmetic, why = _choose_arithmetic(framework, options, network, recipe, device, process_group)
    context = {
        "framework": framework,
        "versions": runtime.versions()
        | {"vgg-parity": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": machine.describe(),
        "device": device,
        "threads": _threads(options, process_group),
        "processes": process_group.size,
        "command": " ".join(sys.argv),
    }
    run = (
        RunFolder.create(options.output, experiment, context, arithmetic)
        if options.output
        else RunFolder.create_new(Path("runs"), title, experiment, context, arithmetic)
    )
    processes = f" in {process_group.size} processes" if process_group.size > 1 else ""
    console.say(
        f"{FRAMEWORKS[framework]} {runtime.versions()[framework]} on {device}{processes} ({machine.describe()}); run folder {run.folder}"
    )
    if tuned := runtime.tuning(device, arithmetic.layout):
        console.say(f"For speed: {tuned} (docs/performance.md)")
    if why:
        console.say(f"Mixed precision: {arithmetic.amp}{why}")
    console.say(reason)
    console.say(
        f"Network: {network.name}, {network.trainable_count:,} parameters"
        + (_why(network, device) if not options.network else "")
    )
    if options.hold_out:
        held = len(dataset.test_labels)
        console.say(f"Held back: every test uses {held:,} training images, which train nothing, not the test images")
    count = len(dataset.train_labels)
    console.say(
        f"Recipe: {recipe.name}, {counted(recipe.epochs, 'epoch')} of {count:,} images in batches of {recipe.batch_size}"
    )
    if options.learning_rate:
        console.say(describe_rate(recipe, chosen, count))
    if not options.network and device == "cpu" and process_group.size == 1:  # other ranks would wait for the timing
        console.say(_article(framework))
    return _Job(run, dataset, initialise(network, experiment.seed), Position(), runtime, device)


def _why(network: Network, device: str) -> str:
    """Say why a smaller network than the article's is trained; nothing on a GPU."""
    if device == "gpu":
        return ""
    full = articles.get_network(GPU_NETWORK)
    share = full.multiply_adds / network.multiply_adds
    return (
        f": {GPU_NETWORK} with an eighth of the filters and of the dropout rates, "
        f"because this is a CPU (1/{share:.0f} of the multiply-adds)"
    )


def _article(framework: str, count: int = 64) -> str:
    """Say how long the article's 200 epochs would take on this machine, from a timed step of its network.

    The step has half a batch. An update reads and writes 15 million parameters, which takes as long as ten images.
    """
    network, recipe = articles.get_network(GPU_NETWORK), presets.get_recipe("article")
    trainer = make_trainer(framework, network, recipe.optimizer, 0)
    speed = count / time_steps({"": trainer}, network, count, 1)[""]
    total = recipe.epochs * 50_000 / speed
    again = command_to_train(framework, SINGLE_PROCESS)
    return (
        f"The article's run (--network {network.name} --recipe article, {counted(recipe.epochs, 'epoch')}) would take about "
        f"{duration(total)} here ({speed:.0f} images/s in a step of {count}): {again} --network {network.name} --recipe article"
    )


def _choose_arithmetic(
    framework: str, options: Options, network: Network, recipe: Recipe, device: str, process_group: ProcessGroup
) -> tuple[Arithmetic, str]:
    """Return mixed precision and memory layout of a new run, and why the precision is as it is; "" if nothing is to be said."""
    amp, why = options.amp or "off", ""
    if amp == AUTO:
        amp, why = _choose_amp(framework, network, recipe, device, process_group)
    elif amp == "bf16":
        why = "; weights, running statistics, losses and optimizer are in float32"
    elif options.amp is None and device == "cpu" and not find_obstacle("bf16", framework, device):
        why = f"; this CPU multiplies in bfloat16: --amp {AUTO} uses it if a step is at least {GAIN} times as fast"
    return Arithmetic(amp, options.layout or make_backend(framework).layout("float32", device, amp)), why


def _choose_amp(
    framework: str, network: Network, recipe: Recipe, device: str, process_group: ProcessGroup
) -> tuple[str, str]:
    """Return bf16 if a step of this process is `GAIN` times as fast as in float32, else off; and why.

    The step has a batch of this process, or fewer images if it took long.
    """
    if obstacle := find_obstacle("bf16", framework, device):
        return "off", f" (--amp {AUTO}): {obstacle}"
    count = max(2, min(recipe.batch_size // process_group.size, TIMED // max(1, network.multiply_adds)))
    settings = recipe.optimizer
    trainers = {amp: make_trainer(framework, network, settings, 0, device=device, amp=amp) for amp in ("off", "bf16")}
    seconds = time_steps(trainers, network, count, 3)
    ratio = seconds["off"] / seconds["bf16"]
    return (
        "bf16" if ratio >= GAIN else "off",
        f" (--amp {AUTO}): a step of {count} images takes {seconds['bf16']:.3g} s in bf16 and {seconds['off']:.3g} s in float32, "
        f"{ratio:.2f} times as fast, {'at least' if ratio >= GAIN else 'less than'} {GAIN}",
    )


def _data(options: Options, console: Console, network: Network | None) -> tuple[Dataset, str]:
    if options.data in (None, "auto"):
        return data.load_auto(options.data_dir, console.say, network.input_shape[0] if network else 3)
    dataset = data.load(options.data, options.data_dir, console.say)
    return dataset, f"Data: {dataset.name}{f' from {dataset.source}' if dataset.source else ''}, as asked."


def _resume(framework: str, options: Options, process_group: ProcessGroup, console: Console) -> _Job:
    """Return the run in the folder, at its last checkpoint."""
    run = RunFolder.open(options.resume)
    planned = run.experiment.recipe.epochs
    if options.epochs:
        _check_longer(options, run)
    dataset = _data_of(run, options, console)
    check_compatible(run.experiment.network, dataset, run.experiment.recipe, process_group)
    state, position = run.restore(len(dataset.train_labels))
    runtime, device = _start(framework, options, process_group)
    if obstacle := find_obstacle(run.arithmetic.amp, framework, device):
        raise InputError(
            f"{run.folder} is trained with --amp {run.arithmetic.amp}, and {obstacle}; resume it where that works"
        )
    if options.epochs and options.epochs > planned:
        run.lengthen(options.epochs)
        console.say(describe_longer(run.experiment.recipe, planned, position, len(dataset.train_labels)))
    experiment = run.experiment
    place = describe_position(experiment.recipe, position, experiment.batches(len(dataset.train_labels)))
    console.say(f"Resuming {run.folder} with {FRAMEWORKS[framework]} {place}")
    if run.arithmetic.amp != "off":
        console.say(f"Mixed precision: {run.arithmetic.amp}, as this run began")
    return _Job(run, dataset, state or initialise(experiment.network, experiment.seed), position, runtime, device)


def _check_longer(options: Options, run: RunFolder) -> None:
    """Raise `InputError`, which says what to do, if `run` cannot get the number of epochs of the `options`."""
    try:
        run.experiment.lengthened(options.epochs)
    except InputError as error:
        again = f"--recipe {shlex.quote(str(run.folder / 'config.json'))} --epochs {options.epochs}"
        raise InputError(
            f"{run.folder} cannot get {counted(options.epochs, 'epoch')}: {error}; leave --epochs out, or start a new run with {again} "
            "and its other options as before"
        ) from None


def _data_of(run: RunFolder, options: Options, console: Console) -> Dataset:
    """Load the data set of `run`."""
    experiment = run.experiment
    dataset = data.load(experiment.data, options.data_dir, console.say)
    if experiment.classes not in ((), dataset.classes):
        raise InputError(f"{dataset.name} has other classes than when {run.folder} was begun: put them back")
    limited = dataset.hold_out(experiment.hold_out).limit(experiment.train_limit, experiment.test_limit)
    return limited.sized(experiment.network.input_shape, experiment.recipe.augmentation.scales)


def _evaluate_only(framework: str, options: Options, process_group: ProcessGroup, console: Console) -> dict[str, Any]:
    experiment, network, state, _ = read_checkpoint(options.eval_only)
    if options.network and articles.get_network(options.network) != network:
        raise InputError(f"{options.eval_only} holds network {network.name}, not {options.network}")
    held = 0
    if options.data in (None, "auto") and experiment:
        held = experiment.hold_out
        dataset = data.load(experiment.data, options.data_dir, console.say).hold_out(held)
    else:
        dataset, _ = _data(options, console, network)
    dataset = dataset.limit(None, options.test_limit or (experiment and experiment.test_limit) or None)
    recipe: Recipe | None = (
        presets.get_recipe(options.recipe) if options.recipe else experiment.recipe if experiment else None
    )
    dataset = dataset.sized(network.input_shape, recipe.augmentation.scales if recipe else (0, 0))
    check_compatible(network, dataset, recipe, trained=False)
    _, device = _start(framework, options, process_group)
    settings, amp = (recipe or presets.get_recipe(RECIPE)).optimizer, options.amp or "off"
    trainer = make_trainer(framework, network, settings, state, device=device, amp=amp)
    started = time.perf_counter()
    try:
        cost, accuracy = evaluate(trainer, dataset, recipe.preprocessing if recipe else Preprocessing())
    except Diverged as error:
        raise Failed(f"{options.eval_only}: {error}") from None
    seconds = time.perf_counter() - started
    count = len(dataset.test_labels)
    console.say(
        f"Test accuracy {accuracy:.2%} on {count:,} {dataset.name} {_tested(held)} (loss {cost:.4f}, {count / seconds:.0f} images/s)"
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


def _tested(hold_out: int) -> str:
    """Return what the images of a test are."""
    return "held-back training images" if hold_out else "test images"


def _summary(
    framework: str, job: _Job, process_group: ProcessGroup, console: Console, wall: float, peak_memory: int
) -> dict[str, Any]:
    run, position, dataset = job.run, job.position, job.dataset
    epochs, experiment = run.metrics("pass"), run.experiment
    speed = position.samples / position.seconds
    several = f" in {process_group.size} processes" if process_group.size > 1 else ""
    console.say(
        f"Trained for {duration(position.seconds)} at {speed:.1f} images/s; preparing batches took "
        f"{position.feed_seconds / position.seconds:.1%} of that time and dropout masks {position.mask_seconds / position.seconds:.1%}; "
        f"peak memory {peak_memory / 1e9:.2f} GB{several}"
    )
    console.say(f"Curves, metrics and checkpoints: {run.folder}")
    accuracy, count = epochs[-1]["test_accuracy"], len(dataset.test_labels)
    which = "all" if experiment.test_limit is None else "the first"
    console.say(
        f"Test accuracy {accuracy:.2%} on {which} {count:,} {dataset.name} {_tested(experiment.hold_out)} "
        f"after {counted(experiment.recipe.epochs, 'epoch')}"
    )
    return {
        "framework": framework,
        "network": experiment.network.name,
        "recipe": experiment.recipe.name,
        "data": dataset.name,
        "device": job.device,
        "processes": process_group.size,
        "epochs": experiment.recipe.epochs,
        "seed": experiment.seed,
        "test_accuracy": accuracy,
        "best_accuracy": position.best,
        "test_cost": epochs[-1]["test_cost"],
        "test_images": count,
        "train_images": len(dataset.train_labels),
        "hold_out": experiment.hold_out,
        "seconds": round(position.seconds, 3),
        "wall_seconds": round(wall, 3),
        "images_per_second": round(speed, 2),
        "feed_share": round(position.feed_seconds / position.seconds, 5),
        "mask_share": round(position.mask_seconds / position.seconds, 5),
        "peak_memory_bytes": peak_memory,
        "parameters": experiment.network.trainable_count,
        "versions": job.runtime.versions(),
        "run_dir": str(run.folder),
    }
