"""Paddle's faster functions on CPU compute what Paddle's own kernels do, on one thread and on several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


CASES = ("max_pool", "masks", "few_pixels", "batch_norm", "error_in_a_part", "two_passes", "enough_values")


@pytest.mark.parametrize("case", CASES)
def test_faster_functions_equal_the_kernels(case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.cpu_functions_paddle", case],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
