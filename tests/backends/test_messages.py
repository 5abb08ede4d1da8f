"""Messages between processes arrive unchanged, in memory or in a file, and a message that is cut short raises an error."""

from __future__ import annotations

import io
import mmap
from pathlib import Path

import numpy as np
import pytest

from parity.backend import messages

ARRAYS = {
    "f64": np.random.default_rng(0).standard_normal((3, 5)),
    "f32": np.float32([[1, -2], [np.inf, np.nan]]),
    "scalar": np.array(7, np.int64),
    "none": np.zeros((0, 4)),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "bytes": np.arange(9, dtype=np.uint8),
}


def sent() -> bytes:
    file = io.BytesIO()
    messages.send(file, ARRAYS, {"call": "step", "arguments": {"rate": 0.1}})
    return file.getvalue()


def root(array: np.ndarray) -> object:
    """The object that owns the memory of `array`."""
    base: object = array
    while True:
        below = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if below is None:
            return base
        base = below


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "in a file"])
def test_a_message_arrives_as_it_was_sent(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LARGE", 100 if large else 2**28)
    monkeypatch.setattr(messages.machine, "available_memory", lambda: 0)
    found, message = messages.receive(io.BytesIO(sent()))
    assert message == {"call": "step", "arguments": {"rate": 0.1}}
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert array.size == 0 or found[name].ctypes.data % messages.ALIGNED == 0
    assert isinstance(root(found["f64"]), mmap.mmap) == large
    found["f64"] += 1  # a worker may change its arguments


def test_a_large_message_stays_in_memory_if_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LARGE", 100)
    monkeypatch.setattr(messages.machine, "available_memory", lambda: 2**40)
    found, _ = messages.receive(io.BytesIO(sent()))
    assert not isinstance(root(found["f64"]), mmap.mmap)


def test_a_large_message_stays_in_memory_if_no_file_can_hold_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(messages, "LARGE", 100)
    monkeypatch.setattr(messages.machine, "available_memory", lambda: 0)
    monkeypatch.setattr(messages.tempfile, "tempdir", str(tmp_path / "none"))
    found, _ = messages.receive(io.BytesIO(sent()))
    assert not isinstance(root(found["f64"]), mmap.mmap)


def test_a_message_that_is_cut_short_is_refused() -> None:
    for size in (0, 5, 8, 50, len(sent()) - 1):
        with pytest.raises(EOFError):
            messages.receive(io.BytesIO(sent()[:size]))


def test_available_memory_is_known_here() -> None:
    assert messages.machine.available_memory() > 2**20
