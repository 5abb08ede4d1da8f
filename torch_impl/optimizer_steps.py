"""What surrounds a step of PyTorch's optimizers during a comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def groups_of(optimizer: torch.optim.Optimizer) -> Sequence[dict[str, Any]]:
    """Return the groups of parameters of an optimizer."""
    return optimizer.param_groups


def trained(group: Mapping[str, Any]) -> list[Tensor]:
    """Return the parameters of a group that a step updates."""
    return [parameter for parameter in group["params"] if parameter.requires_grad]


def parameters_of(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    """Return the parameters that an optimizer updates."""
    return [parameter for group in groups_of(optimizer) for parameter in trained(group)]


def scheduler_of(optimizer: torch.optim.Optimizer) -> Any:
    """Return the schedule that an optimizer holds and that must be stepped after it, or None."""
    return None


@contextlib.contextmanager
def rounded_scalars(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A context in which the scalars of an optimizer are rounded to float32, as some kernels hold them."""
    # Who writes an optimizer may keep its settings as attributes.
    own = vars(optimizer)
    own.update({key: _rounded(value) for key, value in own.items() if isinstance(value, float | tuple)})
    before = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update({key: _rounded(value) for key, value in group.items() if key not in ("params", "initial_lr")})
    try:
        yield
    finally:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update({key: value for key, value in old.items() if isinstance(value, float | tuple | Tensor)})


@contextlib.contextmanager
def watch_clipping(record: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """A context in which `record` gets each parameter and its gradient, as an optimizer's own clipping makes it."""
    yield


def _rounded(value: Any) -> Any:
    if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()):
        return float(np.float32(value.item() if isinstance(value, Tensor) else value))
    return tuple(map(_rounded, value)) if type(value) is tuple else value
