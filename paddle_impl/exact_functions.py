"""Functions of the framework whose constants have the precision of the tensors, if these are float64."""

# DIFFERS: kernels hold many scalars in float32 for tensors of every dtype. Formulas that a user writes do not.
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from parity.arrays import Array
from parity.modules.interpolation import axis_weights

NORMS = ("layer_norm", "group_norm", "instance_norm", "rms_norm")

_EPS = 3
"""The place of eps among the arguments of the operators of these norms."""

BATCH_NORMS = ("batch_norm", "sync_batch_norm_")
"""Operators that also update running statistics."""

_SAME_SLOPE = 1e-6
"""Relative difference from 1/6 up to which the slope of a hard sigmoid is 1/6 with few digits."""

EXACT_SUM, ROUNDED_SUM = 1e-12, 1e-6
"""Soft labels whose sums differ from 1 by more than the first, and at most the second, add up to 1 but for float32 rounding."""

BCE_LIMIT = float(np.float32(1e-12))
"""The least x * (1 - x) by which the gradient of PyTorch's binary cross-entropy divides."""

Formula = Callable[..., Any]
"""Returns what the operator returns, or None."""


def exact_operator(name: str, original: Callable[..., Any], rounds: Callable[[], bool]) -> Callable[..., Any]:
    """Return the operator `name` with exact scalars. A model may hold a function that calls it, as an attribute, or call it itself.

    Batch norms keep their kernel while `rounds()`.
    """
    if name in BATCH_NORMS:
        return functools.partial(_batch_norm, original, rounds)
    if name in NORMS:
        return functools.partial(_norm_operator, original)
    own = name.removesuffix("_")
    if not (own in FORMULAS or own in KERNELS or own in GRAPHS):
        return original

    def operator(*given: Any, **named: Any) -> Any:
        result = exact_result(own, given, {key: value for key, value in named.items() if value is not None})
        if result is None:
            return original(*given, **named)
        return paddle.assign(result, given[0]) if own != name else result

    return operator


def exact_result(name: str, values: Sequence[Any], named: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return the result of the operator `name` with the arguments `values` and `named` by its formula; None: its kernel is to compute.

    It is for float64, if one of the values is a scalar that float32 rounds, or always where a kernel holds constants in float32. It is
    not for named arguments that the formula lacks, such as `out`.
    """
    if not values or getattr(values[0], "dtype", None) != paddle.float64:
        return None
    formula = FORMULAS.get(name) or KERNELS.get(name)
    if name in GRAPHS and not paddle.in_dynamic_mode():
        formula = GRAPHS[name]
    with np.errstate(over="ignore"):
        numbers = [value for value in (*values, *named.values()) if isinstance(value, float)]
        rounded = name in KERNELS or any(float(np.float32(number)) != number for number in numbers)
    if not formula or not rounded:
        return None
    if named and not named.keys() <= inspect.signature(formula).parameters.keys():
        return None
    return formula(*values, **named)


def scaled(x: Tensor, eps: Any) -> tuple[Tensor, Any]:
    """Return `x` times a factor near 1, and eps in float32: their norm is that of `x` with `eps`."""
    factor, rounded = _factor(x, eps)
    return (x, eps) if factor == 1 else (x * _number(factor), rounded)


def _factor(x: Tensor, eps: Any) -> tuple[float, Any]:
    """Return the factor and the eps of `scaled`."""
    if x.dtype != paddle.float64 or not isinstance(eps, float):
        return 1.0, eps
    rounded = float(np.float32(eps))
    return (1.0, eps) if rounded == eps or rounded <= 0 else ((rounded / eps) ** 0.5, rounded)


def _norm_operator(original: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
    if len(given) > _EPS:
        x, eps = scaled(given[0], given[_EPS])
        given = (x, *given[1:_EPS], eps, *given[_EPS + 1 :])
    return original(*given, **named)


def _batch_norm(original: Callable[..., Any], rounds: Callable[[], bool], /, *given: Any) -> Any:
    """A batch norm of a scaled input, with eps in float32. The kernel gets scaled statistics, or returns those of the batch."""
    x, mean, variance, weight, bias, is_test, momentum, eps, layout, is_global, is_trainable = given
    if x.dtype != paddle.float64 or rounds():
        return original(*given)
    factor, eps = _factor(x, eps)
    scales = _number(factor), _number(factor**2)
    is_fixed = is_global or (is_test and not is_trainable)
    with paddle.no_grad():
        old = mean, variance
        held = [one * scale if is_fixed else paddle.zeros_like(one) for one, scale in zip(old, scales, strict=True)]
    scaled = x if factor == 1 else x * scales[0]
    # With momentum 0, the kernel overwrites the statistics by those of the batch.
    results = original(scaled, *held, weight, bias, is_test, 0.0, eps, layout, is_global, is_trainable)
    if not is_fixed:
        with paddle.no_grad():
            for one, of_batch, scale in zip(old, held, scales, strict=True):
                paddle.assign(one * _number(momentum) + of_batch / scale * _number(1 - momentum), one)
    return results


def exact_tensor(array: Array) -> Tensor:
    """Return a tensor of float64 numbers, also in a graph."""
    if paddle.in_dynamic_mode():
        return paddle.to_tensor(array)
    # DIFFERS: a graph of version 2 holds arrays in float32.
    first, *others = (paddle.assign(part).astype("float64").reshape(list(part.shape)) for part in float32_parts(array))
    return sum(others, first)


def float32_parts(array: Any) -> list[Array]:
    """Return float32 arrays whose exact sum is the float64 array. Numbers that float32 cannot reach become infinite, as in a graph."""
    parts, rest = [], np.asarray(array, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(3):
            parts.append(np.asarray(rest, np.float32))
            rest = np.where(np.isfinite(parts[-1]), rest - parts[-1], 0.0)
    return parts


def _number(value: float) -> Tensor:
    return paddle.full([], value, paddle.float64)  # a number in Python would go through a kernel attribute of float32


def _constant(like: Tensor, value: float) -> Tensor:
    return paddle.zeros_like(like) + _number(value)


def _elu(x: Tensor, alpha: float) -> Tensor:
    return paddle.where(x > 0, x, _number(alpha) * paddle.expm1(_negative(x)))


def _negative(x: Tensor) -> Tensor:
    return paddle.where(x > 0, paddle.zeros_like(x), x)


def _celu(x: Tensor, alpha: float) -> Tensor:
    return paddle.where(x > 0, x, _number(alpha) * paddle.expm1(_negative(x) / _number(alpha)))


def _selu(x: Tensor, scale: float, alpha: float) -> Tensor:
    return _number(scale) * _elu(x, alpha)


def _leaky_relu(x: Tensor, slope: float) -> Tensor:
    return paddle.where(x < 0, x * _number(slope), x)


def _hardtanh(x: Tensor, low: float, high: float) -> Tensor:
    return paddle.where(x > low, paddle.where(x < high, x, _constant(x, high)), _constant(x, low))


def _hardsigmoid(x: Tensor, slope: float, offset: float) -> Tensor:
    if abs(6 * slope - 1) <= _SAME_SLOPE and offset == 0.5:  # DIFFERS: the default slope is 0.1666667
        slope = 1 / 6
    return _hardtanh(x * _number(slope) + _number(offset), 0, 1)


def _thresholded_relu(x: Tensor, threshold: float, value: float = 0.0) -> Tensor:
    return paddle.where(x > _number(threshold), x, _constant(x, value))


def _softshrink(x: Tensor, threshold: float) -> Tensor:
    far = paddle.abs(x) > _number(threshold)
    return paddle.where(far, x - paddle.sign(x) * _number(threshold), paddle.zeros_like(x))


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0, name: str | None = None) -> Tensor:
    # DIFFERS: in 3.x the function is the operator itself, so that the operator gets the function's name and keywords.
    inner = x * _number(beta)
    linear = inner > _number(threshold)
    return paddle.where(
        linear, x, paddle.log1p(paddle.exp(paddle.where(linear, paddle.zeros_like(x), inner))) / _number(beta)
    )


def _rrelu(x: Tensor, lower: float, upper: float, is_test: bool) -> Tensor | None:
    return _leaky_relu(x, (lower + upper) / 2) if is_test else None


def _stanh(x: Tensor, scale_a: float, scale_b: float) -> Tensor:
    return _number(scale_b) * paddle.tanh(_number(scale_a) * x)


def _label_smooth(label: Tensor, prior_dist: Tensor | None, epsilon: float) -> Tensor:
    prior = _number(1 / label.shape[-1]) if prior_dist is None else prior_dist
    return label * _number(1 - epsilon) + prior * _number(epsilon)


def _logit(x: Tensor, eps: float | None) -> Tensor:
    inner = paddle.clip(x, eps, 1 - (eps or 0))
    return paddle.log(inner / (_number(1) - inner))


def _scale(x: Tensor, scale: float, bias: float, bias_after_scale: bool) -> Tensor | None:
    return _scale_in_graph(x, scale, bias, bias_after_scale) if bias else None  # without bias, the kernel is exact


def _scale_in_graph(x: Tensor, scale: float, bias: float, bias_after_scale: bool) -> Tensor | None:
    if not isinstance(scale, float | int):
        return None  # a tensor: the kernel is exact
    if not bias:
        return x * _number(scale)
    if not bias_after_scale:
        return (x + _number(bias)) * _number(scale)
    return x * _number(scale) + _number(bias)


def _clip_in_graph(x: Tensor, low: float, high: float) -> Tensor | None:
    return _hardtanh(x, low, high) if isinstance(low, float | int) and isinstance(high, float | int) else None


def _full_like_in_graph(x: Tensor, value: float, dtype: Any = None, *place: Any) -> Tensor | None:
    return _constant(x, value).detach() if dtype in (None, -1, paddle.float64) else None


def _pow(x: Tensor, exponent: float) -> Tensor:
    return paddle.pow(x, _number(exponent))


def _addmm(added: Tensor, x: Tensor, y: Tensor, beta: float, alpha: float) -> Tensor:
    return added * _number(beta) + paddle.matmul(x, y) * _number(alpha)


def _huber_loss(x: Tensor, label: Tensor, delta: float) -> Tensor:
    distance = paddle.abs(x - label)
    inner = distance * distance * _number(0.5)
    return paddle.where(distance <= _number(delta), inner, _number(delta) * (distance - _number(delta / 2)))


def _pad(x: Tensor, paddings: Any, value: float) -> Tensor:
    inside = F.pad(paddle.ones_like(x).detach(), paddings, value=0.0)
    return F.pad(x, paddings, value=0.0) + (1 - inside) * _number(value)


def _pad3d(x: Tensor, paddings: Any, mode: str, value: float, layout: str) -> Tensor | None:
    if mode != "constant":
        return None
    inside = F.pad(paddle.ones_like(x).detach(), paddings, value=0.0, data_format=layout)
    return F.pad(x, paddings, value=0.0, data_format=layout) + (1 - inside) * _number(value)


def _p_norm(x: Tensor, p: float, axis: int, epsilon: float, keepdim: bool, as_vector: bool) -> Tensor | None:
    # DIFFERS: the kernel's gradient adds epsilon to the norm, and it computes 1 / p in float32.
    if p in (0, np.inf, -np.inf) or p < 0 or (as_vector and keepdim):
        return None
    return _norm_of(x, p, None if as_vector else axis, keepdim)


def _frobenius_norm(x: Tensor, axis: Any, keepdim: bool, reduce_all: bool) -> Tensor:
    return _norm_of(x, 2, None if reduce_all else axis, keepdim)


def _norm_of(x: Tensor, p: float, axis: Any, keepdim: bool) -> Tensor:
    """The norm of order p, whose gradient at zero is zero."""
    if p == 1:
        return paddle.abs(x).sum(axis, keepdim=keepdim)
    total = (x * x if p == 2 else _positive_power(paddle.abs(x), p)).sum(axis, keepdim=keepdim)
    return _positive_power(total, 1 / p)


def _positive_power(x: Tensor, exponent: float) -> Tensor:
    """`x` to a power, with the gradient zero at zero."""
    is_zero = x == 0
    base = paddle.where(is_zero, paddle.ones_like(x), x)
    power = paddle.sqrt(base) if exponent == 0.5 else paddle.pow(base, _number(exponent))
    return paddle.where(is_zero, paddle.zeros_like(x), power)


def _dist(x: Tensor, y: Tensor, p: float) -> Tensor | None:
    return _p_norm(x - y, float(p), 0, 0.0, False, True)


def _log_loss(x: Tensor, label: Tensor, epsilon: float) -> Tensor:
    # DIFFERS: the kernel exists in float32 only.
    small, one = _number(epsilon), _number(1)
    return -label * paddle.log(x + small) - (one - label) * paddle.log(one - x + small)


def _bce_loss(x: Tensor, label: Tensor) -> Tensor:
    # DIFFERS: PyTorch's kernel uses log1p(-x), and its gradient limits x * (1 - x) to 1e-12 in float32.
    p, y, one, floor = x.detach(), label.detach(), _number(1), _number(-100)
    slope = (p - y) / paddle.maximum(p * (one - p), _number(BCE_LIMIT))
    loss = (y - one) * paddle.maximum(paddle.log1p(-p), floor) - y * paddle.maximum(paddle.log(p), floor)
    linear = x * slope
    return loss + (linear - linear.detach())


def _cross_entropy(
    x: Tensor, label: Tensor, soft_label: bool, use_softmax: bool, stable: bool, ignored: int, axis: int
) -> tuple[Tensor, Tensor] | None:
    # DIFFERS: the kernel's gradient takes the sum of soft labels for 1. In float32 it is 1 but for rounding.
    if not soft_label or not use_softmax or not paddle.in_dynamic_mode() or label.dtype != paddle.float64:
        return None
    total = label.sum(axis, keepdim=True)
    if not EXACT_SUM < float((total - 1).abs().max()) <= ROUNDED_SUM:
        return None
    softmax, loss = paddle._C_ops.cross_entropy_with_softmax(
        x, label / total, soft_label, use_softmax, stable, ignored, axis
    )
    return softmax, loss * total


def _interpolated(
    x: Tensor, size: Any, sizes: Any, scale: Any, layout: str, depth: int, height: int, width: int,
    scales: Sequence[float], mode: str, align_corners: bool, align_mode: int,
) -> Tensor | None:  # fmt: skip
    # DIFFERS: the kernel computes the weights of pixels in float32.
    if size is not None or sizes or scale is not None:
        return None
    axes = range(2, x.ndim) if layout == "NCHW" else range(1, x.ndim - 1)
    asked = (depth, height, width)[3 - len(axes) :]
    weights: dict[int, Array] = {}
    for i, axis in enumerate(axes):
        n, factor = x.shape[axis], float(scales[i]) if scales else 0.0
        out = int(np.float32(n) * np.float32(factor)) if factor else asked[i]
        weights[axis] = axis_weights(mode, n, out, factor, align_corners, align_mode)
    if all(np.array_equal(one, one.astype(np.float32)) for one in weights.values()):
        return None  # the kernel is exact
    for axis, matrix in weights.items():
        last = paddle.matmul(paddle.moveaxis(x, axis, -1), exact_tensor(matrix.T))
        x = paddle.moveaxis(last, -1, axis)
    return x


FORMULAS: dict[str, Formula] = {
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "leaky_relu": _leaky_relu,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "thresholded_relu": _thresholded_relu,
    "softshrink": _softshrink,
    "softplus": _softplus,
    "rrelu": _rrelu,
    "label_smooth": _label_smooth,
    "stanh": _stanh,
    "logit": _logit,
    "scale": _scale,
    "pow": _pow,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "huber_loss": _huber_loss,
    "pad": _pad,
    "pad3d": _pad3d,
}
"""Operators with scalars -> formulas that take the same arguments; None: the framework's kernel computes."""

KERNELS: dict[str, Formula] = {
    "p_norm": _p_norm,
    "frobenius_norm": _frobenius_norm,
    "dist": _dist,
    "log_loss": _log_loss,
    "bce_loss": _bce_loss,
    "cross_entropy_with_softmax": _cross_entropy,
    **{f"{mode}_interp": _interpolated for mode in ("linear", "bilinear", "trilinear", "bicubic")},
}
"""Operators whose kernels hold constants in float32, or add one, whatever their scalars -> formulas, as in `FORMULAS`."""

GRAPHS: dict[str, Formula] = {"scale": _scale_in_graph, "clip": _clip_in_graph, "full_like": _full_like_in_graph}
"""Operators whose kernels are exact, but not their numbers in a static graph -> formulas for graphs, as in `FORMULAS`."""
