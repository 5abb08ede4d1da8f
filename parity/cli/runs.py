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
from parity.progress import Console
from parity.report import plots
from parity.training.run_folder import RunFolder, about, proportion

PICTURE = Path("runs.png")

MARK = "runs"
"""What the table stands between, see `parity.files.generated_block`."""


def _line(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    percentage = float(value)
    if not (name and 0 <= percentage <= 100):
        raise ValueError
    return name, percentage


@command(
    "runs",
    "Draw test accuracy against minutes of training for several run folders, and tabulate how they end. Runs of one network, recipe, "
    "length and framework are one row: mean ± standard deviation over their seeds, of the last pass.",
    (
        "runs/* --output accuracy.png",
        "docs/runs/* --line article=89.11 --update docs/training.md",
    ),
)
@argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@option("--output", type=PATH, default=PICTURE, metavar="FILE.png", help=f"the picture (default: {PICTURE})")
@option(
    "--line",
    multiple=True,
    type=Parsed(_line, "NAME=PERCENT, such as article=89.11"),
    metavar="NAME=PERCENT",
    help="draw a level, too; again for more",
)
@option("--update", type=PATH, metavar="FILE", help="write the table into FILE, between its marks")
def main(options: Options, console: Console) -> dict[str, Any]:
    """Draws and tabulates runs."""
    if options.update:
        generated_block.around(options.update, MARK)
    check_png(options.output)
    rows = [row(run, passes) for run, passes in finished(options.runs, console.say)]
    groups = grouped(rows, console.say)
    lines = tabulated(groups)
    drawn = {label: [(one["minutes"], one["accuracies"]) for one in group] for label, group in groups.items()}
    write_atomically(options.output, plots.races(drawn, options.line))
    for line in lines:
        console.say(line)
    console.say(f"Picture: {options.output}")
    if options.update:
        generated_block.update(options.update, MARK, "\n".join(lines))
        console.say(f"{options.update} is up to date")
    return {
        "runs": [
            {key: value for key, value in one.items() if key != "kind"} for group in groups.values() for one in group
        ],
        "picture": str(options.output),
    }


def finished(folders: list[Path], say: Callable[[str], None]) -> list[tuple[RunFolder, list[dict[str, Any]]]]:
    """The runs in `folders` that have ended a pass, with their lines; `say` hears of the others. `InputError` if there is none."""
    found, last = [], ""
    for folder in folders:
        run = RunFolder.open(folder) if (folder / "config.json").exists() else None
        if run and (passes := run.metrics("pass")):
            found.append((run, passes))
            continue
        last = "holds no finished pass" if run else "is not a run folder"
        say(f"Left out: {folder} {last}")
    if not found:
        raise InputError(f"{folders[-1]} {last}: give the folder of a run that has ended a pass")
    return found


def row(run: RunFolder, passes: list[dict[str, Any]]) -> dict[str, Any]:
    """What the logs of `run` say: what was run, minutes and accuracy after every one of `passes`, and what `vgg-parity evaluate` found of
    the last.

    `InputError` where they are damaged.
    """
    folder = run.folder
    with about(folder / "config.json", "put the whole file back"):
        framework = parse_json((folder / "config.json").read_text(), "run").get("framework")
        if framework not in FRAMEWORKS:
            raise InputError(f"framework {framework!r} is none of {', '.join(FRAMEWORKS)}")
    experiment = run.experiment
    return {
        "run": str(folder),
        "network": experiment.network.name,
        "recipe": experiment.recipe.name,
        "data": experiment.data,
        "framework": framework,
        "seed": experiment.seed,
        "passes": len(passes),
        "of": experiment.recipe.epochs,
        "kind": json.dumps([replace(experiment, seed=0).to_json(), framework, len(passes)]),
        "minutes": [line["seconds"] / 60 for line in passes],
        "accuracies": [line["test_accuracy"] for line in passes],
        "views": _views(folder / "evaluation.json", experiment.data),
    }


def _views(file: Path, trained_on: str) -> dict[str, float]:
    """By views of a picture, the accuracy that `vgg-parity evaluate --report RUN` wrote beside the logs; empty where it was not run.

    `InputError` unless it is of all test images of the data set that the run was trained on.
    """
    if not file.exists():
        return {}
    with about(file, "run vgg-parity evaluate again"):
        try:
            found = parse_json(file.read_text(), "evaluation")
            split, dataset, limited = found["split"], found["data"], found["limit"] is not None
            rows = [from_fields(_Row, {key: one[key] for key in _FIELDS}, "row") for one in found["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("it is not what vgg-parity evaluate writes") from None
        if (split, dataset, limited) != ("test", trained_on, False):
            part = f"{'some' if limited else 'all'} pictures called {split!r} of {dataset}"
            raise InputError(f"it is of {part}, not of all test pictures of {trained_on}")
        return {str(one): proportion(1 - one.top1_error) for one in rows if one.views_per_picture > 1}


@dataclass(frozen=True)
class _Row:
    """What `vgg-parity evaluate` writes of one way to look at the pictures."""

    views: str
    scales: tuple[int, ...]
    views_per_picture: int
    top1_error: float

    def __str__(self) -> str:
        scales = ", ".join(map(str, self.scales))
        return f"{self.views}{f' at {scales}' if scales else ''}, {self.views_per_picture} views"


_FIELDS = [field.name for field in fields(_Row)]


def grouped(rows: list[dict[str, Any]], say: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """The runs by a label for people: those that only their seeds tell apart together, of each seed the first; `say` hears of others.

    Kinds that would be called alike get numbers behind the network's name.
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
            say(f"Left out: {one['run']} is a run of the same seed as {twice[0]}")
            continue
        group.append(one)
    return groups


def _label(one: dict[str, Any], number: str = "") -> str:
    return f"{one['network']}{number}{_conditions(one)}"


def _conditions(one: dict[str, Any]) -> str:
    begun = "" if one["passes"] == one["of"] else f" of {one['of']}"
    return f", {one['recipe']}, {one['data']}, {one['passes']}{begun} passes, {FRAMEWORKS[one['framework']]}"


def tabulated(groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of the table: a row a group."""
    views = list(dict.fromkeys(name for group in groups.values() for one in group for name in one["views"]))
    head = ["network", "recipe", "data", "framework", "seeds", "passes", "minutes", "last pass", *views]
    cells = []
    for label, group in groups.items():
        one = group[0]
        passes = str(one["passes"]) if one["passes"] == one["of"] else f"{one['passes']} of {one['of']}"
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
                passes,
                spread([other["minutes"][-1] for other in group], ".1f"),
                percent(other["accuracies"][-1] for other in group),
                *extra,
            ]
        )
    return table(head, cells, 5)
