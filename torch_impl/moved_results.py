"""Rounding that no twin shows: what functions compute moves by one unit in the last place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# fmt: off
COPIES = frozenset(
    [
        "_to_copy", "clone", "cat", "stack", "index", "index_select", "gather", "where", "embedding", "lift_fresh_copy",
        "max", "min", "amax", "amin", "maximum", "minimum", "clamp", "clamp_min", "clamp_max", "relu", "abs", "neg",
        "sort", "topk", "median", "kthvalue", "masked_fill", "masked_select", "masked_scatter", "scatter", "index_put",
        "copy", "_unsafe_view", "take", "index_fill", "slice_scatter", "fmax", "fmin", "cummax", "cummin",
        "flip", "roll", "repeat", "constant_pad_nd", "tril", "triu", "diag_embed", "max_pool2d_with_indices",
        "zeros_like", "ones_like", "full", "full_like", "new_full", "scalar_tensor", "empty_like",
    ]
)
# fmt: on
"""Operators whose results are numbers that they were given: they round nothing."""


class MovedResults(TorchDispatchMode):
    """A context in which every float64 number that an operator computes moves by one unit in the last place, up or down at random.

    Operators keep their results for the backward pass, which then gets the moved numbers as well. A number that float32 holds exactly
    stays as it is, such as 0, 1 and 1 minus a label: it is most likely exact. So do those of an expanded tensor, which share memory.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = torch.Generator().manual_seed(seed)

    def move(self, tensors: Iterable[Any]) -> None:
        """Move the numbers of float64 tensors, in place and unseen by autograd."""
        for tensor in tensors:
            is_own = isinstance(tensor, Tensor) and tensor.dtype == torch.float64 and tensor.layout == torch.strided
            if is_own and all(stride or size < 2 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
                self._move(tensor.data)

    def _move(self, numbers: Tensor) -> None:
        up = torch.randint(0, 2, tuple(numbers.shape), generator=self._random, dtype=torch.bool).to(numbers.device)
        moved = torch.nextafter(numbers, torch.where(up, torch.inf, -torch.inf).to(numbers.dtype))
        stays = ~torch.isfinite(numbers) | (numbers.float().double() == numbers)
        numbers.copy_(torch.where(stays, numbers, moved))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operator of a loss, and move its results."""
        result = func(*args, **(kwargs or {}))
        aliases = any(one.alias_info is not None for one in func._schema.returns)
        if not aliases and func._schema.name.rpartition("::")[2] not in COPIES:
            self.move(tree_flatten(result)[0])
        return result
