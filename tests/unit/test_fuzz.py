"""Mutated files of every kind are accepted or refused in one line; none causes a traceback, hangs or takes all memory.

`pytest -m slow tests/unit/test_fuzz.py` runs 4,800 mutations through the readers and 200 through the commands; the default suite runs 150.
`PYTHONPATH=tests python -m helpers.fuzz KIND N N+1` runs case N of a kind again.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from helpers.fuzz import KINDS, MEMORY, SECONDS, mutated, prepare
from helpers.paths import ROOT, environment_with_helpers

CUT, CUT_OF_COMMANDS = 140, 10
WHOLE, WHOLE_OF_COMMANDS = 4800, 200


def cases(kind: str, total: int) -> range:
    """The numbers of the cases of `kind`, for `total` cases of all kinds."""
    place, kinds = list(KINDS).index(kind), len(KINDS)
    return range(total // kinds + (place < total % kinds))


def read_mutations(kind: str, numbers: range) -> Counter[str]:
    """Run the cases in a child process; return how many were refused and how many taken."""
    command = [sys.executable, "-m", "helpers.fuzz", kind, str(numbers.start), str(numbers.stop)]
    ended = subprocess.run(
        command,
        env=environment_with_helpers(),
        capture_output=True,
        text=True,
        timeout=60 + len(numbers) * 5,
        check=False,
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, f"{kind}, {lines[-1:]}, exit code {ended.returncode}: {ended.stderr[-2000:]}"
    return Counter(line for line in lines if not line.startswith("case"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_taken_or_refused_in_one_line(kind: str) -> None:
    counts = read_mutations(kind, cases(kind, CUT))
    assert counts["refused"] + counts["taken"] == len(cases(kind, CUT))
    assert counts["refused"], "no mutation was refused: the mutations do nothing"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_all_mutations_of_a_file_are_taken_or_refused_in_one_line(kind: str) -> None:
    counts = read_mutations(kind, cases(kind, WHOLE))
    print(kind, dict(counts))
    assert counts["refused"] + counts["taken"] == len(cases(kind, WHOLE))
    assert counts["refused"] and counts["taken"]


COMMANDS = {
    "safetensors": ("convert_weights.py", "{file}", "{out}/o.safetensors"),
    "v2 tar": ("convert_weights.py", "{file}", "{out}/o.safetensors", "--network", "vgg16_bn_drop@0.03125"),
    "network": ("describe.py", "--network", "{file}"),
    "run": ("compare_runs.py", "{folder}/run", "--out", "{out}/o.png"),
    "picture": ("predict.py", "{file}"),
    "onnx": ("predict.py", "{picture}", "--model", "{file}"),
    "pt": ("convert_weights.py", "{file}", "{out}/o.safetensors", "--network", "vgg16_bn_drop@0.03125"),
    "pdparams": ("convert_weights.py", "{file}", "{out}/o.safetensors", "--network", "vgg16_bn_drop@0.03125"),
}
"""Kind of file -> the command that reads it."""

QUICK = tuple(COMMANDS)[:6]
"""The kinds whose commands start no framework: the default suite runs a few of them."""


def call(kind: str, number: int | None, tmp_path: Path) -> int:
    """The exit code of the command on mutation `number` (None: on the valid file): 0, 2, or 1 if scores are NaN.

    With exit code 2, stderr must have one line.
    """
    folder, out, picture = tmp_path / "in", tmp_path / "out", tmp_path / "picture.png"
    folder.mkdir()
    out.mkdir()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture)
    files = prepare(kind, folder)
    path = files[(number or 0) % len(files)]
    if number is not None:
        path.write_bytes(mutated(kind, number, path, path.read_bytes()))
    script, *words = COMMANDS[kind]
    names = {"file": path, "folder": folder, "out": out, "picture": picture}
    command = [sys.executable, f"scripts/{script}", *(word.format(**names) for word in words)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * SECONDS, check=False)
    case = f"{kind} {number}: exit code {ended.returncode}\n{ended.stderr[-2000:]}"
    assert "Traceback" not in ended.stderr, case
    if kind == "onnx" and ended.returncode == 1:  # a whole model whose weights are not finite any more
        assert ended.stderr.startswith("failed: ") and "are not finite" in ended.stderr, case
    else:
        assert ended.returncode in (0, 2), case
    if ended.returncode == 2:
        assert ended.stderr.startswith("error: ") and len(ended.stderr.splitlines()) == 1, case
        assert not list(out.iterdir()), f"half-written output: {case}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after == before or after * 1024 < MEMORY, case
    return ended.returncode


def calls(kind: str, kinds: tuple[str, ...], total: int, tmp_path: Path) -> Counter[int]:
    """The counts of the command's exit codes on its share of `total` mutations of all `kinds`. On the valid file it must exit with 0."""
    share = total // len(kinds) + (kinds.index(kind) < total % len(kinds))
    codes: Counter[int] = Counter()
    for number in (None, *random.Random(kind).sample(range(10_000), share)):
        (folder := tmp_path / str(number)).mkdir()
        code = call(kind, number, folder)
        assert number is not None or code == 0, "the command refuses the valid file"
        codes[code] += number is not None
    return codes


@pytest.mark.parametrize("kind", QUICK)
def test_a_command_refuses_or_accepts_a_mutated_file(kind: str, tmp_path: Path) -> None:
    calls(kind, QUICK, CUT_OF_COMMANDS, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_refuses_or_accepts_every_mutated_file(kind: str, tmp_path: Path) -> None:
    codes = calls(kind, tuple(COMMANDS), WHOLE_OF_COMMANDS, tmp_path)
    print(kind, dict(codes))
    assert codes[2]
