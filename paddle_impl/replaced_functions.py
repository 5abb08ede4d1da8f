"""Replacements for functions of the framework while models of users are compared."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.base.data_feeder import check_dtype
from paddle.base.framework import Variable
from paddle.jit.sot.psdb import breakgraph
from paddle.nn import clip
from paddle.static import default_main_program, default_startup_program

from paddle_impl.compiled_frames import sound_frames
from paddle_impl.exact_functions import exact_operator, exact_tensor
from paddle_impl.exact_graphs import exact_graphs, widened_graphs
from paddle_impl.half_kernels import METHODS, rounding
from paddle_impl.operator_hooks import hooked
from parity.arrays import Array
from parity.modules.average_pools import repairs
from parity.modules.function_calls import FunctionCalls
from parity.modules.recording import Watch
from parity.weights.half_precision import HALVES

_CLIP = getattr(paddle.nn.utils, "clip_grad_norm_", None)
"""The function that clips gradients outside an optimizer."""


def replacements(
    draw: Callable[[int, float], Array],
    variance: Callable[[], str],
    rounds: Callable[[], bool],
    scale: Callable[[float], None],
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> their replacements during a comparison.

    `draw(size, p)` returns the multipliers of a dropout, `variance()` the convention for running variances. `scale(p)` notes a dropout that
    scales in inference. `rounds()`: batch norms round eps and momentum to float32.
    """
    pools = {name: getattr(F, name) for axes in (1, 2, 3) for name in (f"avg_pool{axes}d", f"adaptive_avg_pool{axes}d")}
    return {
        F.dropout: functools.partial(_dropout, F.dropout, draw, scale),
        F.dropout2d: functools.partial(_dropout_maps, F.dropout2d, draw),
        F.dropout3d: functools.partial(_dropout_maps, F.dropout3d, draw),
        F.gumbel_softmax: _gumbel_softmax,
        F.nll_loss: functools.partial(_nll_loss, F.nll_loss),
        clip.clip_by_norm: functools.partial(_clip_by_norm, clip.clip_by_norm),
        **({_CLIP: functools.partial(_clip, _CLIP)} if _CLIP else {}),
        F.label_smooth: functools.partial(_label_smooth, F.label_smooth),
        F.one_hot: functools.partial(_one_hot, F.one_hot),
        paddle.assign: functools.partial(_assign, paddle.assign),
        check_dtype: functools.partial(_check_dtype, check_dtype),
    } | {function: functools.partial(_average, function, name) for name, function in pools.items()}


def observed(dropped: Callable[[Array, float], None]) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> the same, which tell what they do and change no number.

    `dropped(factors, p)` gets the multipliers that a dropout has used.
    """
    dropouts = (F.dropout, F.dropout2d, F.dropout3d)
    return {function: functools.partial(_seen, function, dropped) for function in dropouts}


_INSIDE: list[None] = []
"""Is not empty within a dropout that was seen already: dropout of maps calls that of numbers."""


def _seen(
    original: Callable[..., Tensor], dropped: Callable[[Array, float], None], /, *given: Any, **named: Any
) -> Tensor:
    """A dropout, drawn a second time with the same random numbers from ones, which shows its factors."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training = (call.arguments[word] for word in ("x", "p", "training"))
    if _INSIDE or not training or not p:
        return original(*given, **named)
    axis = call.arguments.get("axis")
    if "data_format" in call.arguments:
        axis = [0, 1] if call.arguments["data_format"].startswith("NC") else [0, x.ndim - 1]
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    _INSIDE.append(None)
    try:
        states = paddle.get_rng_state()
        with paddle.no_grad():
            call.arguments["x"] = paddle.ones_like(x)
            factors = original(*call.args, **call.kwargs)
        paddle.set_rng_state(states)
        place = tuple(slice(None) if i in axes else 0 for i in range(x.ndim))
        dropped(factors[place].astype("float32").numpy(), p)
        return original(*given, **named)
    finally:
        _INSIDE.pop()


def _label_smooth(
    original: Callable[..., Tensor],
    label: Tensor,
    prior_dist: Tensor | None = None,
    epsilon: float = 0.1,
    name: str | None = None,
) -> Tensor:
    """Smooth labels in the default dtype."""
    # DIFFERS: cross_entropy smooths labels in float32 for scores of every dtype.
    label = label.astype("float64") if paddle.get_default_dtype() == "float64" else label
    return original(label, prior_dist, epsilon, name)


def _one_hot(original: Callable[..., Tensor], x: Tensor, num_classes: Any, name: str | None = None) -> Tensor:
    """Make one-hot labels in the default dtype, which holds 0 and 1 exactly."""
    # DIFFERS: the kernel makes float32 for every default dtype, and operators refuse it beside float64.
    labels = original(x, num_classes, name)
    return labels.astype("float64") if paddle.get_default_dtype() == "float64" else labels


def _assign(original: Callable[..., Tensor], x: Any, output: Tensor | None = None) -> Tensor:
    """Copy a tensor, or make one of an array, which keeps its float64 numbers in a graph, too."""
    is_rounded = isinstance(x, np.ndarray) and x.dtype == np.float64 and not paddle.in_dynamic_mode()
    return original(exact_tensor(x) if is_rounded else x, output)


def _check_dtype(original: Callable[..., None], dtype: Any, name: str, expected: Sequence[str], *given: Any) -> None:
    """Let functions of graphs compute in float64 where they check for float32, as they do outside of graphs."""
    if dtype != paddle.float64 or "float32" not in expected:
        original(dtype, name, expected, *given)


def _clip_by_norm(original: Callable[..., Tensor], x: Tensor, max_norm: float, name: str | None = None) -> Tensor:
    """Clip one gradient by its own norm."""
    # DIFFERS: the kernel exists in float32 only.
    if x.dtype != paddle.float64:
        return original(x, max_norm, name)
    return x * (float(max_norm) / paddle.clip(paddle.sqrt((x * x).sum()), min=float(max_norm)))


def _clip(original: Callable[..., Tensor], parameters: Any, max_norm: float, *given: Any, **named: Any) -> Tensor:
    """Clip by the norm of all gradients, as an optimizer does."""
    # DIFFERS: the function divides by the norm + 1e-6, and an optimizer by the norm.
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total = original(parameters, float("inf"), *given, **named)
    factor = float(max_norm) / paddle.clip(total, min=float(max_norm))
    with paddle.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                paddle.assign(parameter.grad * factor.astype(parameter.grad.dtype), parameter.grad)
    return total


def _dropout(
    original: Callable[..., Tensor],
    draw: Callable[[int, float], Array],
    scale: Callable[[float], None],
    /,
    *given: Any,
    **named: Any,
) -> Tensor:
    """Dropout of single numbers, or of whole slices along an axis."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training = (call.arguments[word] for word in ("x", "p", "training"))
    axis, mode = call.arguments["axis"], call.arguments["mode"]
    if not training or not p:
        if p and mode == "downscale_in_infer":
            scale(p)
        return original(*given, **named)
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


def _gumbel_softmax(
    x: Tensor, temperature: float = 1.0, hard: bool = False, axis: int = -1, name: str | None = None
) -> Tensor:
    """Softmax with Gumbel noise, from single operators: the kernel draws its own numbers."""
    noise = -paddle.log(paddle.zeros_like(x).detach().exponential_())
    soft = F.softmax((x + noise) / temperature, axis)
    if not hard:
        return soft
    largest = (soft == soft.max(axis, keepdim=True)).astype(x.dtype)
    return largest - soft.detach() + soft


def _nll_loss(
    original: Callable[..., Tensor],
    input: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    name: str | None = None,
) -> Tensor:
    """Negative log-likelihood, reduced outside of the kernel."""
    # DIFFERS: a kernel that reduces writes a 0 behind the end of its result for each label that it ignores, which damages the heap.
    if reduction not in ("mean", "sum"):
        return original(input, label, weight, ignore_index, reduction, name)
    total = original(input, label, weight, ignore_index, "none", name).sum()
    if reduction == "sum":
        return total
    is_used = label != ignore_index
    used = is_used.astype(input.dtype)
    if weight is not None:
        chosen = paddle.where(is_used, label, paddle.zeros_like(label)).flatten()
        used = used * paddle.gather(weight, chosen).reshape(label.shape)
    size = used.sum()
    return total / paddle.where(size == 0, paddle.ones_like(size), size)


def _mask(draw: Callable[[int, float], Array], x: Tensor, p: float, axes: Sequence[int]) -> Tensor:
    """The multipliers of a dropout that draws along `axes`, and shares each number along all other axes."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    return exact_tensor(draw(int(np.prod(shape)), p).reshape(shape)).astype(x.dtype)


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
    factor = exact_tensor(repair)
    return out * factor + (out * (1 - factor)).detach()


def operators(
    watch: Callable[[], Watch | None], rounds: Callable[[], bool]
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators of the framework -> their replacements, which draw from `watch()` and tell it of narrow dtypes while it is not None.

    `rounds()`: batch norms round eps and momentum to float32.
    """
    found = {name: value for name, value in vars(paddle._C_ops).items() if callable(value) and not name.startswith("_")}
    return {
        value: functools.partial(
            _watched, watch, name, hooked(name, exact_operator(name, rounding(name, value), rounds))
        )
        for name, value in found.items()
    } | {paddle.to_tensor: functools.partial(_watched, watch, "to_tensor", paddle.to_tensor)}


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """A context in which `watch` supplies the random numbers, and records dtypes narrower than float64."""
    # DIFFERS: there is no hook for all operators: `operators` replaces each of them. Graphs of version 2 call none of these.
    with widened_graphs(lambda dtype: _wide_dtype(dtype) if _widens(watch) else dtype):
        yield


NARROW = (paddle.float32, paddle.float16, paddle.bfloat16)


_TENSORS = (Tensor, getattr(paddle.pir, "Value", Tensor))
"""Types of tensors, also of those of graphs of version 3."""


def _watched(
    watch: Callable[[], Watch | None], name: str, original: Callable[..., Any], /, *given: Any, **named: Any
) -> Any:
    """The result of an operator while `watch()` may be there."""
    watcher = watch()
    if watcher is None:
        return original(*given, **named)
    if _widens(watcher):
        widen = _wide_dtype if name == "cast" else _widened  # a tensor is widened by a cast
        given, named = tuple(map(widen, given)), {word: widen(value) for word, value in named.items()}
    draws = DRAWS.get(name)
    result = _drawn(watcher, draws, original, given, named) if draws else original(*given, **named)
    if watcher.suspicious:
        several = result if isinstance(result, list | tuple) else [result]
        for tensor in several:
            if isinstance(tensor, Tensor) and tensor.dtype in NARROW:
                dtype = str(tensor.dtype).rpartition(".")[2].lower().replace("fp", "float")
                watcher.note_narrow(dtype, graded=any(map(_has_gradient, (*given, *named.values()))))
    return result


def _widens(watch: Watch) -> bool:
    """Whether an operator computes in float64 here. One that makes a parameter of a graph does not."""
    return watch.widens and (paddle.in_dynamic_mode() or default_main_program() is not default_startup_program())


def _has_gradient(value: Any) -> bool:
    """Whether an argument of an operator is a tensor with a gradient, or a list that holds one."""
    if isinstance(value, list | tuple):
        return any(map(_has_gradient, value))
    return isinstance(value, Tensor) and not value.stop_gradient


def _widened(value: Any) -> Any:
    """An argument of an operator, with float64 in the place of a narrower dtype."""
    if isinstance(value, _TENSORS):
        return value.astype("float64") if value.dtype in NARROW else value
    if isinstance(value, list | tuple) and any(isinstance(one, _TENSORS) for one in value):
        return [_widened(one) for one in value]
    return _wide_dtype(value)


def _wide_dtype(value: Any) -> Any:
    """A value, with float64 in the place of a narrower dtype."""
    if isinstance(value, type(paddle.float32)) and value in NARROW:
        return paddle.float64
    return "float64" if isinstance(value, str) and value in ("float32", "float16", "bfloat16") else value


def recorded(calls: FunctionCalls) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework, as they are now -> the same with a record in `calls`."""
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    for place, module in (("paddle.nn.functional", F), ("paddle", paddle), ("paddle._C_ops", paddle._C_ops)):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name, None)
            if callable(value) and not isinstance(value, type) and not name.startswith("_"):
                found.setdefault(value, calls.wrap(value, f"{place}.{name}"))
    return found


_OPERATORS = frozenset(
    f"__{prefix}{word}__"
    for word in ("add", "sub", "mul", "truediv", "div", "matmul", "pow", "mod", "floordiv", "and", "or", "xor")
    for prefix in ("", "r", "i")
) | {f"__{word}__" for word in ("neg", "invert", "getitem", "setitem", "eq", "ne", "lt", "le", "gt", "ge")}
"""Methods of tensors for Python's operators."""


@contextlib.contextmanager
def recording(calls: FunctionCalls) -> Iterator[None]:
    """A context in which `calls` records the functions that the framework's modules and user code call."""
    # DIFFERS: there is no hook for all functions: methods of tensors are replaced here, and functions by `recorded`.
    methods = {
        name: value
        for name, value in vars(Tensor).items()
        if callable(value) and (name in _OPERATORS or not name.startswith("_"))
    }
    properties = {name: value for name in ("T", "mT") if isinstance(value := vars(Tensor).get(name), property)}

    def apply(cls: Any, *given: Any, **named: Any) -> Any:
        return calls.call(super(PyLayer, cls).apply, cls.__name__, given, named)

    for name, method in methods.items():
        setattr(Tensor, name, calls.wrap(method, f"paddle.Tensor.{name}"))
    for name, value in properties.items():
        assert value.fget
        setattr(Tensor, name, property(calls.wrap(value.fget, f"paddle.Tensor.{name}.__get__")))
    PyLayer.apply = classmethod(apply)
    try:
        yield
    finally:
        del PyLayer.apply
        for name, value in (methods | properties).items():
            setattr(Tensor, name, value)


Draws = Callable[[Watch, int, Callable[[int], Any]], Array]
"""Returns `size` random numbers of an operator; the last argument returns an argument of the operator by its place."""

DRAWS: dict[str, Draws] = {
    "uniform": lambda watch, size, given: watch.uniform(size, given(2), given(3)),
    "uniform_inplace": lambda watch, size, given: watch.uniform(size, given(1), given(2)),
    "gaussian": lambda watch, size, given: watch.normal(size, given(1), given(2)),
    "gaussian_inplace": lambda watch, size, given: watch.normal(size, given(1), given(2)),
    "bernoulli": lambda watch, size, given: watch.bernoulli(size, given(0)),
    "randint": lambda watch, size, given: watch.integers(size, given(0), given(1)),
    "randperm": lambda watch, size, given: watch.permutation(size),
    "exponential_": lambda watch, size, given: watch.exponential(size, given(1)),
}
DRAWS |= {f"{name}_": DRAWS[name] for name in ("uniform_inplace", "gaussian_inplace")}
"""Operators that draw random numbers."""


def _drawn(
    watch: Watch, draws: Draws, original: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any]
) -> Tensor:
    """The result of an operator that draws, with numbers of `watch`. The framework's random state stays as it is."""

    def value(place: int) -> Any:
        found = given[place]
        return found.numpy().astype(np.float64).ravel() if isinstance(found, Tensor) else found

    states = paddle.get_rng_state()
    before = {place: value(place) for place, one in enumerate(given) if isinstance(one, Tensor)}
    result = original(*given, **named)
    paddle.set_rng_state(states)
    numbers = np.asarray(draws(watch, int(np.prod(result.shape)), lambda i: before[i] if i in before else given[i]))
    # DIFFERS: numpy makes integers of an array without axes.
    result.set_value(paddle.to_tensor(numbers.reshape(result.shape)).astype(result.dtype))
    return result


def note_rounding(dtype: str, device: str) -> str:
    """A sentence on how the framework computes in `dtype`, "" if it does so by its own kernels."""
    # DIFFERS: see `half_kernels`.
    if dtype not in HALVES or device != "cpu":
        return ""
    return (
        f"Paddle has few {dtype} kernels on the CPU: the check computes each operator in float32 and rounds its results"
    )


for _package in ("paddle_impl", "parity"):
    # DIFFERS: code of these packages that a compiled model calls would be compiled, too.
    core.eval_frame_skip_file_prefix((f"{Path(__file__).parents[1] / _package}{os.sep}",))


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs as it is, between two compiled parts, where a compiled model calls it."""

    def run(*given: Any, **named: Any) -> Any:
        breakgraph()  # DIFFERS: without it, bytecode of the function would become a part of the graph.
        return function(*given, **named)

    return paddle.jit.not_to_static(run)


_EXACT = ("add", "subtract", "pow", "remainder")
"""Operators of `METHODS` whose kernels take a Python number in float32."""

_ARITHMETIC = (*_EXACT, "multiply", "divide", "floor_divide")
"""Operators of `METHODS` that return floats for integers and a number with a point."""

_INTEGERS = (paddle.bool, paddle.uint8, paddle.int8, paddle.int16, paddle.int32, paddle.int64)

_GRAPH_TENSORS = tuple(one for one in (Variable, getattr(paddle.pir, "Value", None)) if one is not None)
"""Types of the tensors of graphs of versions 2 and 3."""


@contextlib.contextmanager
def prepared_process() -> Iterator[None]:
    """A context in which the process is set for comparisons, with gradients on. Afterwards everything is as before."""
    methods = [(kind, name) for kind, names in METHODS.items() for name in names.split()]
    dtype, states = paddle.get_default_dtype(), paddle.get_rng_state()
    with contextlib.ExitStack() as undo:
        undo.callback(paddle.set_rng_state, states)
        undo.callback(paddle.set_default_dtype, dtype)
        for owner, (kind, name) in itertools.product(dict.fromkeys((Tensor, *_GRAPH_TENSORS)), methods):
            if (operator := getattr(owner, name, None)) is None:
                continue
            undo.callback(setattr, owner, name, operator)
            exact = operator if owner in _GRAPH_TENSORS else hooked(kind, rounding(kind, operator))
            exact = _exactly(exact) if kind in _EXACT and owner is Tensor else exact
            setattr(owner, name, _of_integers(exact, kind == "divide") if kind in _ARITHMETIC else exact)
        undo.enter_context(paddle.enable_grad())
        undo.enter_context(exact_graphs())
        undo.enter_context(sound_frames())
        yield


def _of_integers(original: Callable[..., Tensor], divides: bool) -> Callable[..., Tensor]:
    """An operator with results in the default dtype float64 for integers and a number with a point, and for quotients of integers."""

    def operator(x: Any, y: Any, *more: Any, **named: Any) -> Any:
        # DIFFERS: these results are float32 in every default dtype.
        if getattr(x, "dtype", None) not in _INTEGERS or paddle.get_default_dtype() != "float64":
            return original(x, y, *more, **named)
        is_integer = isinstance(y, int) or getattr(y, "dtype", None) in _INTEGERS
        if isinstance(y, float) or (divides and is_integer):
            x, y = (one.astype("float64") if hasattr(one, "dtype") else one for one in (x, y))
        return original(x, y, *more, **named)

    return operator


def _exactly(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator whose second operand, if it is a Python number, has the precision of the first."""

    def operator(x: Tensor, y: Any, *more: Any, **named: Any) -> Tensor:
        # DIFFERS: a Python number goes through a kernel attribute of float32.
        if isinstance(y, float) and x.dtype == paddle.float64:
            y = paddle.full([], y, x.dtype)
        return original(x, y, *more, **named)

    return operator
