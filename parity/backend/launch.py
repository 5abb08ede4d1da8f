"""Starts this project's programs as child processes. No other module builds a Python command line of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity import machine
from parity.errors import InputError

CHILD = Path(__file__).resolve().with_name("child_main.py")


def launch(
    module: str,
    arguments: Sequence[str],
    python: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start `module` of this project with `arguments`, run by the interpreter `python` (None: this process's own).

    The process imports nothing from the working directory: it finds this project's packages, the entries of PYTHONPATH, and what its
    interpreter has installed. It is killed when this process ends for any reason, or when the result is garbage-collected; on Windows
    it ends when its stdin is closed. `environment` is added to this process's environment variables; `options` are those of
    `subprocess.Popen`. `InputError` if `python` cannot be run.
    """
    # An empty entry would mean the working directory.
    path = os.pathsep.join(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    variables = os.environ | dict(environment or {}) | {"PYTHONPATH": path}
    lifeline, held = os.pipe()
    passed = (lifeline,) if machine.PASSES_PIPES else ()
    try:
        words = [str(python or sys.executable), str(CHILD), str(*passed) or "-1", module, *arguments]
        process = subprocess.Popen(words, env=variables, pass_fds=passed, **options)
    except OSError as error:
        os.close(held)
        raise InputError(f"cannot run {python or sys.executable}: {error.strerror}") from None
    finally:
        os.close(lifeline)
    weakref.finalize(process, os.close, held)
    return process
