"""What surrounds a step of Paddle's optimizers during a comparison."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn.clip import ClipGradBase
from paddle.optimizer.lr import LRScheduler


def groups_of(optimizer: paddle.optimizer.Optimizer) -> Sequence[dict[str, Any]]:
    """Return the groups of parameters of an optimizer."""
    groups = getattr(optimizer, "_param_groups", None) or []
    return groups if groups and isinstance(groups[0], dict) else [{"params": groups}]


def trained(group: Mapping[str, Any]) -> list[Tensor]:
    """Return the parameters of a group that a step updates."""
    # DIFFERS: the statistics of batch norms are among a layer's parameters.
    return [parameter for parameter in group["params"] if not parameter.stop_gradient]


def parameters_of(optimizer: paddle.optimizer.Optimizer) -> Sequence[Tensor]:
    """Return the parameters that an optimizer updates."""
    return [parameter for group in groups_of(optimizer) for parameter in trained(group)]


def scheduler_of(optimizer: paddle.optimizer.Optimizer) -> Any:
    """Return the schedule that an optimizer holds and that must be stepped after it, or None."""
    found = getattr(optimizer, "_learning_rate", None)
    return found if isinstance(found, LRScheduler) else None


@contextlib.contextmanager
def rounded_scalars(optimizer: paddle.optimizer.Optimizer) -> Iterator[None]:
    """A context in which the scalars of an optimizer are rounded to float32, as some kernels hold them."""
    # DIFFERS: the step of all parameters at once has no kernel of float64; it is the same step.
    if vars(optimizer).get("_use_multi_tensor"):
        optimizer._use_multi_tensor = False
    # Only the schedule needs its number back.
    holders: list[dict[str, Any]] = [vars(optimizer)]
    holders += [vars(found) for p in parameters_of(optimizer) if (found := getattr(p, "regularizer", None)) is not None]
    if getattr(optimizer, "regularization", None) is not None:
        holders.append(vars(optimizer.regularization))
    for holder in holders:
        holder.update({key: _rounded(value) for key, value in holder.items()})
    for group in (getattr(optimizer, "_default_dict", {}), *groups_of(optimizer)):
        group.update({key: _rounded(value) for key, value in group.items()})
    scheduler = scheduler_of(optimizer)
    rate = None if scheduler is None else scheduler.last_lr
    rate_of = getattr(optimizer, "_create_param_lr", None)  # not every class of a user has it
    if rate_of is not None:
        optimizer._create_param_lr = functools.partial(_rounded_rate, rate_of, optimizer.get_lr())
    if scheduler is not None:
        scheduler.last_lr = float(np.float32(rate))  # a chained schedule continues from the number before
    elif (
        isinstance(getattr(optimizer, "_learning_rate", None), float) and optimizer._global_learning_rate() is not None
    ):
        optimizer.set_lr(optimizer._learning_rate)  # set_lr of a user's loop has written another number
    try:
        yield
    finally:
        if rate_of is not None:
            del optimizer._create_param_lr
        if scheduler is not None:
            scheduler.last_lr = rate


def _rounded_rate(rate_of: Callable[[Any], Tensor], rate: float, pair: Sequence[Any]) -> Tensor:
    """Return the learning rate of a parameter as a tensor: `rate` times the parameter's factor, rounded once."""
    # DIFFERS: the optimizer multiplies two numbers of float32, whose product is not the rounded rate of a group in PyTorch.
    found, factor = rate_of(pair), getattr(pair[0], "optimize_attr", {}).get("learning_rate", 1.0)
    if factor == 1 or not isinstance(factor, int | float):
        return found
    return paddle.full_like(found, np.float32(rate * factor))


@contextlib.contextmanager
def watch_clipping(record: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """A context in which `record` gets each parameter and its gradient, as an optimizer's own clipping makes it."""
    # DIFFERS: an optimizer clips in its step, and leaves the gradients as they are.
    original = ClipGradBase.__call__

    @functools.wraps(original)
    def clip(self: ClipGradBase, pairs: Any) -> Any:
        clipped = original(self, pairs)
        for parameter, gradient in clipped:
            if gradient is not None:
                record(parameter, gradient)
        return clipped

    ClipGradBase.__call__ = clip
    try:
        yield
    finally:
        ClipGradBase.__call__ = original


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(np.float32(value))
    return tuple(map(_rounded, value)) if type(value) is tuple else value
