"""`vgg-parity experiment`: the articles' experiments in both frameworks, each with a table and pictures at the end."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from parity import data, machine
from parity.backend.registry import FRAMEWORKS
from parity.cli.command import (
    PATH,
    Failed,
    Interrupted,
    Options,
    WholeNumber,
    argument,
    choice,
    command,
    failures,
    option,
    positive,
    program,
    refuse,
)
from parity.cli.options import DATA_SETS, data_dir_option, device_option, limit_options, python_options, threads_option
from parity.data import Dataset
from parity.errors import InputError, suggest
from parity.experiments import EXPERIMENTS, STUDIES
from parity.experiments.redraw import measured
from parity.experiments.remote import Crew
from parity.experiments.study import (
    Extent,
    Report,
    Study,
    Trial,
    estimate,
    limited,
    place,
    predicted,
    row,
    run_trial,
    shortened,
    trials,
)
from parity.experiments.timing import TIMING, batch, measure, report
from parity.files.atomic import write_atomically
from parity.files.strict_json import parse_json
from parity.progress import Console, bar, duration
from parity.training.loop import Diverged, Stopped
from parity.training.run_folder import about, check_free

OF_TRAINING = ("epochs", "train_limit", "test_limit", "hold_out", "only", "seeds", "full")
OF_TIMING = ("steps", "batch_size")
"""Flags of experiments that train, and flags of those that time."""

MOST_SEEDS = 1000
"""Each seed has its own copy of the data."""

MARK = "experiment.json"
"""The file that marks the folder of an experiment."""


@command(
    "experiment",
    "Run an experiment of the articles in both frameworks, each in its own process. It ends with a table and pictures.\n\n"
    "After a stop or a kill, the same command with the same --output continues.\n\n"
    + "\n\n".join(f"{name}: {about}" for name, about in EXPERIMENTS.items()),
    (
        "permutation",
        "permutation --full --data-dir MNIST   (the article's 60,000 digits, one epoch)",
        "cifar --framework torch --output runs/cifar",
        "ablation --only silu,jitter --hold-out 5000 --seeds 3 --framework torch",
        "classics --epochs 2 --train-limit 2000 --test-limit 1000",
        "timing --steps 20 --json",
    ),
)
@argument("experiment", type=choice(tuple(EXPERIMENTS)), metavar="NAME")
@option("--framework", type=choice((*FRAMEWORKS, "both")), default="both", help="which frameworks run (default: both)")
@option(
    "--output", type=PATH, metavar="DIR", help="folder of runs, table and pictures (default: a new one under runs/)"
)
@option(
    "--full",
    is_flag=True,
    help="shorten nothing: use all data and epochs of the article or paper (hours to days on a CPU)",
)
@option("--epochs", type=positive, help="number of epochs")
@option(
    "--only",
    metavar="LIST",
    help="train only these entries, and what they are compared with; for "
    + "; ".join(f"{s.name}: {', '.join(e.name for e in s.entries)}" for s in STUDIES.values() if s.needed),
)
@limit_options
@option(
    "--seeds",
    type=WholeNumber(1, MOST_SEEDS),
    metavar="N",
    help=f"train with seeds 0 to N-1 (default: {', '.join(f'{study.name} {study.seeds}' for study in STUDIES.values())})",
)
@option("--data", metavar="NAME", help=f"one of {DATA_SETS} (default: the experiment's own)")
@data_dir_option
@option("--steps", type=positive, metavar="N", help=f"timed steps (default: {TIMING.steps})")
@option("--batch-size", type=positive, metavar="N", help=f"images per timed step (default: {TIMING.batch_size})")
@threads_option("CPU threads of each framework", others="; 1 for permutation and residual")
@device_option()
@python_options
def main(options: Options, console: Console) -> dict[str, Any]:
    """Run an experiment. Raise `Failed` where it fails, or where the article's finding does not hold."""
    _check_flags(options)
    study = STUDIES.get(options.experiment)
    folder = options.output or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{options.experiment}"
    again = shlex.join([*program("experiment"), *options.words, *([] if options.output else ["--output", str(folder)])])
    count = options.threads or (study.threads if study else None) or machine.cores()
    result: dict[str, Any] = {
        "experiment": options.experiment,
        "command": shlex.join([*program("experiment"), *options.words]),
        "machine": machine.describe(),
        "threads": count,
        "frameworks": list(FRAMEWORKS) if options.framework == "both" else [options.framework],
    }
    pythons = {"paddle": options.paddle_python, "torch": options.torch_python}
    with Crew(pythons, count, options.device) as crew, failures():
        try:
            found = (
                _train(study, options, result, folder, crew, console)
                if study
                else _time(options, result, folder, crew, console)
            )
        except (Stopped, KeyboardInterrupt):
            raise Interrupted(f"stopped, nothing is lost; continue with: {again}") from None
    return _written(found, result, folder, console)


def _check_flags(options: Options) -> None:
    """Raise `InputError` for a flag that the experiment does not have, or that contradicts --full."""
    timed = options.experiment == TIMING.name
    others = ", ".join(STUDIES) if timed else TIMING.name
    refuse(options, OF_TRAINING if timed else OF_TIMING, f"is for {others}: leave it out of {options.experiment}")
    if options.full:
        limits = ("epochs", "train_limit", "test_limit", "hold_out")
        refuse(options, limits, "cannot be given with --full, which trains as much as the article")


def _check_folder(folder: Path, name: str) -> None:
    """Raise `InputError` unless `folder` is new, or of the experiment `name`."""
    mark = folder / MARK
    if not mark.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} has other files in it: choose another --output")
        check_free(folder)
        return
    with about(mark, "choose another --output"):
        other = parse_json(mark.read_text(errors="replace"), "experiment").get("experiment")
        if other != name:
            raise InputError(f"it belongs to the experiment {other}, not {name}")


def _mark(folder: Path, name: str) -> None:
    """Mark `folder` as that of the experiment `name`. Call it after all checks of the input."""
    write_atomically(folder / MARK, (json.dumps({"experiment": name}) + "\n").encode())


# ------------------------------------------------------------------------------------------------------------- training


def _train(
    study: Study, options: Options, result: dict[str, Any], folder: Path, crew: Crew, console: Console
) -> Report:
    """Train the missing runs of `study`, and report on all of its runs."""
    study = _only(study, options)
    chosen = _extents(study, options)
    less = shortened(study.entries, chosen)
    seeds = options.seeds or study.seeds
    name = chosen[study.entries[0].name].data
    _check_folder(folder, study.name)
    dataset = data.load(name, options.data_dir, console.say)
    datasets = {seed: study.split(dataset, seed) for seed in range(seeds)}
    planned = [(trial, limited(trial, datasets)) for trial in trials(study, chosen, result["frameworks"], datasets)]
    result |= {"seeds": seeds, "against_the_article": less}
    console.say(f"{study.name}: {study.about}")
    for line in less or ["nothing is shortened"]:
        console.say(f"Against {study.against}: {line}")
    console.say(f"Data: {name} from {dataset.source}; {machine.describe()}; threads {crew.threads}; folder {folder}")
    lost = _finish(study, planned, folder, crew, console, seeds == 1)
    rows = []
    for trial, own in planned:
        if trial.entry.name in lost:
            continue
        rows.append(row(trial, own, folder / "runs"))
        if study.predicts:
            rows[-1]["predicted"] = predicted(trial, own, folder / "runs", crew)
    whole = all(chosen[entry.name] in (entry.usual, entry.article) for entry in study.entries)
    made = study.report(rows, datasets, whole)
    if lost:
        exploded = " ".join(lost.values())
        failed = f"{made.failed} {exploded}".strip()
        made = dataclasses.replace(made, text=f"{made.text}\n\n{exploded}", failed=failed)
    for one in rows:
        one.pop("predicted", None)
    result["rows"] = rows
    return made


def _only(study: Study, options: Options) -> Study:
    """Return `study` with the entries that --only names, and those that it needs. `InputError` for a name that it does not have."""
    if options.only is None:
        return study
    if not study.needed:
        raise InputError(f"{study.name} compares all its entries with each other: leave --only out")
    names = [name.strip() for name in options.only.split(",")]
    known = [entry.name for entry in study.entries if entry.name not in study.needed]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--only {unknown[0]!r} is none of {', '.join(known)}{suggest(unknown[0], known)}")
    return dataclasses.replace(study, entries=tuple(e for e in study.entries if e.name in (*study.needed, *names)))


def _extents(study: Study, options: Options) -> dict[str, Extent]:
    given = {"epochs": options.epochs, "train": options.train_limit, "test": options.test_limit, "data": options.data}
    given |= {"hold_out": options.hold_out}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return {e.name: dataclasses.replace(e.article if options.full else e.usual, **changes) for e in study.entries}


def _finish(
    study: Study, planned: list[tuple[Trial, Dataset]], folder: Path, crew: Crew, console: Console, each_epoch: bool
) -> dict[str, str]:
    """Train every trial that is not finished, after an estimate of the time.

    Return a message for each entry whose training exploded. Raise `Failed` where the study needs one of them.
    """
    left = [(trial, place(trial, folder / "runs", len(own.train_labels)), own) for trial, own in planned]
    left = [(trial, at, own) for trial, at, own in left if at.epoch < trial.experiment.recipe.epochs]
    if not left:
        console.say(f"All {len(planned)} runs are complete.")
        return {}
    time = duration(estimate(left, crew))
    console.say(
        f"To train: {len(left)} of {len(planned)} runs, about {time} in total "
        "(shorter with --epochs, --train-limit, --test-limit)"
    )
    _mark(folder, study.name)
    lost: dict[str, str] = {}
    for trial, _, own in bar(left, "runs"):
        if trial.entry.name in lost:
            continue
        try:
            run_trial(trial, own, folder / "runs", crew, console.say if each_epoch else None)
        except Diverged as error:
            if study.needed is None or trial.entry.name in study.needed:
                raise Failed(f"{trial.description()}: {error}") from None
            lost[trial.entry.name] = f"{trial.description()}: training exploded ({str(error).partition(':')[0]})."
            console.say(lost[trial.entry.name])
            continue
        done = row(trial, own, folder / "runs")
        console.say(
            f"{trial.description()}: test accuracy {done['test_accuracy']:.2%} after {duration(done['seconds'])} of training"
        )
    return lost


# --------------------------------------------------------------------------------------------------------------- timing


def _time(options: Options, result: dict[str, Any], folder: Path, crew: Crew, console: Console) -> Report:
    """Time the missing steps, and report on all of them."""
    if options.data:
        dataset = data.load(options.data, options.data_dir, console.say)
    else:
        dataset, _ = data.load_auto(options.data_dir, console.say)
    steps, size = options.steps or TIMING.steps, options.batch_size or TIMING.batch_size
    images = batch(TIMING, dataset, size)
    _check_folder(folder, TIMING.name)
    less = _less(size, steps)
    result |= {
        "started": datetime.now().isoformat(timespec="seconds"),
        "load_before": machine.load_average(),
        "batch_size": size,
        "steps": steps,
        "burn_in": TIMING.burn_in,
        "data": dataset.name,
        "against_the_article": less,
    }
    console.say(f"{TIMING.name}: {TIMING.about}")
    for line in less or ["nothing is shortened"]:
        console.say(f"Against the article: {line}")
    load = result["load_before"]
    console.say(
        f"Images: {dataset.name}; {machine.describe()}; threads {crew.threads}; load average before {load}; folder {folder}"
    )
    for framework in result["frameworks"]:
        crew.versions(framework)  # stops for a missing framework before anything is written
    _mark(folder, TIMING.name)
    found = measure(TIMING, result["frameworks"], images, steps, folder, crew, console.say)
    result["versions"] = {framework: crew.versions(framework) for framework in found}
    made = report(TIMING, found, size)
    # An earlier command may have timed more steps.
    result["steps"] = min(row["steps"] for row in made.found["times"])
    result["against_the_article"] = _less(size, result["steps"])
    return made


def _less(size: int, steps: int) -> list[str]:
    """Return how the timing differs from the article's."""
    theirs: Mapping[str, int] = {"batches of": TIMING.batch_size, "timed steps:": TIMING.steps}
    pairs = zip(theirs.items(), (size, steps), strict=True)
    return [f"{what} {own} instead of {there}" for (what, there), own in pairs if own != there]


# --------------------------------------------------------------------------------------------------------------- output


def _written(found: Report, result: dict[str, Any], folder: Path, console: Console) -> dict[str, Any]:
    """Write and print the result. Raise `Failed` where the article's finding does not hold."""
    result |= found.found | {"folder": str(folder), "files": ["table.md", "result.json", *found.pictures]}
    text = f"{found.text}\n\n{measured(result)}\n"
    for name, picture in found.pictures.items():
        write_atomically(folder / name, picture)
    write_atomically(folder / "table.md", text.encode())
    write_atomically(folder / "result.json", _by_lines(result).encode())
    for line in text.splitlines():
        console.say(line)
    console.say(f"Written: {', '.join(str(folder / name) for name in result['files'])}")
    if found.failed:
        raise Failed(found.failed, result)
    return result


def _by_lines(result: dict[str, Any]) -> str:
    """Return JSON with a line for each entry, and for each row of a table in it."""
    lines = []
    for key, value in result.items():
        rows = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" if rows else json.dumps(value)
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"
