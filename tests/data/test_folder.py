"""Image folders: found classes and pictures, refused folders, and pictures that are read batch by batch in the same order everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity import data
from parity.data import batches as batches_module
from parity.data import image_files
from parity.data.batches import Batches
from parity.data.lazy_images import Pictures
from parity.errors import InputError
from parity.recipe.recipe import Augmentation

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
JITTER = Augmentation(crop=8, flip=True, scale_low=10, scale_high=14)


def picture(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a picture of one colour with noise, in its own size."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(9, 30)), int(random.integers(9, 30)), 3)
    pixels = np.clip(np.array(colour) * 0.8 + random.integers(0, 50, shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with twelve pictures of each of three classes."""
    folder = tmp_path_factory.mktemp("folder")
    for c, (name, colour) in enumerate(COLOURS.items()):
        for i in range(12):
            picture(folder / name / f"{i:02}.png", colour, 100 * c + i)
    (folder / "notes.txt").write_text("beside the classes")
    (folder / "red" / "notes.txt").write_text("beside the pictures")
    return folder


def load(folder: Path) -> data.Dataset:
    return data.load(f"folder:{folder}")


def pictures(found: np.ndarray | Pictures) -> Pictures:
    assert isinstance(found, Pictures)
    return found


def names(found: np.ndarray | Pictures) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in pictures(found).source]


# What is found


def test_sub_folders_are_classes_and_every_fifth_picture_is_for_testing(root: Path) -> None:
    dataset = load(root)
    assert dataset.classes == ("blue", "green", "red")
    assert sorted(names(dataset.test_images)) == [f"{c}/{i}.png" for c in sorted(COLOURS) for i in ("04", "09")]
    assert len(dataset.train_labels) == 30 and not set(names(dataset.train_images)) & set(names(dataset.test_images))
    for part in ("train", "test"):
        files, labels = names(getattr(dataset, f"{part}_images")), getattr(dataset, f"{part}_labels")
        assert [dataset.classes[label] for label in labels] == [name.partition("/")[0] for name in files]
    assert "every fifth" in dataset.source


def test_the_first_pictures_are_of_several_classes(root: Path) -> None:
    assert len(set(load(root).limit(8, None).train_labels)) == 3


@pytest.mark.parametrize("part", ["val", "validation", "test"])
def test_parts_that_are_there_are_taken(tmp_path: Path, part: str) -> None:
    for name, colour in COLOURS.items():
        picture(tmp_path / "train" / name / "a.png", colour, 1)
    picture(tmp_path / part / "red" / "b.png", COLOURS["red"], 2)
    dataset = load(tmp_path)
    assert (len(dataset.train_labels), names(dataset.test_images)) == (3, ["red/b.png"])
    assert dataset.test_labels.tolist() == [2]


def test_a_folder_that_has_moved_is_named_by_data_dir(root: Path) -> None:
    moved = data.load("folder:/nowhere/at/all", root)
    assert moved.name == "folder:/nowhere/at/all"
    assert names(moved.train_images) == names(load(root).train_images)


def said(folder: Path) -> list[str]:
    lines: list[str] = []
    data.load(f"folder:{folder}", None, lines.append)
    return lines


READ = "pictures are .bmp .gif .jpeg .jpg .pgm .png .ppm .webp"


def test_what_is_left_out_is_counted_and_named_once(root: Path, tmp_path: Path) -> None:
    assert said(root) == [f"note: left out of {root}: 2 files of other formats (notes.txt, red/notes.txt); {READ}"]
    make(
        tmp_path,
        *(f"{label}/{i}.png" for label in ("a", "b") for i in range(5)),
        "loose.png",
        "b/more/6.png",
        ".git/x.png",
    )
    (tmp_path / "a" / "6.tif").write_text("")
    (tmp_path / "a" / "7.avif").write_text("")
    assert said(tmp_path) == [
        f"note: left out of {tmp_path}: 2 files of other formats (a/6.tif, a/7.avif), 1 sub-folder (b/more), "
        f"1 picture outside the classes (loose.png); {READ}"
    ]


def test_of_parts_every_part_and_what_is_beside_them_is_told(tmp_path: Path) -> None:
    make(tmp_path, *(f"{part}/{label}/1.png" for part in ("train", "val", "test") for label in ("a", "b")), "x.png")
    assert said(tmp_path) == [
        f"note: left out of {tmp_path}: 1 sub-folder (test), 1 picture outside the classes (x.png); {READ}"
    ]
    (tmp_path / "val" / "b" / "2.tiff").write_text("")
    (tmp_path / "train" / "labels.csv").write_text("")
    assert "2 files of other formats (train/labels.csv, val/b/2.tiff), 1 sub-folder (test)" in said(tmp_path)[0]


def test_a_folder_of_which_nothing_is_left_out_gets_no_line(tmp_path: Path) -> None:
    make(tmp_path, *(f"{label}/{i}.png" for label in ("a", "b") for i in range(5)))
    assert said(tmp_path) == []


# What is refused


def make(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            Image.new("RGB", (4, 4)).save(folder / file)


@pytest.mark.parametrize(
    "files,said",
    [
        ((), "holds no sub-folders"),
        (("a.png",), "holds no sub-folders"),
        (("a/1.png", "b/.hidden.png"), "b holds no pictures"),
        ((*(f"a/{i}.png" for i in range(5)),), "only one class, a"),
        (("a/1.png", "b/1.png"), "fewer than 5 pictures"),
        (("train/a/1.png", "train/b/1.png", "val/c/1.png"), "has a class c"),
        (("train/a/1.png",), "train holds no pictures .*, only 1 sub-folder .a.: fill it or remove it"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_line(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    make(tmp_path, *files)
    with pytest.raises(InputError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "file", "null\0byte"])
def test_what_is_no_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / name)


def test_a_folder_without_a_name_is_not_the_working_directory() -> None:
    with pytest.raises(InputError, match="names no folder"):
        data.load("folder:")


def test_a_damaged_picture_is_named_when_it_is_read_and_not_before(tmp_path: Path) -> None:
    make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(5)))
    (tmp_path / "b" / "3.png").write_bytes(b"\x89PNG no more")
    dataset = load(tmp_path).sized((3, 4, 4))
    with pytest.raises(InputError, match=r"b/3\.png"):
        list(Batches(dataset.train_images, dataset.train_labels, 4, Augmentation(), 0).epoch(0))


# What is read


def test_pictures_are_resized_as_a_whole_or_rescaled_to_their_smaller_side(root: Path) -> None:
    dataset = load(root)
    whole, jittered = (pictures(dataset.sized((3, 8, 8), scales).test_images) for scales in ((0, 0), (10, 14)))
    assert whole.shape == jittered.shape == (6, 3, 8, 8)
    for i, path in enumerate(whole.source):
        assert isinstance(path, Path)
        with Image.open(path) as file:
            width, height = file.size
            np.testing.assert_array_equal(whole[i : i + 1][0], image_files.read(path, (3, 8, 8)))
            least = min(width, height)
            size = tuple(int(np.floor(side * 12 / least + 0.5)) for side in (width, height))
            large = np.asarray(file.resize(size, Image.Resampling.LANCZOS))  # type: ignore[arg-type]
        top, left = (large.shape[0] - 8) // 2, (large.shape[1] - 8) // 2
        np.testing.assert_array_equal(jittered.one(i), large[top : top + 8, left : left + 8].transpose(2, 0, 1))


def test_grey_networks_get_grey_pictures(root: Path) -> None:
    assert load(root).sized((1, 8, 8)).test_images[:2].shape == (2, 1, 8, 8)


@pytest.mark.parametrize("how", [JITTER, Augmentation(), Augmentation(crop_padding=2, flip=True)])
def test_a_pass_gives_every_picture_once_and_can_begin_anywhere(root: Path, how: Augmentation) -> None:
    dataset = load(root).sized((3, 8, 8), how.scales)
    made = Batches(dataset.train_images, dataset.train_labels, 7, how, 5)
    whole = list(made.epoch(1))
    assert [len(labels) for _, labels in whole] == [7, 7, 7, 7, 2]
    assert all(batch.shape[1:] == (3, 8, 8) and batch.dtype == np.uint8 for batch, _ in whole)
    assert Counter(np.concatenate([labels for _, labels in whole])) == Counter(dataset.train_labels)
    for (batch, labels), (again, same) in zip(whole[2:], made.epoch(1, 2), strict=True):
        np.testing.assert_array_equal(batch, again)
        np.testing.assert_array_equal(labels, same)
    other = next(made.epoch(2))
    assert not np.array_equal(other[0], whole[0][0])


def test_pictures_without_jitter_are_cropped_and_flipped_as_those_in_memory(root: Path) -> None:
    how = Augmentation(crop_padding=2, flip=True)
    dataset = load(root).sized((3, 8, 8))
    memory = dataset.train_images[:]
    for one, other in zip(
        Batches(dataset.train_images, dataset.train_labels, 7, how, 5).epoch(0),
        Batches(memory, dataset.train_labels, 7, how, 5).epoch(0),
        strict=True,
    ):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize("in_memory", [False, True])
def test_jittered_crops_are_parts_of_the_picture_at_every_scale_of_the_range(root: Path, in_memory: bool) -> None:
    dataset = load(root)
    source = dataset.sized((3, 12, 12)).train_images[:] if in_memory else pictures(dataset.train_images)
    own = [image_files.rescaled(p, 12) for p in source] if in_memory else [pictures(source).whole(i) for i in range(30)]
    made = Batches(source, np.arange(30), 30, JITTER, 3)  # the label is the picture's number
    scales, ends, mirrored = Counter[int](), Counter[str](), 0
    for epoch in range(4):
        for batch, labels in made.epoch(epoch):
            for crop, number in zip(batch, labels, strict=True):
                found = [
                    (scale, y, x, flip, large.shape)
                    for scale in range(10, 15)
                    for flip in (False, True)
                    for large in [image_files.rescaled(own[number], scale)]
                    for y in range(large.shape[1] - 7)
                    for x in range(large.shape[2] - 7)
                    if np.array_equal(large[:, y : y + 8, x : x + 8], crop[..., ::-1] if flip else crop)
                ]
                assert found, "no part of its picture at any scale"
                scale, y, x, flip, (_, height, width) = found[0]
                scales[scale] += 1
                ends.update({"top": y == 0, "bottom": y == height - 8, "left": x == 0, "right": x == width - 8})
                mirrored += flip
    assert set(scales) == set(range(10, 15)) and max(scales.values()) < 60
    assert 30 < mirrored < 90
    assert all(0 < ends[end] < 60 for end in ("top", "bottom", "left", "right")), (
        "from edge to edge, and not only there"
    )


def test_no_more_than_two_batches_are_read_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(root).sized((3, 8, 8))
    read: list[Path] = []
    real = image_files.whole
    monkeypatch.setattr(image_files, "whole", lambda path, channels: (read.append(path), real(path, channels))[1])
    made = Batches(dataset.train_images, dataset.train_labels, 4, Augmentation(), 0)
    assert not read, "read before they were asked for"
    stream = made.epoch(0)
    next(stream)
    assert 4 <= len(read) <= 8
    stream.close()
    assert len(read) <= 8


def test_a_jitter_needs_crops_no_larger_than_its_scales() -> None:
    for wrong in ({"crop": 0}, {"crop": 11}, {"scale_low": 15}, {"scale_high": 5000}, {"crop_padding": 2}):
        with pytest.raises(InputError, match="augmentation scales"):
            Augmentation(**{"crop": 8, "scale_low": 10, "scale_high": 14, **wrong})  # type: ignore[arg-type]
    assert batches_module.Batches(np.zeros((1, 3, 4, 4), np.uint8), np.zeros(1, int), 1, JITTER, 0).size == (8, 8)
