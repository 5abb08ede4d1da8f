"""Operators on bfloat16 and float16 tensors on the CPU, where the framework has few kernels for them.

They compute in float32 and round each result once to the nearest number, as the framework's kernels on GPUs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_impl.backend import HALVES

OWN_KERNELS = ("cast", "assign", "assign_out_")
"""Operators with kernels for all dtypes, by which the others are computed."""

BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "pow")
"""Operators whose result has the dtype of the wider operand, from version 3 on."""

UPDATES: Mapping[str, tuple[int, ...]] = {"batch_norm": (1, 2)}
"""Operator -> places of arguments that it updates, and of their new values among its results."""

METHODS = {
    "add": "__add__ __radd__",
    "subtract": "__sub__ __rsub__",
    "multiply": "__mul__ __rmul__",
    "divide": "__truediv__ __rtruediv__ __div__ __rdiv__",
    "pow": "__pow__ __rpow__ pow",
    "matmul": "__matmul__",
    "floor_divide": "__floordiv__",
    "remainder": "__mod__",
    "compare": "__lt__ __le__ __gt__ __ge__ __eq__ __ne__",
    "scale": "__neg__",
    "slice": "__getitem__",
}
"""Operator -> the methods of tensors that call it in C++."""


def rounding(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator `name` with results in the dtype of its operands, computed in float32 if that is a half dtype on the CPU."""
    if name in OWN_KERNELS:
        return original

    def operator(*given: Any, **named: Any) -> Any:
        values = [*given, *named.values()]
        if not _is_half(values):
            return original(*given, **named)
        if any(isinstance(value, type(paddle.float32)) for value in values):
            return original(*given, **named)  # it states the dtype of its result
        wide = tuple(map(_widened, given)), {word: _widened(value) for word, value in named.items()}
        result = original(*wide[0], **wide[1])
        if name.endswith("_"):
            return _written(given, wide[0])
        for place in UPDATES.get(name, ()):
            if given[place].dtype in HALVES:
                with paddle.no_grad():
                    paddle.assign(_nearest(result[place], given[place].dtype), given[place])
        dtype = _result_dtype(name, values)
        if isinstance(result, list | tuple):
            return type(result)(_rounded(one, dtype) for one in result)
        return _rounded(result, dtype)

    return operator


def _is_half(values: Any) -> bool:
    return any(tensor.dtype in HALVES and tensor.place.is_cpu_place() for tensor in _tensors(values))


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of an operator. A list may hold numbers beside them, such as a shape."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Widen.apply(value) if value.dtype in HALVES else value
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
        return [_widened(one) for one in value]
    return value


def _rounded(value: Any, dtype: Any) -> Any:
    is_wide = isinstance(value, Tensor) and value.dtype == paddle.float32 and value._is_initialized()
    return _Round.apply(value, dtype) if is_wide and dtype in HALVES else value


class _Widen(PyLayer):
    """A tensor in float32, whose gradient is rounded."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.dtype = x.dtype
        return x.astype("float32")

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _nearest(gradient, context.dtype)


class _Round(PyLayer):
    """A float32 tensor, rounded."""

    @staticmethod
    def forward(context: Any, x: Tensor, dtype: Any) -> Tensor:
        return _nearest(x, dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient.astype("float32")


def _nearest(x: Tensor, dtype: Any) -> Tensor:
    """A float32 tensor in a half dtype. Version 2.6 casts towards zero, which no one-ULP twin shows: all errors have one sign."""
    if paddle.__version__.startswith("2."):
        # The upper part of a number by Veltkamp, in "A floating-point technique for extending the available precision" (Dekker 1971).
        scaled = x * (2.0**16 + 1 if dtype == paddle.bfloat16 else 2.0**13 + 1)
        upper = scaled - (scaled - x)
        if dtype == paddle.float16:  # below 2^-14, its numbers are multiples of 2^-24
            upper = paddle.where(x.abs() < 2.0**-14, (x + 0.75) - 0.75, upper)
        x = paddle.where(paddle.isfinite(upper), upper, x)
    return x.astype(dtype)


def _result_dtype(name: str, values: Any) -> Any:
    dtypes = [tensor.dtype for tensor in _tensors(values) if tensor.is_floating_point()]
    promotes = name in BINARY and not paddle.__version__.startswith("2.")
    return next((dtype for dtype in dtypes if promotes and dtype not in HALVES), dtypes[0])


def _written(given: tuple[Any, ...], wide: tuple[Any, ...]) -> Any:
    """Write the results of an operator that works in place. Only those of an optimizer have several."""
    targets = [i for i, value in enumerate(given) if isinstance(value, Tensor) and value.dtype in HALVES]
    for i in targets[:1] if paddle.is_grad_enabled() else targets:
        paddle.assign(_rounded(wide[i], given[i].dtype), given[i])
    return given[0]
