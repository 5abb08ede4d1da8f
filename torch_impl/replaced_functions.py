"""Replacements for functions of the framework while models of users are compared."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from parity.arrays import Array
from parity.modules.function_calls import FunctionCalls
from parity.modules.recording import Watch

_CLIP = getattr(torch.nn.utils.clip_grad, "_clip_grads_with_norm_", None)
"""What `clip_grad_norm_` ends with."""


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
    return {
        F.dropout: functools.partial(_dropout, F.dropout, draw),
        F.dropout1d: functools.partial(_dropout_maps, F.dropout1d, draw),
        F.dropout2d: functools.partial(_dropout_maps, F.dropout2d, draw),
        F.dropout3d: functools.partial(_dropout_maps, F.dropout3d, draw),
        F.hardsigmoid: functools.partial(_hardsigmoid, F.hardsigmoid),
        F.celu: functools.partial(_celu, F.celu),
        F.batch_norm: functools.partial(_batch_norm, F.batch_norm, variance, rounds),
        F.scaled_dot_product_attention: functools.partial(_attention, F.scaled_dot_product_attention),
        **({_CLIP: _clip} if _CLIP else {}),
    }


def observed(dropped: Callable[[Array, float], None]) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> the same, which tell what they do and change no number.

    `dropped(factors, p)` gets the multipliers that a dropout has used.
    """
    dropouts = {F.dropout: False, F.dropout1d: True, F.dropout2d: True, F.dropout3d: True}
    return {function: functools.partial(_seen, function, dropped, maps) for function, maps in dropouts.items()}


def _seen(
    original: Callable[..., Tensor], dropped: Callable[[Array, float], None], maps: bool, /, *given: Any, **named: Any
) -> Tensor:
    """A dropout, drawn a second time with the same random numbers from ones, which shows its factors."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training = (call.arguments[word] for word in ("input", "p", "training"))
    if not training or not p:
        return original(*given, **named)
    device = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(device), torch.no_grad():
        call.arguments["input"] = torch.ones_like(x)
        factors = original(*call.args, **call.kwargs)
    place = (slice(None), slice(None), *[0] * (x.ndim - 2)) if maps else ...
    dropped(factors[place].float().cpu().numpy(), p)
    return original(*given, **named)


def _dropout(
    original: Callable[..., Tensor], draw: Callable[[int, float], Array], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of single numbers."""
    return _dropped(original, draw, False, given, named)


def _dropout_maps(
    original: Callable[..., Tensor], draw: Callable[[int, float], Array], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of whole maps."""
    return _dropped(original, draw, True, given, named)


def _dropped(
    original: Callable[..., Tensor],
    draw: Callable[[int, float], Array],
    maps: bool,
    given: tuple[Any, ...],
    named: Mapping[str, Any],
) -> Tensor:
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training, inplace = (call.arguments[word] for word in ("input", "p", "training", "inplace"))
    if not training or not p:
        return original(*given, **named)
    mask = _mask(draw, x, p, [0, 1] if maps else range(x.ndim))
    return x.mul_(mask) if inplace else x * mask


def _mask(draw: Callable[[int, float], Array], x: Tensor, p: float, axes: Sequence[int]) -> Tensor:
    """The multipliers of a dropout that draws along `axes`, and shares each number along all other axes."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    return torch.from_numpy(draw(int(np.prod(shape)), p).reshape(shape)).to(x)


def _clip(parameters: Any, max_norm: float, total_norm: Tensor, *_: Any, **__: Any) -> None:
    """Clip by the norm of all gradients, as an optimizer of the other side does."""
    # DIFFERS: the function divides by the norm + 1e-6.
    factor = float(max_norm) / torch.clamp(total_norm, min=float(max_norm))
    for parameter in [parameters] if isinstance(parameters, Tensor) else parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _hardsigmoid(original: Callable[..., Tensor], /, *given: Any, **named: Any) -> Tensor:
    """Hard sigmoid whose gradient has the precision of its dtype."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, inplace = call.arguments["input"], call.arguments["inplace"]
    if x.dtype != torch.float64:
        return original(*given, **named)
    # DIFFERS: the kernel's gradient rounds 1/6 to float32 in every dtype.
    result = torch.clamp((x + 3) / 6, 0, 1)
    return x.copy_(result) if inplace else result


def _celu(original: Callable[..., Tensor], /, *given: Any, **named: Any) -> Tensor:
    """CELU whose gradient has the precision of its dtype."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, alpha, inplace = (call.arguments[word] for word in ("input", "alpha", "inplace"))
    if x.dtype != torch.float64 or float(np.float32(alpha)) == alpha:
        return original(*given, **named)
    # DIFFERS: the kernel's gradient rounds alpha to float32 in every dtype.
    result = alpha * F.elu(x / alpha)
    return x.copy_(result) if inplace else result


def _batch_norm(
    original: Callable[..., Tensor],
    variance: Callable[[], str],
    rounds: Callable[[], bool],
    /,
    *given: Any,
    **named: Any,
) -> Tensor:
    """Batch norm with the running variance of the convention `variance()`, and rounded scalars while `rounds()`."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    arguments = call.arguments
    if rounds():
        arguments["eps"] = float(np.float32(arguments["eps"]))
        # DIFFERS: momentum is the weight of the NEW value.
        arguments["momentum"] = 1 - float(np.float32(1 - arguments["momentum"]))
    momentum = arguments["momentum"]
    x, running = arguments["input"], arguments["running_var"]
    before = running.clone() if running is not None and arguments["training"] else None
    result = original(*call.args, **call.kwargs)
    if before is not None and variance() == "biased":
        with torch.no_grad():
            axes = [0, *range(2, x.ndim)]
            running.data.copy_((1 - momentum) * before + momentum * x.detach().var(axes, unbiased=False))
    return result


def _attention(original: Callable[..., Tensor], /, *given: Any, **named: Any) -> Tensor:
    """Attention, which is computed from single operations if it has dropout, so that `F.dropout` draws its mask."""
    call = inspect.signature(_attention_arguments).bind(*given, **named)
    call.apply_defaults()
    query, key, value, mask, p, causal, scale = list(call.arguments.values())[:7]
    if not p:
        return original(*given, **named)
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return F.dropout(scores.softmax(-1), p) @ value


def _attention_arguments(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> None:  # fmt: skip
    """The arguments of the framework's function, which has no signature that can be inspected."""


def operators(
    watch: Callable[[], Watch | None], rounds: Callable[[], bool]
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators of the framework -> their replacements, which draw from `watch()` and tell it of narrow dtypes while it is not None.

    `rounds()`: batch norms round eps and momentum to float32.
    """
    return {}  # DIFFERS: `watching` sees all operators, those of C++ code too.


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """A context in which `watch` supplies the random numbers, and records dtypes narrower than float64."""
    with _Watching(watch):
        yield


NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Watching(TorchDispatchMode):
    """Sees every operator below autograd."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if self.watch.widens and named.get("dtype") in NARROW:
            named["dtype"] = torch.float64
        draws = DRAWS.get(func._schema.name.removeprefix("aten::"))
        result = _drawn(self.watch, draws, func, args, named) if draws else func(*args, **named)
        if self.watch.suspicious:
            several = result if isinstance(result, list | tuple) else [result]
            for dtype in {x.dtype for x in several if isinstance(x, Tensor)}:
                if dtype in NARROW:
                    graded = any(x.requires_grad for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor))
                    self.watch.note_narrow(str(dtype).removeprefix("torch."), graded)
        return result


def recorded(calls: FunctionCalls) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework, as they are now -> the same with a record in `calls`."""
    # DIFFERS: `recording` sees all functions, except the replacements.
    replaced = {name: value for name, value in vars(F).items() if isinstance(value, functools.partial)}
    return {value: calls.wrap(value, f"torch.nn.functional.{name}") for name, value in replaced.items()}


@contextlib.contextmanager
def recording(calls: FunctionCalls) -> Iterator[None]:
    """A context in which `calls` records the functions that the framework's modules and user code call."""
    own = vars(torch.autograd.Function)["apply"]

    def apply(cls: Any, *given: Any, **named: Any) -> Any:
        return calls.call(own.__get__(None, cls), cls.__name__, given, named)

    torch.autograd.Function.apply = classmethod(apply)
    try:
        with _Recording(calls):
            yield
    finally:
        torch.autograd.Function.apply = own


class _Recording(TorchFunctionMode):
    """Sees every function of the framework that is called with tensors, or makes them."""

    def __init__(self, calls: FunctionCalls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.multi_head_attention_forward:
            return self._open(func, args, kwargs or {})
        spelled = resolve_name(func) or getattr(func, "__name__", "")
        return self.calls.call(func, spelled, args, kwargs or {})

    def _open(self, func: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Record the calls inside a function in its place. Otherwise the function would hand itself to this mode again."""
        names = vars(F)
        original = names["has_torch_function"]
        names["has_torch_function"] = lambda _: False
        try:
            with self:
                return func(*args, **named)
        finally:
            names["has_torch_function"] = original


Draws = Callable[[Watch, int, Callable[[str, Any], Any]], Array]
"""Returns `size` random numbers of an operator; the last argument returns another argument of the operator by name."""

DRAWS: dict[str, Draws] = {
    "rand": lambda watch, size, given: watch.uniform(size),
    "rand_like": lambda watch, size, given: watch.uniform(size),
    "randn": lambda watch, size, given: watch.normal(size),
    "randn_like": lambda watch, size, given: watch.normal(size),
    "uniform_": lambda watch, size, given: watch.uniform(size, given("from", 0), given("to", 1)),
    "normal_": lambda watch, size, given: watch.normal(size, given("mean", 0), given("std", 1)),
    "bernoulli": lambda watch, size, given: watch.bernoulli(size, given("p", given("self", 0.5))),
    "bernoulli_": lambda watch, size, given: watch.bernoulli(size, given("p", 0.5)),
    "randint": lambda watch, size, given: watch.integers(size, given("low", 0), given("high", 1)),
    "randperm": lambda watch, size, given: watch.permutation(size),
    "exponential_": lambda watch, size, given: watch.exponential(size, given("lambd", 1)),
}
DRAWS |= {"normal": DRAWS["normal_"], "randint_like": DRAWS["randint"]}
"""Operators that draw random numbers."""


def _drawn(watch: Watch, draws: Draws, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The result of an operator that draws, with numbers of `watch`. The framework's random state stays as it is."""
    arguments = func._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | named

    def value(name: str, default: Any) -> Any:
        found = given.get(name, default)
        return found.detach().cpu().double().numpy().ravel() if isinstance(found, Tensor) else found

    state = torch.get_rng_state()
    result = func(*args, **named)
    torch.set_rng_state(state)
    numbers = np.asarray(draws(watch, result.numel(), value), np.float64)
    return result.copy_(torch.from_numpy(numbers.reshape(result.shape)))


def note_rounding(dtype: str, device: str) -> str:
    """A sentence on how the framework computes in `dtype`, "" if it does so by its own kernels."""
    return ""


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs as it is, between two compiled parts, where a compiled model calls it."""

    def call(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    substitute: Callable[..., Any] = torch.compiler.disable(call)
    return substitute


@contextlib.contextmanager
def prepared_process() -> Iterator[None]:
    """A context in which the process is set for comparisons, with gradients on. Afterwards everything is as before."""
    places: list[tuple[Any, str]] = [
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
    ]
    flags = [(place, name, getattr(place, name)) for place, name in places]
    dtype, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    deterministic = _deterministic()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path does not call the submodules
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.mha.set_fastpath_enabled(fast)
        if _deterministic() != deterministic:  # the call imports torch._inductor, which takes most of a second
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        for place, name, value in flags:
            setattr(place, name, value)


def _deterministic() -> tuple[bool, bool]:
    """Whether deterministic algorithms are demanded in this process, and whether a lack of one is only a warning."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
