"""What is recorded while a model runs: calls of layers, their arrays, random numbers, and what is computed in a narrower dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream


class Watch:
    """The record of one run; `begin` starts the next one.

    `calls` holds {path, inputs, outputs} in the order of execution, where inputs and outputs are keys of `arrays`; a gradient has the key
    of its output. `draws` holds {path, size, kind, p, chance} in order: dropouts with their `p`, and other random numbers by kind,
    "uniform" or "normal", with the `chance` of a 1 of those that are 0 or 1. `narrow` holds {path, after, before, dtype, constant,
    graded}: the places where a dtype narrower than the model's appears, each once. It appears there in tensors that are `constant`, in
    others that have gradients, or in both. `scaled` holds {path, p}: dropouts that scale in inference. `stack` are the paths of the
    layers that are running.
    """

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.begin({}, 0)

    def begin(
        self,
        keys: Mapping[int, str],
        seed: int,
        record: bool = True,
        randomness: bool = False,
        widened: Iterable[str] = (),
    ) -> None:
        """Clear the record. The n-th draw is from the stream `keys[n]` (by default, n) of `seed`.

        At the places `widened`, see `place`, the model computes in its own dtype what it would compute in a narrower one.
        """
        self.keys, self.seed, self.recording, self.suspicious = dict(keys), seed, record, randomness
        self.widened = frozenset(widened)
        self.stack: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.draws: list[dict[str, Any]] = []
        self.narrow: list[dict[str, Any]] = []
        self.scaled: list[dict[str, Any]] = []
        self.random: list[str] = []
        self._streams = ""
        self._entered: str = ""
        self._states: list[bytes] = []
        self._open: list[dict[str, Any]] = []

    def begin_loss(self, widens: bool) -> None:
        """Take the following draws from streams for a loss. `widens`: it computes in the model's dtype where it asks for a narrower one."""
        self.keys, self.draws, self._streams = {}, [], "loss "
        self.recording = False  # a loss may call layers of the model
        self.widened = frozenset({EVERYWHERE} if widens else ())

    def wants(self, path: str) -> bool:
        """Whether to record the calls of a layer."""
        return self.recording and path in self.wanted

    def enter(self, path: str, state: Callable[[], bytes]) -> None:
        """Record that a layer begins."""
        self.stack.append(path)
        self._entered = path
        for found in self.narrow:
            found["before"] = found["before"] or path
        if self.suspicious:
            self._states.append(state())

    def leave(self, path: str, state: Callable[[], bytes]) -> None:
        """Record that a layer ends. If the random state changed and no layer inside changed it, the layer is one of `random`."""
        self.stack.pop()
        if self.suspicious:
            after = state()
            if after != self._states.pop() and not self.random:
                self.random.append(path)

    def inputs(self, path: str, arrays: Sequence[Array]) -> None:
        """Keep the inputs of a layer until its outputs exist."""
        self._open.append({"path": path, "given": arrays})

    def outputs(self, path: str, arrays: Sequence[Array]) -> list[str]:
        """Record the outputs of a layer and its kept inputs; return the keys of the outputs."""
        given = self._open.pop()["given"]
        number = len(self.calls)
        call: dict[str, Any] = {"path": path}
        for what, found in (("inputs", given), ("outputs", arrays)):
            call[what] = [f"{number}/{what}/{i}" for i in range(len(found))]
            self.arrays.update(zip(call[what], found, strict=True))
        self.calls.append(call)
        return list(call["outputs"])

    def gradient(self, key: str, array: Array) -> None:
        """Record the gradient of an output."""
        self.gradients[key] = array

    def take_arrays(self) -> dict[str, Array]:
        """Return the arrays and forget them: those of a run can be gigabytes."""
        arrays, self.arrays = self.arrays, {}
        return arrays

    def take_gradients(self) -> dict[str, Array]:
        """Return the gradients and forget them."""
        gradients, self.gradients = self.gradients, {}
        return gradients

    def draw(self, size: int, p: float) -> Array:
        """Return the factors of a dropout of `size` values: 0 with probability `p`, else 1 / (1-p)."""
        kept = self._draw(size, "uniform", p).random(size) >= p
        return kept / (1 - p) if p < 1 else np.zeros(size)

    def uniform(self, size: int, low: Number = 0.0, high: Number = 1.0) -> Array:
        """Return `size` random numbers from `low` to below `high`.

        A dropout with the same place and size would keep those of at least its p, if they are from 0 to 1.
        """
        return np.asarray(low + (high - low) * self._draw(size, "uniform").random(size))

    def normal(self, size: int, mean: Number = 0.0, deviation: Number = 1.0) -> Array:
        """Return `size` random numbers of a normal distribution."""
        return np.asarray(mean + deviation * self._draw(size, "normal").standard_normal(size))

    def bernoulli(self, size: int, p: Number) -> Array:
        """Return `size` random booleans, True with probability `p`."""
        lowest, highest = np.min(p), np.max(p)
        chance = float(lowest) if lowest == highest else None
        return np.asarray(self._draw(size, "uniform", chance=chance).random(size) >= 1 - p)

    def integers(self, size: int, low: Number, high: Number) -> Array:
        """Return `size` random whole numbers from `low` to below `high`, as float64."""
        return np.floor(self.uniform(size, low, high))

    def permutation(self, size: int) -> Array:
        """Return the numbers from 0 to `size` - 1 in a random order."""
        return self.uniform(size).argsort()

    def exponential(self, size: int, rate: Number) -> Array:
        """Return `size` random numbers of the exponential distribution of mean 1 / `rate`."""
        return np.asarray(-np.log1p(-self.uniform(size)) / rate)

    def _draw(self, size: int, kind: str, p: float | None = None, chance: float | None = None) -> np.random.Generator:
        number, path = len(self.draws), self.stack[-1] if self.stack else ""
        self.draws.append({"path": path, "size": size, "kind": kind, "p": p, "chance": chance})
        return stream(self.seed, "pair dropout", self.keys.get(number, f"{self._streams}{number}"), size)

    def place(self) -> str:
        """Name the place in the model: the layer that is running, and the layer that began last."""
        return name_place(self.stack[-1] if self.stack else "", self._entered)

    @property
    def widens(self) -> bool:
        """Whether the model computes here in its own dtype what it would compute in a narrower one."""
        return bool(self.widened) and (self.place() in self.widened or EVERYWHERE in self.widened)

    def note_narrow(self, dtype: str, graded: bool) -> None:
        """Record that a tensor of a dtype narrower than the model's appears here; `graded`: it is made from one that has a gradient."""
        place = self.place()
        found = next((found for found in self.narrow if found["place"] == place), None)
        if found is None:
            path = self.stack[-1] if self.stack else ""
            found = {"place": place, "path": path, "after": self._entered, "before": "", "dtype": dtype}
            found |= {"constant": False, "graded": False}
            self.narrow.append(found)
        found["graded" if graded else "constant"] = True

    def note_scaled(self, p: float) -> None:
        """Record a dropout that scales in inference."""
        self.scaled.append({"path": self.stack[-1] if self.stack else "", "p": p})


Number = float | Array
"""A parameter of a distribution: one for all numbers, or one for each."""

EVERYWHERE = "*"
"""Stands for all places of a model."""


def name_place(path: str, after: str) -> str:
    """Name a place: in the layer `path`, after the layer `after` has begun."""
    return f"{path} after {after}"


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among a layer's attributes: numbers, words, and short lists or tuples of them."""
    settings = {name: value for name, value in attributes.items() if _is_plain(value)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= 8 and all(type(one) in (int, float, bool, str) for one in value)
    return value is None or type(value) in (int, float, bool, str)
