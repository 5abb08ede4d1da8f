"""Real CIFAR-10 pictures. A test module asks for these with `pytest_plugins = ["cifar_fixtures"]`."""

from __future__ import annotations

import hashlib

import cifar_files
import pytest
from cifar_files import uint8_arrays

from parity import data
from parity.data import cifar10

PER_BATCH = 10


@pytest.fixture(scope="session")
def real():
    """All of CIFAR-10, from the cache or the network."""
    return data.load("cifar10")


@pytest.fixture
def small(real, monkeypatch):
    """Ten real pictures a batch, and the proofs that belong to them."""
    arrays = uint8_arrays(real.limit(5 * PER_BATCH, PER_BATCH))
    proofs = {name: (array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for name, array in arrays.items()}
    monkeypatch.setattr(cifar10, "PROOFS", proofs)
    return arrays


@pytest.fixture
def batches(small):
    """The pictures of `small` as pickled batches, by name."""
    return {name: cifar_files.python2_pickle(*batch) for name, batch in cifar_files.split(small).items()}
