"""Functions of the framework whose scalars have the precision of the tensors, if these are float64."""

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

NORMS = {"layer_norm": "epsilon", "group_norm": "epsilon", "instance_norm": "eps", "rms_norm": "eps"}
"""Norms in `paddle.nn.functional` -> their argument eps."""

_EPS = 3
"""The place of eps among the arguments of the operators of these norms."""


def substitutes() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> the same, with exact scalars. They also serve static graphs, which call no operator."""
    norms = {getattr(F, name): word for name, word in NORMS.items() if hasattr(F, name)}
    found: dict[Callable[..., Any], Callable[..., Any]] = {
        function: functools.partial(_norm, function, inspect.signature(function), word)
        for function, word in norms.items()
    }
    for name, formula in FORMULAS.items():
        function = getattr(F, name, None) or getattr(paddle, name)
        found[function] = functools.partial(_computed, function, inspect.signature(function), formula)
    return found


def exact_operator(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator `name` with exact scalars. A model may hold a function that calls it, as an attribute, or call it itself."""
    formula = FORMULAS.get(name) if name != "rrelu" else None  # the operator takes `is_test` in place of `training`
    if formula:
        return lambda *given, **named: _formula(functools.partial(original, **named), formula, given, given)
    if name not in NORMS:
        return original

    def norm(*given: Any, **named: Any) -> Any:
        if len(given) > _EPS:
            x, eps = _scaled(given[0], given[_EPS])
            given = (x, *given[1:_EPS], eps, *given[_EPS + 1 :])
        return original(*given, **named)

    return norm


def _scaled(x: Tensor, eps: Any) -> tuple[Tensor, Any]:
    """Return `x` times a factor near 1, and eps in float32: their norm is that of `x` with `eps`."""
    if x.dtype != paddle.float64 or not isinstance(eps, float):
        return x, eps
    rounded = float(np.float32(eps))
    return (x, eps) if rounded == eps or rounded <= 0 else (x * _number((rounded / eps) ** 0.5), rounded)


def _norm(original: Callable[..., Any], signature: inspect.Signature, word: str, /, *given: Any, **named: Any) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    first = next(iter(call.arguments))
    if call.arguments.get("use_input_stats", True):
        call.arguments[first], call.arguments[word] = _scaled(call.arguments[first], call.arguments[word])
    return original(*call.args, **call.kwargs)


def _computed(
    original: Callable[..., Any],
    signature: inspect.Signature,
    formula: Callable[..., Tensor | None],
    /,
    *given: Any,
    **named: Any,
) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    values = [value for word, value in call.arguments.items() if word != "name"]
    return _formula(functools.partial(original, **named), formula, given, values)


def _formula(
    original: Callable[..., Any], formula: Callable[..., Tensor | None], given: Sequence[Any], values: Sequence[Any]
) -> Any:
    """The result of a formula of `values`, if one of them is a scalar that float32 rounds; else that of `original`, which takes `given`."""
    rounded = any(isinstance(value, float) and float(np.float32(value)) != value for value in values)
    is_exact = rounded and values[0].dtype == paddle.float64
    result = formula(*values) if is_exact else None
    return original(*given) if result is None else result


def _number(value: float) -> Tensor:
    return paddle.full([], value, paddle.float64)  # a number in Python would go through a kernel attribute of float32


def _selu(x: Tensor, scale: float, alpha: float) -> Tensor:
    negative = _number(alpha) * paddle.expm1(paddle.minimum(x, paddle.zeros_like(x)))
    return _number(scale) * paddle.where(x > 0, x, negative)


def _softshrink(x: Tensor, threshold: float) -> Tensor:
    return x - paddle.clip(x, -threshold, threshold)


def _softplus(x: Tensor, beta: float, threshold: float) -> Tensor:
    inner = x * _number(beta)
    linear = inner > _number(threshold)
    return paddle.where(
        linear, x, paddle.log1p(paddle.exp(paddle.where(linear, paddle.zeros_like(x), inner))) / _number(beta)
    )


def _rrelu(x: Tensor, lower: float, upper: float, training: bool) -> Tensor | None:
    return None if training else paddle.where(x >= 0, x, x * _number((lower + upper) / 2))


def _stanh(x: Tensor, scale_a: float, scale_b: float) -> Tensor:
    return _number(scale_b) * paddle.tanh(_number(scale_a) * x)


def _label_smooth(label: Tensor, prior_dist: Tensor | None, epsilon: float) -> Tensor:
    prior = _number(1 / label.shape[-1]) if prior_dist is None else prior_dist
    return label * _number(1 - epsilon) + prior * _number(epsilon)


def _logit(x: Tensor, eps: float | None) -> Tensor:
    inner = paddle.clip(x, eps, 1 - (eps or 0))
    return paddle.log(inner / (_number(1) - inner))


FORMULAS: dict[str, Callable[..., Tensor | None]] = {
    "selu": _selu,
    "softshrink": _softshrink,
    "softplus": _softplus,
    "rrelu": _rrelu,
    "label_smooth": _label_smooth,
    "stanh": _stanh,
    "logit": _logit,
}
"""Functions and their operators -> formulas that take the same arguments; None: the framework's function computes."""
