"""The part of `scripts/check_parity.py` that compares anybody's two models, and the pairs of `parity.pairs.library_pairs`."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from parity import machine, report
from parity.cli.command import Failed, attach_result, refuse
from parity.compare.stages import CHAOTIC, DIFFERENT, EQUAL
from parity.errors import InputError
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.pairs.api import compare_models
from parity.pairs.library_pairs import PAIRS, chosen
from parity.pairs.losses import LOSSES
from parity.pairs.outcome import STAGES, Outcome
from parity.pairs.session import RATE
from parity.progress import Console, bar
from parity.recipe.optimizer import Optimizer
from parity.report import plain
from parity.report.kept_results import read_pair

STEPS = 10
"""Training steps, unless --steps says how many."""

ALIKE = ("lanes", "dtype", "optimizer", "steps", "seed")
"""What the rows of one table have in common."""

ONLY_HERE = ("input_shape", "inputs", "map", "save_map", "set_torch", "set_paddle", "kinds", "update")
"""Flags that make no sense for a network of ours."""


def add_flags(flags: argparse.ArgumentParser) -> None:
    """The flags for pairs."""
    group = flags.add_argument_group("two models of your own, unmodified (see parity.pairs.api.compare_models)")
    add = group.add_argument
    add(
        "--torch",
        metavar="MODULE:FACTORY",
        help="what makes the torch.nn.Module: also FILE.py:CLASS, MODULE:FUNCTION(width=8)",
    )
    add("--paddle", metavar="MODULE:FACTORY", help="what makes the paddle.nn.Layer")
    add(
        "--input-shape",
        action="append",
        metavar="N,...",
        help="random input of this shape, 2,7:100 for whole numbers below 100; again for a second input",
    )
    add("--inputs", type=Path, metavar="FILE.npz", help="the inputs, in the order of forward's arguments")
    add(
        "--loss",
        choices=tuple(LOSSES),
        default="mse",
        help="what is differentiated (default: mse, from random numbers)",
    )
    add("--optimizer", choices=("momentum", "adam"), default="momentum", help="default: momentum, at 0.9")
    add("--rate", type=float, default=RATE, metavar="LR", help=f"learning rate (default: {RATE})")
    add("--map", type=Path, metavar="FILE", help="which layers are pairs, where that is not found")
    add(
        "--save-map",
        type=Path,
        metavar="FILE",
        help="write the map; convert_weights.py --map converts checkpoints by it",
    )
    add(
        "--set-torch",
        action="append",
        metavar="LAYER.ATTRIBUTE=VALUE",
        help="set it in the model first, as BatchNorm2d.eps=1e-5",
    )
    add("--set-paddle", action="append", metavar="LAYER.ATTRIBUTE=VALUE", help="the same in Paddle's; again for more")
    add("--kinds", type=Path, metavar="FILE", help="further kinds of layers, as JSON")
    add("--pairs", metavar="LIST", help="pairs of torchvision and paddle.vision by name, or all")
    add(
        "--update",
        type=Path,
        action="append",
        metavar="FILE",
        help="with --pairs: write the table of the results (of all that --report keeps) into FILE, between its marks; again for more",
    )


def wanted(options: argparse.Namespace) -> bool:
    """Whether the flags ask for a pair; `InputError` where they are half of one."""
    if options.pairs and (options.torch or options.paddle):
        raise InputError("--pairs stands alone: --torch and --paddle are for two models of your own")
    if bool(options.torch) != bool(options.paddle):
        raise InputError("a pair needs both --torch and --paddle")
    if options.pairs or options.torch:
        return True
    refuse(options, ONLY_HERE, "is for a pair: give --torch and --paddle, or --pairs")
    return False


def command(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Compares what the flags ask for; `Failed` if it differs."""
    whole: dict[str, Any]
    if options.pairs:
        marks = {file: _mark(file) for file in options.update or ()}
        whole = {"verdict": "done", "results": _zoo(options, console)}
        rows = _kept(options.report, whole["results"]) if options.report else whole["results"]
        for file, mark in marks.items():
            generated_block.update(file, mark, TABLES[mark](rows))
            console.say(f"{file} is up to date")
        return dict(plain(whole))
    started = datetime.now().isoformat(timespec="seconds")
    outcome = compare_models(
        torch=options.torch,
        paddle=options.paddle,
        input_shape=options.input_shape,
        inputs=options.inputs,
        map_file=options.map,
        save_map=options.save_map,
        kinds_file=options.kinds,
        weights=options.weights,
        set_torch=options.set_torch or (),
        set_paddle=options.set_paddle or (),
        say=lambda line: console.say(f"  {line}"),
        **_common(options),
    )
    whole = outcome.to_json() | _run_of(options) | {"started": started}
    _say(outcome, console)
    shown = dict(plain(whole))
    if options.report:
        with attach_result(shown):
            report.write(options.report, whole)
        console.say(f"Report: {options.report / 'report.html'}")
    if outcome.verdict == DIFFERENT:
        raise Failed(f"the models are {outcome.sentence()}", shown)
    return shown


def _run_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was run, where."""
    command = shlex.join(["python", "scripts/check_parity.py", *sys.argv[1:]])
    return {
        "command": command,
        "device": options.device,
        "threads": options.threads,
        "machine": machine.describe(),
    }


def _common(options: argparse.Namespace) -> dict[str, Any]:
    stages = options.stages.split(",") if options.stages else list(STAGES)
    return {
        "loss": options.loss,
        "optimizer": Optimizer(options.optimizer, options.rate),
        "steps": options.steps or STEPS,
        "twins": options.twins,
        "seed": options.seed,
        "dtype": options.dtype,
        "stages": stages,
        "isolate": options.isolate,
        "torch_python": options.torch_python,
        "paddle_python": options.paddle_python,
        "device": options.device,
        "threads": options.threads,
    }


def _say(outcome: Outcome, console: Console) -> None:
    pairing = outcome.pairing
    console.say(f"{outcome.factories['torch']} and {outcome.factories['paddle']}, {outcome.dtype}")
    console.say(f"  {len(pairing.pairs)} layers with weights matched by {pairing.how}")
    for name, stage in outcome.to_json()["stages"].items():
        worst = f"{stage['max_error']:.1e} of {stage['bound']:.1e} at {stage['worst']}"
        console.say(f"  {name:<10} {stage['verdict']:<17} {stage['compared']:>6} tensors, worst {worst}")
    for line in outcome.differences:
        console.say(f"  differs: {line}")
    for line in outcome.explained:
        console.say(f"  explained: {line}")
    for row in outcome.isolated or []:
        if row["verdict"] == DIFFERENT:
            console.say(f"  by itself: {row['torch']} (Paddle: {row['paddle']}) {row.get('why') or _of_both_ways(row)}")
    if outcome.tree:
        for line in outcome.tree.splitlines():
            console.say(line)
    console.say(f"  {outcome.sentence()} ({outcome.seconds:.1f} s)")


def _of_both_ways(row: dict[str, Any]) -> str:
    """The errors of a layer by itself, for people."""
    return f"forward {row['forward']:.1e}, backward {row['backward']:.1e}"


def _zoo(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """A result a pair; models of different architectures are a result, too."""
    rows = []
    for pair in bar(chosen(options.pairs), "pairs"):
        console.say(pair.name)
        head = {"name": pair.name, "torch": pair.torch, "paddle": pair.paddle, "input_shape": list(pair.input_shape)}
        head["set"] = [*(("PyTorch", t) for t in pair.set_torch), *(("Paddle", t) for t in pair.set_paddle)]
        try:
            outcome = compare_models(
                torch=pair.torch,
                paddle=pair.paddle,
                input_shape=pair.input_shape,
                set_torch=pair.set_torch,
                set_paddle=pair.set_paddle,
                **_common(options),
            )
            row = outcome.to_json()
            del row["layers"], row["tree"]  # hundreds of kilobytes in all, and the table shows the worst
        except InputError as error:
            row = {
                "verdict": DIFFERENT,
                "sentence": str(error),
                "differences": [str(error)],
                "stages": {},
                "trajectory": [],
            }
        console.say(f"  {row['sentence']}")
        rows.append(dict(plain(head | row | _run_of(options))))
        if options.report:
            write_atomically(options.report / f"{pair.name}.json", json.dumps(rows[-1], indent=1).encode() + b"\n")
    return rows


def _mark(file: Path) -> str:
    """The mark of the table that `file` has room for; `InputError` where it has none."""
    for mark in list(TABLES)[1:]:
        with contextlib.suppress(InputError):
            generated_block.around(file, mark)
            return mark
    generated_block.around(file, "pairs")
    return "pairs"


def _kept(folder: Path, fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of this run and those that stand in `folder` from earlier ones that were run alike, in the order of the pairs."""
    rows = {row["name"]: row for row in fresh}
    alike = next(({key: row.get(key) for key in ALIKE} for row in fresh if "lanes" in row), None)
    for file in (folder / f"{name}.json" for name in PAIRS if name not in rows):
        try:
            row = read_pair(file)
        except InputError:
            continue  # which is none of a pair
        if row["stages"] == {} or {key: row.get(key) for key in ALIKE} == alike:
            rows[row["name"]] = row
    return [rows[name] for name in PAIRS if name in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    found: dict[str, dict[str, str]] = next((row["lanes"] for row in rows if "lanes" in row), {})
    lanes = ", ".join(f"{side} {versions.get(side, '?')}" for side, versions in found.items())
    lines = [
        f"float64, random weights, {lanes}:",
        "",
        "| pair | input | verdict | tensors | inference, worst | weights after the last step | moved by then | what differs |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        stages, steps = row["stages"], row["trajectory"]
        count = sum(stage["compared"] for stage in stages.values())
        worst = f"{float(stages['eval']['max_error']):.1e}" if "eval" in stages else ""
        end = steps[-1] if steps and steps[-1]["error"] is not None else None
        last = f"{float(end['error']):.1e} (step {end['step']})" if end else ""
        moved = f"{float(end['moved']):.1e}" if end else ""
        shape = " x ".join(map(str, row["input_shape"]))
        said = "<br>".join(row["differences"]) or (row["sentence"] if row["verdict"] == DIFFERENT else "")
        changed = "<br>" + "<br>".join(f"{side}: `{text}`" for side, text in row["set"]) if row["set"] else ""
        cells = [
            f"`{row['name']}`{changed}",
            shape,
            row["verdict"],
            f"{count:,}" if count else "",
            worst,
            last,
            moved,
            said,
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(rows: list[dict[str, Any]]) -> str:
    """The results in few lines: the equal pairs together, then a line for each that differs, and what sets it right."""
    named = {row["name"]: row for row in rows}
    lines = ["| pair | verdict | what differs | equal with |", "|---|---|---|---|"]
    for verdict in (EQUAL, CHAOTIC):
        if same := [f"`{name}`" for name, row in named.items() if row["verdict"] == verdict and not row["set"]]:
            lines.append(f"| {', '.join(same)} | {verdict} | | |")
    for name, row in named.items():
        if row["verdict"] != DIFFERENT:
            continue
        # That dropout layers drop differently is said of the layers, too.
        said = [_short(text) for text in row["differences"] if not text.startswith("dropout in training")]
        said = said or [row["sentence"]]
        right, settings = named.get(f"{name}-set-right"), list[str]()
        if right and right["verdict"] != DIFFERENT:
            settings = [f"PyTorch: `{right['torch']}`"] if right["torch"] != row["torch"] else []
            settings += [f"{side}: `{text}`" for side, text in right["set"]]
        cells = [f"`{name}`", DIFFERENT, "; ".join(dict.fromkeys(said)), "; ".join(settings)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _short(text: str) -> str:
    """What differs, without the places: their list is in the long table."""
    return text.partition(" at ")[0].partition("; ")[0]


TABLES = {"pairs": table, "pairs-summary": summary}
"""What stands between the marks of that name, see `parity.files.generated_block`."""
