"""CIFAR-10 is read from every file format, and damaged files are refused. The pictures are the real ones."""

import io
import json
import pickle
import re
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from helpers import cifar_files
from helpers.cifar_files import flipped, quiet, same, same_arrays, uint8_arrays
from parity import data
from parity.data import cifar10, cifar10_files
from parity.errors import InputError

ARCHIVE, BATCHES, CACHE = "cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10.safetensors"


def refused(path):
    """Return the error for `path` as --data-dir."""
    with pytest.raises(InputError) as error:
        data.load("cifar10", path, quiet)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert "--data-dir" in message
    assert "--data shapes10" in message
    return message


# The whole data set


def test_the_real_data_set_has_the_published_shapes_classes_and_order(real_cifar10):
    assert real_cifar10.name == "cifar10"
    assert real_cifar10.classes[0] == "airplane"
    assert real_cifar10.classes[9] == "truck"
    assert real_cifar10.train_images.shape == (50000, 3, 32, 32)
    assert real_cifar10.test_images.shape == (10000, 3, 32, 32)
    assert real_cifar10.train_images.dtype == real_cifar10.test_images.dtype == np.uint8
    assert real_cifar10.train_labels.dtype == real_cifar10.test_labels.dtype == np.int64
    assert np.bincount(real_cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(real_cifar10.test_labels).tolist() == [1000] * 10
    assert [real_cifar10.classes[label] for label in real_cifar10.train_labels[:4]] == [
        "frog",
        "truck",
        "truck",
        "deer",
    ]


def test_the_whole_official_archive_is_read_and_one_flipped_bit_of_it_refused(real_cifar10, tmp_path):
    whole = {
        name: cifar_files.python2_pickle(*batch)
        for name, batch in cifar_files.split(uint8_arrays(real_cifar10)).items()
    }
    path = cifar_files.archive(tmp_path / ARCHIVE, whole, level=0)
    del whole
    assert same(data.load("cifar10", path, quiet), uint8_arrays(real_cifar10))
    with path.open("r+b") as file:
        file.seek(100_000_000)
        byte = file.read(1)[0]
        file.seek(100_000_000)
        file.write(bytes([byte ^ 1]))
    refused(path)
    path.unlink()


# Every form that --data-dir accepts


def test_the_archive_is_read_as_a_file_and_from_its_folder(small_cifar10, cifar10_batches, tmp_path):
    path = cifar_files.archive(tmp_path / ARCHIVE, cifar10_batches)
    assert same(data.load("cifar10", path, quiet), small_cifar10)
    assert same(data.load("cifar10", tmp_path, quiet), small_cifar10)
    assert same(data.load("cifar10", str(tmp_path), quiet), small_cifar10)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


@pytest.mark.parametrize("name", [f"./{BATCHES}/", "./", ""])
def test_an_archive_that_was_made_again_is_read(name, small_cifar10, cifar10_batches, tmp_path):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz", compresslevel=1) as tar:
        for batch, content in cifar10_batches.items():
            cifar_files.add(tar, f"{name}{batch}", content)
    assert same(data.load("cifar10", tmp_path / ARCHIVE, quiet), small_cifar10)


def test_the_unpacked_batches_are_read_from_their_folder_and_the_one_above(small_cifar10, cifar10_batches, tmp_path):
    place = cifar_files.folder(tmp_path, cifar10_batches)
    assert same(data.load("cifar10", place, quiet), small_cifar10)
    assert same(data.load("cifar10", tmp_path, quiet), small_cifar10)
    renamed = place.rename(tmp_path / "my-copy")
    assert same(data.load("cifar10", renamed, quiet), small_cifar10)


def test_the_cache_is_read_as_a_file_and_from_its_folder(small_cifar10, tmp_path):
    (tmp_path / CACHE).write_bytes(cifar10_files.cache_bytes(small_cifar10))
    assert same(data.load("cifar10", tmp_path / CACHE, quiet), small_cifar10)
    assert same(data.load("cifar10", tmp_path, quiet), small_cifar10)


def test_the_npm_package_is_read(small_cifar10, tmp_path):
    assert same_arrays(
        cifar10_files.read_sprites(cifar_files.npm_package(tmp_path / "x.tgz", small_cifar10)), small_cifar10
    )


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_batch_pickled_by_python_3_is_read_under_either_name_of_numpys_module(
    module, protocol, small_cifar10, tmp_path
):
    def pickled(images, labels):
        content = {b"data": images.reshape(len(images), -1), b"labels": labels.tolist()}
        return re.sub(rb"numpy\._?core\.multiarray", module, pickle.dumps(content, protocol))

    cifar10_batches = {name: pickled(*batch) for name, batch in cifar_files.split(small_cifar10).items()}
    assert all(module in batch for batch in cifar10_batches.values())
    assert same(data.load("cifar10", cifar_files.folder(tmp_path, cifar10_batches), quiet), small_cifar10)


# Nothing else


def test_a_missing_path_is_refused(tmp_path):
    assert "no such file or folder" in refused(tmp_path / "nowhere")


def test_a_folder_without_any_of_the_forms_is_refused(tmp_path):
    assert f"holds neither {CACHE} nor {BATCHES} nor {ARCHIVE}" in refused(tmp_path)


def test_a_batch_missing_from_the_archive_or_the_folder_is_named(cifar10_batches, tmp_path):
    del cifar10_batches["data_batch_3"]
    assert "data_batch_3" in refused(cifar_files.archive(tmp_path / ARCHIVE, cifar10_batches))
    assert "No such file" in refused(cifar_files.folder(tmp_path / "unpacked", cifar10_batches))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"<html>log in</html>" * 100])
@pytest.mark.parametrize("name", [ARCHIVE, CACHE])
def test_a_file_of_another_kind_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused(kept, small_cifar10, cifar10_batches, tmp_path):
    whole = cifar_files.archive(tmp_path / "whole", cifar10_batches).read_bytes()
    for name, content in ((ARCHIVE, whole), (CACHE, cifar10_files.cache_bytes(small_cifar10))):
        (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
        refused(tmp_path / name)
    place = cifar_files.folder(tmp_path / "unpacked", cifar10_batches)
    content = cifar10_batches["data_batch_2"]
    (place / "data_batch_2").write_bytes(content[: int(len(content) * kept)])
    refused(place)


GZIP_HEADER = 10  # bytes; most of them (time, system) have no effect


def test_one_flipped_bit_anywhere_in_the_archive_is_refused(cifar10_batches, tmp_path):
    path = cifar_files.archive(tmp_path / ARCHIVE, cifar10_batches)
    content = path.read_bytes()
    name_ends = content.index(b"\0", GZIP_HEADER) + 1  # gzip also stores a file name, which has no effect
    for place in [*np.linspace(name_ends, len(content) - 1, 60).astype(int), *range(len(content) - 8, len(content))]:
        path.write_bytes(flipped(content, place))
        refused(path)


def test_one_flipped_bit_in_a_batch_or_the_cache_is_refused(small_cifar10, cifar10_batches, tmp_path):
    place = cifar_files.folder(tmp_path, cifar10_batches)
    content = cifar10_batches["test_batch"]
    first = content.index(small_cifar10["test_images"].tobytes())
    for position in np.linspace(first, first + small_cifar10["test_images"].size - 1, 20).astype(int):
        (place / "test_batch").write_bytes(flipped(content, position))
        assert "SHA-256 differs" in refused(place)
    content = cifar10_files.cache_bytes(small_cifar10)
    for position in [*range(0, 200), *np.linspace(200, len(content) - 1, 20).astype(int)]:
        (tmp_path / CACHE).write_bytes(flipped(content, position))
        refused(tmp_path / CACHE)


def test_pictures_in_another_order_are_refused(small_cifar10, tmp_path):
    swapped = small_cifar10 | {"train_images": small_cifar10["train_images"][::-1]}
    (tmp_path / CACHE).write_bytes(cifar10_files.cache_bytes(swapped))
    assert "the train images are not those of CIFAR-10" in refused(tmp_path / CACHE)


@pytest.mark.parametrize("change", ["missing", "extra", "wider", "another shape"])
def test_a_cache_of_another_form_is_refused(change, small_cifar10, tmp_path):
    changed = {
        "missing": {name: array for name, array in small_cifar10.items() if name != "test_labels"},
        "extra": small_cifar10 | {"more": small_cifar10["test_labels"]},
        "wider": small_cifar10 | {"test_labels": small_cifar10["test_labels"].astype(np.int64)},
        "another shape": small_cifar10 | {"test_images": small_cifar10["test_images"].reshape(-1, 3, 1024)},
    }
    (tmp_path / CACHE).write_bytes(cifar10_files.cache_bytes(changed[change]))
    refused(tmp_path / CACHE)


@pytest.mark.parametrize("member", ["data_batch_1", "test_lables", "train_lables"])
@pytest.mark.parametrize(
    "content", [b"", b"[1, 2", b"[10]", b"[300]", b"[true]", b"{}", b"[" * 100_000, b"\x89PNG\r\n"]
)
def test_a_damaged_npm_package_is_refused(member, content, small_cifar10, tmp_path):
    path = cifar_files.npm_package(tmp_path / "x.tgz", small_cifar10, **{member: content})
    with pytest.raises(InputError):
        cifar10.prove(cifar10_files.read_sprites(path))


def test_a_picture_that_is_no_sprite_is_refused(small_cifar10, tmp_path):
    whole = cifar_files.sprite(small_cifar10["test_images"])
    square = cifar_files.png(np.zeros((32, 32, 3), np.uint8))
    grey = cifar_files.png(np.zeros((10, 1024), np.uint8))
    for content in (square, grey, whole[: len(whole) // 2]):
        path = cifar_files.npm_package(tmp_path / "x.tgz", small_cifar10, test_batch=content)
        with pytest.raises(InputError, match=r"test_batch\.png is"):
            cifar10_files.read_sprites(path)


def test_an_archive_that_unpacks_to_far_too_much_is_refused(cifar10_batches, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10_files, "_TAR_LIMIT", 100_000)
    assert "unpacks to more than" in refused(cifar_files.archive(tmp_path / ARCHIVE, cifar10_batches))
    monkeypatch.setattr(cifar10_files, "_TAR_LIMIT", 1 << 30)
    monkeypatch.setattr(cifar10_files, "_BATCH_LIMIT", 10_000)
    assert "expected size" in refused(tmp_path / ARCHIVE)


def test_a_cache_with_holes_takes_no_memory(tmp_path):
    size = 1 << 40
    header = json.dumps({"train_images": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / CACHE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    assert "not a file of the expected size" in refused(tmp_path / CACHE)


def test_a_sprite_of_more_pixels_than_pil_admits_is_refused_in_one_line(small_cifar10, tmp_path, recwarn):
    wide = Image.new("1", (20_000, 20_000))
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    for replaced in (
        stream.getvalue(),
        stream.getvalue().replace(struct.pack(">II", 20_000, 20_000), bytes(7) + b"\1"),
    ):
        path = cifar_files.npm_package(tmp_path / "x.tgz", small_cifar10, data_batch_1=replaced)
        with pytest.raises(InputError, match=r"data_batch_1\.png is damaged"):
            cifar10_files.read_sprites(path)
    assert not recwarn.list
