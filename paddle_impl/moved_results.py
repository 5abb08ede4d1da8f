"""Changes the numbers that operators compute, to see what their rounding does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from paddle import Tensor

from paddle_impl.cpu_functions import array, has_array
from paddle_impl.operator_hooks import operator_hook
from parity.arrays import Array

# fmt: off
COPIES = frozenset(
    [
        "cast", "assign", "assign_value_", "concat", "stack", "gather", "gather_nd", "index_select", "index_sample", "index_put",
        "take_along_axis", "put_along_axis", "where", "embedding", "max", "min", "amax", "amin", "maximum", "minimum",
        "fmax", "fmin", "clip", "relu", "abs", "argsort", "topk", "kthvalue", "masked_select", "scatter", "flip", "roll",
        "tile", "expand", "expand_as", "tril", "triu", "diag", "diag_embed", "pool2d", "set_value", "split", "split_with_num",
        "unbind", "unstack", "pad", "pad3d", "full", "full_like", "one_hot", "cummax", "cummin", "to_tensor",
    ]
)
# fmt: on
"""Operators whose results are numbers that they were given: they round nothing."""


def move_numbers(tensor: Tensor, move: Callable[[Array], Array]) -> None:
    """Replace the numbers of a float64 or float32 tensor by `move(numbers)`, in place and unseen by autograd.

    Numbers that share memory, as in an expanded tensor, stay as they are.
    """
    # DIFFERS: only on the CPU is there a way that autograd does not see.
    if has_array(tensor) and tensor.size and tensor.is_contiguous():
        numbers = array(tensor)
        numbers[...] = move(numbers)


@contextlib.contextmanager
def moving_results(move: Callable[[Array], Array]) -> Iterator[None]:
    """A context in which `move_numbers` moves every tensor that an operator computes.

    Operators keep their results for the backward pass, which then gets the moved numbers as well. Views of operands stay as they are.
    """

    def hook(name: str, operands: Sequence[Any], result: Any) -> None:
        if name in COPIES:
            return
        for tensor in _tensors([result]):
            if not any(tensor._is_shared_buffer_with(one) for one in _tensors(operands)):
                move_numbers(tensor, move)

    with operator_hook(hook):
        yield


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """The dense tensors that have values among the arguments or results of an operator."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, Tensor) and value.is_dense() and value._is_initialized():
            yield value
