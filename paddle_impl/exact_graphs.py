"""Operators of static graphs with exact scalars while graphs are made. Graphs of version 3 call those of `exact_functions`."""

# DIFFERS: an operator of a graph of version 2 holds its numbers in float32, also for float64 tensors.
from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle
from paddle.base.dygraph.base import param_guard
from paddle.base.framework import Block
from paddle.jit.dy2static.function_spec import FunctionSpec
from paddle.utils import unique_name

from paddle_impl.exact_functions import exact_result, float32_parts, scaled

OPERATORS: dict[str, tuple[str, str]] = {
    "elu": ("elu", "X alpha"),
    "celu": ("celu", "X alpha"),
    "selu": ("selu", "X scale alpha"),
    "leaky_relu": ("leaky_relu", "X alpha"),
    "brelu": ("hardtanh", "X t_min t_max"),
    "hard_sigmoid": ("hardsigmoid", "X slope offset"),
    "thresholded_relu": ("thresholded_relu", "X threshold"),
    "softshrink": ("softshrink", "X lambda"),
    "softplus": ("softplus", "X beta threshold"),
    "rrelu": ("rrelu", "X lower upper is_test"),
    "label_smooth": ("label_smooth", "X PriorDist epsilon"),
    "stanh": ("stanh", "X scale_a scale_b"),
    "logit": ("logit", "X eps"),
    "scale": ("scale", "X scale bias bias_after_scale"),
    "pow": ("pow", "X factor"),
    "addmm": ("addmm", "Input X Y Beta Alpha"),
    "huber_loss": ("huber_loss", "X Y delta"),
    "pad": ("pad", "X paddings pad_value"),
    "pad3d": ("pad3d", "X paddings mode value data_format"),
    "clip": ("clip", "X min max"),
    "fill_any_like": ("full_like", "X value dtype"),
    "p_norm": ("p_norm", "X porder axis epsilon keepdim asvector"),
    "frobenius_norm": ("frobenius_norm", "X dim keep_dim reduce_all"),
    "dist": ("dist", "X Y p"),
    "log_loss": ("log_loss", "Predicted Labels epsilon"),
} | {
    f"{mode}_interp_v2": (
        f"{mode}_interp",
        "X OutSize SizeTensor Scale data_layout out_d out_h out_w scale interp_method align_corners align_mode",
    )
    for mode in ("linear", "bilinear", "trilinear", "bicubic")
}
"""Types of operators of graphs -> the name of the operator in `exact_functions`, and the order of its arguments here."""

DEFAULTS: dict[str, Any] = {"bias_after_scale": True, "porder": 2.0, "axis": -1, "epsilon": 1e-12}
"""Arguments that a graph may leave out, and whose value is not None."""

TENSORS = {"pow": "FactorTensor", "scale": "ScaleTensor", "clip": "Min Max", "pad3d": "Paddings"}
"""Inputs that take the place of a number; the framework's operator computes with them."""

NORMS = ("layer_norm", "group_norm", "instance_norm")


@contextlib.contextmanager
def exact_graphs() -> Iterator[None]:
    """A context in which new operators of graphs have exact scalars, if their tensors are float64.

    New graphs are made for the shapes and dtypes of their inputs, and not for those of an `InputSpec`.
    """
    original, args_to_input_spec = Block.append_op, FunctionSpec.args_to_input_spec

    def append_op(block: Block, *given: Any, **named: Any) -> Any:
        if paddle.in_dynamic_mode():
            return original(block, *given, **named)
        if _is_rounded_constant(named):
            return _append_constant(functools.partial(original, block), block, named)
        with param_guard(named.get("inputs")):
            return None if _append(named) else original(block, *given, **named)

    def specify(spec: FunctionSpec, *given: Any) -> Any:
        asked, spec._input_spec = spec._input_spec, None
        try:
            return args_to_input_spec(spec, *given)
        finally:
            spec._input_spec = asked

    Block.append_op, FunctionSpec.args_to_input_spec = append_op, specify
    try:
        yield
    finally:
        Block.append_op, FunctionSpec.args_to_input_spec = original, args_to_input_spec


@contextlib.contextmanager
def widened_graphs(widen: Callable[[Any], Any]) -> Iterator[None]:
    """A context in which new operators of graphs compute in the dtype that `widen` returns for theirs."""
    original = Block.append_op

    def append_op(block: Block, *given: Any, **named: Any) -> Any:
        if not paddle.in_dynamic_mode():
            attributes = named.get("attrs") or {}
            named["attrs"] = attributes | {word: widen(attributes[word]) for word in attributes if "dtype" in word}
        return original(block, *given, **named)

    Block.append_op = append_op
    try:
        yield
    finally:
        Block.append_op = original


def _append(named: dict[str, Any]) -> bool:
    """Append the formula of an operator, or give a norm a scaled input; return whether nothing else is to append."""
    kind, inputs, attributes = named.get("type"), named.get("inputs") or {}, named.get("attrs") or {}
    if kind in NORMS and attributes.get("epsilon") is not None:
        x, eps = scaled(_one(inputs["X"]), attributes["epsilon"])
        named |= {"inputs": inputs | {"X": x}, "attrs": attributes | {"epsilon": eps}}
        return False
    if kind not in OPERATORS or any(map(inputs.get, TENSORS.get(kind, "").split())):
        return False
    name, words = OPERATORS[kind]
    given = DEFAULTS | attributes | {word: _one(value) for word, value in inputs.items()}
    result = exact_result(name, [given.get(word) for word in words.split()])
    if result is None:
        return False
    outputs = named["outputs"]
    paddle.assign(result, _one(outputs.get("Out", outputs.get("Loss"))))
    return True


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _is_rounded_constant(named: dict[str, Any]) -> bool:
    """Whether an operator fills a float64 tensor with a number that float32 rounds."""
    if named.get("type") != "fill_constant" or named["attrs"].get("dtype") != paddle.float64:
        return False
    value = _constant_of(named["attrs"])
    return abs(value) <= float(np.finfo(np.float32).max) and float(np.float32(value)) != value


def _constant_of(attributes: Mapping[str, Any]) -> float:
    return float(attributes.get("str_value") or attributes.get("value") or 0)


def _append_constant(append: Callable[..., Any], block: Block, named: dict[str, Any]) -> Any:
    """Append operators that fill tensors with numbers of float32, and one that adds these."""
    parts = []
    for part in float32_parts(_constant_of(named["attrs"])):
        parts.append(block.create_var(name=unique_name.generate("exact"), dtype=paddle.float64, stop_gradient=True))
        values = {"value": float(part), "str_value": repr(float(part))}
        append(**named | {"outputs": {"Out": parts[-1]}, "attrs": named["attrs"] | values})
    return append(type="sum", inputs={"X": parts}, outputs=named["outputs"], attrs={})
