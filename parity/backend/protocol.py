"""What a framework must offer: the protocol that `paddle_impl` and `torch_impl` both implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from parity.process_group import ProcessGroup
from parity.weights.canonical_state import State


class Trainer(Protocol):
    """`paddle_impl.train.Trainer` and `torch_impl.train.Trainer`: a model and its optimizer, numpy in and out."""

    model: Any
    process_group: ProcessGroup

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        masks: Mapping[str, np.ndarray],
        rate: float,
        divisor: int,
        record: dict[str, np.ndarray] | None = None,
    ) -> tuple[float, int]:
        """One update; returns the summed cross-entropy and the number of wrong images."""

    def predict(self, images: np.ndarray, record: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Logits in inference mode."""

    def l2_gradients(
        self, images: np.ndarray, masks: Mapping[str, np.ndarray], record: dict[str, np.ndarray] | None = None
    ) -> float:
        """Forward and backward of sum(logits ** 2) / 2 without an update; returns that sum."""

    def isolate(
        self, layer: str, x: np.ndarray, inference: np.ndarray, mask: np.ndarray | None, gradient: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One layer alone, forward and backward."""

    def scale_velocity(self, factor: float) -> None:
        """Multiplies the momentum buffers."""

    def total(self, *values: float) -> list[float]:
        """Sums of `values` over all processes of the run; of one, the values as they are."""

    def state(self) -> State:
        """The canonical state with optimizer slots."""

    def load(self, state: State, updates: int) -> None:
        """Takes a canonical state over."""
