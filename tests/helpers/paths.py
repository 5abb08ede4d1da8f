"""Where the repository is, and the environment in which `python -m helpers.NAME` works."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def environment_with_helpers() -> dict[str, str]:
    """The environment of this process, in which the helpers can be imported."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}
