"""`vgg-parity evaluate`: the error of a model, with one or several views of each picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from parity import data, machine
from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.cli.command import (
    Failed,
    Options,
    Parsed,
    WholeNumber,
    attach_result,
    choice,
    command,
    command_line,
    natural,
    option,
    positive,
)
from parity.cli.options import DATA_SETS, data_dir_option, device_option, model_options, report_option, threads_option
from parity.data import Dataset, image_files
from parity.data.lazy_images import Pictures
from parity.errors import InputError, suggest
from parity.files.atomic import write_atomically
from parity.inference.evaluate import DOUBTFUL, SCALED, SETS, TOP, Plan, Row, Subject, Tally, evaluate, members
from parity.inference.predict import MOST_SIDE, ONNX, SHIPPED, Predictor, load_predictor
from parity.progress import Console, bar, duration
from parity.report import plots
from parity.standard_streams import printable
from parity.training.loop import Diverged
from parity.training.run_folder import check_writable

SPLITS = {"test": "test", "train": "training", "all": "training and test", "held-back": "held-back training"}
"""Split -> its pictures in words."""

_SIDE = WholeNumber(1, MOST_SIDE, " pixels")


def _margin(text: str) -> float:
    margin = float(text)
    if not 0 < margin <= 1:
        raise ValueError(text)
    return margin


def _scales(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_SIDE, text.split(","))))


@command(
    "evaluate",
    f"Measure the top-1 and top-{TOP} error of a model, with one view of each picture or the average over several (arXiv 1409.1556).",
    (
        "  (the network that comes with the project, on CIFAR-10)",
        "--model runs/RUN --views single,flip,crops --padding 4 --grid 3",
        "--model runs/RUN --views flip --doubtful 0.5 --padding 1 --grid 3",
        "--model vgg_d.safetensors --data folder:imagenet --views dense,crops,dense+crops --scales 256,384,512",
        "--model vgg.onnx --limit 1000 --report report --json",
    ),
)
@model_options((*FRAMEWORKS, ONNX))
@option(
    "--data", metavar="NAME", help=f"{DATA_SETS} or folder:DIR (default: the data set that the model was trained on)"
)
@data_dir_option
@option(
    "--split",
    type=choice(tuple(SPLITS)),
    default="test",
    help="which pictures of the data set; held-back: the training pictures that --hold-out kept out of the training (default: test)",
)
@option("--limit", type=positive, metavar="N", help="use only the first N pictures")
@option(
    "--views",
    default="single,flip",
    metavar="LIST",
    help="; ".join((f"{name}: {what}" for name, what in SETS.items())) + " (default: single,flip)",
)
@option(
    "--doubtful",
    type=Parsed(_margin, "a number above 0 and at most 1"),
    metavar="MARGIN",
    help="also report flip, and instead of it crops for those pictures whose two most probable classes differ by less than MARGIN in flip; "
    "choose MARGIN on other pictures (--split held-back)",
)
@option(
    "--scales",
    type=Parsed(_scales, "a list of whole numbers"),
    metavar="LIST",
    help="pixels of the smaller side to which pictures are rescaled for crops and dense views (default: smallest, middle and largest scale "
    "of the recipe's scale jitter; if the recipe has one scale S, then S-32, S and S+32 for a network of 224 pixels; without scales, the "
    "size of the pictures or of the network, whichever is larger)",
)
@option("--grid", type=positive, default=5, metavar="N", help="crop at N by N places of each picture (default: 5)")
@option(
    "--padding",
    type=natural,
    metavar="N",
    help="reflected pixels around pictures for crops (default: 0 if the grid fits into the pictures, else an eighth of the crop or "
    "what the grid needs)",
)
@option("--batch-size", type=positive, default=128, metavar="N", help="pictures that are read at a time (default: 128)")
@device_option()
@threads_option()
@report_option("evaluation.json, evaluation.md and confusion.png")
def main(options: Options, console: Console) -> dict[str, Any]:
    """Evaluate. `Failed` if the model's scores are not finite."""
    sets = tuple(dict.fromkeys(name.strip() for name in options.views.split(",")))
    if unknown := [name for name in sets if name not in SETS]:
        raise InputError(f"--views {unknown[0]!r} is none of {', '.join(SETS)}{suggest(unknown[0], SETS)}")
    if options.report:
        check_writable(options.report, "--report")  # now, not after hours of work
    path = options.model or SHIPPED
    model = load_predictor(path, options.framework, options.device, options.threads, options.outputs)
    if model.route not in FRAMEWORKS and options.device == "gpu":
        raise InputError("--device gpu needs --framework paddle or torch: onnxruntime computes on the CPU only")
    named = options.data or model.data
    if named is None:
        raise InputError(f"{path} does not say what it was trained on: give a data set with --data")
    dataset = data.load(named, options.data_dir, console.say)
    subject, own = _subject(model, dataset, options)
    plan = _plan((*sets, *([DOUBTFUL] if options.doubtful else [])), model, own, options)
    for line in (_about(model, options), *model.notes, _said(dataset, subject, plan, options)):
        console.say(line)
    started = time.perf_counter()
    try:
        tallies = evaluate(model, subject, plan, options.batch_size, lambda parts: bar(parts, "evaluating"))
    except Diverged as error:
        raise Failed(str(error)) from None
    seconds = time.perf_counter() - started
    result = {
        "command": command_line("evaluate", options),
        "model": str(model.path),
        "network": model.network,
        "route": model.route,
        "outputs": model.outputs,
        "data": dataset.name,
        "split": options.split,
        "limit": options.limit,
        "pictures": len(subject.labels),
        "classes": len(model.classes),
        "grid": plan.grid,
        "rows": [_row(plan, row, tally) for row, tally in tallies.items()],
        "seconds": round(seconds, 2),
        "machine": machine.describe(),
    }
    lines = table(result)
    for line in lines:
        console.say(line)
    console.say(f"{len(subject.labels):,} pictures in {duration(seconds)}")
    if options.report:
        with attach_result(result):
            _write(options.report, result, lines, tallies, model)
        console.say(f"Report: {options.report}")
    return result


def _about(model: Predictor, options: Options) -> str:
    place = str(model.path) if options.model else f"{model.path.name}, which comes with the project"
    return f"Model: {place} ({model.network or 'network not named'}, {model.origin}), computed by {model.route}"


def _said(dataset: Dataset, subject: Subject, plan: Plan, options: Options) -> str:
    """Describe the pictures and their views in one line."""
    known = dataset.name in data.CLASSES
    line = f"Data: {len(subject.labels):,} {SPLITS[options.split]} pictures of {dataset.name}{'' if known else f' ({dataset.source})'}"
    if plan.has_crops:
        line += f"; crops in a grid of {plan.grid} by {plan.grid}"
        if wide := [f"{plan.pad(scale)} (at {scale})" for scale in plan.scales if plan.pad(scale)]:
            line += f", pictures padded by {', '.join(wide)} reflected pixels on each side"
    return line


def _subject(model: Predictor, dataset: Dataset, options: Options) -> tuple[Subject, int]:
    """Return the pictures to evaluate, and their smaller side (0 if they have different sizes)."""
    recipe = model.recipe
    if options.split == "held-back":
        if not model.hold_out or dataset.name != model.data:
            raise InputError(
                f"{options.model or SHIPPED} held no pictures of {dataset.name} back: give --split test, or a run of train --hold-out"
            )
        dataset = dataset.hold_out(model.hold_out)
    sized = dataset.sized(model.size, recipe.augmentation.scales if recipe else (0, 0))
    parts = {"train": ("train",), "all": ("train", "test")}.get(options.split, ("test",))
    found = [_pictures(getattr(sized, f"{part}_images"), model) for part in parts]
    labels = np.concatenate([getattr(dataset, f"{part}_labels") for part in parts])
    pictures = found[0] if len(found) == 1 else found[0].joined(found[1])
    if options.limit:
        if options.limit > len(labels):
            raise InputError(
                f"--limit {options.limit} is more than the {len(labels)} pictures of {dataset.name}: give a smaller number"
            )
        pictures, labels = pictures.first(options.limit), labels[: options.limit]
    shape = pictures.source.shape if isinstance(pictures.source, np.ndarray) else ()
    if shape and shape[1] != model.size[0]:
        raise InputError(f"{dataset.name} has pictures of {shape[1]} channels, {model.path} takes {model.size[0]}")
    crop = bool(recipe and recipe.preprocessing.crop and shape and not pictures.smallest)

    def single(index: int) -> Array:
        return image_files.middle(pictures.whole(index), *model.size[1:]) if crop else pictures.one(index)

    own = min(shape[2:], default=0)
    if crop and own < max(model.size[1:]):
        raise InputError(
            f"{dataset.name} has pictures of {own} pixels, {model.path} takes crops of {model.size[1]} by {model.size[2]}"
        )
    return Subject(pictures, matched(model, dataset)[labels], single), own


def _pictures(found: Array | Pictures, model: Predictor) -> Pictures:
    return found if isinstance(found, Pictures) else Pictures(found, model.size)


def matched(model: Predictor, dataset: Dataset) -> Array:
    """Return the index of the model's class for each class of `dataset`, matched by name.

    A model that does not name its classes is matched by number. `InputError` if a class has no match.
    """
    if not model.named and len(dataset.classes) == len(model.classes):
        return np.arange(len(model.classes))
    if not model.named:
        raise InputError(
            f"{model.path} has {len(model.classes)} outputs, but {dataset.name} has {len(dataset.classes)} classes: give the data set of "
            "its training with --data, or another model"
        )
    if strange := [name for name in dataset.classes if name not in model.classes]:
        raise InputError(
            f"{dataset.name} has a class {strange[0]!r} that {model.path} does not have: its classes are {', '.join(model.classes[:10])}"
            + (", ..." if len(model.classes) > 10 else "")
        )
    return np.array([model.classes.index(name) for name in dataset.classes])


def _plan(sets: tuple[str, ...], model: Predictor, own: int, options: Options) -> Plan:
    """Return what to compute. `own` is the smaller side of the pictures, 0 if they have different sizes."""
    least = max(model.size[1:])
    low, high = model.recipe.augmentation.scales if model.recipe else (0, 0)
    if low < high:
        usual: tuple[int, ...] = (low, (low + high) // 2, high)
    elif low:
        step = round(32 * least / 224)
        usual = (max(least, low - step), low, low + step)
    else:
        usual = (max(own, least),)
    scales = options.scales or tuple(dict.fromkeys(usual))
    if not set(SCALED) & set(sets):
        scales = (max(scales[0], least),)
    return Plan(sets, model.size, scales, options.grid, options.padding, options.doubtful or 0.0)


def _row(plan: Plan, row: Row, tally: Tally) -> dict[str, Any]:
    name, scales = row
    few = len(tally.confusion) <= TOP
    return {
        "views": f"{DOUBTFUL} {plan.margin:g}" if name == DOUBTFUL else name,
        "scales": list(scales),
        "padding": [plan.pad(scale) for scale in scales if {"crops", DOUBTFUL} & set(members(name))],
        "views_per_picture": round(plan.views(name, scales, tally.doubtful / tally.count), 3),
        "top1_error": tally.wrong / tally.count,
        f"top{TOP}_error": None if few else tally.wrong_top / tally.count,
        "wrong": tally.wrong,
        f"wrong_top{TOP}": None if few else tally.wrong_top,
    }


def table(result: dict[str, Any]) -> list[str]:
    """Return the rows of a result as a Markdown table with aligned columns."""
    cells = [["views", "scales", "views per picture", "top-1 error", f"top-{TOP} error"]]
    for row in result["rows"]:
        rest = row[f"top{TOP}_error"]
        scales = ", ".join(map(str, row["scales"]))
        cells.append(
            [
                row["views"],
                scales,
                f"{row['views_per_picture']}",
                f"{row['top1_error']:.2%}",
                "" if rest is None else f"{rest:.2%}",
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| "
        + " | ".join(
            f"{cell:{'<' if i < 2 else '>'}{width}}" for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i < 2 else ":") for i, width in enumerate(widths)) + "|"
    return [lines[0], rule, *lines[1:]]


def _write(folder: Path, result: dict[str, Any], lines: list[str], tallies: dict[Row, Tally], model: Predictor) -> None:
    tally, row = list(tallies.values())[-1], result["rows"][-1]
    views = f"{row['views']}{' at ' + ', '.join(map(str, row['scales'])) if row['scales'] else ''}"
    title = (
        f"{model.network or model.path.name} on {result['data']}, {views}: top-1 error {tally.wrong / tally.count:.2%}"
    )
    write_atomically(folder / "confusion.png", plots.confusion(tally.confusion, model.classes, printable(title)))
    write_atomically(folder / "evaluation.json", (json.dumps(result, indent=1) + "\n").encode())
    about = (
        f"{result['pictures']:,} pictures ({result['split']}), computed by {result['route']} in {result['seconds']} s"
    )
    text = [
        f"# {model.network or model.path.name} on {result['data']}",
        "",
        f"{about} on {result['machine']}.",
        "",
        *lines,
        "",
        f"![confusion matrix, {views}](confusion.png)",
        "",
        f"    {result['command']}",
    ]
    write_atomically(folder / "evaluation.md", "".join(f"{printable(line)}\n" for line in text).encode())
