"""Reads pictures of any size and mode as uint8 arrays of the network's input size. Every error message is one line.

A picture is rotated as its EXIF says, put on white where it is transparent, and converted to RGB. Then PIL's LANCZOS filter resizes it as a
whole, without keeping its aspect ratio, as the article's `load_image` does. Of an animation, the first picture is used. Colour profiles are
not applied.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from parity.arrays import Array
from parity.data.picture_folders import LeftOut, describe_empty, list_folder
from parity.errors import InputError
from parity.network.nodes import Shape
from parity.standard_streams import Say, say_on_stderr

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
"""Formats that are read. For some others, PIL runs programs (EPS) or lets C libraries write to stderr (TIFF)."""

MOST_BYTES = 100_000_000
"""Largest file that is read."""

MOST_RESCALED = 2**25
"""Largest number of pixels of a rescaled picture. The longer side of a narrow strip can become very long."""

MOST_SIDE = 65_535
"""Largest side in pixels, the limit of JPEG and GIF. The memory of PIL's filters depends on the side, not on the area."""

MOST_SCANNED = 2**33
"""Largest product of the pixels of a JPEG and its scans. Even a scan of a few bytes takes time for all pixels."""

_ALPHA = ("LA", "PA", "RGBA")


def listed(paths: Iterable[Path], say: Say = say_on_stderr) -> list[Path]:
    """Return `paths`, with every folder replaced by the pictures in it, sorted by name. `InputError` for a folder without pictures.

    `say` gets a line for each folder of which something is left out.
    """
    files: list[Path] = []
    for path in paths:
        files += _pictures(path, say) if os.path.isdir(path) else [path]  # noqa: PTH112 - never raises
    return files


def _pictures(folder: Path, say: Say) -> list[Path]:
    try:
        found = list_folder(folder)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; give pictures, or a folder of pictures") from None
    if not found.pictures:
        raise InputError(f"{describe_empty(folder, found)}: give another folder")
    LeftOut(found.others, found.folders).tell(folder, say)
    return [folder / name for name in found.pictures]


def read(path: Path, size: Shape) -> Array:
    """Read the picture in `path` as uint8 [C,H,W] for `size` = (C, H, W): RGB if C is 3, grey (ITU-R 601) if it is 1.

    `InputError`, which names the file, if it is missing, too large, damaged, or not a picture of `FORMATS`.
    """
    channels, height, width = size
    return _decoded(path, channels, (width, height))


def whole(path: Path, channels: int) -> Array:
    """Read the picture in `path` in its own size: uint8 [C,h,w]. `InputError` as in `read`."""
    return _decoded(path, channels, None)


def resized(pixels: Array, height: int, width: int) -> Array:
    """Resize uint8 [C,h,w] as a whole to [C,height,width], without keeping the aspect ratio. Nothing changes if it has that size."""
    if pixels.shape[1:] == (height, width):
        return pixels
    channels = len(pixels)
    picture = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    made = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(made.reshape(height, width, channels).transpose(2, 0, 1))


def rescaled(pixels: Array, smallest: int) -> Array:
    """Rescale uint8 [C,h,w] so that its smaller side has `smallest` pixels, and the other side in proportion, rounded (arXiv 1409.1556).

    `InputError` if that is more than `MOST_RESCALED` pixels.
    """
    least = min(pixels.shape[1:])
    height, width = ((side * smallest + least // 2) // least for side in pixels.shape[1:])
    if height * width > MOST_RESCALED:
        before = "x".join(map(str, pixels.shape[:0:-1]))
        raise InputError(
            f"{before} pixels rescaled to {width}x{height} are too many: give smaller scales, or a picture that is less narrow"
        )
    return resized(pixels, height, width)


def middle(pixels: Array, height: int, width: int) -> Array:
    """Return the middle [C,height,width] of [C,h,w]."""
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _decoded(path: Path, channels: int, size: tuple[int, int] | None) -> Array:
    """Decode `path` to uint8 [C,h,w], resized to `size` (width, height) if that is given."""
    data = _bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's warnings about metadata would be printed beside our one line
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                _check_cost(path, file, data)
                picture = _rgb(ImageOps.exif_transpose(file))
        if channels == 1:
            picture = picture.convert("L")
        pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS) if size else picture)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a picture in a supported format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{path} unpacks to more than {Image.MAX_IMAGE_PIXELS:,} pixels: give a smaller picture"
        ) from None
    except Exception as error:  # a damaged file can make PIL's decoders fail in any way
        raise InputError(
            f"{path} cannot be decoded ({str(error) or type(error).__name__}): take another copy"
        ) from None
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1))


def _check_cost(path: Path, file: Image.Image, data: bytes) -> None:
    """Raise `InputError` for a picture, not yet decoded, that needs far more memory or time than its size suggests."""
    if max(file.size) > MOST_SIDE:
        raise InputError(
            f"{path} has {file.width}x{file.height} pixels, but a side may have at most {MOST_SIDE}: give a part of it"
        )
    scans = data.count(b"\xff\xda") if file.format in ("JPEG", "MPO") else 1
    if scans * file.width * file.height > MOST_SCANNED:
        raise InputError(
            f"{path} has {scans} scans of {file.width}x{file.height} pixels, too many: save it as a baseline JPEG"
        )


def _bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder, expected a picture")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file: give the file of a picture")
        if status.st_size > MOST_BYTES:
            raise InputError(f"{path} has {status.st_size:,} bytes, more than the limit of {MOST_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give pictures, or a folder of pictures") from None
    if not data:
        raise InputError(f"{path} is empty: take another copy")
    return data


def _rgb(picture: Image.Image) -> Image.Image:
    """Convert `picture` to RGB, on white where it is transparent."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats without a known range")
    if picture.mode.startswith("I"):  # 16 bits; PIL's own conversion clips them to 255 in some versions
        grey = (np.asarray(picture).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.mode in _ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
