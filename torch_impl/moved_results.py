"""Changes the numbers that operators compute, to see what their rounding does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from parity.arrays import Array

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


def move_numbers(tensor: Tensor, move: Callable[[Array], Array]) -> None:
    """Replace the numbers of a float64 or float32 tensor by `move(numbers)`, in place and unseen by autograd.

    Numbers that share memory, as in an expanded tensor, stay as they are.
    """
    if tensor.layout != torch.strided or tensor.dtype not in (torch.float64, torch.float32):
        return
    if not any(not stride and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        tensor.data.copy_(torch.from_numpy(move(tensor.detach().cpu().numpy())))


@contextlib.contextmanager
def moving_results(move: Callable[[Array], Array]) -> Iterator[None]:
    """A context in which `move_numbers` moves every tensor that an operator computes.

    Operators keep their results for the backward pass, which then gets the moved numbers as well. Views of operands stay as they are.
    """
    with _Moving(move):
        yield


class _Moving(TorchDispatchMode):
    """Sees every operator below autograd."""

    def __init__(self, move: Callable[[Array], Array]) -> None:
        super().__init__()
        self._move = move

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operator, and move its results."""
        result = func(*args, **(kwargs or {}))
        aliases = any(one.alias_info is not None for one in func._schema.returns)
        if not aliases and func._schema.name.rpartition("::")[2] not in COPIES:
            for tensor in tree_flatten(result)[0]:
                if isinstance(tensor, Tensor):
                    move_numbers(tensor, self._move)
        return result
