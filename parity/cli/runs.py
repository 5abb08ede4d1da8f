"""`vgg-parity runs`: accuracy against minutes of training, from the logs of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from parity.backend.registry import FRAMEWORKS
from parity.cli.command import (
    PATH,
    Options,
    Parsed,
    argument,
    check_png,
    command,
    option,
)
from parity.errors import InputError
from parity.experiments.tables import percent, spread, table
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.files.strict_json import from_fields, parse_json
from parity.inference.evaluate import DOUBTFUL
from parity.progress import Console
from parity.recipe.recipe import Experiment
from parity.report import plots
from parity.standard_streams import printable
from parity.training.run_folder import RunFolder, about, proportion

PICTURE = Path("runs.png")

MARK = "runs"
"""The word in the marks around the table, see `parity.files.generated_block`."""


def _line(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    percentage = float(value)
    if not (name and 0 <= percentage <= 100):
        raise ValueError
    return name, percentage


@command(
    "runs",
    "Draw test accuracy against minutes of training for several run folders, and print a table of their last epochs.\n\n"
    "Runs that differ only in their seed share a row: mean ± standard deviation. The picture has a panel for each machine.",
    (
        "runs/* --output accuracy.png",
        "docs/runs/* --line article=89.11 --update docs/recipes.md",
    ),
)
@argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@option("--output", type=PATH, default=PICTURE, metavar="FILE.png", help=f"the picture (default: {PICTURE})")
@option(
    "--line",
    multiple=True,
    type=Parsed(_line, "NAME=PERCENT, such as article=89.11"),
    metavar="NAME=PERCENT",
    help="also draw a line at this accuracy; repeat the option for more lines",
)
@option(
    "--update", type=PATH, metavar="FILE", help="write the table into FILE, between <!-- runs --> and <!-- /runs -->"
)
def main(options: Options, console: Console) -> dict[str, Any]:
    """Draw runs, and print their table."""
    if options.update:
        generated_block.around(options.update, MARK)
    check_png(options.output)
    rows = [row(run, epochs) for run, epochs in finished(options.runs, console.say)]
    groups = grouped(rows, console.say)
    lines = tabulated(groups)
    drawn = {label: [_race(one) for one in group] for label, group in groups.items()}
    write_atomically(options.output, plots.races(drawn, options.line))
    for line in lines:
        console.say(line)
    console.say(f"Picture: {options.output}")
    if options.update:
        generated_block.update(options.update, MARK, "\n".join(lines))
        console.say(f"{options.update} is up to date")
    return {
        "runs": [
            {key: value for key, value in one.items() if key not in ("kind", "machine")}
            for group in groups.values()
            for one in group
        ],
        "picture": str(options.output),
    }


def _race(one: dict[str, Any]) -> plots.Race:
    return plots.Race(one["framework"], one["machine"], one["minutes"], one["accuracies"])


def finished(folders: list[Path], say: Callable[[str], None]) -> list[tuple[RunFolder, list[dict[str, Any]]]]:
    """Return the runs in `folders` that have finished an epoch, with the lines of their epochs. `say` gets a line for each other folder.

    Raise `InputError` if there is no such run.
    """
    found, last = [], ""
    for folder in folders:
        run = RunFolder.open(folder) if (folder / "config.json").exists() else None
        if run and (epochs := run.metrics("pass")):
            found.append((run, epochs))
            continue
        last = "has no finished epoch" if run else "is not a run folder"
        say(f"Left out: {folder} {last}")
    if not found:
        raise InputError(f"{folders[-1]} {last}: give the folder of a run that has finished an epoch")
    return found


def row(run: RunFolder, epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return settings of `run`, minutes and accuracy after each of `epochs`, and the accuracies that `vgg-parity evaluate` found.

    Raise `InputError` where they are damaged.
    """
    folder = run.folder
    with about(folder / "config.json", "put the whole file back"):
        config = parse_json((folder / "config.json").read_text(), "run")
        framework = config.get("framework")
        if framework not in FRAMEWORKS:
            raise InputError(f"framework {framework!r} is none of {', '.join(FRAMEWORKS)}")
    experiment, amp = run.experiment, config.get("amp", "off")
    return {
        "run": str(folder),
        "network": experiment.network.name,
        "recipe": experiment.recipe.name + (f", {printable(str(amp))}" if amp != "off" else ""),
        "data": experiment.data + (f", {experiment.hold_out:,} held back" if experiment.hold_out else ""),
        "framework": framework,
        "seed": experiment.seed,
        "passes": len(epochs),
        "of": experiment.recipe.epochs,
        "kind": json.dumps([replace(experiment, seed=0).to_json(), framework, len(epochs), amp]),
        "machine": _machine(config),
        "minutes": [line["seconds"] / 60 for line in epochs],
        "accuracies": [line["test_accuracy"] for line in epochs],
        "views": _views(folder / "evaluation.json", experiment),
    }


def _machine(config: dict[str, Any]) -> str:
    """Return where a run was trained, for the title of a panel: times on other machines, devices or threads are not comparable."""
    parts = [str(config.get("machine", "unknown machine")).partition(", Python")[0]]
    parts += [config["device"]] if config.get("device", "cpu") != "cpu" else []
    parts += [f"{config['threads']} thread{'s' * (config['threads'] != 1)}"] if config.get("threads") else []
    return printable(", ".join(map(str, parts)))


def _views(file: Path, experiment: Experiment) -> dict[str, float]:
    """Return, by views of an image, the accuracy that `vgg-parity evaluate --report RUN` wrote beside the logs. Empty where it was not run.

    Raise `InputError` unless it covers all test images of the data set that the run was trained on, or all images that the run held back.
    """
    if not file.exists():
        return {}
    with about(file, "run vgg-parity evaluate again"):
        try:
            found = parse_json(file.read_text(), "evaluation")
            split, dataset, limited = found["split"], found["data"], found["limit"] is not None
            rows = [from_fields(_Row, {key: one[key] for key in _FIELDS}, "row") for one in found["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("it was not written by vgg-parity evaluate") from None
        own = "held-back" if experiment.hold_out else "test"
        if (split, dataset, limited) != (own, experiment.data, False):
            part = f"{'some' if limited else 'all'} images of split {split!r} of {dataset}"
            raise InputError(f"it covers {part}, not all {own} images of {experiment.data}")
        return {str(one): proportion(1 - one.top1_error) for one in rows if one.views_per_picture > 1}


@dataclass(frozen=True)
class _Row:
    """One row of what `vgg-parity evaluate` writes."""

    views: str
    scales: tuple[int, ...]
    views_per_picture: float
    top1_error: float

    def __post_init__(self) -> None:
        if not (self.doubtful or self.views_per_picture % 1 == 0):
            raise ValueError("views_per_picture")

    @property
    def doubtful(self) -> bool:
        """Whether only some pictures got all views."""
        return self.views.startswith(DOUBTFUL)

    def __str__(self) -> str:
        scales = ", ".join(map(str, self.scales))
        shown = f"{self.views}{f' at {scales}' if scales else ''}"
        # The mean differs from run to run, and runs share a column.
        return shown if self.doubtful else f"{shown}, {self.views_per_picture:g} views"


_FIELDS = [field.name for field in fields(_Row)]


def grouped(rows: list[dict[str, Any]], say: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """Group runs that differ only in their seed, by a readable label. Keep the first run of each seed; `say` gets a line for each other.

    Groups that would have the same label get numbers behind the network's name.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    labels: dict[str, str] = {}
    alike: dict[str, int] = {}
    for one in rows:
        if one["kind"] not in labels:
            number = alike[_label(one)] = alike.get(_label(one), 0) + 1
            labels[one["kind"]] = _label(one, f" ({number})" if number > 1 else "")
        group = groups.setdefault(labels[one["kind"]], [])
        if twice := [other["run"] for other in group if other["seed"] == one["seed"]]:
            say(f"Left out: {one['run']} has the same seed as {twice[0]}")
            continue
        group.append(one)
    return groups


def _label(one: dict[str, Any], number: str = "") -> str:
    return f"{one['network']}{number}{_conditions(one)}"


def _conditions(one: dict[str, Any]) -> str:
    begun = "" if one["passes"] == one["of"] else f" of {one['of']}"
    unit = "epoch" if one["of"] == 1 else "epochs"
    return f", {one['recipe']}, {one['data']}, {one['passes']}{begun} {unit}, {FRAMEWORKS[one['framework']]}"


def tabulated(groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of the table: a row for each group."""
    views = list(dict.fromkeys(name for group in groups.values() for one in group for name in one["views"]))
    head = ["network", "recipe", "data", "framework", "seeds", "epochs", "minutes", "last epoch", *views]
    cells = []
    for label, group in groups.items():
        one = group[0]
        epochs = str(one["passes"]) if one["passes"] == one["of"] else f"{one['passes']} of {one['of']}"
        seeds = ", ".join(str(other["seed"]) for other in sorted(group, key=lambda other: other["seed"]))
        extra = []
        for name in views:
            known = [other["views"][name] for other in group if name in other["views"]]
            extra.append(percent(known) if len(known) == len(group) else "")
        cells.append(
            [
                label.removesuffix(_conditions(one)),
                one["recipe"],
                one["data"],
                FRAMEWORKS[one["framework"]],
                seeds,
                epochs,
                spread([other["minutes"][-1] for other in group], ".1f"),
                percent(other["accuracies"][-1] for other in group),
                *extra,
            ]
        )
    return table(head, cells, 5)
