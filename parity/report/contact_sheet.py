"""A contact sheet: a PNG with every picture as the network sees it, its label, and bars of its three most probable classes."""

from __future__ import annotations

import io
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from parity.arrays import Array
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.report.plots import matplotlib
from parity.standard_streams import printable

SIDE, PAD, GAP, HEAD = 224, 16, 20, 84
"""Pixels: the side of a picture's box (a multiple of 28, 32 and 224), the space around it, between cards, and above all cards."""

ROW, BARS, MOST_COLUMNS, MOST = 24, 3, 6, 500
"""Height of a bar's row in pixels, bars per card, the most cards in a row, the most pictures of a sheet."""

INK, FAINT, LINE, PAPER, CARD = "#1d2733", "#6b7785", "#dfe4ea", "#f4f6f8", "#ffffff"
FIRST, OTHER, TROUGH = "#2f6fde", "#a9b6c6", "#edf0f4"

_MARK = ("Software", "vgg-parity contact sheet")
_WIDTH, _HEIGHT = SIDE + 2 * PAD, PAD + SIDE + 66 + BARS * ROW + PAD - 6


def check(path: Path, images: Sequence[Path]) -> None:
    """Raise `InputError` unless `path` is a new .png or an older contact sheet, and `images` fit."""
    if path.suffix.lower() != ".png":
        raise InputError(f"--output {path}: the sheet is a PNG: give a name that ends in .png")
    if len(images) > MOST:
        raise InputError(f"--output holds at most {MOST} pictures, not {len(images)}: give fewer")
    if os.path.realpath(path) in map(os.path.realpath, images):
        raise InputError(f"--output {path} is one of the pictures: choose another name")
    if not os.path.lexists(path):  # never raises
        return
    try:
        with Image.open(path) as old:
            ours = old.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # a folder or a damaged file is not a contact sheet
        ours = False
    if not ours:
        raise InputError(f"--output {path} exists and is not a contact sheet: choose another name")


def size(count: int) -> tuple[int, int]:
    """Return width and height in pixels of a sheet of `count` pictures."""
    columns, rows = _layout(count)
    return GAP + max(columns, 2) * (_WIDTH + GAP), HEAD + rows * (_HEIGHT + GAP)  # one card is too narrow for the title


def write(path: Path, title: str, subtitle: str, images: Array, predictions: Sequence[dict[str, Any]]) -> None:
    """Write the sheet atomically: `images` uint8 [N,C,H,W] with `predictions` in the form of `vgg-parity predict --json`."""
    sheet = Image.new("RGB", size(len(images)), PAPER)
    draw = ImageDraw.Draw(sheet)
    room, columns = sheet.width - 2 * GAP, _layout(len(images))[0]
    draw.text((GAP, 18), _cut(title, _font(20, bold=True), room), INK, _font(20, bold=True))
    draw.text((GAP, 48), _cut(subtitle, _font(13), room), FAINT, _font(13))
    for i, (pixels, prediction) in enumerate(zip(images, predictions, strict=True)):
        row, column = divmod(i, columns)
        _card(sheet, draw, (GAP + column * (_WIDTH + GAP), HEAD + row * (_HEIGHT + GAP)), pixels, prediction)
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*_MARK)
    written = io.BytesIO()
    sheet.save(written, "PNG", pnginfo=mark)
    write_atomically(path, written.getvalue())


def _layout(count: int) -> tuple[int, int]:
    """Return the numbers of columns and rows, with rows of nearly equal length."""
    rows = math.ceil(count / MOST_COLUMNS)
    return math.ceil(count / rows), rows


def _card(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    pixels: Array,
    prediction: dict[str, Any],
) -> None:
    """Draw one picture's card with its upper left corner at `place`."""
    left, top = place
    draw.rounded_rectangle((left, top, left + _WIDTH - 1, top + _HEIGHT - 1), 8, CARD, LINE)
    picture = _enlarged(pixels)
    x, y = left + PAD, top + PAD
    draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), TROUGH)
    sheet.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
    y += SIDE + 10
    draw.text((x, y), _cut(Path(prediction["file"]).name, _font(12), SIDE), FAINT, _font(12))
    bold, chance = _font(18, bold=True), f"{prediction['probability']:.1%}"
    wide = draw.textlength(chance, bold)
    draw.text((x, y + 20), _cut(prediction["label"], bold, SIDE - wide - 10), INK, bold)
    draw.text((x + SIDE, y + 20), chance, INK, bold, anchor="ra")
    for rank, entry in enumerate(prediction["top"][:BARS]):
        _bar(draw, (x, y + 52 + rank * ROW), entry, FIRST if rank == 0 else OTHER)


def _bar(draw: ImageDraw.ImageDraw, place: tuple[int, int], entry: dict[str, Any], colour: str) -> None:
    """Draw one class: its name, and its probability as a bar and a number."""
    (x, y), font = place, _font(12)
    start, end = x + 78, x + SIDE - 48
    draw.text((x, y), _cut(entry["label"], font, 72), INK, font)
    draw.rectangle((start, y + 2, end, y + 13), TROUGH)
    length = round(entry["probability"] * (end - start))
    if length:
        draw.rectangle((start, y + 2, start + length, y + 13), colour)
    draw.text((x + SIDE, y), f"{entry['probability']:.1%}", FAINT, font, anchor="ra")


def _enlarged(pixels: Array) -> Image.Image:
    """Return uint8 [C,H,W] scaled to the box: whole squares for pixels, or a smooth reduction of a larger picture."""
    channels, height, width = pixels.shape
    picture = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if factor := SIDE // max(height, width):
        return picture.resize((factor * width, factor * height), Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


@lru_cache
def _font(points: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib().get_data_path()) / "fonts" / "ttf" / name), points)


def _cut(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Return `text` on one line, shortened in its middle to `room` pixels: names often differ only at their ends."""
    text = printable(text)
    if font.getlength(text) <= room:
        return text

    def shorter(kept: int) -> str:
        return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

    fitting = bisect_right(range(len(text)), room, key=lambda kept: font.getlength(shorter(kept)))
    return shorter(max(fitting - 1, 0))
