"""Pictures of a few kilobytes that would take gigabytes or minutes are refused before they are decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import image_files
from parity.errors import InputError

SIZE = (3, 32, 32)


def png(width: int, height: int, colour: int, depth: int, numbers: int) -> bytes:
    """A black PNG, whose rows are compressed one after the other."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + (width * numbers * depth + 7) // 8)
    together = max(1, 2**20 // len(row))
    packer = zlib.compressobj()
    data = [packer.compress(row * together) for _ in range(height // together)]
    data += [packer.compress(row * (height % together)), packer.flush()]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"".join(data)) + chunk(b"IEND", b"")


def scanned(side: int, scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan, with its table, `scans` times."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "JPEG", progressive=True, quality=1)
    whole = stream.getvalue()
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    return whole[:-2] + last * scans + whole[-2:]


STRANGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a strip": (lambda: png(1, 80_000_000, 2, 8, 3), "a.png has 1x80000000 pixels, but a side may have at most 65535"),
    "a line": (lambda: png(80_000_000, 1, 2, 8, 3), "a.png has 80000000x1 pixels, but a side may have at most 65535"),
    "scans": (lambda: scanned(2000, 5000), "a.png has 5010 scans of 2000x2000 pixels, too many"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_costs_far_more_than_its_pixels_is_refused(kind: str, tmp_path: Path) -> None:
    make, said = STRANGE[kind]
    path = tmp_path / "a.png"
    path.write_bytes(make())
    started = time.process_time()  # a busy machine takes longer
    for decode in (lambda: image_files.read(path, SIZE), lambda: image_files.whole(path, 3)):
        with pytest.raises(InputError, match=said) as caught:
            decode()
        assert "\n" not in str(caught.value)
    assert time.process_time() - started < 2


def test_a_progressive_picture_of_usual_scans_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(scanned(500, 50))
    assert image_files.read(tmp_path / "a.jpg", SIZE).shape == SIZE
    (tmp_path / "b.png").write_bytes(png(image_files.MOST_SIDE, 2, 2, 8, 3))
    np.testing.assert_array_equal(image_files.read(tmp_path / "b.png", SIZE), np.zeros(SIZE, np.uint8))


READ_AND_TELL_COSTS = """
import sys, time; from pathlib import Path; from parity import machine; from parity.data import image_files
image_files.read(Path(sys.argv[1]), (3, 32, 32)); print(machine.peak_memory(), time.process_time())
"""


def test_the_largest_picture_that_is_read_takes_less_than_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(9450, 9450, 6, 16, 4))
    assert path.stat().st_size < 1_000_000
    command = [sys.executable, "-c", READ_AND_TELL_COSTS, path]
    ended = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True)
    peak, seconds = ended.stdout.split()
    assert 1_000_000_000 < int(peak) < 2_000_000_000
    assert float(seconds) < 20, "of processor time, which other work on the machine does not lengthen"
