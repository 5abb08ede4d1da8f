"""`scripts/predict.py`: what is in these pictures?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from parity.backend.registry import FRAMEWORKS
from parity.cli.command import Failed, Parser, attach_result, execute, positive
from parity.data import image_files
from parity.errors import InputError
from parity.inference.predict import SHIPPED, Model, load
from parity.progress import Console, bar
from parity.report import contact_sheet
from parity.training.loop import Diverged


def main(arguments: list[str] | None = None) -> int:
    """Predicts the classes of pictures; exit code 0 done, 1 the model's scores are no numbers, 2 bad usage or bad input."""
    options = parser().parse_args(arguments)
    console = Console(options.json)
    return execute(lambda: _command(options, console), options.json)


def parser() -> Parser:
    """The flags."""
    script = "python scripts/predict.py"
    flags = Parser(
        "Predict the classes of pictures of any size with a run, a .safetensors or an ONNX file.",
        f"  {script} cat.png holiday/            (the small network that comes with the project; all pictures of the folder)\n"
        f"  {script} --model runs/RUN --framework torch cat.png --top 5 --json\n"
        f"  {script} --model vgg.onnx *.jpg --show sheet.png",
    )
    add = flags.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder: the pictures in it, sorted")
    model_flags(flags, FRAMEWORKS)
    add("--top", type=positive, default=3, metavar="K", help="classes named for each picture (default: 3)")
    add("--bgr", action="store_true", help="swap red and blue, as the article's load_image does")
    add("--show", type=Path, metavar="FILE.png", help="also draw the pictures with their predictions")
    return flags


def model_flags(flags: Parser, runtimes: Iterable[str]) -> None:
    """The flags that say which model, and which of `runtimes` computes it."""
    flags.add_argument(
        "--model",
        type=Path,
        metavar="RUN|FILE",
        help=f"a run folder, a .safetensors or a .onnx file (default: {SHIPPED.name}, which comes with the project)",
    )
    flags.add_argument(
        "--framework",
        choices=tuple(runtimes),
        help="what computes a run or .safetensors file (default: whichever is installed, paddle first)",
    )


def _command(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    files = image_files.listed(options.images)
    if options.show:
        contact_sheet.check(options.show, files)
    model = _model(options)
    if options.bgr and model.size[0] != 3:
        raise InputError(f"--bgr needs colour pictures, and {model.path} takes grey ones: leave it out")
    pixels = np.stack([image_files.read(file, model.size) for file in bar(files, "reading")])
    if options.bgr:
        pixels = pixels[:, ::-1]
    try:
        chances = model.probabilities(pixels)
    except Diverged as error:
        raise Failed(str(error)) from None
    predictions = [_prediction(file, row, model, options.top) for file, row in zip(files, chances, strict=True)]
    about = _about(model, options)
    for line in (f"Model: {about}", *model.notes, *_lines(predictions)):
        console.say(line)
    result = {
        "model": str(model.path),
        "route": model.route,
        "network": model.network,
        "classes": model.classes,
        "bgr": options.bgr,
        "predictions": predictions,
    }
    if options.show:
        title = f"{model.network or model.path.name}: {len(files)} picture{'s' * (len(files) > 1)}"
        with attach_result(result):
            contact_sheet.write(options.show, title, about, pixels, predictions)
        console.say(f"Pictures: {options.show}")
    return result


def _model(options: argparse.Namespace) -> Model:
    if options.model or SHIPPED.exists():
        return load(options.model or SHIPPED, options.framework)
    raise InputError(f"{SHIPPED}, which comes with the project, is missing: give a model with --model")


def _about(model: Model, options: argparse.Namespace) -> str:
    """The model in one line: where it is, what it is, what computes."""
    place = str(model.path) if options.model else f"{model.path.name}, which comes with the project"
    swapped = ", red and blue swapped (--bgr)" if options.bgr else ""
    return f"{place} ({model.network or 'network not named'}, {model.origin}), computed by {model.route}{swapped}"


def _prediction(file: Path, chances: np.ndarray, model: Model, most: int) -> dict[str, Any]:
    """The `most` most probable classes of one picture, the first of them beside its file."""
    best = np.argsort(-chances, kind="stable")[:most]
    top = [{"label": model.classes[i], "index": int(i), "probability": float(chances[i])} for i in best]
    return {"file": str(file), **top[0], "top": top}


def _lines(predictions: list[dict[str, Any]]) -> list[str]:
    """A line for each picture: file, label and probability in columns, then the other classes."""
    file, label = (max(len(prediction[key]) for prediction in predictions) for key in ("file", "label"))
    return [
        f"{p['file']:<{file}}  {p['label']:<{label}} {p['probability']:>6.1%}"
        + "".join(
            f"{',' if i else '  '} {entry['label']} {entry['probability']:.1%}" for i, entry in enumerate(p["top"][1:])
        )
        for p in predictions
    ]
