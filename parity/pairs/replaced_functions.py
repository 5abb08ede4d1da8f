"""What is neutralised while a pair is checked: functions of a framework are replaced, in the worker's process only.

Paddle's kernels hold many scalars in float32, for float64 tensors too, and which ones changes with its versions; rounded once on both
sides they are the same. Dropouts draw from streams of ours.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

ROUNDED: Mapping[str, tuple[str, ...]] = {
    "layer_norm": ("eps", "epsilon"),
    "group_norm": ("eps", "epsilon"),
    "instance_norm": ("eps", "epsilon"),
    "rms_norm": ("eps", "epsilon"),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "hardtanh": ("min_val", "max_val", "min", "max"),
}
"""Functions of both frameworks' `nn.functional` -> their arguments that are rounded to float32."""

Functions = Mapping[Callable[..., Any], Callable[..., Any]]


def rounded(functional: ModuleType) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The functions of `ROUNDED` in a framework's `nn.functional` -> the same with rounded scalars."""
    found = {getattr(functional, name): words for name, words in ROUNDED.items() if hasattr(functional, name)}
    return {
        function: functools.partial(_rounded, function, inspect.signature(function), words)
        for function, words in found.items()
    }


def _rounded(
    original: Callable[..., Any], signature: inspect.Signature, words: tuple[str, ...], /, *given: Any, **named: Any
) -> Any:
    call = signature.bind(*given, **named)
    call.apply_defaults()
    for word in words:
        if isinstance(call.arguments.get(word), float):
            call.arguments[word] = float(np.float32(call.arguments[word]))
    return original(*call.args, **call.kwargs)


def replace(functions: Functions) -> None:
    """Puts every function's substitute wherever a loaded module holds the function under some name."""
    by_identity = {id(function): substitute for function, substitute in functions.items()}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict) or getattr(module, "__name__", "").startswith(
            ("parity", "torch_impl", "paddle_impl")
        ):
            continue
        for name, value in list(names.items()):
            if id(value) in by_identity:
                names[name] = by_identity[id(value)]
