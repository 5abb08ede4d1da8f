"""One name for each function of both frameworks: `torch.Tensor.mul_`, `x * y` and `paddle.multiply` are all `multiply`."""

from __future__ import annotations

OTHER_NAMES = {
    "add": "iadd radd add_n",
    "subtract": "sub isub rsub",
    "multiply": "mul imul rmul",
    "divide": "div idiv rdiv truediv itruediv rtruediv true_divide",
    "power": "pow ipow rpow float_power",
    "negative": "neg",
    "matmul": "mm bmm rmatmul imatmul",
    "clip": "clamp",
    "concat": "cat concatenate",
    "split": "chunk tensor_split",
    "reshape": "view view_as reshape_as unflatten",
    "transpose": "permute swapaxes swapdims movedim moveaxis t T mT H mH",
    "unsqueeze": "expand_dims",
    "expand": "expand_as broadcast_to",
    "tile": "repeat",
    "cast": "to type type_as astype float double half bfloat16 long int bool float32 float64 float16 int32 int64",
    "silu": "swish",
    "getitem": "slice strided_slice narrow",
    "equal": "eq",
    "not_equal": "ne",
    "greater_than": "gt",
    "greater_equal": "ge",
    "less_than": "lt",
    "less_equal": "le",
    "interpolate": "upsample",
    "dropout": "alpha_dropout feature_dropout",
}
"""Name -> the other names of the same function."""

_NAMES = {other: name for name, others in OTHER_NAMES.items() for other in others.split()}

PASSING = frozenset({"detach", "data", "contiguous", "clone", "cpu", "cuda", "requires_grad", "assign", "pin_memory"})
"""Functions that return their input."""

SETTING = frozenset({"setitem", "copy", "set_value", "fill", "zero"})
"""Functions that change their first argument, and may return nothing."""


def spoken_name(name: str) -> str:
    """Return the one name of a function that a framework calls `name`: without underscores, and without the words for in place."""
    bare = name.strip("_")
    return _NAMES.get(bare, bare)
