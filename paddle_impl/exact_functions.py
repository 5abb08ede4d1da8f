"""Functions of the framework whose constants have the precision of the tensors, if these are float64."""

# DIFFERS: kernels hold many scalars in float32 for tensors of every dtype. Formulas that a user writes do not.
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from parity.arrays import Array
from parity.modules.interpolation import axis_weights

NORMS = {"layer_norm": "epsilon", "group_norm": "epsilon", "instance_norm": "eps", "rms_norm": "eps"}
"""Norms in `paddle.nn.functional` -> their argument eps."""

_EPS = 3
"""The place of eps among the arguments of the operators of these norms."""

BATCH_NORMS = ("batch_norm", "sync_batch_norm_")
"""Operators that also update running statistics."""

_SAME_SLOPE = 1e-6
"""Relative difference from 1/6 up to which the slope of a hard sigmoid is 1/6 with few digits."""

Formula = Callable[..., Tensor | None]


def substitutes() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> the same, with exact scalars. They also serve static graphs, which call no operator."""
    norms = {getattr(F, name): word for name, word in NORMS.items() if hasattr(F, name)}
    found: dict[Callable[..., Any], Callable[..., Any]] = {
        function: functools.partial(_norm, function, inspect.signature(function), word)
        for function, word in norms.items()
    }
    formulas = {name: FORMULAS[name] for name in FUNCTIONS} | {"rrelu": _rrelu_of_a_function}
    for name, formula in formulas.items():
        function = getattr(F, name, None) or getattr(paddle, name)
        found[function] = functools.partial(_computed, function, inspect.signature(function), formula)
    return found


def exact_operator(name: str, original: Callable[..., Any], rounds: Callable[[], bool]) -> Callable[..., Any]:
    """Return the operator `name` with exact scalars. A model may hold a function that calls it, as an attribute, or call it itself.

    Batch norms keep their kernel while `rounds()`.
    """
    if name in BATCH_NORMS:
        return functools.partial(_batch_norm, original, rounds)
    if name in NORMS:
        return functools.partial(_norm_operator, original)
    own = name.removesuffix("_")
    formula = FORMULAS.get(own) or KERNELS.get(own)
    if not formula:
        return original

    def operator(*given: Any, **named: Any) -> Any:
        is_plain = all(value is None for value in named.values())  # `out` is None
        result = _formula(formula, given, own in KERNELS) if is_plain else None
        if result is None:
            return original(*given, **named)
        return paddle.assign(result, given[0]) if own != name else result

    return operator


def _scaled(x: Tensor, eps: Any) -> tuple[Tensor, Any]:
    """Return `x` times a factor near 1, and eps in float32: their norm is that of `x` with `eps`."""
    factor, rounded = _factor(x, eps)
    return (x, eps) if factor == 1 else (x * _number(factor), rounded)


def _factor(x: Tensor, eps: Any) -> tuple[float, Any]:
    """Return the factor and the eps of `_scaled`."""
    if x.dtype != paddle.float64 or not isinstance(eps, float):
        return 1.0, eps
    rounded = float(np.float32(eps))
    return (1.0, eps) if rounded == eps or rounded <= 0 else ((rounded / eps) ** 0.5, rounded)


def _norm(original: Callable[..., Any], signature: inspect.Signature, word: str, /, *given: Any, **named: Any) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    first = next(iter(call.arguments))
    if call.arguments.get("use_input_stats", True):
        call.arguments[first], call.arguments[word] = _scaled(call.arguments[first], call.arguments[word])
    return original(*call.args, **call.kwargs)


def _norm_operator(original: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
    if len(given) > _EPS:
        x, eps = _scaled(given[0], given[_EPS])
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


def _computed(
    original: Callable[..., Any], signature: inspect.Signature, formula: Formula, /, *given: Any, **named: Any
) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    values = [value for word, value in call.arguments.items() if word not in ("name", "out")]
    result = _formula(formula, values)
    return original(*given, **named) if result is None else result


def _formula(formula: Formula, values: Sequence[Any], always: bool = False) -> Tensor | None:
    """The result of a formula in float64, if one of its values is a scalar that float32 rounds, or `always`; else None."""
    if getattr(values[0], "dtype", None) != paddle.float64:
        return None
    rounded = always or any(isinstance(value, float) and float(np.float32(value)) != value for value in values)
    return formula(*values) if rounded else None


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


def _softplus(x: Tensor, beta: float, threshold: float) -> Tensor:
    inner = x * _number(beta)
    linear = inner > _number(threshold)
    return paddle.where(
        linear, x, paddle.log1p(paddle.exp(paddle.where(linear, paddle.zeros_like(x), inner))) / _number(beta)
    )


def _rrelu(x: Tensor, lower: float, upper: float, is_test: bool) -> Tensor | None:
    return _leaky_relu(x, (lower + upper) / 2) if is_test else None


def _rrelu_of_a_function(x: Tensor, lower: float, upper: float, training: bool) -> Tensor | None:
    return _rrelu(x, lower, upper, not training)


def _stanh(x: Tensor, scale_a: float, scale_b: float) -> Tensor:
    return _number(scale_b) * paddle.tanh(_number(scale_a) * x)


def _label_smooth(label: Tensor, prior_dist: Tensor | None, epsilon: float) -> Tensor:
    prior = _number(1 / label.shape[-1]) if prior_dist is None else prior_dist
    return label * _number(1 - epsilon) + prior * _number(epsilon)


def _logit(x: Tensor, eps: float | None) -> Tensor:
    inner = paddle.clip(x, eps, 1 - (eps or 0))
    return paddle.log(inner / (_number(1) - inner))


def _scale(x: Tensor, scale: float, bias: float, bias_after_scale: bool) -> Tensor | None:
    if isinstance(scale, Tensor) or not bias:
        return None  # the kernel is exact
    if not bias_after_scale:
        return (x + _number(bias)) * _number(scale)
    return x * _number(scale) + _number(bias)


def _pow(x: Tensor, exponent: float) -> Tensor:
    return paddle.pow(x, _number(exponent))


def _addmm(added: Tensor, x: Tensor, y: Tensor, beta: float, alpha: float) -> Tensor:
    return added * _number(beta) + paddle.matmul(x, y) * _number(alpha)


def _huber_loss(x: Tensor, label: Tensor, delta: float) -> Tensor:
    distance = paddle.abs(x - label)
    inner = distance * distance * _number(0.5)
    return paddle.where(distance <= _number(delta), inner, _number(delta) * (distance - _number(delta / 2)))


def _pad(x: Tensor, paddings: Any, value: float) -> Tensor:
    inside = paddle._C_ops.pad(paddle.ones_like(x).detach(), paddings, 0.0)
    return paddle._C_ops.pad(x, paddings, 0.0) + (1 - inside) * _number(value)


def _pad3d(x: Tensor, paddings: Any, mode: str, value: float, layout: str) -> Tensor | None:
    if mode != "constant":
        return None
    inside = paddle._C_ops.pad3d(paddle.ones_like(x).detach(), paddings, mode, 0.0, layout)
    return paddle._C_ops.pad3d(x, paddings, mode, 0.0, layout) + (1 - inside) * _number(value)


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
        last = paddle.matmul(paddle.moveaxis(x, axis, -1), paddle.to_tensor(matrix.T))
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
    **{f"{mode}_interp": _interpolated for mode in ("linear", "bilinear", "trilinear", "bicubic")},
}
"""Operators whose kernels hold constants in float32, or add one, whatever their scalars -> formulas, as in `FORMULAS`."""

FUNCTIONS = (
    "elu", "celu", "selu", "leaky_relu", "hardtanh", "hardsigmoid", "thresholded_relu", "softshrink", "softplus",
    "label_smooth", "stanh", "logit", "pow", "addmm",
)  # fmt: skip
"""Operators of `FORMULAS` that have a function of the same name and arguments."""
