"""`vgg-parity predict`: the classes of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    argument,
    attach_result,
    command,
    option,
    positive,
)
from parity.cli.options import model_options
from parity.data import image_files
from parity.errors import InputError
from parity.inference.predict import SHIPPED, Predictor, load_predictor
from parity.progress import Console, bar
from parity.report import contact_sheet
from parity.training.loop import Diverged


@command(
    "predict",
    "Predict the classes of pictures with a run, a .safetensors file or an ONNX file.\n\n"
    "An IMAGE is a picture of any size, or a folder. A folder stands for the pictures in it, sorted by name.",
    (
        "cat.png holiday/   (the network that comes with the project; a picture, and all pictures of a folder)",
        "--model runs/RUN --framework torch cat.png --top 5 --json",
        "--model vgg.onnx *.jpg --output sheet.png",
    ),
)
@argument("images", type=PATH, nargs=-1, required=True, metavar="IMAGE...")
@model_options(FRAMEWORKS)
@option(
    "--top",
    type=positive,
    default=3,
    metavar="K",
    help="print the K most probable classes of each picture (default: 3)",
)
@option("--bgr", is_flag=True, help="swap red and blue, as the article's load_image does")
@option("--output", type=PATH, metavar="FILE.png", help="also draw the pictures and their predictions into a file")
def main(options: Options, console: Console) -> dict[str, Any]:
    """Predict the classes of pictures. `Failed` if the model's scores are not finite."""
    notes: list[str] = []
    files = image_files.listed(options.images, notes.append)
    if options.output:
        contact_sheet.check(options.output, files)
    model = _model(options)
    if options.bgr and model.size[0] != 3:
        raise InputError(f"--bgr needs colour pictures, but {model.path} takes grey ones: leave it out")
    pixels = np.stack([image_files.read(file, model.size) for file in bar(files, "reading")])
    if options.bgr:
        pixels = pixels[:, ::-1]
    try:
        chances = model.probabilities(pixels)
    except Diverged as error:
        raise Failed(str(error)) from None
    predictions = [_prediction(file, row, model, options.top) for file, row in zip(files, chances, strict=True)]
    about = _about(model, options)
    for line in (f"Model: {about}", *model.notes, *notes, *_lines(predictions)):
        console.say(line)
    result = {
        "model": str(model.path),
        "route": model.route,
        "network": model.network,
        "classes": model.classes,
        "outputs": model.outputs,
        "bgr": options.bgr,
        "predictions": predictions,
    }
    if options.output:
        title = f"{model.network or model.path.name}: {len(files)} picture{'s' * (len(files) > 1)}"
        with attach_result(result):
            contact_sheet.write(options.output, title, about, pixels, predictions)
        console.say(f"Pictures: {options.output}")
    return result


def _model(options: Options) -> Predictor:
    if options.model or SHIPPED.exists():
        return load_predictor(options.model or SHIPPED, options.framework, outputs=options.outputs)
    raise InputError(f"{SHIPPED}, which comes with the project, is missing: give a model with --model")


def _about(model: Predictor, options: Options) -> str:
    """Describe the model in one line: its file, network, training data and runtime."""
    place = str(model.path) if options.model else f"{model.path.name}, which comes with the project"
    swapped = ", red and blue swapped (--bgr)" if options.bgr else ""
    return f"{place} ({model.network or 'network not named'}, {model.origin}), computed by {model.route}{swapped}"


def _prediction(file: Path, chances: Array, model: Predictor, most: int) -> dict[str, Any]:
    """Return the `most` most probable classes of one picture. The first of them is also given beside the file."""
    best = np.argsort(-chances, kind="stable")[:most]
    top = [{"label": model.classes[i], "index": int(i), "probability": float(chances[i])} for i in best]
    return {"file": str(file), **top[0], "top": top}


def _lines(predictions: list[dict[str, Any]]) -> list[str]:
    """Return a line for each picture: file, label and probability in columns, then the other classes."""
    file, label = (max(len(prediction[key]) for prediction in predictions) for key in ("file", "label"))
    return [
        f"{p['file']:<{file}}  {p['label']:<{label}} {p['probability']:>6.1%}"
        + "".join(
            f"{',' if i else '  '} {entry['label']} {entry['probability']:.1%}" for i, entry in enumerate(p["top"][1:])
        )
        for p in predictions
    ]
