"""Timing: contestants in separate processes take turns, round after round; medians, spreads and bootstrap intervals of ratios.

In a round, every contestant has the machine to itself for a few steps. Drift (clock, other load) then affects all of them, and a ratio is
taken within a round.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.errors import InputError
from parity.network.network import Network

Turn = Callable[[], float]
"""A function that runs one turn of a contestant and returns its figure: images per second, or seconds."""

RESAMPLES = 10_000

TRAINING_FLOPS = 6
"""Floating-point operations of a training step for each multiply-add and image: two forward, four backward."""


@dataclass
class Contest:
    """Contestants by name, and the figure of each of their rounds."""

    turns: Mapping[str, Turn]
    figures: dict[str, list[float]] = field(default_factory=dict)

    def run(self, rounds: Iterable[int]) -> None:
        """Give every contestant a turn in each round. The order rotates, so that no contestant always follows the same one."""
        names = list(self.turns)
        for number in rounds:
            first = number % len(names)
            for name in names[first:] + names[:first]:
                self.figures.setdefault(name, []).append(self.turns[name]())

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return median, smallest, largest and all figures of each contestant, which are images/s."""
        return {
            name: {
                "images_per_second": float(np.median(found)),
                "least": min(found),
                "most": max(found),
                "rounds": [round(speed, 3) for speed in found],
            }
            for name, found in self.figures.items()
        }

    def ratios(self, reference: str) -> dict[str, dict[str, float]]:
        """Return each contestant's figure over the reference's: the median of the rounds' ratios and its 95% bootstrap interval."""
        found = {}
        for name in self.figures:
            if name != reference:
                pairs = np.array(self.figures[name]) / np.array(self.figures[reference])
                low, high = interval(pairs)
                found[name] = {"ratio": float(np.median(pairs)), "low": low, "high": high, "n": len(pairs)}
        return found


def interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile-bootstrap interval of the median (Efron 1979) of `values` [n]."""
    draws = stream(seed, "bootstrap").integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return float(low), float(high)


def time_program(line: str) -> Turn:
    """Return a turn of another program: the last `N images/s` that it prints, or the last `images_per_second` of its JSON.

    `~` at the start of a word is the home folder. The quotes around the line keep the shell from expanding it.
    """
    words = [os.path.expanduser(word) for word in shlex.split(line)]  # noqa: PTH111 - most words are not paths

    def turn() -> float:
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InputError(f"--against: cannot run {words[0]}: {error.strerror}") from None
        found = re.findall(r"([0-9.]+) images/s|\"images_per_second\": *([0-9.]+)", done.stdout)
        if done.returncode or not found:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
            raise InputError(f"--against: {line!r} printed no images/s (exit code {done.returncode}): {last[0]}")
        return float(next(filter(None, found[-1])))

    return turn


def gigaflops(network: Network, images_per_second: float, training: bool) -> float:
    """Return the arithmetic of convolutions and linear layers in 1e9 operations per second."""
    return network.multiply_adds * (TRAINING_FLOPS if training else 2) * images_per_second / 1e9
