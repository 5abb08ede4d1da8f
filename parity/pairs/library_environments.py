"""Where the environments of libraries lie that `scripts/library_environments.py` makes, and their interpreters.

Libraries of models pin old versions of common packages, so each has an environment of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from parity.data.fetch import cache_folder
from parity.errors import InputError

LOCKED = "requirements.txt"
"""A copy of the locked file of an environment, in its folder. It is written last, so that it marks a complete environment."""


def environments_folder() -> Path:
    """Return the default folder of the environments, in the cache of data sets; `InputError` if this user has no home folder."""
    return cache_folder() / "environments"


def interpreter(environment: Path) -> Path:
    """Return the Python interpreter of the environment in a folder."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_interpreter(name: str, folder: Path) -> Path:
    """Return the interpreter of the environment `name` in `folder`; `InputError` if it is missing or not complete."""
    if not (folder / name / LOCKED).is_file():
        raise InputError(
            f"there is no environment {name} in {folder}: make it with python scripts/library_environments.py {name} {folder}"
        )
    return interpreter(folder / name)
