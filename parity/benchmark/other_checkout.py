"""Times training in another checkout of this project, such as an older commit, by that checkout's own benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from parity.benchmark.interleaved_timing import Turn
from parity.benchmark.variants import USUAL, Variant
from parity.errors import InputError
from parity.version import git_commit

SCRIPT = Path("scripts") / "bench.py"
"""The benchmark's door in every checkout. Its flags and tables change less than the modules behind it."""


def name_checkout(folder: Path) -> str:
    """Return the commit of the checkout in `folder`, or the folder's name outside of git. `InputError` if it has no benchmark."""
    if not (folder / SCRIPT).is_file():
        raise InputError(f"--against-checkout {folder}: it has no {SCRIPT}; give the folder of a clone or a worktree")
    return git_commit(folder / SCRIPT) or folder.resolve().name


def time_checkout(folder: Path, variant: Variant, table: str, words: Sequence[str]) -> Turn:
    """Return a turn that runs the benchmark in `folder` for one round, with the flags `words`, and returns a speed of its `table`.

    Each turn is a new process, whose warm-up steps do not count.
    """
    chosen = {"amp": (variant.amp, "off"), "layout": (variant.layout or USUAL, USUAL)}
    chosen["compile"] = ("on" if variant.compiled else "off", "off")
    flags = [word for flag, (value, usual) in chosen.items() if value != usual for word in (f"--{flag}", value)]
    # An older checkout does not know the flags that came later, so those with their usual value are left out.
    line = [sys.executable, str(SCRIPT), "train", "--frameworks", variant.framework, "--rounds", "1", "--json"]
    path = os.pathsep.join([str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])

    def turn() -> float:
        command = [*line, *flags, *words]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        try:
            found = json.loads(done.stdout.splitlines()[-1])["tables"][table]["speeds"][variant.framework]
            return float(found["images_per_second"])
        except (LookupError, ValueError, TypeError):
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
            raise InputError(f"--against-checkout {folder}: its benchmark printed no speed: {last[0]}") from None

    return turn
