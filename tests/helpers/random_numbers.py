"""Seeds random numbers. In a new process, those of PyTorch, Paddle and numpy differ from run to run."""

from __future__ import annotations

import random
import sys

import numpy as np


def seed_random_numbers() -> None:
    """Seed the global generators of this process: Python's, numpy's, and those of the frameworks that are loaded."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from it
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if paddle := sys.modules.get("paddle"):
        paddle.seed(0)
