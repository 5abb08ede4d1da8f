"""Replacements for functions of the framework while models of users are compared."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from parity.arrays import Array
from parity.modules.average_pools import repairs


def replacements(
    draw: Callable[[int, float], Array], variance: Callable[[], str]
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> their replacements during a comparison.

    `draw(size, p)` returns the multipliers of a dropout, `variance()` the convention for running variances. Numbers that one framework's
    functions round to float32 are rounded for both: `parity.pairs.replaced_functions` lists them.
    """
    pools = {name: getattr(F, name) for axes in (1, 2, 3) for name in (f"avg_pool{axes}d", f"adaptive_avg_pool{axes}d")}
    return {
        F.dropout: functools.partial(_dropout, F.dropout, draw),
        F.dropout2d: functools.partial(_dropout_maps, F.dropout2d, draw),
        F.dropout3d: functools.partial(_dropout_maps, F.dropout3d, draw),
        paddle.pow: _exactly(paddle.pow),
    } | {function: functools.partial(_average, function, name) for name, function in pools.items()}


def _dropout(
    original: Callable[..., Tensor], draw: Callable[[int, float], Array], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of single numbers, or of whole slices along an axis."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training = (call.arguments[word] for word in ("x", "p", "training"))
    if not training or not p:
        return original(*given, **named)
    axis, mode = call.arguments["axis"], call.arguments["mode"]
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    mask = _mask(draw, x, p, axes)
    # DIFFERS: dropout of the kind downscale_in_infer does not scale in training.
    return x * mask if mode == "upscale_in_train" else x * (mask > 0).astype(x.dtype)


def _dropout_maps(
    original: Callable[..., Tensor], draw: Callable[[int, float], Array], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of whole maps."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training, form = (call.arguments[word] for word in ("x", "p", "training", "data_format"))
    if not training or not p:
        return original(*given, **named)
    return x * _mask(draw, x, p, [0, 1] if form.startswith("NC") else [0, x.ndim - 1])


def _mask(draw: Callable[[int, float], Array], x: Tensor, p: float, axes: Sequence[int]) -> Tensor:
    """The multipliers of a dropout that draws along `axes`, and shares each number along all other axes."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    return paddle.to_tensor(draw(int(np.prod(shape)), p).reshape(shape), dtype=x.dtype)


def _average(original: Callable[..., Tensor], pool: str, /, *given: Any, **named: Any) -> Tensor:
    """Average pooling whose gradient has the precision of its dtype."""
    out = original(*given, **named)
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x = call.arguments["x"]
    if x.dtype != paddle.float64:
        return out
    # DIFFERS: the kernel's gradient rounds 1 / count to float32 in every dtype; `repair` corrects that.
    repair = repairs(pool, call.arguments, x.shape, out.shape)
    if repair is None:
        return out
    factor = paddle.to_tensor(repair)
    return out * factor + (out * (1 - factor)).detach()


def prepare(model: nn.Layer) -> None:
    """Set the attributes of the modules of `model` that a comparison needs."""
    for module in model.sublayers(include_self=True):
        # DIFFERS: the layer calls its kernel directly, with an eps that is float32 in one version and float64 in another.
        if isinstance(module, nn.GroupNorm):
            module._epsilon = float(np.float32(module._epsilon))


@contextlib.contextmanager
def prepared_process() -> Iterator[None]:
    """A context in which the process is set for comparisons, with gradients on. Afterwards everything is as before."""
    operators = {
        name: getattr(Tensor, name) for name in ("__add__", "__radd__", "__sub__", "__rsub__", "__pow__", "pow")
    }
    dtype, states = paddle.get_default_dtype(), paddle.get_rng_state()
    for name, operator in operators.items():
        setattr(Tensor, name, _exactly(operator))
    try:
        with paddle.enable_grad():
            yield
    finally:
        for name, operator in operators.items():
            setattr(Tensor, name, operator)
        paddle.set_default_dtype(dtype)
        paddle.set_rng_state(states)


def _exactly(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator whose second operand, if it is a Python number, has the precision of the first."""

    def operator(x: Tensor, y: Any, *more: Any) -> Tensor:
        # DIFFERS: a Python number goes through a kernel attribute of float32.
        if isinstance(y, float) and x.dtype == paddle.float64:
            y = paddle.full([], y, x.dtype)
        return original(x, y, *more)

    return operator
